"""An install for reading only, without torch: questions are answered, the rest says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STORE = ROOT / "stores" / "smollm2-starter.zarr.zip"
# as if these were not installed
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "gguf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from relact.cli.app import main
main()
"""


def relact(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("top", STORE, "--relation", "country_capital", "-n", "3"),
        ("compare", STORE),
        ("info", STORE),
        ("report", STORE, "-o", "report.html"),
        ("export", STORE, "masks.json", "--format", "json"),
        ("prompts", "country_capital", "-o", "p.csv"),
        ("stores",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_questions_are_answered_without_torch(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = relact(*arguments)
    assert run.returncode == 0, run.stderr


def test_scores_are_computed_without_torch(study, tmp_path):
    import shutil

    shutil.copytree(study.path, tmp_path / "s.zarr")
    run = relact("score", tmp_path / "s.zarr", "--negatives", "2")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "arguments",
    [("capture", "smollm2", "p.csv", "s.zarr"), ("info", "smollm2"), ("run", "starter", "--store", "s.zarr")],
)
def test_what_needs_a_model_says_so_in_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = relact(*arguments)
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.startswith("relact: this needs torch, which is not installed. Install relact")
    assert run.stderr.count("\n") == 1

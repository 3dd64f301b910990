"""An install for reading only, without torch: questions are answered, the rest says what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STORE = ROOT / "stores" / "smollm2-starter.zarr.zip"
# as if these were not installed; every command that standard input lists, one after the other
WITHOUT = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "accelerate", "safetensors", "tokenizers", "gguf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from relact.cli.app import main
shown = []
for arguments in json.load(sys.stdin):
    sys.argv, code = ["relact", *arguments], 0
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    shown.append([code, out.getvalue(), err.getvalue()])
json.dump(shown, sys.stdout)
"""
ANSWERED = {
    "help": ("--help",),
    "top": ("top", STORE, "--relation", "country_capital", "-n", "3"),
    "compare": ("compare", STORE, "--mask", "top-400"),
    "info": ("info", STORE),
    "export": ("export", STORE, "masks.json", "--format", "json", "--mask", "top-400"),
    "prompts": ("prompts", "country_capital", "-o", "p.csv"),
    "stores": ("stores",),
    "report": ("report", STORE, "-o", "report.html"),
    "report of a folder": ("report", "s.zarr", "-o", "own.html"),
    "upgrade": ("upgrade", "s.zarr"),
    "score": ("score", "s.zarr", "--negatives", "2"),
}
REFUSED = {
    "capture": ("capture", "smollm2", "p.csv", "other.zarr"),
    "info": ("info", "smollm2"),
    "run": ("run", "starter", "--store", "other.zarr"),
}


@pytest.fixture(scope="module")
def shown(study, tmp_path_factory):
    """[answered, refused]: exit code, stdout and stderr of every command by its key."""
    folder = tmp_path_factory.mktemp("without")
    shutil.copytree(study.path, folder / "s.zarr")
    commands = [
        [str(part) for part in command] for group in (ANSWERED, REFUSED) for command in group.values()
    ]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        check=True,
    )
    told = json.loads(run.stdout)
    return dict(zip(ANSWERED, told, strict=False)), dict(zip(REFUSED, told[len(ANSWERED) :], strict=True))


@pytest.mark.parametrize("name", ANSWERED)
def test_questions_are_answered_and_scores_computed_without_torch(shown, name):
    code, out, err = shown[0][name]
    assert code == 0, err
    assert out or err


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_a_model_says_so_in_one_line(shown, name):
    code, out, err = shown[1][name]
    assert code == 1 and out == ""
    assert err.startswith("relact: this needs torch, which is not installed. Install relact")
    assert err.count("\n") == 1

"""Dependencies are true: imported means declared, declared means imported, and nothing is declared twice."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import relact

ROOT = Path(relact.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULE_OF = {
    "scikit-learn": "sklearn",
    "vl-convert-python": "vl_convert",
}  # where the name differs from the module's
BY_EXTRA = {"boto3": "s3", "datasets": "datasets", "gguf": "gguf"}  # imported where it is there
PULLED_IN = {"llvmlite"}  # numba's own, of the very version that it was built with
LOADED = {"IPython"}  # used only inside a notebook, which has loaded it
BEHIND_NAMES = {"accelerate", "safetensors", "gguf"}  # used by transformers when relact asks it to


def names(requirements: list[str]) -> dict[str, str]:
    """Requirement by its module's name."""
    found = {}
    for requirement in requirements:
        name = re.match(r"[\w-]+", requirement)[0]
        found[MODULE_OF.get(name, name.replace("-", "_"))] = requirement
    return found


CORE = names(PROJECT["dependencies"])


def imported() -> set[str]:
    roots = set()
    for path in Path(relact.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add((node.module or "").split(".")[0])
    return roots - set(sys.stdlib_module_names) - {"relact"}


def test_what_is_imported_is_declared():
    assert imported() - CORE.keys() - BY_EXTRA.keys() - PULLED_IN - LOADED == set()
    extras = PROJECT["optional-dependencies"]
    assert all(name in names(extras[extra]) for name, extra in BY_EXTRA.items())


def test_what_is_declared_does_work():
    assert CORE.keys() - imported() - BEHIND_NAMES == set()


def test_no_extra_repeats_a_core_dependency():
    for extra, requirements in PROJECT["optional-dependencies"].items():
        assert not names(requirements).keys() & CORE.keys(), extra


def test_the_readers_requirements_are_the_core_without_models():
    lines = (ROOT / "requirements" / "reader.txt").read_text().splitlines()
    reader = names([line for line in lines if line and not line.startswith("#")])
    models = {"torch", "transformers", "accelerate", "safetensors"}
    assert reader == {name: text for name, text in CORE.items() if name not in models}


def test_everything_is_pinned():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().split()
    }
    wanted = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["test"],
        *PROJECT["optional-dependencies"]["gguf"],
    ]
    assert {re.match(r"[\w-]+", text)[0].lower().replace("_", "-") for text in wanted} <= pinned

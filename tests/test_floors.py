"""The house rules of docs/design: a module imports only lower floors, or its own floor to its left."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import relact

PACKAGE = Path(relact.__file__).parent
FLOORS = [
    ["errors", "colours", "schema", "plan", "progress", "caches", "presets"],
    ["importers", "facts", "prompts"],
    ["sites"],
    ["mmap", "durable", "seal", "commits", "blocks", "skeleton", "locks", "store", "verify", "remote"],
    ["fingerprint", "checkpoints", "models", "hooks"],
    ["batches", "forward", "pool", "arrivals", "passes", "intake", "forecast", "capture"],
    ["kernels", "schedulers", "score"],
    ["masks", "conditions", "stability"],
    ["journal", "decode", "perplexity", "ablate", "known"],
    ["tables", "query", "outlook", "compare", "effects", "evidence", "report"],
    ["share"],
    ["pipeline", "again", "terminal", "cli"],
]
PLACE = {name: (floor, at) for floor, names in enumerate(FLOORS) for at, name in enumerate(names)}
TORCH = {
    "known",
    "fingerprint",
    "checkpoints",
    "models",
    "hooks",
    "forward",
    "pool",
    "arrivals",
    "passes",
    "forecast",
    "capture",
    "decode",
    "perplexity",
    "ablate",
}


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Names of relact modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "relact":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("relact."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("relact.")}
    return found - {name_of(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path):
    assert name_of(path) in PLACE, "a new module needs a floor"
    upwards = {name for name in imports(path) if PLACE[name] > PLACE[name_of(path)]}
    assert not upwards


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_only_where_models_run(path):
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert (
        not roots & {"torch", "transformers"} or name_of(path) in TORCH or path.name == "device.py"
    )  # inside functions


def test_asking_a_store_loads_no_torch():
    code = (
        "import sys, relact, relact.cli, relact.query, relact.score, relact.compare, relact.effects; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_help_loads_none_of_the_heavy_libraries():
    code = (
        "import sys, relact.cli; "
        "print([name for name in ('numpy', 'zarr', 'xarray', 'pandas', 'dask', 'torch') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"

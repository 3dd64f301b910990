"""The house rules of docs/architecture.md: shelves between packages, no circles, sizes, few doors."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import relact

PACKAGE = Path(relact.__file__).parent
SHELVES = [
    {"errors", "progress", "caches", "colours"},
    {"schema", "durable", "sites", "plan", "kernels", "relations"},
    {"store", "models"},
    {"packed", "capturing", "scoring"},
    {"ablating", "analysis"},
    {"reporting", "sharing", "exchange"},
    {"studies"},
    {"cli"},
]
SHELF = {name: number for number, names in enumerate(SHELVES) for name in names}
TORCH = {"models", "capturing", "ablating"}
TORCH_TOO = {
    "kernels.device",
    "exchange.training",
}  # inside functions; what torch trains on is torch's own class
MOST_LINES, MOST_BODY, MOST_DOORS = 400, 45, 22
NO_DOORS = ("__init__", "__main__")  # what `import relact` and `python -m relact` find
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem not in NO_DOORS)


def module_of(path: Path) -> str:
    """Dotted, without ``relact``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of relact that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "relact":
            base = (node.module or "").removeprefix("relact").removeprefix(".")
            for alias in node.names:
                inside = f"{base}.{alias.name}".removeprefix(".")
                found.add(inside if inside in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("relact.") for a in node.names if a.name.startswith("relact.")}
    return frozenset(found & MODULES.keys() - {name})


def package_of(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_lower_shelves_or_its_own_package(name):
    own = package_of(name)
    assert own in SHELF, "a new package or file needs a shelf, here and in docs/architecture.md"
    others = {package_of(other) for other in imports(name)} - {own}
    # those that share a shelf do not know each other, but for schema, which names what is stored
    upwards = {other for other in others if SHELF[other] >= SHELF[own] and other != "schema"}
    assert not upwards


def test_no_circle_anywhere():
    try:
        list(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_check_of_circles_would_find_one():
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


@pytest.mark.parametrize("name", MODULES)
def test_torch_is_imported_only_where_models_run(name):
    roots = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    assert not roots & {"torch", "transformers"} or package_of(name) in TORCH or name in TORCH_TOO


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_fit(name):
    text = MODULES[name].read_text()
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1
            assert lines <= MOST_BODY, f"{node.name} has {lines} lines"


def test_few_doors_and_every_package_says_what_it_is_for():
    doors = [path for path in PACKAGE.iterdir() if path.stem not in (*NO_DOORS, "py", "__pycache__")]
    assert len(doors) <= MOST_DOORS and {path.stem for path in doors} == SHELF.keys()
    for path in doors:
        if path.is_dir():
            assert len(ast.get_docstring(ast.parse((path / "__init__.py").read_text())) or "") > 30, path.name


def loaded_after(code: str, names: set[str]) -> set[str]:
    """Which of the modules ``names`` are loaded after ``code`` in a fresh interpreter."""
    script = f"import sys; {code}; print(*[name for name in {sorted(names)!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_asking_a_store_loads_no_torch():
    code = (
        "import relact; relact.top, relact.score, relact.overlap, relact.effects, relact.report, relact.pack"
    )
    assert loaded_after(code, {"torch", "transformers"}) == set()


def test_help_loads_none_of_the_heavy_libraries():
    heavy = {"numpy", "zarr", "xarray", "pandas", "dask", "torch"}
    assert loaded_after("import relact.cli.app", heavy) == set()
    assert loaded_after("import relact.cli.app, numpy", heavy) == {"numpy"}

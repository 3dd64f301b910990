"""The public face: every name is the real thing, found on first use, documented, picklable, and typed."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import deep

import relact
from relact import errors
from relact.errors import InputError
from relact.relations.options import ReadingOptions
from relact.scoring.options import SelectOptions

STUB = Path(relact.__file__).with_suffix(".pyi")
MODULES = {"errors", "kernels"}
NAMES = sorted(set(relact.__all__) - MODULES)
LONG = {"relact", "relact.reporting.report"}  # their examples run a study, draw a page
RECORDS = {
    "prompts": relact.PromptOptions,
    "capture": relact.CaptureOptions,
    "stream": relact.CaptureOptions,
    "score": relact.ScoreOptions,
    "ablate": relact.AblateOptions,
}


def test_the_stub_and_the_package_name_the_same():
    imported = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.name for node in imported for alias in node.names) == sorted(relact.__all__)
    assert set(relact.__all__) <= set(dir(relact))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_a_plain_function_or_class(name):
    thing = getattr(relact, name)
    assert inspect.isfunction(thing) or inspect.isclass(thing)
    assert thing.__name__ == name and getattr(importlib.import_module(thing.__module__), name) is thing
    assert pickle.loads(pickle.dumps(thing)) is thing
    assert len(inspect.getdoc(thing) or "") > 40
    if inspect.isfunction(thing):
        described = inspect.signature(thing)
        parameters = described.parameters.values()
        assert not [each.name for each in parameters if each.annotation is each.empty]
        assert described.return_annotation is not described.empty
        assert not any(each.kind is each.VAR_KEYWORD for each in parameters)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_two_modules_are_public_too(name):
    assert isinstance(getattr(relact, name), ModuleType)


def test_what_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        relact.nothing_of_the_kind  # noqa: B018


@pytest.mark.parametrize("name", RECORDS)
def test_keywords_and_their_defaults_are_those_of_the_option_record(name):
    parameters = inspect.signature(getattr(relact, name)).parameters
    for field in dataclasses.fields(RECORDS[name]):
        assert parameters[field.name].default == field.default, field.name
        assert parameters[field.name].annotation == field.type, field.name
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("record", dict.fromkeys(RECORDS.values()), ids=lambda record: record.__name__)
def test_options_are_frozen_hashable_values(record):
    assert record() == record() and len({record(), record()}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record(), dataclasses.fields(record)[0].name, None)


@pytest.mark.slow
def test_a_verb_stays_a_verb_when_its_module_is_imported():
    code = (
        "import relact, relact.analysis.effects, relact.reporting.report\n"
        "import relact.scoring.score, relact.cli.app\n"
        f"print([name for name in {NAMES!r} if not callable(getattr(relact, name))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_a_verb_travels_to_another_process(tiny_study):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(relact.top, tiny_study.path, relation="size", n=3).result()
    assert found.equals(relact.top(tiny_study, relation="size", n=3))


@pytest.mark.slow
def test_a_script_that_uses_every_public_name_passes_mypy_as_strict_as_it_can_be():
    root, script = Path(relact.__file__).parents[1], Path(__file__).parent / "helpers" / "typed_script.py"
    used = {node.attr for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Attribute)}
    assert set(relact.__all__) <= used, "use the new name in tests/helpers/typed_script.py"
    run = subprocess.run([sys.executable, "-m", "mypy", script], capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stdout


def documented() -> list[Any]:
    """Modules whose docstrings hold examples."""
    names = [name for _, name, _ in pkgutil.walk_packages(relact.__path__, "relact.")]
    paths = {name: importlib.util.find_spec(name).origin for name in ["relact", *names]}
    found = [name for name, path in paths.items() if ">>> " in Path(path).read_text()]
    return deep.rest(found, set(found) - LONG)


@pytest.mark.parametrize("name", documented())
def test_the_examples_in_docstrings_run(name, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.zarr").symlink_to(study.path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(
        importlib.import_module(name), extraglobs={"relact": relact}, optionflags=flags
    )
    assert tried and not failed


def _texts() -> set[str]:
    """Every text of the library that names an option, as its messages do; docstrings are none."""
    found = set()
    for path in Path(relact.__file__).parent.rglob("*.py"):
        if "cli" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        whole = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
        part_of = {id(part) for node in whole if isinstance(node, ast.JoinedStr) for part in node.values}
        shown = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        texts = [ast.unparse(node) for node in whole if id(node) not in part_of | shown]
        found |= {text for text in texts if not re.match(r"""f?['"](relact|pip|\$ relact) """, text)}
    return {text for text in found if errors.arguments_of(text)}


def test_options_that_messages_name_are_arguments_in_python():
    functions = [getattr(relact, name) for name in NAMES if inspect.isfunction(getattr(relact, name))]
    taken = {name for function in functions for name in inspect.signature(function).parameters}
    for record in (*RECORDS.values(), ReadingOptions, SelectOptions):
        taken |= {field.name for field in dataclasses.fields(record)}
    named = {argument: text for text in _texts() for argument in errors.arguments_of(text).values()}
    assert len(named) > 30 and {name: text for name, text in named.items() if name not in taken} == {}


def test_a_traceback_says_what_options_are_called_in_python():
    with pytest.raises(InputError) as caught:
        relact.select("nothing.zarr", kind="bottom", fdr=0.1)
    assert "--kind" in str(caught.value) and "kind is kind=" not in str(caught.value)
    assert caught.value.__notes__ == ["In Python --fdr is fdr=, --kind is kind=, --statistic is statistic="]
    assert not hasattr(InputError("a word", fix="run `relact top s --relation r`"), "__notes__")

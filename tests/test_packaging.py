"""Dependencies are true: imported means declared, declared means imported, and nothing is declared twice."""

from __future__ import annotations

import ast
import os
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import scripts

import relact
from relact.sharing import catalogue
from relact.sharing.pack import sha256_of

ROOT = Path(relact.__file__).parents[1]
DOCUMENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = DOCUMENT["project"]
MODULE_OF = {
    "scikit-learn": "sklearn",
    "vl-convert-python": "vl_convert",
}  # where the name differs from the module's
BY_EXTRA = {"boto3": "s3", "datasets": "datasets", "gguf": "gguf"}  # imported where it is there
PULLED_IN = {"llvmlite"}  # numba's own, of the very version that it was built with
LOADED = {"IPython"}  # used only inside a notebook, which has loaded it
BEHIND_NAMES = {"accelerate", "safetensors", "gguf"}  # used by transformers when relact asks it to


STORES = "relact.sharing.stores"  # the catalogue, in a wheel


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


def test_every_package_is_in_the_wheel_and_so_is_the_catalogue():
    setuptools = DOCUMENT["tool"]["setuptools"]
    package = Path(relact.__file__).parent
    there = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in package.rglob("__init__.py")
        if path.is_relative_to(package)
    }
    assert set(setuptools["packages"]) == there | {STORES}
    assert setuptools["package-dir"] == {STORES: "stores"}
    patterns = setuptools["package-data"][STORES]
    left_out = [path.name for path in (ROOT / "stores").iterdir() if not any(path.match(p) for p in patterns)]
    assert not left_out


def test_an_installed_catalogue_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "CHECKOUT", tmp_path / "none" / "index.json")
    monkeypatch.setattr(catalogue, "INSTALLED", ROOT / "stores" / "index.json")
    listed = catalogue.stores()
    assert listed and all(Path(entry.location).is_file() for entry in listed)
    assert [sha256_of(Path(entry.location)) for entry in listed] == [entry.sha256 for entry in listed]


@pytest.fixture(scope="module")
def release():
    return scripts.tool("release")


def test_one_version_is_stated_everywhere(release):
    assert set(release.versions(ROOT).values()) == {relact.__version__}


@pytest.fixture
def ready(tmp_path):
    """The files of a release that nothing stands in the way of."""
    (tmp_path / "relact").mkdir()
    (tmp_path / "relact" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\n")
    log = "# Changelog\n\n## 1.2.0 (2026-02-01)\n\n- new\n\n## 1.1.0 (2026-01-01)\n\n- old\n"
    (tmp_path / "CHANGELOG.md").write_text(log)
    return tmp_path


def test_nothing_stands_in_the_way_of_a_release_that_is_ready(release, ready):
    assert list(release.problems(ready, ["v1.1.0"])) == []


@pytest.mark.parametrize(
    "file, before, after, said",
    [
        ("CITATION.cff", "1.2.0", "1.1.0", "versions differ.*CITATION.cff 1.1.0"),
        ("pyproject.toml", "1.2.0", "1.2.1", "versions differ.*pyproject.toml 1.2.1"),
        ("CHANGELOG.md", "2026-02-01", "unreleased", "1.2.0 is unreleased"),
        ("CHANGELOG.md", "2026-02-01", "2025-02-01", "the newest version is not first"),
        ("CHANGELOG.md", "- new", "", "nothing is said of 1.2.0"),
        ("CHANGELOG.md", "## 1.2.0 (2026-02-01)", "", "versions differ.*CHANGELOG.md 1.1.0"),
    ],
)
def test_what_stands_in_the_way_of_a_release_is_named(release, ready, file, before, after, said):
    text = (ready / file).read_text()
    (ready / file).write_text(text.replace(before, after))
    assert re.search(said, "\n".join(release.problems(ready, [])))


def test_a_version_is_tagged_once(release, ready):
    assert list(release.problems(ready, ["v1.2.0"])) == ["v1.2.0 is tagged already; give another version"]


def test_a_source_distribution_does_not_say_who_made_it_and_when(release, tmp_path):
    made = []
    for at, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("the same")
        os.utime(tmp_path / name / "a.txt", (at, 1_000 + at))
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / name, "relact-1.0")
        release.retarred(tmp_path / f"{name}.tar.gz", 1_000_000_000)
        made.append((tmp_path / f"{name}.tar.gz").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "first.tar.gz") as archive:
        assert archive.extractfile("relact-1.0/a.txt").read() == b"the same"
        assert {member.mtime for member in archive} == {1_000_000_000}


def test_two_builds_that_differ_are_named(release, tmp_path):
    for name, date in (("one", (1990, 1, 1, 0, 0, 0)), ("two", (1991, 1, 1, 0, 0, 0))):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "relact-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(zipfile.ZipInfo("relact/py.typed", date), "")
    one, two = ([*(tmp_path / name).iterdir()] for name in ("one", "two"))
    found = list(release.differences(one, two))
    assert "relact-1.0-py3-none-any.whl: two builds differ" in found
    assert any("lacks relact/sharing/stores/index.json" in line for line in found)


def lower(requirement: str) -> str:
    return re.search(r">=([\d.]+)", requirement)[1]


def test_the_oldest_versions_are_the_lower_bounds():
    lines = (ROOT / "requirements" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["gguf"], *extras["peft"], *extras["s3"]]
    assert oldest == {re.match(r"[\w-]+", text)[0]: lower(text) for text in wanted}


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


def test_the_changelog_is_by_kinds():
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    before, *kinds = newest.split("\n### ")
    assert "\n- " not in before and [kind.split("\n")[0] for kind in kinds] == ["Added", "Changed", "Fixed"]
    assert all("\n- " in kind for kind in kinds)

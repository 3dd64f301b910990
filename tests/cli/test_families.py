"""Commands with their defaults, as people type them, on a model of every row of the table of families."""

from __future__ import annotations

import json

import pytest
from helpers import deep, shrunk, tiny

from relact import sites

# of every row one type that the installed transformers makes alone
ROWS = [
    next((name for name in row.names if name in shrunk.TYPES or name in shrunk.WRAPPERS), None)
    for row in sites.FAMILIES
]
kinds = pytest.mark.parametrize("saved", deep.rest(filter(None, ROWS), deep.TYPES), indirect=True, ids=str)


@pytest.fixture
def saved(tmp_path, request):
    """A tiny model of a type, as a folder."""
    folder = tmp_path / "model"
    shrunk.model(request.param).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@kinds
def test_defaults_work(saved, relact, prompt_file, tmp_path):
    code, out, err = relact("info", saved, "--json")
    assert code == 0, err
    known = set(json.loads(out)["sites"])
    for name, options in (("default.zarr", ()), ("all.zarr", ("--sites", "all"))):
        store = tmp_path / name
        code, _, err = relact("capture", saved, prompt_file, store, *options)
        assert code == 0, err
        assert relact("score", store)[0] == 0
    assert relact("select", store, "--k", 6)[0] == 0
    code, out, err = relact("top", store, "--relation", "size", "-n", 3, "--json")
    assert code == 0 and {row["site"] for row in json.loads(out)} <= known


@kinds
def test_a_site_that_a_family_lacks_is_refused_in_a_line(saved, relact, prompt_file, tmp_path):
    known = set(json.loads(relact("info", saved, "--json")[1])["sites"])
    lacking = next(site for site in sites.SITES if site not in known)
    code, _, err = relact("capture", saved, prompt_file, tmp_path / "s.zarr", "--sites", lacking)
    *notes, problem = err.splitlines()  # what the self-check found is said before
    assert code == 1 and f"no {lacking}" in problem and "Traceback" not in err
    assert all(note.endswith("(self-check)") or "has no cache" in note for note in notes), notes

"""After an append all that was computed before is stale: each command and the page say it; `run` mends it."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from helpers import everything as kinds

import relact
from relact import schema
from relact.capturing.options import CaptureOptions
from relact.reporting.gather import gather
from relact.reporting.page import write
from relact.store import local
from relact.store.stale import stale

COMMANDS = {
    "top": "top STORE --relation size",
    "neuron": "neuron STORE mlp.gate 0 1",
    "select": "select STORE --k 5",
    "algebra": "select STORE --of top-6 --only --name alone",
    "compare": "compare STORE --mask top-6",
    "compare k": "compare STORE --k 5",
    "effects": "effects STORE --ablation zero",
    "export": "export STORE OUT/list.json --format json --mask top-6",
    "info": "info STORE",
    "judge": "judge STORE zero",
    "pack": "pack STORE OUT/p.zarr.zip",
}


def table(per_relation):
    """The prompts with so many facts to identify; more of them come after all that there were."""
    first = kinds.prompts()
    more = first[first["split"] == "identify"].assign(
        subject=lambda rows: "new " + rows["subject"], text=lambda rows: "new " + rows["text"]
    )
    return pd.concat([first, more.iloc[:per_relation]], ignore_index=True)


@pytest.fixture(scope="module")
def appended(everything, tiny_folder, tmp_path_factory):
    """The store of every kind of result, with prompts that came later."""
    path = shutil.copytree(everything.path, tmp_path_factory.mktemp("stale") / "s.zarr")
    assert stale(local.open(path)) == []
    options = {"sites": kinds.SITES, "block": 5, "attribution": True, "append": True}
    relact.capture(str(tiny_folder), table(4), path, **options)
    return path


def test_everything_computed_before_is_stale(appended):
    store = local.open(appended)
    groups = {
        f"{stage}/{name}"
        for stage in (schema.MASKS, schema.LOOKS, schema.ABLATIONS)
        for name in store.children(stage)
    }
    assert {*stale(store)} == {schema.SCORES, schema.SUPER_UNITS, *groups}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_it(appended, tmp_path, relact, name):
    path = shutil.copytree(appended, tmp_path / "s.zarr")
    words = [
        word.replace("STORE", str(path)).replace("OUT", str(tmp_path)) for word in COMMANDS[name].split()
    ]
    code, _, told = relact(*words)
    assert code == 0 and told.count("stale: ") == 1, told
    assert f"were computed before prompts were appended. Run `relact score {path}`" in told


@pytest.mark.slow
def test_the_page_says_it(appended, tmp_path):
    contents = gather(appended)
    assert {*contents.stale} == {*stale(local.open(appended))}
    write(contents, tmp_path / "r.html")
    assert "computed before prompts were appended" in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_scoring_and_running_again_mend_it(appended, tiny_folder, tmp_path, command):
    path = shutil.copytree(appended, tmp_path / "s.zarr")
    code, _, told = command("score", path, "--relations", "size")
    assert code == 1 and "colour were scored before prompts were appended" in told
    assert "leave --relations out" in told.lower()
    code, _, told = command("score", path)
    assert code == 0 and "stale: masks/" in told
    store = local.open(path)
    assert schema.SCORES not in stale(store)
    masks = {name for name in stale(store) if name.startswith(schema.MASKS)}
    relact.run(
        table(4),
        model=str(tiny_folder),
        store=path,
        k=6,
        capture=CaptureOptions(sites=kinds.SITES, block=5, attribution=True),
        ablate=relact.AblateOptions(seeds=(0, 1)),
    )
    left = {*stale(store)}
    assert "masks/top-6" in masks - left and "ablations/top-6" not in left and schema.SUPER_UNITS not in left

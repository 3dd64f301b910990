"""Stores that earlier versions wrote, opened by this one. They are never made again
(golden/make.py says how they were).
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import sample

import relact
from relact import durable, schema
from relact.scoring import masks
from relact.store import local
from relact.store.upgrade import ID, LISTING
from relact.store.verify import verify

GOLDEN = Path(__file__).parent / "golden"
EVERY = [
    pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in sorted(GOLDEN.glob("format*/*.zarr"))
]


def test_there_are_golden_stores_of_this_format():
    assert sorted(path.name for path in (GOLDEN / f"format{schema.FORMAT}").iterdir()) == [
        "compressed.zarr",
        "plain.zarr",
    ]


@pytest.mark.parametrize("golden", EVERY)
def test_a_golden_store_is_whole_and_stays_untouched(golden):
    before = sample.files(golden)
    verdict = verify(golden)
    assert verdict.ok and verdict.missing == [] and verdict.blocks == 3
    assert verdict.files == len(before) and sample.files(golden) == before


@pytest.mark.parametrize("golden", EVERY)
def test_a_golden_store_has_the_values_that_were_written(golden):
    store, tree = local.open(golden), relact.open(golden)
    assert store.compressed == (golden.stem == "compressed") and store.is_mapped("attn.k") != store.compressed
    assert store.dtype == ("float32" if store.compressed else "float16")
    assert store.manifest.model == schema.ModelRecord("sample", None, "f0", "float32", "llama")
    assert store.appended() == ([] if store.compressed else [6])
    for read in (
        lambda site: sample.read(store, site),
        lambda site: tree[f"activations/{site}"]["activation"].values,
    ):
        gate, key = (read(site).astype("float64") for site in ("mlp.gate", "attn.k"))
        assert gate.shape == (9, 2, 706) and key.shape == (9, 2, 24)
        assert (gate.sum(), key.sum()) == (22814.125, 58.375)
        assert gate[8, 1, [0, 352, 353, 705]].tolist() == [5.5, -4.625, -3.75, -13.875]
        assert key[5, 0, :3].tolist() == [-8.75, -7.875, -7.0] and key[6, 1, -1] == -28.75
    assert tree["prompts/identify"]["text"].values[7] == "identify question 7 — ?"
    assert store.relations() == ["size", "colour", "Größe"]
    assert store.prompts("identify")["n_tokens"].tolist() == [3, 4, 5, 6, 7, 3, 4, 5, 6]
    assert store.prompts("test")["answers"].tolist() == [["0"], ["1", "no. 1"], ["2"]]


@pytest.mark.parametrize("golden", EVERY)
def test_a_golden_store_has_the_results_that_were_computed(golden):
    tree = relact.open(golden)
    precision = tree["scores/mlp.gate"]["average_precision"]
    np.testing.assert_allclose(precision.values[:, 1, 700], [0.5, 0.5694444, 0.3595238], rtol=1e-6)
    np.testing.assert_allclose(precision.values.astype("float64").sum(), 2039.5150829553604, rtol=1e-9)
    np.testing.assert_allclose(
        tree["scores/attn.k"]["on_p90"].values[0, 0, :3], [19.225, 20.1, 20.975], rtol=1e-6
    )
    relations, chosen = masks.read(local.open(golden), "top-5")
    assert relations == ["size", "colour", "Größe"] and not chosen["attn.k"][0].any()
    assert np.argwhere(chosen["mlp.gate"][0]).tolist() == [[0, 43], [0, 44], [0, 116], [0, 117], [0, 188]]


@pytest.mark.parametrize("golden", EVERY)
def test_a_golden_store_is_upgraded_once_and_keeps_every_other_byte(golden, tmp_path):
    path = shutil.copytree(golden, tmp_path / "s.zarr")
    before, identity = sample.files(path), local.open(path).manifest
    assert relact.upgrade(path).done == (LISTING, ID)
    store = local.open(path)
    assert len(store.manifest.id) == 32 and not store.manifest.differences(identity)
    after = sample.files(path)
    assert {name for name in after if after[name] != before.get(name)} == {"zarr.json"}
    assert after.keys() == before.keys() and verify(path).ok
    assert relact.upgrade(path).done == () and sample.files(path) == after
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(xr.open_datatree(path, engine="zarr").children) >= {"scores", "masks"}


@pytest.mark.parametrize("golden", EVERY)
def test_an_upgrade_that_was_interrupted_is_done_again(golden, tmp_path, monkeypatch):
    path = shutil.copytree(golden, tmp_path / "s.zarr")
    put = durable.replace

    def killed(target, parts):
        put(target, parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(durable, "replace", killed)
    for _ in range(2):  # after the listing, then after the id
        with pytest.raises(KeyboardInterrupt):
            relact.upgrade(path)
    monkeypatch.undo()
    assert verify(path).ok and relact.upgrade(path).done in ((LISTING,), (ID,), ())
    assert local.open(path).manifest.id and relact.upgrade(path).done == ()


@pytest.mark.parametrize("golden", EVERY)
def test_a_golden_store_can_be_scored_again(golden, tmp_path):
    path = shutil.copytree(golden, tmp_path / "s.zarr")
    before = local.open(path).dataset("scores/mlp.gate").load()
    relact.score(path, negatives=1)
    relact.score(path)
    assert before.equals(local.open(path).dataset("scores/mlp.gate").load())
    local.drop(path, "scores")
    assert verify(path).ok and local.open(path).children("masks") == ["top-5"]

"""Plain xarray and zarr read a store as it is: no warning, nothing stale, whoever consolidated it."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import xarray as xr
import zarr
from helpers import sample

import relact
from relact.capturing import prepare
from relact.store import listing, local
from relact.store.verify import drop_damaged, verify

GOLDEN = Path(__file__).parent / "golden" / "format1"


@pytest.fixture
def store(tmp_path):
    store = relact.score(sample.full(tmp_path / "s.zarr", 9))
    relact.select(store, k=3)
    return store


def consolidate(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is no part of the specification
        zarr.consolidate_metadata(path)


def plainly(path):
    """The store as plain xarray opens it, by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_datatree(path, engine="zarr")


def truly(path):
    return xr.open_datatree(path, engine="zarr", consolidated=False)


def same(path):
    plain, true = plainly(path), truly(path)
    assert set(plain.groups) == set(true.groups)
    for group in true.groups:
        ours, theirs = plain[group].to_dataset(), true[group].to_dataset()
        xr.testing.assert_equal(ours, theirs)
        assert (
            ours.attrs == {name: value for name, value in theirs.attrs.items() if name != "checksums"}
            or group == "/"
        )


def test_plain_xarray_opens_a_store_without_a_warning(store):
    same(store.path)
    assert verify(store.path).ok


@pytest.mark.parametrize("consolidated", [False, True])
def test_nothing_stale_is_shown_after_any_change(store, consolidated):
    path = store.path
    steps = [
        lambda: relact.select(path, k=2),
        lambda: relact.select(path, k=4, name="top-3"),
        lambda: relact.score(path, negatives=1),
        lambda: local.drop(path, "masks/top-2"),
        lambda: sample.capture(prepare.append(local.open(path), sample.intake(11))),
        lambda: relact.score(path, statistics=["auroc"]),
    ]
    for step in steps:
        if consolidated:
            consolidate(path)
            assert verify(path).ok
        step()
        same(path)
        assert verify(path).ok


def test_what_a_user_consolidated_is_no_damage_and_the_store_works_on(store):
    path = store.path
    consolidate(path)
    assert verify(path).ok and local.open(path).children("masks") == ["top-3"]
    assert len(relact.top(path, relation="size", n=5)) == 5
    relact.pack(path, path.with_name("p.zarr.zip"))
    relact.unpack(path.with_name("p.zarr.zip"), path.with_name("t.zarr"))
    same(path.with_name("t.zarr"))


@pytest.mark.parametrize("golden", ["plain.zarr", "compressed.zarr"])
def test_a_store_without_a_listing_gets_one_when_it_is_written(golden, tmp_path):
    path = shutil.copytree(GOLDEN / golden, tmp_path / "s.zarr")
    relact.score(path, negatives=1)
    same(path)
    assert verify(path).ok


def test_a_group_that_is_being_replaced_is_not_shown_meanwhile(store, monkeypatch):
    """Less, never older: at every change to the disk, what plain xarray shows is one of both states."""
    path, seen = store.path, []
    before = plainly(path)["masks/top-3/mlp.gate"]["mask"].values.copy()
    replace, rename = os.replace, os.rename

    def watched(move):
        def moved(source, target):
            move(source, target)
            tree = plainly(path)
            seen.append("masks/top-3" in [group.strip("/") for group in tree.groups])
            if seen[-1]:
                values = tree["masks/top-3/mlp.gate"]["mask"].values
                assert values.sum() in (before.sum(), 2 * before.sum())

        return moved

    monkeypatch.setattr(os, "replace", watched(replace))
    monkeypatch.setattr(os, "rename", watched(rename))
    relact.select(path, k=6, name="top-3")
    monkeypatch.undo()
    assert False in seen and seen[-1]
    same(path)


CHANGES = {
    "a shape": lambda listing: listing["metadata"]["scores/mlp.gate/on_p50"].update(shape=[1, 1, 1]),
    "a group": lambda listing: listing["metadata"].update({"masks/gone": listing["metadata"]["masks/top-3"]}),
    "an attribute": lambda listing: listing["metadata"]["masks/top-3"]["attributes"]["relact"].update(k=4),
    "its kind": lambda listing: listing.update(kind="other"),
    "a member": lambda listing: listing.pop("must_understand"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_listing_that_differs_is_found_and_made_anew(store, change):
    path = store.path
    whole = (path / "zarr.json").read_bytes()
    document = json.loads(whole)
    CHANGES[change](document["consolidated_metadata"])
    (path / "zarr.json").write_text(json.dumps(document, indent=2, ensure_ascii=False))
    verdict = verify(path)
    assert [problem.file for problem in verdict.problems] == ["zarr.json"]
    assert verdict.repairs() == [f"relact verify {path} --drop"]
    drop_damaged(path, verdict)
    assert (path / "zarr.json").read_bytes() == whole and verify(path).ok


def test_a_tree_that_is_open_goes_on_when_another_stage_is_written(store):
    tree = relact.open(store.path)
    text = tree["prompts/identify"]["text"]
    relact.select(store.path, k=5)
    assert len(text.values) == 9


def test_a_damaged_root_is_left_as_it_is(store):
    raw = (store.path / "zarr.json").read_bytes().replace(b"llama", b"lxama", 1)
    (store.path / "zarr.json").write_bytes(raw)
    listing.write(store.path)
    assert (store.path / "zarr.json").read_bytes() == raw and not verify(store.path).ok

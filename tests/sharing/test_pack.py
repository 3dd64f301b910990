"""Packing and unpacking: the same bytes come back, others open the package without relact,
nothing local leaks.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from helpers import sample, scripts, tiny

import relact
from relact import schema
from relact.analysis import compare, query
from relact.errors import IdentityError, InputError, StoreError
from relact.packed.store import open_store
from relact.sharing import card, catalogue
from relact.sharing.pack import pack
from relact.sharing.unpack import unpack
from relact.store import local as folders
from relact.store import skeleton, verify
from relact.store.seal import files_below

ROOT = Path(relact.__file__).parents[1]


def contents(folder):
    """Files, without the time of the store's making and its id, which is another one in every folder."""
    return sample.without_time({name: (folder / name).read_bytes() for name in files_below(folder)})


@pytest.mark.parametrize("out", ["p.zarr.zip", "p.zarr"])
@pytest.mark.parametrize("activations", [False, True])
def test_packing_and_unpacking_gives_the_same_bytes(study, tmp_path, out, activations):
    pack(study.path, tmp_path / out, activations=activations)
    repeat = unpack(tmp_path / out, tmp_path / "again.zarr")
    before, after = contents(study.path), contents(repeat.path)
    blocks = {name for name in before if "/activation/c." in name or name.startswith("commits/record/c.")}
    assert len(blocks) == 3 * (3 * 4 + 1)  # blocks, of shards of 3 sites in 4 layers and a commit
    expected = before if activations else {name: raw for name, raw in before.items() if name not in blocks}
    assert after == expected
    verdict = verify.verify(repeat.path)
    assert verdict.ok and verdict.missing == ([] if activations else list(range(study.n_blocks)))


@pytest.mark.parametrize("out", ["p.zarr.zip", "p.zarr"])
def test_attributions_travel_with_activations(tmp_path, out):
    """Compressed for the way, each in its own dtype, and back to the same bytes."""
    store = sample.full(tmp_path / "s.zarr", 10)
    pack(store.path, tmp_path / out, activations=True)
    shared, stream = open_store(tmp_path / out), "attributions/attn.k"
    assert all(
        len(skeleton.inner_codecs(array)) == 3 for array in shared.arrays.values()
    )  # the last a checksum
    np.testing.assert_array_equal(
        np.concatenate(shared.columns(stream, 1, 0, 24)), sample.read(store, stream)[:, 1]
    )
    repeat = unpack(tmp_path / out, tmp_path / "again.zarr")
    assert contents(repeat.path) == contents(store.path) and verify.verify(repeat.path).ok
    without = unpack(pack(store.path, tmp_path / f"2{out}").path, tmp_path / "without.zarr")
    assert without.describe()["size"] == f"0 B captured of {store.describe()['size']}"
    assert without.missing_blocks() == [0, 1, 2] and without.manifest == replace(
        store.manifest, id=without.manifest.id
    )


def test_activations_travel_compressed_and_come_back_mappable(study, tmp_path):
    with_them = pack(study.path, tmp_path / "a.zarr.zip", activations=True)
    without = pack(study.path, tmp_path / "b.zarr.zip")
    raw = sum(lay.bytes for lay in study.layouts.values())
    assert 0 < with_them.bytes - without.bytes < 0.95 * raw
    shared = open_store(tmp_path / "a.zarr.zip")
    ours = shared.columns("mlp.up", 3, 384, 768)
    theirs = study.columns("mlp.up", 3, 384, 768)
    assert [column.shape for column in ours] == [column.shape for column in theirs]
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert unpack(tmp_path / "a.zarr.zip", tmp_path / "u.zarr").is_mapped("mlp.up")


def test_only_the_chosen_stages_are_packed(tiny_study, tmp_path):
    pack(tiny_study.path, tmp_path / "m.zarr.zip", stages=["masks"])
    with zipfile.ZipFile(tmp_path / "m.zarr.zip") as archive:
        stages = {name.split("/")[0] for name in archive.namelist()}
    skeleton = {"zarr.json", "README.md", "activations", "commits", "prompts"}
    assert stages == {*skeleton, "masks", "super_units", "looks", "top"}
    shared = open_store(tmp_path / "m.zarr.zip")
    listed = query.top(shared, relation="size", n=5)
    pd.testing.assert_frame_equal(listed, query.top(tiny_study, relation="size", n=5), check_dtype=False)
    with pytest.raises(InputError, match="no stage prompts"):
        pack(tiny_study.path, tmp_path / "n.zip", stages=["prompts"])


def test_the_same_store_gives_the_same_archive(tiny_study, tmp_path):
    first = pack(tiny_study.path, tmp_path / "one.zarr.zip")
    second = pack(tiny_study.path, tmp_path / "two.zarr.zip")
    assert first.sha256 == second.sha256


@pytest.mark.slow
@pytest.mark.parametrize("out", ["p.zarr.zip", "p.zarr"])
def test_plain_zarr_and_xarray_open_it_without_relact(study, tmp_path, out):
    pack(study.path, tmp_path / out, activations=True)
    code = f"""
import sys, warnings
warnings.simplefilter("error")
sys.modules["relact"] = None
import numpy as np, xarray as xr, zarr
place = {str(tmp_path / out)!r}
store = zarr.storage.ZipStore(place, read_only=True) if place.endswith(".zip") else place
tree = xr.open_datatree(store, engine="zarr", chunks=None)
np.save({str(tmp_path / "ap.npy")!r}, tree["scores/mlp.gate"]["average_precision"].values)
np.save({str(tmp_path / "act.npy")!r}, zarr.open_group(store, mode="r")["activations/mlp.down/activation"][:])
assert tree["masks/top-200/mlp.up"]["mask"].dtype == bool and "accuracy" in tree["ablations/top-200"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    own = study.dataset("scores/mlp.gate")["average_precision"].values
    assert np.array_equal(np.load(tmp_path / "ap.npy"), own)
    whole = zarr.open_group(study.path, mode="r")["activations/mlp.down/activation"][:]
    assert np.array_equal(np.load(tmp_path / "act.npy"), whole)


@pytest.mark.parametrize("activations", [False, True])
def test_no_path_of_this_machine_is_in_a_package(tiny_study, tmp_path, activations):
    assert os.fspath(tiny_study.manifest.model.id).startswith("/")
    packed = pack(tiny_study.path, tmp_path / "p.zarr", activations=activations)
    everything = b"\n".join(contents(packed.path).values())
    for local in (
        tiny_study.manifest.model.id,
        str(tmp_path),
        str(tiny_study.path.parent),
        f"{Path.home()}/",
    ):
        assert local.encode() not in everything
    shared = open_store(packed.path)
    assert shared.manifest.model.id == "llama"
    assert shared.manifest.model.fingerprint == tiny_study.manifest.model.fingerprint


def test_the_card_tells_what_it_is_and_cannot_be_tricked(study, tmp_path):
    packed = pack(study.path, tmp_path / "p.zarr", licence="cc-by-4.0")
    text = (packed.path / "README.md").read_text()
    manifest = study.manifest
    for fact in (
        "talker",
        manifest.model.revision,
        manifest.model.fingerprint,
        manifest.prompts["test"]["digest"],
        "country_capital",
        "6,272",
        "mlp.gate",
        "`CC-BY-4.0`",
        "license: cc-by-4.0",
        "relact run --like",
        "random neurons",
    ):
        assert fact in text
    forged = {**packed.card, "model": "<script>alert(1)</script> | `x`", "relations": ["a\n# b", "![x](y)|z"]}
    shown = card.render(forged, 1)
    assert "<script>" not in shown and "\n# b" not in shown


def test_the_card_names_the_licence_of_a_packaged_model(study, tmp_path):
    plain = pack(study.path, tmp_path / "p.zarr")
    assert plain.card["model_licence"] is None
    assert "licence of the model" not in (plain.path / "README.md").read_text()
    copy = tmp_path / "copy.zarr"
    shutil.copytree(study.path, copy)
    with sample.edited(copy, "") as root:
        record = root.attrs["relact"]
        root.attrs["relact"] = {**record, "model": {**record["model"], "id": "gemma3-270m"}}
    packed = pack(copy, tmp_path / "q.zarr", licence="cc-by-4.0")
    terms = "Gemma Terms of Use (ai.google.dev/gemma/terms)"
    assert (packed.card["licence"], packed.card["model_licence"]) == ("CC-BY-4.0", terms)
    assert f"not in here | {terms} |" in (packed.path / "README.md").read_text()


@pytest.mark.parametrize("licence", ["foo", "Apache 2.0", "mit or", "gemma", "MIT\n---"])
def test_a_licence_that_spdx_does_not_know_is_refused_before_any_work(tiny_study, tmp_path, licence):
    with pytest.raises(InputError, match=r"--licence: .* is no licence that SPDX knows"):
        pack(tiny_study.path, tmp_path / "p.zarr.zip", licence=licence)
    with pytest.raises(InputError, match="is no licence"):
        relact.push(tiny_study.path, "s3://nowhere/p.zarr.zip", licence=licence)
    with pytest.raises(InputError, match="is no licence"):
        relact.stream("no-model", "no-prompts.csv", "s3://nowhere/p.zarr", licence=licence)
    assert not (tmp_path / "p.zarr.zip").exists()


def test_expressions_are_spelled_as_spdx_does(tiny_study, tmp_path):
    for licence, spelled in (("mit and cc0-1.0", "MIT AND CC0-1.0"), ("LicenseRef-ours", "LicenseRef-ours")):
        packed = pack(tiny_study.path, tmp_path / f"{spelled[:3]}.zarr", stages=(), licence=licence)
        front = (packed.path / "README.md").read_text().splitlines()[:2]
        assert packed.card["licence"] == spelled and front == ["---", "license: other"]


def test_a_damaged_store_is_not_packed(tiny_study, tmp_path):
    copy = tmp_path / "copy.zarr"
    subprocess.run(["cp", "-r", tiny_study.path, copy], check=True)
    chunk = next((copy / "scores" / "mlp.up" / "average_precision").rglob("c/0/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match="its checksum is"):
        pack(copy, tmp_path / "p.zarr.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.zarr"]


def test_nothing_is_overwritten(tiny_study, tmp_path):
    pack(tiny_study.path, tmp_path / "p.zarr.zip")
    with pytest.raises(StoreError, match="exists already"):
        pack(tiny_study.path, tmp_path / "p.zarr.zip")
    with pytest.raises(StoreError, match="exists already"):
        unpack(tmp_path / "p.zarr.zip", tmp_path)


def test_a_package_is_read_only(tiny_study, tmp_path):
    pack(tiny_study.path, tmp_path / "p.zarr")
    before = contents(tmp_path / "p.zarr")
    shared = open_store(tmp_path / "p.zarr")
    for refused in (
        lambda: relact.score(shared),
        lambda: relact.score(tmp_path / "p.zarr"),
        lambda: relact.select(shared, k=3),
        lambda: relact.select(tmp_path / "p.zarr", k=3),
    ):
        with pytest.raises(StoreError, match=r"only be read|read-only"):
            refused()
    assert contents(tmp_path / "p.zarr") == before


def test_unpacked_without_activations_a_capture_makes_them_again(
    tiny_study, tiny_folder, tiny_prompts, tmp_path
):
    pack(tiny_study.path, tmp_path / "p.zarr.zip")
    repeat = unpack(tmp_path / "p.zarr.zip", tmp_path / "again.zarr")
    with pytest.raises(IdentityError, match=r"model\.id"):  # the name lost its folders
        relact.capture(str(tiny_folder), tiny_prompts, repeat.path, sites="all", block=5)
    with pytest.raises(StoreError, match="not captured yet"):
        relact.score(repeat.path)


def test_a_store_tells_what_made_it_and_that_is_repeated(tiny_study, tiny_folder, tmp_path):
    pack(tiny_study.path, tmp_path / "p.zarr.zip")

    store = relact.repeat(tmp_path / "p.zarr.zip", tmp_path / "again.zarr", model=str(tiny_folder)).store
    old = contents(tiny_study.path)
    new = contents(store.path)
    assert set(old) == set(new)
    changed = {name for name in old if old[name] != new[name]}
    assert changed <= {"zarr.json"}  # the time of its making
    assert store.manifest.prompts == tiny_study.manifest.prompts


def test_another_model_does_not_repeat_a_study(tiny_study, tmp_path):
    other = tiny.save(tmp_path / "other", "llama", seed=1)
    with pytest.raises(IdentityError, match="fingerprint"):
        relact.repeat(tiny_study, tmp_path / "again.zarr", model=str(other))
    assert not (tmp_path / "again.zarr").exists()


def test_the_catalogue_lists_stores_that_open(tiny_study, tmp_path):
    packed = pack(tiny_study.path, tmp_path / "tiny.zarr.zip", licence="cc0-1.0")
    catalogue.add(packed, tmp_path / "index.json")
    catalogue.add(packed, tmp_path / "index.json")
    (listed,) = catalogue.stores(tmp_path / "index.json")
    assert (listed.name, listed.model, listed.neurons, listed.licence) == ("tiny", "llama", 648, "CC0-1.0")
    assert listed.bytes == (tmp_path / "tiny.zarr.zip").stat().st_size
    unpack(listed.location, tmp_path / "u.zarr", sha256=listed.sha256)
    with pytest.raises(StoreError, match="SHA-256"):
        unpack(listed.location, tmp_path / "v.zarr", sha256="0" * 64)
    row = json.loads((tmp_path / "index.json").read_text())
    row["stores"][0]["location"] = "../elsewhere"
    (tmp_path / "index.json").write_text(json.dumps(row))
    with pytest.raises(StoreError, match="elsewhere"):
        catalogue.stores(tmp_path / "index.json")


@pytest.mark.slow
def test_every_query_agrees_on_a_package(tiny_study, tmp_path):
    pack(tiny_study.path, tmp_path / "p.zarr.zip")
    shared = open_store(tmp_path / "p.zarr.zip")
    for options in ({"n": 20}, {"n": 3, "sites": "mlp.up"}, {"n": 648}, {"n": 9, "statistic": "on_p90"}):
        ours, theirs = (query.top(store, relation="colour", **options) for store in (shared, tiny_study))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)
    ours, theirs = (query.neuron(store, "attn.k", 1, 3) for store in (shared, tiny_study))
    pd.testing.assert_frame_equal(ours, theirs[list(ours)])  # the distributions need the activations
    assert {"relation", "average_precision"} <= set(ours) and "p50" in theirs
    tree = query.open(tmp_path / "p.zarr.zip")
    xr.testing.assert_identical(
        tree["scores/mlp.up"].to_dataset().drop_attrs(), tiny_study.dataset("scores/mlp.up").drop_attrs()
    )
    xr.testing.assert_identical(
        *(compare.overlap(store, "top-12") for store in (tmp_path / "p.zarr.zip", tiny_study))
    )
    assert compare.agreement(shared, tiny_study, k=12)["jaccard"].tolist() == [1.0, 1.0]
    assert relact.report(str(tmp_path / "p.zarr.zip"), tmp_path / "p.html")[0].stat().st_size > 10_000
    assert shared.prompts(schema.TEST).equals(tiny_study.prompts(schema.TEST))
    with pytest.raises(InputError, match="no relation 'shape'"):
        query.top(shared, relation="shape")


@pytest.mark.parametrize("name", [one.name for one in catalogue.stores()])
def test_a_committed_store_is_what_the_catalogue_says(name, tmp_path):
    listed = {one.name: one for one in catalogue.stores()}[name]
    store = unpack(listed.location, tmp_path / "u.zarr", sha256=listed.sha256)
    assert verify.verify(store.path).ok and len(store.relations()) == listed.relations
    assert store.manifest.model.id == listed.model
    assert sum(lay.n_layers * lay.width for lay in store.layouts.values()) == listed.neurons
    assert store.children("ablations") == store.children("masks") == ["attribution_z-top-400", "top-400"]
    for by, mask in (("activation", "top-400"), ("attribution", "attribution_z-top-400")):
        best = query.top(listed.location, relation="country_capital", n=20, by=by).iloc[0]
        chosen = store.dataset(f"masks/{mask}/{best['site']}")["mask"]
        assert bool(chosen.sel(relation="country_capital", layer=best["layer"], neuron=best["neuron"]))


def test_a_catalogue_is_held_to_a_study_that_was_made_again(study, tmp_path):
    tool = scripts.tool("catalogue")
    relact.pack(study, tmp_path / "p.zarr.zip", stages=["masks", "ablations"])
    stored = open_store(tmp_path / "p.zarr.zip")
    assert list(tool.differences(stored, study)) == []
    again = shutil.copytree(study.path, tmp_path / "again.zarr")
    folders.drop(again, "masks/top-200")
    assert list(tool.differences(stored, folders.open(again))) == ["masks/top-200: not in the study"]
    relact.select(again, k=200, kind="bottom", name="top-200")
    (said,) = tool.differences(stored, folders.open(again))
    assert re.fullmatch(r"masks/top-200: 0\.\d+ of its neurons are the study's", said)

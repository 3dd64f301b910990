"""A store on disk: created whole, resumed bit for bit, grown, read without copying,
and written by one process at a time.
"""

from __future__ import annotations

import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr
from helpers import sample, victims

import relact
from relact import durable, schema
from relact.capturing import prepare
from relact.errors import BusyError, IdentityError, InputError, NumericError, StoreError
from relact.store import local, locks
from relact.store import shards as mmap
from relact.store.layout import array_of

STREAMS = tuple(sample.WIDTHS)


def leftovers(path):
    """What lies beside a store or unfinished in it."""
    return [file for file in path.parent.iterdir() if file != path] + list(path.rglob("*.partial"))


@pytest.mark.parametrize("dtype", schema.DTYPES)
@pytest.mark.parametrize("compress", [False, True])
def test_plain_zarr_and_xarray_read_what_was_written(tmp_path, dtype, compress):
    path = tmp_path / "s.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = sample.full(path, 10, dtype=dtype, compress=compress)
        tree = xr.open_datatree(path, engine="zarr", consolidated=False)
        for stream in STREAMS:
            expected = sample.values(stream, range(10))
            group, name = array_of(stream).rsplit("/", 1)
            array = zarr.open_array(path / group / name, mode="r")
            assert array.dtype == ("float32" if name == "attribution" else dtype)
            assert array.metadata.dimension_names == ("prompt", "layer", "neuron")
            np.testing.assert_array_equal(array[:], expected)
            np.testing.assert_array_equal(tree[group][name].values, expected)
            np.testing.assert_array_equal(sample.read(store, stream), expected)
        zarr.open_group(path, mode="r").members(max_depth=None)
    assert tree["prompts/identify"]["text"].values.tolist() == sample.table(10)["text"].tolist()
    assert tree["prompts/test"]["answers"].values.tolist() == [["0", ""], ["1", "no. 1"], ["2", ""]]
    assert store.prompts("test")["answers"].tolist() == [["0"], ["1", "no. 1"], ["2"]]
    assert store.compressed == compress and leftovers(path) == []


def test_views_are_of_the_mapped_file(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 6)
    first, last = store.views("mlp.gate", 1, 353, 706)
    assert (first.shape, last.shape) == ((4, 353), (2, 353))
    assert not first.flags.owndata and not first.flags.writeable
    base = first
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, memoryview)  # of the map
    np.testing.assert_array_equal(last, sample.values("mlp.gate", [4, 5])[:, 1, 353:])


@pytest.mark.parametrize(("start", "stop"), [(353, 706), (360, 361)])
def test_columns_are_nobody_elses(tmp_path, start, stop):
    """Whatever becomes of the files; of a part of a chunk no more than the part is kept."""
    store = sample.full(tmp_path / "s.zarr", 6)
    columns = store.columns("mlp.gate", 1, start, stop)
    for path in store.path.rglob("c.*.0"):
        os.truncate(path, 0)
    expected = sample.values("mlp.gate", range(6))[:, 1, start:stop]
    np.testing.assert_array_equal(np.concatenate(columns), expected)
    assert max(part.nbytes if part.base is None else part.base.nbytes for part in columns) <= 4 * 2 * (
        stop - start
    )


def test_without_room_for_another_map_chunks_are_read_instead(tmp_path, monkeypatch):
    store = sample.full(tmp_path / "s.zarr", 6)

    refused = []

    def refuse(*_, **__):
        refused.append(True)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(mmap.mmap, "mmap", refuse)
    views = store.views("attn.k", 1, 0, 24)
    np.testing.assert_array_equal(np.concatenate(views), sample.values("attn.k", range(6))[:, 1])
    assert refused


def test_a_store_of_another_layout_is_read_through_zarr(tmp_path):
    """Another tool may repack a store: shards with the index in front, other inner chunks."""
    path = tmp_path / "s.zarr"
    store = sample.full(path, 6)
    with sample.edited(path, "") as root:
        packed = root["activations/attn.k"].create_array(
            "activation",
            shape=(6, 2, 24),
            chunks=(2, 1, 8),
            shards=(4, 2, 24),
            dtype="float16",
            compressors=None,
            overwrite=True,
            dimension_names=("prompt", "layer", "neuron"),
        )
        packed[:] = sample.values("attn.k", range(6))
    store = local.open(path)
    assert store._plain == {"mlp.gate": True, "attn.k": False, "attributions/attn.k": True}
    np.testing.assert_array_equal(sample.read(store, "attn.k"), sample.values("attn.k", range(6)))


def test_an_interrupted_store_resumes_to_the_same_bytes(tmp_path):
    whole, parts = tmp_path / "whole.zarr", tmp_path / "parts.zarr"
    sample.full(whole, 11)
    sample.capture(sample.make(parts, 11), [1])
    tree = relact.open(parts)
    for group in ("activations/attn.k", "attributions/attn.k"):
        assert tree[group].sizes["prompt"] == 0  # block 0 is missing
    assert local.open(parts).missing_blocks() == [0, 2]
    sample.capture(local.open(parts))
    assert sample.files(parts) == sample.files(whole)


def test_a_block_without_its_commit_does_not_exist(tmp_path):
    path = tmp_path / "s.zarr"
    store = sample.full(path, 10)
    store.log.path(2).unlink()
    assert local.open(path).missing_blocks() == [2]
    assert relact.open(path)["activations/mlp.gate"].sizes["prompt"] == 8
    with pytest.raises(StoreError, match="1 of 3 blocks are not captured yet"):
        relact.score(path)


def test_a_value_that_is_not_finite_is_never_written(tmp_path):
    store = sample.make(tmp_path / "s.zarr", 6)
    before = sample.files(store.path)
    buffer = store.buffer()
    with pytest.raises(
        NumericError, match=r"site mlp\.gate, layer 0: the activation of neuron 0 on prompt 4 is nan"
    ):
        store.write_block(1, buffer)
    assert sample.files(store.path) == before


def test_creating_over_something_else_is_refused(tmp_path):
    path = tmp_path / "s.zarr"
    path.mkdir()
    (path / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(StoreError, match="exists already"):
        sample.make(path, 4)
    with pytest.raises(StoreError, match="is not a relact store"):
        local.open(path)
    with pytest.raises(StoreError, match="no such store"):
        local.open(tmp_path / "none.zarr")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["cat.jpg", "s.zarr"]


@pytest.mark.parametrize(
    "written, said",
    [
        (3, r"store format 3, this version reads 1 and 2\. Upgrade relact"),
        (0, r"store format 0, this version reads 1 and 2: it is from before .* Capture it again"),
        (-1, r"store format -1, .* Capture it again"),
        ("1", r"a format of '1'"),
        (True, r"a format of True"),
        (1.0, r"a format of 1\.0"),
        (None, r"a format of None"),
    ],
)
@pytest.mark.parametrize("opened", [local.open, relact.upgrade], ids=["open", "upgrade"])
def test_another_format_is_refused_by_number_and_by_the_way_it_lies(tmp_path, opened, written, said):
    path = tmp_path / "s.zarr"
    sample.make(path, 4)
    with sample.edited(path, "") as root:
        root.attrs["relact"] = {**root.attrs["relact"], "format": written}
    with pytest.raises(StoreError, match=said):
        opened(path)


def test_what_a_later_version_added_to_a_format_is_told_with_the_version(tmp_path):
    path = tmp_path / "s.zarr"
    sample.make(path, 4)
    with sample.edited(path, "") as root:
        about = root.attrs["relact"]
        capture = {**about["capture"], "halo": 3}
        root.attrs["relact"] = {**about, "capture": capture, "versions": {"relact": "9.1"}}
    with pytest.raises(StoreError, match=r"halo.*relact 9\.1 wrote it: upgrade"):
        local.open(path)


def test_a_store_is_not_made_by_its_class(tmp_path):
    with pytest.raises(TypeError, match=r"relact\.open_store"):
        relact.Store(tmp_path / "s.zarr")


# Stages


def put(store, group, number):
    with store.stage(group, {"number": number}) as built:
        built.create_array("x", data=np.full(3, number), dimension_names=("i",))


@pytest.mark.parametrize("group", ["scores", "masks/top-4", "masks/~a~", "ablations/50% off"])
def test_a_stage_appears_whole_or_not_at_all(tmp_path, group):
    store = sample.full(tmp_path / "s.zarr", 4)
    with pytest.raises(RuntimeError, match="mine"), store.stage(group, {"number": 0}) as built:
        built.create_array("x", data=np.zeros(3))
        raise RuntimeError("mine")
    assert not store.has(group)
    put(store, group, 1)
    with pytest.raises(RuntimeError, match="mine"), store.stage(group, {"number": 2}):
        raise RuntimeError("mine")
    assert store.attributes(group) == {"number": 1} and store.dataset(group)["x"].values.tolist() == [1, 1, 1]
    put(store, group, 3)
    assert store.attributes(group) == {"number": 3} and leftovers(store.path) == []


@pytest.mark.parametrize("group", ["scores", "masks/~a~", "ablations/50% off"])
def test_the_former_stage_comes_back_when_the_swap_stopped_halfway(tmp_path, monkeypatch, group):
    store = sample.full(tmp_path / "s.zarr", 4)
    put(store, group, 1)
    rename = os.rename

    def stop(source, target):
        if "new~" in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        put(store, group, 2)
    monkeypatch.undo()
    assert not store.has(group)
    assert local.open(store.path).attributes(group) == {"number": 1} and leftovers(store.path) == []


def test_a_dropped_stage_is_gone(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 4)
    put(store, "masks/a", 1)
    put(store, "masks/b", 1)
    local.drop(store.path, "masks/a")
    assert store.children("masks") == ["b"] and leftovers(store.path) == []


# Growing


def grown(store, n):
    return prepare.append(store, sample.intake(n))


def test_append_keeps_what_is_there_and_asks_for_the_rest(tmp_path):
    path = tmp_path / "s.zarr"
    store = sample.full(path, 6)  # the last block holds two of four rows
    old = sample.files(path)
    store = grown(store, 11)
    assert store.missing_blocks() == [1, 2] and store.appended() == [6]
    assert store.segments(1) == [(4, 6), (6, 8)] and store.segments(2) == [(8, 11)]
    assert relact.open(path)["activations/attn.k"].sizes["prompt"] == 4
    shards = [name for name in old if "/activation/c." in name]
    assert len(shards) == 2 * 2 * 2 and all((path / name).read_bytes() == old[name] for name in shards)
    sample.capture(store)
    store = sample.capture(grown(local.open(path), 12))  # once more, again into a block that is not full
    assert store.missing_blocks() == [] and store.appended() == [6, 11]
    for site in STREAMS:
        np.testing.assert_array_equal(sample.read(store, site), sample.values(site, range(12)))
    assert (
        store.prompts("identify").drop(columns="n_tokens").equals(sample.table(12).drop(columns="n_tokens"))
    )
    assert leftovers(path) == []


def test_appending_nothing_new_changes_nothing(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 6)
    before = sample.files(store.path)
    assert grown(store, 6) is store and grown(store, 4) is store
    assert sample.files(store.path) == before


def test_append_refuses_another_model_and_a_subject_on_both_sides(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 6)
    other = sample.intake(7, dtype="float32")
    with pytest.raises(IdentityError, match=r"capture.dtype = float16, this run has float32"):
        prepare.append(store, other)
    mixed = sample.intake(7)
    mixed.tables["identify"].loc[6, ["subject", "relation"]] = ["test 0", "size"]
    with pytest.raises(InputError, match="'test 0' of size would be in both splits"):
        prepare.append(store, mixed)


# One writer


@pytest.mark.slow
def test_a_second_writer_is_refused_and_told_who_is_first(tmp_path):
    path = tmp_path / "s.zarr"
    sample.full(path, 4)
    context = victims.context()
    held, done = context.Event(), context.Event()
    child = context.Process(target=victims.hold, args=(path, held, done))
    child.start()
    assert held.wait(30)
    for attempt in (lambda: local.recover(local.open(path)), lambda: local.drop(path, "scores")):
        with pytest.raises(
            BusyError, match=rf"process {child.pid} on \S+ is writing this store. Wait for it, or stop it"
        ):
            attempt()
    with pytest.raises(BusyError):
        put(local.open(path), "scores", 1)
    assert sample.read(local.open(path), "attn.k").shape == (4, 2, 24)  # reading needs no lock
    child.kill()
    child.join()
    put(local.open(path), "scores", 1)  # the lock died with its owner
    assert leftovers(path) == []


def test_two_threads_are_two_writers(tmp_path):
    path = tmp_path / "s.zarr"
    sample.make(path, 4)
    with ThreadPoolExecutor(1) as other, locks.writing(path), locks.writing(path), pytest.raises(BusyError):
        other.submit(local.drop, path, "scores").result()
    assert leftovers(path) == []


def test_a_lock_file_that_nobody_holds_is_in_nobodys_way(tmp_path):
    path = tmp_path / "s.zarr"
    sample.make(path, 4)
    locks.lock_path(path).write_text(json.dumps({"pid": 1, "host": "elsewhere", "launch": ""}))
    sample.capture(local.open(path))
    put(local.open(path), "scores", 1)
    assert leftovers(path) == []


def test_parents_are_made_and_a_file_among_them_is_named(tmp_path):
    sample.make(tmp_path / "new" / "deeper" / "s.zarr", 4)
    assert [file.name for file in (tmp_path / "new" / "deeper").iterdir()] == ["s.zarr"]
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=r"cannot write: Not a directory.*Choose a path whose parents are folders"
    ):
        sample.make(tmp_path / "file" / "s.zarr", 4)


def test_partial_files_are_swept(tmp_path):
    path = tmp_path / "s.zarr"
    store = sample.make(path, 4)
    (path / "activations" / "attn.k" / "activation" / "c.0.0.0.partial").write_bytes(b"half")
    local.recover(store)
    assert leftovers(path) == []
    assert durable.sweep(path) == 0

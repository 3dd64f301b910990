"""A packed store with a flipped bit, read by ranges: the right values, or one line that refuses it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from helpers import deep, sample

import relact
from relact.errors import StoreError
from relact.packed.store import open_store
from relact.sharing.pack import pack
from relact.sharing.unpack import check
from relact.store.seal import files_below

STREAMS = tuple(sample.WIDTHS)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "compressed"])
def packed(request, tmp_path_factory):
    """An archive whose shards have two chunks, two of three blocks committed."""
    folder = tmp_path_factory.mktemp("flipped")
    store = sample.capture(sample.make(folder / "s.zarr", 12, compress=request.param), [0, 1])
    return pack(store, folder / "p.zarr.zip", activations=True).path


def told(path):
    """What a reader sees: blocks that are there, every chunk of them by its range, records and prompts."""
    store = open_store(path)
    values = [
        store.chunk(stream, layer, block, start, start + 1)
        for stream in STREAMS
        for layer in range(sample.LAYERS)
        for block in store.log.present()
        for start in range(0, sample.WIDTHS[stream], store.streams[stream].span)
    ]
    records = [store.log.record(block).tolist() for block in store.log.present()]
    return store.log.present(), values, (records, store.prompts("identify").to_dict("list"))


@pytest.mark.parametrize("flips", deep.more(40, 150))
def test_no_flipped_bit_is_read_as_another_value(packed, tmp_path, flips):
    whole, drawn, refused = packed.read_bytes(), random.Random(0), 0
    blocks, values, rest = told(packed)
    assert blocks == [0, 1] and len(values) == 2 * sample.LAYERS * (2 + 1 + 1)
    for _ in range(flips):
        at = drawn.randrange(len(whole))
        raw = whole[:at] + bytes([whole[at] ^ 1 << drawn.randrange(8)]) + whole[at + 1 :]
        (tmp_path / "p.zarr.zip").write_bytes(raw)
        try:
            found = told(tmp_path / "p.zarr.zip")
        except StoreError as error:
            assert str(tmp_path) in str(error)
            refused += 1
            continue
        assert found[0] == blocks and found[2] == rest
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found[1], values, strict=True))
    assert refused > flips / 10


@pytest.mark.parametrize("name", ["activations/mlp.gate/activation/c.1.0.0", "commits/record/c.1.0"])
@pytest.mark.parametrize("at_end", [False, True], ids=["header", "index"])
def test_a_flipped_name_is_no_block_that_is_not_there(packed, tmp_path, name, at_end):
    raw = packed.read_bytes()
    at = (raw.rindex if at_end else raw.index)(name.encode()) + name.index("c.1") + 2
    (tmp_path / "p.zarr.zip").write_bytes(raw[:at] + b"2" + raw[at + 1 :])
    with pytest.raises(StoreError):
        told(tmp_path / "p.zarr.zip")


def test_a_lost_shard_of_a_packed_folder_is_missing_not_empty(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 8)
    path = pack(store, tmp_path / "p.zarr", activations=True).path
    (path / "activations/mlp.gate/activation/c.1.0.0").unlink()
    shared = open_store(path)
    with pytest.raises(StoreError, match=r"c\.1\.0\.0: no such file"):
        shared.chunk("mlp.gate", 0, 1, 0, 8)
    (path / "commits/record/c.0.0").unlink()
    with pytest.raises(StoreError, match=r"not in this package|no such file"):
        open_store(path).log.record(0)


@pytest.mark.slow
def test_every_file_that_a_packed_folder_lost_is_named(tmp_path):
    """Also one whose bytes another file has, which are known once that was read."""
    store = relact.score(sample.full(tmp_path / "s.zarr", 8))
    for name in ("one", "other"):  # the same neurons, so the same files
        relact.select(store, k=3, name=name)
    path = pack(store, tmp_path / "p.zarr", activations=True).path
    for file in files_below(path):
        if file in ("zarr.json", "README.md"):
            continue
        (path / file).rename(tmp_path / "lost")
        try:
            said = " ".join(map(str, check(path).problems))
        except StoreError as error:
            said = str(error)
        (tmp_path / "lost").rename(path / file)
        assert file in said, (file, said)
    assert check(path).ok


@pytest.mark.parametrize("size", [0.3, 0.9])
def test_a_root_whose_listing_is_cut_reads_packs_and_is_upgraded(tmp_path, size):
    """The listing is for plain zarr; what it repeats is sealed elsewhere."""
    store = relact.score(sample.full(tmp_path / "s.zarr", 8))
    root = store.path / "zarr.json"
    whole = root.read_bytes()
    listed = whole.index(b'"consolidated_metadata"')
    root.write_bytes(whole[: listed + int(size * (len(whole) - listed))])
    pack(store.path, tmp_path / "p.zarr.zip")
    assert len(relact.top(tmp_path / "p.zarr.zip", relation="size", n=2)) == 2
    assert "zarr.json" in str(relact.verify(store.path).problems[0])
    relact.upgrade(store.path)
    assert b'"consolidated_metadata"' in root.read_bytes() and relact.verify(store.path).ok

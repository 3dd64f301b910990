"""What survives when the machine stops: everything is flushed before the name that promises it, and that name
after it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import disk, sample

from relact import durable
from relact.capturing import prepare
from relact.store import aside, blocks
from relact.store.seal import files_below


@pytest.fixture
def events(monkeypatch):
    """("flush", path) of every flush and ("name", path) of every renaming to that path, in order."""
    seen = []

    def flush(descriptor):
        seen.append(("flush", Path(f"/proc/self/fd/{descriptor}").readlink()))
        disk.flush(descriptor)

    def noted(move):
        def moved(source, target):
            move(source, target)
            seen.append(("name", Path(target)))

        return moved

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", flush)
    return seen


def partial(path):
    return path.with_name(path.name + durable.PARTIAL)


def test_a_file_is_flushed_then_named_then_its_folder_is_flushed(tmp_path, events):
    file = tmp_path / "file"
    durable.replace(file, [b"one", b"two"])
    assert file.read_bytes() == b"onetwo"
    assert events == [("flush", partial(file)), ("name", file), ("flush", tmp_path)]


def test_shards_are_durable_under_their_names_before_the_commit_of_their_block(tmp_path, events):
    store = sample.full(tmp_path / "s.zarr", 10)
    for block in range(store.n_blocks):
        record = store.log.path(block)
        commit = events.index(("name", record))
        shards = blocks.shard_paths(store.path, store.layouts, block)
        assert len(shards) == 2 * 2
        for shard in shards:
            named = events.index(("name", shard))
            assert events.index(("flush", partial(shard))) < named
            assert ("flush", shard.parent) in events[named:commit]
        assert events.index(("flush", partial(record))) < commit
        assert ("flush", record.parent) in events[commit:]


def test_a_block_that_is_replaced_is_promised_once_its_shards_are_durable(tmp_path, events):
    store = sample.full(tmp_path / "s.zarr", 6)
    store = prepare.append(store, sample.intake(8))
    events.clear()
    sample.capture(store)
    promise, record = blocks.promise_path(store.path, 1), store.log.path(1)
    promised, commit = events.index(("name", promise)), events.index(("name", record))
    assert ("flush", promise.parent) in events[promised:]
    for shard in blocks.shard_paths(store.path, store.layouts, 1):
        assert events.index(("flush", partial(shard))) < promised < events.index(("name", shard)) < commit


def test_a_store_and_a_stage_are_durable_before_they_are_named(tmp_path, events):
    built = aside.place(tmp_path / "s.zarr", "new", "store")
    store = sample.make(tmp_path / "s.zarr", 6)
    contents = {built: (store.path, list(files_below(store.path)))}
    with store.stage("masks/top-4", {"k": 4}) as group:
        group.create_array("x", data=np.arange(30), dimension_names=("i",))
    mask = store.path / "masks" / "top-4"
    contents[aside.place(store.path, "new", "masks/top-4")] = (mask, list(files_below(mask)))
    for built, (place, names) in contents.items():
        named = events.index(("name", place))
        flushed = {path for kind, path in events[:named] if kind == "flush"}
        assert len(names) >= 3
        assert {built / name for name in names} <= flushed
        assert ("flush", place.parent) in events[named:]

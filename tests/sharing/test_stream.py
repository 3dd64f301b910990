"""A capture that streams to an object store ends as the same capture on disk does, whatever interrupts it."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import deep, victims

from relact.capturing.capture import capture
from relact.errors import IdentityError, InputError, StoreError
from relact.packed import urls
from relact.packed.store import open_store
from relact.sharing.publish import pull
from relact.sharing.stream import UNFINISHED, stream
from relact.store import verify

URL = "s3://neurons/runs/tiny.zarr"
OPTIONS = {"sites": "mlp.gate,mlp.up", "block": 4, "attribution": True}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    return capture(
        victims.loaded(), victims.prompts(), tmp_path_factory.mktemp("disk") / "tiny.zarr", **OPTIONS
    )


def streamed(prompts=None, **options):
    return stream(
        victims.loaded(), victims.prompts() if prompts is None else prompts, URL, **OPTIONS, **options
    )


def keys(bucket):
    return {
        one["Key"].removeprefix("runs/tiny.zarr/")
        for one in bucket.list_objects_v2(Bucket="neurons").get("Contents", [])
    }


def same(store, expected):
    assert store.missing_blocks() == []
    for name, lay in expected.streams.items():
        for layer in range(lay.n_layers):
            for ours, theirs in zip(
                *(one.columns(name, layer, 0, lay.span) for one in (store, expected)), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


class Breaking:
    """`Place.put` that refuses from the ``n``-th call on."""

    def __init__(self, monkeypatch, n):
        self.calls, put = 0, urls.Place.put

        def broken(place, key, data):
            self.calls += 1
            if self.calls >= n:
                raise StoreError("the connection broke", where=key)
            put(place, key, data)

        monkeypatch.setattr(urls.Place, "put", broken)


@pytest.mark.parametrize("compress", [False, True])
def test_a_streamed_capture_is_the_capture(bucket, cache, on_disk, tmp_path, compress):
    store = streamed(compress=compress, licence="cc0-1.0")
    same(store, on_disk)
    assert store.card["stages"] == ["activations"] and store.card["licence"] == "CC0-1.0"
    assert UNFINISHED not in keys(bucket) and not list((cache / "streams").rglob("*.*"))
    pull(URL, tmp_path / "pulled.zarr")
    assert verify.verify(tmp_path / "pulled.zarr").ok
    if not compress:
        for path in on_disk.path.rglob("*"):
            if path.is_file() and path.name != "zarr.json":
                assert (
                    tmp_path / "pulled.zarr" / path.relative_to(on_disk.path)
                ).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True], ids=["goes on", "goes on from another machine"])
@pytest.mark.parametrize("n", deep.rest((1, 2, 4, 9, 14, 20, 24, 30), (2, 14)))
def test_an_interrupted_stream_goes_on(bucket, cache, on_disk, monkeypatch, n, lost):
    with monkeypatch.context() as patch:
        Breaking(patch, n)
        with pytest.raises(StoreError, match="the connection broke"):
            streamed()
    assert "zarr.json" not in keys(bucket)
    with pytest.raises(StoreError, match="no such file"):
        open_store(URL)
    there = [int(key.split(".")[1]) for key in keys(bucket) if key.startswith("commits/record/c.")]
    left = on_disk.n_prompts - sum(stop - first for first, stop in map(on_disk.rows_of, there))
    if lost:
        shutil.rmtree(cache)
    rows = []
    store = streamed(progress=lambda stage, done, total, unit: rows.append(total))
    same(store, on_disk)
    # what was captured but not sent yet is only here
    assert max(rows, default=0) == left if lost else max(rows, default=0) <= left


def test_little_is_kept_here_meanwhile(bucket, cache, monkeypatch):
    most, put = [], urls.Place.put

    def counted(place, key, data):
        most.append(len(list(cache.rglob("activation/c.*"))))
        put(place, key, data)

    monkeypatch.setattr(urls.Place, "put", counted)
    store = streamed(victims.prompts(60))
    shards = 2 * next(iter(store.layouts.values())).n_layers
    assert max(most) == shards and store.n_blocks == 15


def test_a_finished_stream_is_not_captured_again(bucket, on_disk, monkeypatch):
    streamed()
    monkeypatch.setattr(urls.Place, "put", lambda *_: pytest.fail("nothing is to be sent"))
    same(streamed(), on_disk)


@pytest.mark.parametrize("finished", [False, True])
def test_another_capture_is_not_mixed_in(bucket, cache, monkeypatch, finished):
    with monkeypatch.context() as patch:
        if not finished:
            Breaking(patch, 9)
        with nullcontext() if finished else pytest.raises(StoreError, match="the connection broke"):
            streamed()
    before = keys(bucket)
    shutil.rmtree(cache)
    with pytest.raises(
        IdentityError, match=r"s3://neurons/runs/tiny\.zarr: another capture is there: prompts\.identify"
    ):
        streamed(victims.prompts(20))
    if not finished:
        shutil.rmtree(cache)
        with pytest.raises(IdentityError, match="compression"):
            streamed(compress=True)
    assert keys(bucket) == before


def test_places_that_take_no_single_blocks_are_refused(bucket, monkeypatch):
    for url in ("https://host/s.zarr", "hf://datasets/a/b/s.zarr", "s3://neurons/s.zarr.zip"):
        with pytest.raises(InputError, match="one by one"):
            stream(victims.loaded(), victims.prompts(), url)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several ranks"):
        streamed()


def test_the_command_streams_to_a_url(relact, bucket, tiny_folder, prompt_file):
    command = ("capture", tiny_folder, prompt_file, "s3://neurons/by-command.zarr", "--block", 5)
    assert relact(*command, "--dry-run")[0] == 0 and not keys(bucket)
    code, out, _ = relact(*command)
    assert code == 0 and "4 of 4 committed" in out
    assert open_store("s3://neurons/by-command.zarr").missing_blocks() == []
    code, _, err = relact(*command, "--append")
    assert code == 2 and "on disk" in err

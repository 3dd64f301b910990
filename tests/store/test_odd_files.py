"""Files of a store that are no files: a pipe, a device, a folder, something endless. Nobody waits."""

from __future__ import annotations

import os
import shutil
import warnings

import pytest
from helpers import sample
from zarr.errors import ZarrUserWarning

import relact
from relact import durable, kernels
from relact.errors import StoreError
from relact.scoring.check import check
from relact.scoring.magnitudes import magnitudes
from relact.store import local
from relact.store.sealed import Sealed
from relact.store.verify import verify

FILES = (
    "zarr.json",
    "prompts/identify/text/c/0",
    "activations/attn.k/activation/c.0.0.0",
    "commits/record/c.0.0",
    "scores/zarr.json",
    "scores/mlp.gate/on_p50/c/0/0/0",
    "masks/top-3/mlp.gate/mask/c/0/0/0",
)


def endless(path):
    with path.open("wb") as file:
        file.truncate(1 << 44)


ODD = {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = relact.score(sample.full(tmp_path_factory.mktemp("odd") / "s.zarr", 9))
    relact.select(store, k=3)
    return store.path


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_told_at_once(whole, tmp_path, kind, name):
    path = shutil.copytree(whole, tmp_path / "s.zarr")
    (path / name).unlink()
    ODD[kind](path / name)
    try:
        assert not verify(path).ok
    except StoreError as error:
        assert name == "zarr.json" and str(path) in str(error)
    for ask in (
        lambda: relact.top(path, relation="size", n=2),
        lambda: relact.score(path, negatives=1),
        lambda: relact.select(path, k=2),
        lambda: local.open(path).describe(),
        lambda: relact.pack(path, tmp_path / "p.zarr.zip"),
    ):
        try:
            ask()
        except StoreError as error:
            assert str(path) in str(error)


STRAY = (
    ".DS_Store",
    "notes.txt",
    ".ipynb_checkpoints/notes-checkpoint.txt",
    "own/notes.txt",
    "masks/.DS_Store",
    "masks/notes.txt",
    "masks/.ipynb_checkpoints/x",
    "scores/notes.txt",
    "prompts/identify/.DS_Store",
)


def test_what_others_leave_in_a_store_is_passed_over_without_a_word(whole, tmp_path):
    path = shutil.copytree(whole, tmp_path / "s.zarr")
    before = set(relact.open(whole).groups)
    for name in STRAY:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("not relact's")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZarrUserWarning)
        assert set(relact.open(path).groups) == before
        assert local.open(path).children("masks") == ["top-3"]
        relact.select(path, k=2)
        assert relact.top(path, relation="size", n=2).equals(relact.top(whole, relation="size", n=2))
        relact.pack(path, tmp_path / "p.zarr.zip")
    assert verify(path).ok and all((path / name).is_file() for name in STRAY)


@pytest.mark.parametrize("name", FILES)
def test_an_endless_file_is_not_read(whole, tmp_path, name):
    """Nobody waits for sixteen terabytes of nothing, and nobody makes room for them."""
    path = shutil.copytree(whole, tmp_path / "s.zarr")
    endless(path / name)
    with pytest.raises(StoreError, match=r"bytes, more than|cannot be read|of this file|damaged"):
        for shown in local.open(path).tree().subtree:
            shown.load()
    try:
        assert [problem.file for problem in verify(path).problems] == [name]
    except StoreError as error:
        assert name == "zarr.json" and "cannot be read" in str(error)


def test_a_large_file_that_is_not_what_was_written_takes_no_memory(whole, tmp_path, monkeypatch):
    path = shutil.copytree(whole, tmp_path / "s.zarr")
    monkeypatch.setattr(durable, "DOCUMENT_BYTES", 4096)  # far below what large files are
    chunk = "scores/mlp.gate/on_p50/c/0/0/0"
    os.truncate(path / chunk, 8192)

    def held(*_):
        raise AssertionError("read whole")

    files = Sealed(path)
    assert files.has(chunk)
    monkeypatch.setattr(Sealed, "_bytes", held)
    with pytest.raises(StoreError, match="damaged: its checksum is"):
        files.read(chunk)


READERS = {
    "score": lambda store: relact.score(store, negatives=1, workers=1),
    "probe": lambda store: relact.score(store, statistics=["probe"], workers=1),
    "stability": lambda store: relact.stability(store, k=2, splits=1, workers=1),
    "magnitudes": lambda store: magnitudes(store, "mlp.gate"),
    "neuron": lambda store: relact.neuron(store, "mlp.gate", 1, 700),
    "check": lambda store: check(store, 2),
    "append": lambda store: store.load_block(0, store.buffer()),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_cut_while_it_is_read_ends_nobody(whole, tmp_path, monkeypatch, reader):
    """Every shard is empty as soon as a byte of it was found; a page of its map would be a bus error."""
    store = local.open(shutil.copytree(whole, tmp_path / "s.zarr"))
    found = Sealed.require_shard

    def found_then_cut(self, path, *place):
        found(self, path, *place)
        os.truncate(path, 0)

    monkeypatch.setattr(Sealed, "require_shard", found_then_cut)
    with pytest.raises(StoreError, match=r"c\.0\.\d\.0: cannot read this shard .* Run `relact verify`"):
        READERS[reader](store)


def test_scores_of_a_shard_that_is_cut_while_it_is_ranked(whole, tmp_path, monkeypatch):
    """The task that has its values ends, the next one says it, and the former scores stay."""
    path = shutil.copytree(whole, tmp_path / "s.zarr")
    ranked = kernels.rank_statistics

    def cut_then_ranked(*arguments):
        for shard in path.glob("a*/*/*/c.*.0"):
            os.truncate(shard, 0)
        return ranked(*arguments)

    monkeypatch.setattr(kernels, "rank_statistics", cut_then_ranked)
    with pytest.raises(StoreError, match="damaged: its checksum"):
        relact.score(path, negatives=1, workers=1)
    assert local.open(path).scores_record().negatives is None


def test_a_store_without_test_prompts_is_packed_and_opened(tmp_path):
    store = relact.score(sample.full(tmp_path / "s.zarr", 9, n_test=0))
    relact.pack(store, tmp_path / "p.zarr.zip")
    assert len(relact.top(tmp_path / "p.zarr.zip", relation="size", n=2)) == 2
    assert relact.unpack(tmp_path / "p.zarr.zip", tmp_path / "t.zarr").manifest.n_prompts("test") == 0

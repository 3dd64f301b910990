"""What lies beside a store belongs to it alone: its folder aside, its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import sample

from relact.capturing import prepare
from relact.errors import BusyError, StoreError
from relact.store import aside, blocks, local, locks, skeleton
from relact.store.verify import verify


def make(path, number, n=6):
    """A store with an id of its own."""
    blueprint = sample.intake(n).blueprint
    manifest = replace(blueprint.manifest, id=f"{number:032x}")
    return sample.capture(local.create(path, replace(blueprint, manifest=manifest)))


def put(store, group, number):
    with store.stage(group, {"number": number}) as built:
        built.create_array("x", data=np.full(3, number), dimension_names=("i",))


class Crash(BaseException):
    pass


def crash(monkeypatch, module, name, action):
    """What ``action`` leaves when it stops at ``module.name``, once something is promised."""
    go_on = getattr(module, name)

    def stop(first, *more):
        if module is blocks or aside.parked(first, skeleton.GROWTH):
            raise Crash
        go_on(first, *more)

    monkeypatch.setattr(module, name, stop)
    monkeypatch.setattr(aside, "clear", lambda store: None)
    with pytest.raises(Crash):
        action()
    monkeypatch.undo()


def leave_a_growth(store, monkeypatch):
    crash(monkeypatch, skeleton, "apply_growth", lambda: prepare.append(store, sample.intake(9)))


def leave_a_block(store, monkeypatch):
    grown = prepare.append(store, sample.intake(8))
    crash(monkeypatch, blocks, "_publish", lambda: sample.capture(grown))


def leave_a_group(store, monkeypatch):
    put(store, "masks/top-4", 1)
    parked = aside.prepare(store.path) / "old~masks%2Ftop-4"
    os.rename(store.path / "masks/top-4", parked)


@pytest.mark.parametrize("leave", [leave_a_growth, leave_a_block, leave_a_group])
def test_what_a_crash_left_is_not_applied_to_another_store_at_its_path(tmp_path, monkeypatch, leave):
    path, moved = tmp_path / "s.zarr", tmp_path / "moved.zarr"
    leave(make(path, 1), monkeypatch)
    assert list(aside.own_folder(path).iterdir())
    os.rename(path, moved)
    whole = sample.files(make(tmp_path / "whole.zarr", 2).path)
    shutil.copytree(tmp_path / "whole.zarr", path)  # not made here: its maker knew nothing of the folder
    local.recover(local.open(path))
    assert sample.files(path) == whole and verify(path).ok and not aside.is_there(path)


@pytest.mark.parametrize("leave", [leave_a_growth, leave_a_block, leave_a_group])
def test_a_new_store_clears_what_another_left(tmp_path, monkeypatch, leave):
    path = tmp_path / "s.zarr"
    leave(make(path, 1), monkeypatch)
    shutil.rmtree(path)
    make(path, 2)
    assert sample.files(path) == sample.files(make(tmp_path / "whole.zarr", 2).path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.zarr", "whole.zarr"]


@pytest.mark.parametrize("number", [0, 1])
def test_it_is_applied_to_the_store_that_it_belongs_to(tmp_path, monkeypatch, number):
    """Also where the store has no id, as those from before there were any."""
    path = tmp_path / "s.zarr"
    store = make(path, 1) if number else sample.full(path, 6)
    leave_a_group(store, monkeypatch)
    assert local.open(path).attributes("masks/top-4") == {"number": 1}
    leave_a_growth(local.open(path), monkeypatch)
    assert local.open(path).n_prompts == 9 and not aside.is_there(path)


@pytest.mark.parametrize(
    "name", ["old~..%2F..%2Fescaped", "old~%2Fescaped", "old~", "old~masks%2F..%2F..%2Fescaped", "old~a%00"]
)
def test_names_cannot_leave_the_store(tmp_path, name):
    folder = tmp_path / "a" / "b"
    store = make(folder / "s.zarr", 1)
    before = sample.files(store.path)
    (aside.prepare(store.path) / name).mkdir()
    local.recover(local.open(store.path))
    assert sample.files(store.path) == before
    assert [file.name for file in folder.iterdir()] == ["s.zarr"] and not list(tmp_path.glob("**/escaped"))


def as_folder(path):
    return aside.folder_of(path)


def as_own_folder(path):
    aside.folder_of(path).mkdir()
    return aside.own_folder(path)


@pytest.mark.parametrize("where", [as_folder, as_own_folder])
def test_links_in_the_place_of_the_folder_are_not_followed(tmp_path, where):
    store, elsewhere = make(tmp_path / "s.zarr", 1), tmp_path / "elsewhere"
    before = sample.files(store.path)
    (elsewhere / "old~masks%2Fx").mkdir(parents=True)
    where(store.path).symlink_to(elsewhere)
    local.open(store.path)
    local.recover(local.open(store.path))
    assert sample.files(store.path) == before and (elsewhere / "old~masks%2Fx").is_dir()
    where(store.path).symlink_to(elsewhere)
    with pytest.raises(StoreError, match="is a link, which relact never makes"):
        aside.prepare(store.path)


@pytest.mark.parametrize("name", ["old~masks%2Fx", "ready~grow", "ready~block~1"])
def test_links_in_the_folder_are_not_followed(tmp_path, name):
    store, elsewhere = make(tmp_path / "s.zarr", 1), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    before = sample.files(store.path)
    (aside.prepare(store.path) / name).symlink_to(elsewhere)
    local.recover(local.open(store.path))
    assert sample.files(store.path) == before and (elsewhere / "file").read_text() == "mine"
    assert not aside.folder_of(store.path).exists()


@pytest.mark.parametrize("link", [os.symlink, os.link, lambda _, path: os.mkfifo(path)])
def test_a_lock_that_is_a_link_is_refused_and_what_it_names_untouched(tmp_path, link):
    store, precious = make(tmp_path / "s.zarr", 1), tmp_path / "precious"
    precious.write_text("mine")
    link(precious, locks.lock_path(store.path))
    with pytest.raises(StoreError, match="is a link or no plain file"):
        local.recover(store)
    assert precious.read_text() == "mine"


# Stores that are links


def test_a_store_that_is_a_link_has_one_lock_and_one_folder(tmp_path):
    real, link = tmp_path / "disk" / "real.zarr", tmp_path / "link.zarr"
    make(real, 1)
    link.symlink_to(real)
    assert locks.lock_path(link) == locks.lock_path(real) and aside.folder_of(link) == aside.folder_of(real)
    with ThreadPoolExecutor(1) as other, locks.writing(link), pytest.raises(BusyError):
        other.submit(local.drop, real, "scores").result()
    put(local.open(link), "scores", 1)
    assert local.open(real).attributes("scores") == {"number": 1}
    assert [file.name for file in real.parent.iterdir()] == ["real.zarr"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk", "link.zarr"]


def test_a_group_that_is_a_link_is_replaced_and_what_it_points_to_is_left(tmp_path):
    store = make(tmp_path / "s.zarr", 1)
    put(store, "scores", 1)
    elsewhere = tmp_path / "elsewhere"
    os.rename(store.path / "scores", elsewhere)
    (store.path / "scores").symlink_to(elsewhere)
    put(local.open(store.path), "scores", 2)
    assert local.open(store.path).attributes("scores") == {"number": 2} and verify(store.path).ok
    assert (elsewhere / "zarr.json").is_file()


# Where there is no `flock`


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without_flock(monkeypatch, request):
    def refuse(descriptor, mode):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def claim_of(path):
    return locks.lock_path(path).with_name(f".{path.name}.lock.held")


def test_without_flock_there_is_one_writer_too(tmp_path, without_flock):
    path = tmp_path / "s.zarr"
    store = make(path, 1)
    with ThreadPoolExecutor(1) as other, locks.writing(path):
        assert claim_of(path).is_file() and not locks.is_free(path)
        with pytest.raises(BusyError):
            other.submit(local.drop, path, "scores").result()
    claim_of(path).write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    assert not locks.is_free(path)
    with pytest.raises(BusyError, match=rf"process {os.getppid()} on .*; once it is gone, remove"):
        local.recover(store)
    claim_of(path).unlink()
    put(store, "scores", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["s.zarr"]


def test_without_flock_the_lock_of_a_dead_process_is_taken(tmp_path, without_flock):
    path = tmp_path / "s.zarr"
    store = make(path, 1)
    dead = subprocess.Popen(["true"])
    dead.wait()
    claim_of(path).write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    assert locks.is_free(path)
    put(store, "scores", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["s.zarr"]
    claim_of(path).write_text(json.dumps({"pid": dead.pid, "host": "elsewhere"}))
    with pytest.raises(BusyError, match="on elsewhere is writing this store"):
        put(store, "scores", 2)


def test_without_flock_several_ranks_are_refused(tmp_path, without_flock):
    path, crew = tmp_path / "s.zarr", locks.Crew(0, 2, "launch")
    with (
        pytest.raises(StoreError, match="no locks, which several ranks would share"),
        locks.writing_together(path, crew, lambda: None, lambda: False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []

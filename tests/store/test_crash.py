"""Processes killed at random moments, and at every single change they make to the disk:
no store is lost or differs afterwards.

A kill cannot lose what the system already has, so nothing here waits for the disk; that everything is flushed
before a commit is tested by order (test_durable.py).
"""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import deep, sample, victims

from relact.store import local
from relact.store.verify import verify

ATTEMPTS = 6  # kills of one study at most
CHAINS = 2  # studies at a time
# multiprocessing asks after the children of all threads whenever one is started, and each says only once how
# it ended
CHILDREN = threading.Lock()


def contents(path):
    return sample.without_time(sample.files(path))


def start(path, context, stage):
    """A study that has begun at ``stage``."""
    begun = context.Event()
    child = context.Process(target=victims.study, args=(path, begun, stage))
    with CHILDREN:
        child.start()
    assert begun.wait(60)
    return child


def code_of(child, seconds=float("inf")):
    """Exit code of a child once it has ended; None when it has not after so many seconds."""
    stop = time.monotonic() + seconds
    while True:
        with CHILDREN:
            code = child.exitcode
        if code is not None or time.monotonic() >= stop:
            return code
        time.sleep(0.001)


def timed(path, context):
    """Seconds that every stage takes, uninterrupted."""
    stage, spent = context.Value("i", 0), Counter()
    child = start(path, context, stage)
    while code_of(child, 0) is None:
        spent[stage.value] += 0.001
        time.sleep(0.001)
    assert child.exitcode == 0
    return spent


@pytest.mark.parametrize("kills", deep.more(16, 200))
def test_no_kill_loses_anything(tmp_path, kills):
    context = victims.context()
    spent = timed(tmp_path / "whole.zarr", context)
    whole = contents(tmp_path / "whole.zarr")
    killed, finished = Counter(), []

    def chain(number):
        """Studies one after the other, each killed a few times and resumed until it gets through."""
        generator = random.Random(number)
        path, stage = tmp_path / f"{number}.zarr", context.Value("i", 0)
        while killed.total() < kills or len(killed) < len(victims.STAGES):
            stage.value, attempts = 0, 0
            while True:
                child = start(path, context, stage)
                if attempts < ATTEMPTS:
                    ahead = range(stage.value, len(victims.STAGES))
                    target = min(ahead, key=lambda at: (killed[victims.STAGES[at]], generator.random()))
                    while stage.value < target and code_of(child, 0) is None:
                        time.sleep(0.001)
                    code_of(child, generator.uniform(0, 1.2 * spent[target]))
                    child.kill()
                if (code := code_of(child)) == 0:
                    break
                assert code == -signal.SIGKILL, "a study failed that nobody killed"
                attempts += 1
                killed[victims.STAGES[stage.value]] += 1
                if path.exists():
                    local.open(path)
                    assert verify(path).ok
            finished.append(contents(path) == whole)
            shutil.rmtree(path)

    with ThreadPoolExecutor(CHAINS) as pool:
        list(pool.map(chain, range(CHAINS)))
    print(f"kills: {dict(killed)}; {len(finished)} resumed studies, {finished.count(False)} of them differ")
    assert all(finished) and len(finished) >= kills // ATTEMPTS


def make_and_fill(path):
    victims.create(path, 6)
    victims.fill(path)


def grow_and_fill(path):
    victims.append(path, 9)
    victims.fill(path)


def replace_a_stage(path):
    victims.put(path, "masks/top-4", 2)


def drop_a_stage(path):
    if local.open(path).has("masks/top-4"):
        victims.drop(path, "masks/top-4")
    local.recover(local.open(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "step"),
    [
        (make_and_fill, 13),
        (grow_and_fill, 29),
        (replace_a_stage, 1),
        (drop_a_stage, 1),
        pytest.param(make_and_fill, 3, marks=deep.only),
        pytest.param(grow_and_fill, 7, marks=deep.only),
    ],
)
def test_killed_just_before_a_change_to_the_disk(tmp_path, action, step):
    """Before every change, or every so many where there are some hundred alike."""
    base, whole, path = tmp_path / "base.zarr", tmp_path / "whole.zarr", tmp_path / "s.zarr"
    if action is not make_and_fill:
        sample.full(base, 6)
        victims.put(base, "masks/top-4", 1)
        shutil.copytree(base, whole)
    action(whole)
    expected, context = sample.files(whole), victims.context()
    for change in range(1, 1000, step):
        if base.exists():
            shutil.copytree(base, path)
        child = context.Process(target=victims.killed_at, args=(change, action, path))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        if path.exists():
            store = local.open(path)
            assert verify(path).ok
            if base.exists() and action is not drop_a_stage:
                assert store.attributes("masks/top-4")["number"] in (1, 2)
                assert store.committed_stop(1) >= 6  # the rows that were there are never lost
        if action is not make_and_fill or not path.exists():
            action(path)
        else:
            victims.fill(path)
        assert sample.files(path) == expected, change
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
            file.name for file in (base, whole, path) if file.exists()
        )
        shutil.rmtree(path)
    assert change > 5

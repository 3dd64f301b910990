"""One ablation by several processes: they share the questions, and whoever is left writes the result."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
import xarray as xr
from helpers import victims

from relact.ablating import answers, ranks
from relact.ablating.ablate import ablate
from relact.capturing.capture import capture
from relact.scoring import masks
from relact.scoring.score import score
from relact.store import local


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A store with a mask, not yet ablated; and what one process finds."""
    path = tmp_path_factory.mktemp("ranks") / "s.zarr"
    torch.set_num_threads(1)
    capture(victims.loaded(), victims.prompts(), path, sites="mlp.gate", block=4)
    score(path, workers=1)
    masks.select(path, k=5)
    whole = path.with_name("whole.zarr")
    shutil.copytree(path, whole)
    return path, ablate(whole, mask="top-5", model=victims.loaded(), seeds=[0]).load()


@pytest.fixture
def path(selected, tmp_path):
    shutil.copytree(selected[0], tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_each_rank_asks_a_part_and_together_it_is_all(selected, path, monkeypatch):
    parts = []

    def in_turn(store, crew, work):
        for rank in (1, 0):
            one = replace(work, crew=replace(crew, rank=rank))
            before = known(one)
            one.share()
            parts.append(known(one) - before)
        monkeypatch.setattr(
            answers, "decode", lambda loaded, exam, every, *_, todo, **__: todo.any() and pytest.fail()
        )
        work.finish()

    def known(work):
        return {(digest, at) for digest, found in work._journal().replies.items() for at in found}

    monkeypatch.setattr(ranks, "together", in_turn)
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = ablate(path, mask="top-5", model=victims.loaded(), seeds=[0]).load()
    xr.testing.assert_identical(result, selected[1])
    assert len(parts) == 2 and all(parts) and not parts[0] & parts[1]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [None, 0, 1])
def test_ranks_find_what_one_process_finds_though_one_is_killed(selected, path, victim):
    context = victims.context()
    (seen, hung), (go, release) = context.Pipe(duplex=False), context.Pipe(duplex=False)
    crew = [
        context.Process(
            target=victims.ablating_rank,
            # the first would be done before the second is there
            args=(path, rank, 2, hung if rank == victim else None, go if (rank, victim) == (0, 1) else None),
        )
        for rank in (0, 1)
    ]
    for process in crew:
        process.start()
    if victim is not None:
        assert seen.poll(120)
        crew[victim].kill()
        crew[victim].join()
        release.send("go")
    for process in crew:
        process.join(120)
    assert [process.exitcode for process in crew] == [-9 if rank == victim else 0 for rank in (0, 1)]
    xr.testing.assert_identical(local.open(path).dataset("ablations/top-5").load(), selected[1])
    assert [file.name for file in path.parent.iterdir()] == [path.name]

"""Scores and masks as they lie in a store: few files of few neurons, and no memory for many relations."""

from __future__ import annotations

import shutil
import tracemalloc
import weakref

import numpy as np
import pytest
import zarr
from helpers import sample

import relact
from relact import schema
from relact.analysis.compare import overlap_of
from relact.scoring import arrays, masks, schedulers
from relact.scoring.arrays import Stored
from relact.scoring.forecast import forecast
from relact.scoring.options import ScoreOptions
from relact.scoring.score import score
from relact.scoring.selection import choose
from relact.store import local


@pytest.mark.parametrize("n_relations", [2, 3, 300])
def test_few_neurons_are_few_files_whatever_the_number_of_relations(tmp_path, monkeypatch, n_relations):
    table = sample.table

    def renamed(n, start=0, split=schema.IDENTIFY):
        return table(n, start, split).assign(relation=[f"r{at % n_relations}" for at in range(n)])

    monkeypatch.setattr(sample, "table", renamed)
    store = sample.full(tmp_path / "s.zarr", max(4, 2 * n_relations), attribution=None)
    planned = forecast(ScoreOptions(), store)
    relact.score(store)
    relact.select(store, k=3)
    files = {stage: len(list((store.path / stage).rglob("c/*/*/*"))) for stage in ("scores", "masks")}
    # [statistic, site, chunk of 256 KiB]; of masks those that hold a neuron
    assert files["scores"] == 5 * (1 + -(-n_relations * 1412 * 4 // 2**18))
    assert 0 < files["masks"] <= 2 * (1 + n_relations // 185)
    assert planned.files >= len([path for path in (store.path / "scores").rglob("*") if path.is_file()])
    for at in (0, n_relations - 1):
        scores = store.dataset("scores/mlp.gate")["average_precision"].sel(relation=f"r{at}").values
        best = relact.top(store, relation=f"r{at}", n=1)
        assert best["average_precision"][0] >= np.nanmax(scores)


@pytest.mark.parametrize("former", [(), ("size",)])
def test_scores_that_wait_in_a_file_are_those_that_wait_in_memory(tiny_study, tmp_path, monkeypatch, former):
    for name in ("held", "turned"):
        shutil.copytree(tiny_study.path, tmp_path / name)
        shutil.rmtree(tmp_path / name / "scores")
        monkeypatch.setattr(arrays, "HELD", 0 if name == "turned" else 2**27)
        monkeypatch.setattr(arrays, "WRITTEN", 1 if name == "turned" else 2**26)  # a chunk at a time
        if former:
            score(local.open(tmp_path / name), relations=former)
        score(local.open(tmp_path / name))
    held, turned = (sample.without_time(sample.files(tmp_path / name)) for name in ("held", "turned"))
    assert held == turned and any(name.startswith("scores/mlp.gate/") for name in held)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "turned"]


def test_memory_does_not_grow_with_relations(tmp_path):
    """Of 72 relations more than of 8 there is as much as their sets are, not as their scores."""
    n_neurons, peaks = 50_000, {}
    random = np.random.default_rng(0)
    for n_relations in (8, 8, 80):  # the first time imports
        scores = random.standard_normal((n_relations, 1, n_neurons)).astype(np.float32)
        array = zarr.create_array(tmp_path / "a.zarr", data=scores, chunks=(1, 1, n_neurons), overwrite=True)
        del scores
        tracemalloc.start()
        chosen = choose({"mlp.down": Stored(array)}, 100).chosen
        overlap_of([f"r{at}" for at in range(n_relations)], chosen)
        peaks[n_relations] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[80] - peaks[8] < 72 * n_neurons * 4 / 4


def test_a_mask_is_read_by_the_numbers_of_its_neurons(study):
    relations, sets = masks.numbers(study, "top-200")
    names, whole = masks.read(study, "top-200")
    assert relations == names == study.relations()
    for site, mask in whole.items():
        stored = study.dataset(f"masks/top-200/{site}")["mask"].values
        assert np.array_equal(mask, stored) and np.array_equal(sets.mask(site, 1, 2), stored[1:2])
        assert np.array_equal(sets.counts(site, stored.shape[2]), stored.sum(axis=2))
        for row, numbers in zip(stored, sets.within(site), strict=True):
            assert np.array_equal(np.flatnonzero(row), numbers)


def test_threads_keep_nothing_of_what_is_collected():
    class Result:
        pass

    alive: weakref.WeakSet[Result] = weakref.WeakSet()
    most = []

    def run(job, task):
        alive.add(made := Result())
        return made

    with schedulers.on_scheduler(workers=1) as compute:
        compute(run, None, list(range(50)), lambda task, result: most.append(len(alive)))
    assert len(most) == 50 and max(most) < 10

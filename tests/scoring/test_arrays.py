"""Scores as they lie in a store: few files where there are few neurons, however many relations."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import sample

import relact
from relact import schema
from relact.scoring.forecast import forecast
from relact.scoring.options import ScoreOptions


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

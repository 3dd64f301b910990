"""The bootstrap of the top-k against scikit-learn, resample by resample."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from relact.capturing.capture import capture
from relact.errors import InputError
from relact.scoring.stability import _draw, stability


@pytest.fixture(scope="module")
def captured(tiny_folder, tiny_prompts, tmp_path_factory):
    path, sites = tmp_path_factory.mktemp("s") / "s.zarr", ["mlp.down", "attn.k"]
    return capture(str(tiny_folder), tiny_prompts, path, dtype="float32", block=5, sites=sites)


def test_survival_equals_scikit_learn_on_the_drawn_prompts(captured):
    k, seed = 20, 3
    found = stability(captured, k=k, resamples=4, seed=seed)["survival"]
    names = captured.prompts("identify").relation.to_numpy()
    sites = [captured.dataset(f"activations/{site}")["activation"].values for site in captured.layouts]
    values = np.concatenate([site.reshape(len(names), -1) for site in sites], axis=1)

    def top(rows, relation):
        truths = np.repeat((names[rows] == relation)[:, None], values.shape[1], axis=1)
        return average_precision_score(truths, values[rows], average=None).astype(np.float32)

    whole_of = {relation: top(np.arange(len(names)), relation) for relation in captured.relations()}
    for number in range(4):
        rows = _draw(names, np.random.default_rng([seed, number]))
        for relation in captured.relations():
            assert (names[rows] == relation).sum() == (names == relation).sum()
            whole, drawn = whole_of[relation], top(rows, relation)
            # ties at the edge are broken by an order that is not this test's: bounds on either side
            certain = (drawn > np.sort(drawn)[-k]) & (whole > np.sort(whole)[-k])
            possible = (drawn >= np.sort(drawn)[-k]) & (whole >= np.sort(whole)[-k])
            share = float(found.sel(resample=number, relation=relation))
            assert certain.sum() / k <= share + 1e-9 and share <= possible.sum() / k + 1e-9


def test_all_neurons_always_stay_and_k_is_checked(captured):
    n_neurons = sum(lay.n_layers * lay.width for lay in captured.layouts.values())
    assert (stability(captured, k=n_neurons, resamples=2)["survival"] == 1).all()
    with pytest.raises(InputError, match="--k"):
        stability(captured, k=n_neurons + 1, resamples=1)

"""Top-k sets and their random twins."""

from __future__ import annotations

import numpy as np
import pytest

from relact import masks
from relact.errors import InputError


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    return {
        "mlp.gate": generator.integers(0, 6, (3, 4, 10)).astype(np.float32),  # plenty of ties
        "mlp.down": generator.integers(0, 6, (3, 4, 5)).astype(np.float32),
    }


@pytest.mark.parametrize("k", [1, 7, 59, 60])
def test_exactly_k_neurons_and_none_left_out_is_better(scores, k):
    flat, chosen = masks.flatten(scores), masks.flatten(masks.top_k(scores, k))
    for values, row in zip(flat, chosen, strict=True):
        assert row.sum() == k
        assert values[row].min() >= values[~row].max(initial=-1)
        edge = values[row].min()  # of the neurons that tie at the edge, the first ones are in
        ties = np.flatnonzero(values == edge)
        assert row[ties[: row[ties].sum()]].all()


@pytest.mark.parametrize("k", [0, 61])
def test_k_outside_the_neurons_is_refused(scores, k):
    with pytest.raises(InputError, match=f"k = {k} of 60 neurons"):
        masks.top_k(scores, k)


def test_flatten_is_undone_by_unflatten(scores):
    again = masks.unflatten(masks.flatten(scores), scores)
    assert all(np.array_equal(again[site], scores[site]) for site in scores)


def test_random_sets_match_the_average_counts_of_every_layer_and_are_seeded(scores):
    chosen = masks.top_k(scores, 20)
    first, again, other = (masks.random_matched(chosen, seed) for seed in (5, 5, 6))
    assert sum(mask.sum() for mask in first.values()) == 20
    for site, mask in chosen.items():
        assert np.array_equal(first[site], again[site])
        assert np.abs(first[site].sum(axis=1) - mask.sum(axis=2).mean(axis=0)).max() < 1
    assert any(not np.array_equal(first[site], other[site]) for site in chosen)


def test_stored_masks_hold_the_best_scores_of_the_study(study):
    relations, chosen = masks.read(study, "top-200")
    assert relations == study.relations()
    stored = {site: study.dataset(f"scores/{site}")["average_precision"].values for site in study.layouts}
    flat, picked = masks.flatten(stored), masks.flatten(chosen)
    for values, row in zip(flat, picked, strict=True):
        assert row.sum() == 200
        assert values[row].min() >= np.sort(values)[-200]


def test_an_unknown_mask_is_named_with_the_known_ones(study):
    with pytest.raises(InputError, match="no mask 'best', there are: top-200"):
        masks.read(study, "best")

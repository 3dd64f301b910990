"""Chance: the null of average precision, p-values, false discoveries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.columns import CLOSE, twin
from sklearn.metrics import average_precision_score

from relact.errors import InputError
from relact.kernels import Labels, average_precision_null, false_discovery, p_values, rank_statistics


@pytest.mark.parametrize(("positives", "prompts"), [(1, 5), (2, 6), (3, 7), (6, 6)])
def test_null_equals_every_permutation_of_small_cases(positives: int, prompts: int) -> None:
    exact = np.sort(
        [
            average_precision_score(np.isin(np.arange(prompts), chosen).astype(int), -np.arange(prompts))
            for chosen in itertools.combinations(range(prompts), positives)
        ]
    )
    null = average_precision_null(positives, prompts, 20_000, seed=0)
    assert np.array_equal(null, np.sort(null)) and np.array_equal(
        null, average_precision_null(positives, prompts, 20_000, 0)
    )
    for score in np.unique(exact.round(12)):
        share = np.mean(exact >= score - 1e-9)
        assert (
            abs(p_values(np.array([score]), null)[0] - share)
            < 5 * np.sqrt(share * (1 - share) / 20_000) + 1e-4
        )


def test_p_values_of_neurons_equal_permuting_their_labels() -> None:
    random = np.random.default_rng(8)
    names = np.array(["a"] * 12 + ["b"] * 28)
    values = random.permuted(np.tile(np.arange(40.0)[:, None], (1, 6)), axis=0).astype(np.float32)
    values[:12, 0] += 25.5
    scores = rank_statistics([values], Labels.one_vs_rest(names.tolist()))["average_precision"][0]
    p = p_values(scores, average_precision_null(12, 40, 4000, seed=1))
    for n, score in enumerate(scores):
        permuted = [twin(values[:, n], random.permutation(names == "a").astype(int)) for _ in range(1000)]
        share = (1 + np.sum(np.array(permuted) >= score - CLOSE)) / 1001
        assert abs(p[n] - share) < 0.06
    assert p[0] < 0.01


def test_false_discovery_follows_benjamini_and_hochberg() -> None:
    p = np.array([[0.001, 0.008, 0.039, 0.041], [0.042, 0.06, 0.074, 0.205]])
    assert false_discovery(p, 0.05).tolist() == [[True, True, False, False], [False] * 4]
    assert false_discovery(np.array([0.04, 0.05, 0.049]), 0.05).all()  # the largest carries the smaller ones
    assert not false_discovery(np.array([0.9]), 0.05).any() and false_discovery(np.empty(0), 0.1).size == 0
    with pytest.raises(InputError, match=r"false-discovery rate of 1\.5"):
        false_discovery(p, 1.5)


def test_null_refuses_impossible_counts() -> None:
    with pytest.raises(InputError, match="5 positives among 3 prompts"):
        average_precision_null(5, 3, 10, 0)

"""Tests of hypotheses, against scipy one at a time and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from relact.analysis.hypotheses import beyond_random, corrected, mcnemar, signed_rank


def test_mcnemar_is_the_binomial_test():
    generator = np.random.default_rng(0)
    before, after = generator.random(40) < 0.7, generator.random((6, 40)) < 0.5
    for p, row in zip(mcnemar(before, after), after, strict=True):
        lost, gained = int((before & ~row).sum()), int((~before & row).sum())
        assert p == pytest.approx(scipy.stats.binomtest(lost, lost + gained).pvalue)
    assert mcnemar(before, before[None]).tolist() == [1.0]


@pytest.mark.parametrize("n", [6, 30, 80])
def test_signed_rank_is_scipys_row_by_row(n):
    generator = np.random.default_rng(n)
    rows = generator.normal(0.3, 1, size=(5, n))
    rows[1, 0] = 0  # ties and zeros in one row do not change how the others are tested
    rows[2, :2] = 0.5
    rows[3] = 0
    found = signed_rank(rows)
    expected = [scipy.stats.wilcoxon(row, correction=True).pvalue for row in rows[[0, 1, 2, 4]]]
    np.testing.assert_allclose(found[[0, 1, 2, 4]], expected, rtol=1e-12)
    assert found[3] == 1.0
    assert np.isnan(signed_rank(np.empty((2, 0)))).all()


def slow_distance(value, others, floor):
    spread = max(np.std(others, ddof=1), floor)
    return abs(value - np.mean(others)) / (spread * np.sqrt(1 + 1 / len(others)))


def slow_beyond(own, random, floor):
    """One relation and one set at a time."""
    n = random.shape[1]
    chosen = [slow_distance(*row) for row in zip(own, random, floor, strict=True)]
    student = 2 * scipy.stats.t(n - 1).sf(chosen)
    if random.size < 20:
        return student
    reference = [
        slow_distance(row[at], [*row[:at], *row[at + 1 :], first], least)
        for first, row, least in zip(own, random.tolist(), floor, strict=True)
        for at in range(n)
    ]
    places = [(1 + sum(other >= t - 1e-12 for other in reference)) / (1 + len(reference)) for t in chosen]
    return np.maximum(student, places)


@pytest.mark.parametrize(("n_relations", "n_random"), [(3, 2), (12, 2), (2, 3), (4, 10), (13, 40)])
def test_beyond_random_against_its_slow_twin(n_relations, n_random):
    generator = np.random.default_rng(n_random)
    random = np.round(generator.gamma(2, 3, size=(n_relations, n_random)))
    own, floor = np.round(generator.gamma(2, 6, n_relations)), np.full(n_relations, 2.0)
    np.testing.assert_allclose(beyond_random(own, random, floor), slow_beyond(own, random, floor))


def test_a_student_of_wide_samples_is_the_t_test_of_one_against_many():
    """An independent source: the two-sample t test in which one sample has one value."""
    generator = np.random.default_rng(0)
    random = generator.normal(size=(1, 12))
    found = beyond_random(np.array([2.5]), random, np.zeros(1))
    assert found[0] == pytest.approx(scipy.stats.ttest_ind([2.5], random[0]).pvalue)


def test_equal_controls_are_no_certainty():
    """Three sets that break as many prompts each, and one that breaks two more: the floor is a prompt."""
    random, own = np.full((1, 3), 10.0), np.array([14.0])
    assert beyond_random(own, random, np.array([2.0]))[0] > 0.1
    assert np.isnan(beyond_random(own, random, np.zeros(1)))[0]  # nothing to compare it with
    assert beyond_random(random[:, 0], random, np.zeros(1))[0] == 1.0


def test_no_p_value_is_smaller_than_the_random_sets_can_tell():
    generator = np.random.default_rng(0)
    random = generator.normal(size=(13, 40))
    assert beyond_random(np.full(13, 1000.0), random, np.full(13, 0.1)).tolist() == [1 / 521] * 13


def test_what_was_not_measured_is_not_tested():
    random = np.arange(40.0).reshape(2, 20)
    found = beyond_random(np.array([np.nan, 90.0]), random, np.ones(2))
    assert np.isnan(found[0]) and found[1] == pytest.approx(1 / 21)  # the first relation has no reference
    assert np.isnan(beyond_random(np.ones(2), random[:, :1], np.ones(2))).all()
    assert np.isnan(beyond_random(np.ones(2), random[:, :0], np.ones(2))).all()


def test_correction_is_benjamini_hochbergs_within_the_family():
    p = np.array([[0.01, 0.2, np.nan], [0.03, 0.04, 0.5]])
    family = np.array([[True, False, True], [True, True, True]])
    found = corrected(p, family)
    sizes = [0.01, 0.03, 0.04, 0.5]
    expected = [min(sizes[at] * 4 / (at + 1) for at in range(start, 4)) for start in range(4)]
    np.testing.assert_allclose(found[[0, 1, 1, 1], [0, 0, 1, 2]], expected)
    assert np.isnan(found[0, 1:]).all() and np.isnan(corrected(p, ~np.ones_like(family))).all()

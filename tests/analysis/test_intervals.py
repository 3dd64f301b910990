"""Intervals: published values, slow twins, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from relact.analysis.intervals import newcombe, of_means, over_relations, sums_of_means, tail


def slow_newcombe(both, lost, gained, neither):
    """Method 10 word by word, of one table."""
    n = both + lost + gained + neither
    (p1, l1, u1), (p2, l2, u2) = (
        (k / n, *scipy.stats.binomtest(k, n).proportion_ci(method="wilson"))
        for k in (both + lost, both + gained)
    )
    a = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    b = both * neither - lost * gained
    c = b - n / 2 if b > n / 2 else 0 if b >= 0 else b
    phi = c / np.sqrt(a) if a else 0
    low = np.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = np.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    return p1 - p2 - low, p1 - p2 + high


@pytest.mark.parametrize(
    ("table", "bounds"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),  # Newcombe 1998
        ((1, 1, 7, 12), (-0.507, -0.026)),  # Fagerland, Lydersen and Laake 2014, data of Bentur et al. 2009
    ],
)
def test_newcombe_gives_the_published_values(table, bounds):
    found = newcombe(*(np.array(count) for count in table))
    assert found == pytest.approx(bounds, abs=5.1e-4 if table[0] == 1 else 5.1e-5)


def test_newcombe_against_its_slow_twin_and_never_a_point():
    generator = np.random.default_rng(0)
    tables = [
        generator.multinomial(n, generator.dirichlet(np.full(4, 0.4))) for n in range(1, 80) for _ in range(5)
    ]
    tables += [(n, 0, 0, 0) for n in (1, 5, 50)] + [(0, 0, 0, 7), (25, 0, 0, 25), (0, 9, 0, 0), (0, 0, 9, 0)]
    low, high = newcombe(*np.array(tables).T)
    for at, table in enumerate(tables):
        assert (low[at], high[at]) == pytest.approx(slow_newcombe(*table), abs=1e-9)
    assert (high - low > 0.01).all() and low.min() > -1 - 1e-12 and high.max() < 1 + 1e-12


def test_newcombe_holds_the_truth():
    """Exactly: over all tables of 20 pairs, of several truths."""
    n = 20
    tables = np.array(
        [(a, b, c, n - a - b - c) for a in range(21) for b in range(21 - a) for c in range(21 - a - b)]
    )
    low, high = newcombe(*tables.T)
    for truth in (
        [0.6, 0.2, 0.05, 0.15],
        [0.8, 0.1, 0.01, 0.09],
        [0.3, 0.3, 0.1, 0.3],
        [0.45, 0.05, 0.05, 0.45],
    ):
        chance = scipy.stats.multinomial(n, truth).pmf(tables)
        held = (low <= truth[1] - truth[2]) & (truth[1] - truth[2] <= high)
        assert 0.93 < chance[held].sum() < 0.997


def test_draws_are_means_of_prompts_drawn_with_replacement():
    generator = np.random.default_rng(0)
    values = generator.gamma(1, size=(2, 12))
    sums = sums_of_means(values, np.full(40_000, 3), generator)
    np.testing.assert_allclose(sums.mean(axis=0), 3 * values.mean(axis=1), rtol=0.01)
    np.testing.assert_allclose(sums.var(axis=0), 3 * values.var(axis=1) / 12, rtol=0.05)
    np.testing.assert_allclose(
        np.corrcoef(sums.T)[0, 1], np.corrcoef(values)[0, 1], atol=0.02
    )  # the same prompts for every row
    assert (sums_of_means(values, np.zeros(5, int), generator) == 0).all()


def test_interval_of_a_mean_is_scipys():
    generator = np.random.default_rng(1)
    values = generator.gamma(0.7, size=(3, 25))
    low, high = of_means(values, 20_000, np.random.default_rng(2))
    for row, bounds in enumerate(zip(low, high, strict=True)):
        other = scipy.stats.bootstrap(
            (values[row],),
            np.mean,
            confidence_level=1 - 2 * tail(25),
            n_resamples=20_000,
            method="BCa",
            rng=np.random.default_rng(3),
        ).confidence_interval
        assert bounds == pytest.approx(tuple(other), abs=0.05 * (other.high - other.low))


def test_interval_of_a_mean_is_a_point_only_of_equal_values():
    generator = np.random.default_rng(0)
    values = np.array([[0.3] * 10, [0.0] * 10, [0.0] * 9 + [0.5]])
    low, high = of_means(values, 1000, generator)
    assert low[:2].tolist() == high[:2].tolist() == [pytest.approx(0.3), 0.0]
    assert low[2] < high[2]
    assert np.isnan(of_means(values[:, :1], 100, generator)).all()
    assert np.isnan(of_means(values[:, :0], 100, generator)).all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 45])
def test_interval_of_a_mean_holds_the_truth(n):
    """Of skewed losses, as nats are: a thousand samples at once, as rows."""
    generator = np.random.default_rng(n)
    low, high = of_means(generator.gamma(1.0, size=(1000, n)), 2000, generator)
    assert 0.91 <= ((low <= 1) & (high >= 1)).mean() <= 0.98


def slow_over_relations(tables, resamples, generator):
    """Relations drawn, then prompts of every draw, one at a time."""
    means = np.empty((resamples, len(tables[0])))
    for draw in range(resamples):
        chosen = [tables[at] for at in generator.integers(len(tables), size=len(tables))]
        means[draw] = np.mean(
            [
                table[:, generator.integers(table.shape[1], size=table.shape[1])].mean(axis=1)
                for table in chosen
            ],
            axis=0,
        )
    edges = tail(len(tables))
    return np.quantile(means, [edges, 1 - edges], axis=0)


@pytest.mark.slow
def test_over_relations_against_its_slow_twin():
    generator = np.random.default_rng(0)
    tables = [generator.normal(at, 3, size=(2, 10 + at)) for at in range(9)]
    tables = [np.vstack([table, table[0] - table[1]]) for table in tables]
    fast = np.array(over_relations(tables, 20_000, np.random.default_rng(1)))
    slow = slow_over_relations(tables, 6000, np.random.default_rng(2))
    width = slow[1] - slow[0]
    assert (np.abs(fast - slow) < 0.05 * width).all()


@pytest.mark.slow
@pytest.mark.parametrize("n_relations", [5, 13, 30])
def test_over_relations_holds_the_truth(n_relations):
    """Relations that differ and noisy prompts: the mean over all relations there could be is 10."""
    generator = np.random.default_rng(n_relations)
    held = 0
    for _ in range(400):
        levels = generator.normal(10, 8, n_relations)
        tables = [generator.normal(level, 30, size=(1, 40)) for level in levels]
        low, high = over_relations(tables, 500, generator)
        held += int(low[0] <= 10 <= high[0])
    assert 0.93 <= held / 400 <= 0.995


def test_relations_that_lack_a_column_or_prompts():
    generator = np.random.default_rng(0)
    full, none = generator.normal(5, 1, size=(2, 30)), np.full((1, 30), np.nan)
    tables = [full, np.vstack([full[:1], none]), full[:, :0]]
    low, high = over_relations(tables, 2000, generator)
    assert np.isfinite([low, high]).all() and low[1] < full[1].mean() < high[1]
    # one relation has the second column: prompts alone are drawn, tails are not widened
    assert high[1] - low[1] == pytest.approx(2 * 1.96 * full[1].std() / np.sqrt(30), rel=0.1)
    assert np.isnan(over_relations([full[:, :0]], 10, generator)).all()


def test_memory_is_bounded(monkeypatch):
    """The same draws whatever fits at once is not promised, the same distribution is."""
    monkeypatch.setattr("relact.analysis.intervals.AT_ONCE", 50)
    values = np.random.default_rng(0).normal(size=(1, 20))
    sums = sums_of_means(values, np.ones(3001, int), np.random.default_rng(1))
    assert sums.shape == (3001, 1) and np.isfinite(sums).all()
    assert sums.std() == pytest.approx(values.std() / np.sqrt(20), rel=0.1)


def test_tails_of_few_units_are_wider():
    assert tail(1) == 0.025 and tail(10_000) == pytest.approx(0.025, rel=0.01)
    assert tail(13) == pytest.approx(scipy.stats.norm.cdf(np.sqrt(13 / 12) * scipy.stats.t.ppf(0.025, 12)))
    assert tail(3) < tail(13) < 0.025


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_few_prompts_have_finite_bounds_around_their_mean(n):
    random = np.random.default_rng(n)
    values = random.normal(size=(20, n)) ** 3
    low, high = of_means(values, 500, random)
    mean = values.mean(axis=1)
    assert np.isfinite(low).all() and np.isfinite(high).all()
    assert (low <= mean).all() and (mean <= high).all() and (low < high).all()

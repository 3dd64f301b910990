"""Statistics of means and variances against their formulas in NumPy and SciPy, relation by relation."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
from helpers.columns import bfloat16, from_bfloat16, labels_of_every_kind

from relact.errors import InputError
from relact.kernels import (
    STATISTICS,
    Labels,
    Moments,
    NotANumber,
    lape,
    of_moments,
    rank_statistics,
)
from relact.kernels import statistic as of_values

NAMES = ["d_prime", "margin", "z"]


def twin(name: str, values: np.ndarray, roles: np.ndarray) -> np.ndarray:
    """float64 [relations] of one column, from lists of values."""
    on = [values[roles[:, r] == 1] for r in range(roles.shape[1])]
    off = [values[roles[:, r] == 0] for r in range(roles.shape[1])]
    found = []
    for r, own in enumerate(on):
        others = [sample for at, sample in enumerate(on) if at != r]
        if name == "d_prime":
            gap = own.mean() - off[r].mean() if len(off[r]) else math.nan
            spread = math.sqrt((own.var() + off[r].var()) / 2) if len(off[r]) else math.nan
        elif not others:
            gap = spread = math.nan
        elif name == "margin":
            gap = own.mean() - max(sample.mean() for sample in others)
            spread = math.sqrt(sum(len(s) * s.var() for s in on) / sum(map(len, on)))
        else:
            gap = own.mean() - np.mean([sample.mean() for sample in others])
            noise = np.mean([sample.var() / len(sample) for sample in others])
            spread = math.sqrt(own.var() / len(own) + noise + 1e-10)
        found.append(0.0 if gap == 0 else gap / spread if spread else math.copysign(math.inf, gap))
    return np.array(found)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
def test_every_label_and_dtype_equals_the_twin(kind: int, dtype: type) -> None:
    random = np.random.default_rng(kind)
    for prompts in (1, 2, 7, 90):
        values = random.normal(3, 2, size=(prompts, 140)).astype(np.float32)
        stored = bfloat16(values) if dtype is np.uint16 else values.astype(dtype)
        read = (from_bfloat16(stored) if dtype is np.uint16 else stored).astype(np.float64)
        labels = labels_of_every_kind(random, prompts, kind)
        cut = int(random.integers(0, prompts + 1))
        results = rank_statistics([stored[:cut], stored[cut:]], labels, NAMES)
        for name, column in ((name, column) for name in NAMES for column in (0, 127, 128, 139)):
            expected = twin(name, read[:, column], labels.roles[labels.classes])
            np.testing.assert_allclose(results[name][:, column], expected, rtol=1e-9, atol=1e-12)


def test_z_of_two_relations_is_scipys_welch() -> None:
    random = np.random.default_rng(1)
    values = random.normal([[0.0]] * 30 + [[0.7]] * 20, 1).astype(np.float32)
    result = rank_statistics([values], Labels.one_vs_rest(["a"] * 30 + ["b"] * 20), ["z"])["z"][:, 0]
    a, b = values[:30, 0].astype(np.float64), values[30:, 0].astype(np.float64)
    welch = scipy.stats.ttest_ind_from_stats(a.mean(), a.std(), 30, b.mean(), b.std(), 20, equal_var=False)
    assert result[0] == pytest.approx(welch.statistic, rel=1e-8) and result[1] == pytest.approx(-result[0])


def test_large_means_do_not_drown_small_variances() -> None:
    """A sum of squares would lose all digits: 1e12 against 1e-4."""
    random = np.random.default_rng(2)
    values = (1e6 + random.integers(-2, 3, (400, 3)) / 16).astype(np.float32)
    labels = labels_of_every_kind(random, 400, 0)
    for name in NAMES:
        result = rank_statistics([values], labels, [name])[name]
        for column in range(3):
            expected = twin(name, values[:, column].astype(np.float64), labels.roles[labels.classes])
            np.testing.assert_allclose(result[:, column], expected, rtol=1e-5)


def test_by_hand() -> None:
    values = np.array([[4.0], [2.0], [1.0], [1.0], [0.0], [-2.0]], np.float16)
    result = rank_statistics([values], Labels.one_vs_rest(["a", "a", "b", "b", "c", "c"]), NAMES)
    pooled = math.sqrt((2 * 1 + 2 * 0 + 2 * 1) / 6)  # variances 1, 0, 1; means 3, 1, -1
    np.testing.assert_allclose(result["margin"][:, 0], np.array([3 - 1, 1 - 3, -1 - 3]) / pooled)
    z = (3 - 0) / math.sqrt(1 / 2 + (0 + 1 / 2) / 2)
    np.testing.assert_allclose(result["z"][:, 0], [z, 0, -z], atol=1e-9)
    np.testing.assert_allclose(result["d_prime"][1, 0], (1 - 1) / math.sqrt((0 + 5) / 2))


def test_lape_belongs_to_the_relation_that_is_active_most_and_ranks_by_entropy() -> None:
    """Four neurons: active in a alone, in a mostly, in all alike, and one that is negative in c."""
    shares = np.array([[0.9, 0.6, 0.2, 0.5], [0.0, 0.2, 0.2, 0.1], [0.0, 0.2, 0.2, -0.4]], np.float32)
    values = np.repeat(shares, 2, axis=0)
    found = rank_statistics([values], Labels.one_vs_rest(["a", "a", "b", "b", "c", "c"]), ["lape", "on_mean"])
    scores = found["lape"]
    np.testing.assert_allclose(scores[0, :3], -lape(found["on_mean"])[:3], atol=1e-12)
    assert scores[0, 0] > scores[0, 1] > scores[0, 2] == pytest.approx(-math.log(3))
    assert np.isnan(scores[1:, :3]).all() and np.isnan(scores[:, 3]).all()


def test_neurons_that_do_not_vary_are_zero_or_infinite_and_warn_nobody() -> None:
    values = np.array([[5.0, 5.0, np.inf]] * 2 + [[5.0, 1.0, 1.0]] * 2, np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rank_statistics([values], Labels.one_vs_rest(["a", "a", "b", "b"]), NAMES)
    for name in ("d_prime", "margin"):
        assert result[name][:, 0].tolist() == [0, 0]
        assert result[name][:, 1].tolist() == [math.inf, -math.inf]
    assert np.isnan(result["margin"][:, 2]).all()


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_refused_with_its_place(name: str) -> None:
    values = np.ones((30, 300), np.float16)
    values[21, 177] = np.nan
    with pytest.raises(NotANumber, match="neuron 177 on prompt 21 is NaN"):
        rank_statistics([values[:13], values[13:]], Labels.one_vs_rest(["a", "b"] * 15), [name])


def test_another_one_is_one_more_entry_and_names_are_kept() -> None:
    @of_moments("contrast", "mean of positives less mean of negatives")
    def contrast(moments: Moments) -> np.ndarray:
        return moments.on.mean - moments.off.mean

    try:
        random = np.random.default_rng(5)
        values, labels = random.normal(size=(50, 70)).astype(np.float16), labels_of_every_kind(random, 50, 0)
        result = rank_statistics([values], labels, ["contrast", "on_mean", "off_mean", "average_precision"])
        np.testing.assert_allclose(result["contrast"], result["on_mean"] - result["off_mean"], atol=1e-12)
        with pytest.raises(InputError, match="there is a statistic contrast already"):
            of_moments("contrast", "mine")(contrast)
        with pytest.raises(InputError, match="contrast is built in"):
            of_values("contrast", "mine")(lambda positives, negatives: 0.0)
    finally:
        del STATISTICS["contrast"]

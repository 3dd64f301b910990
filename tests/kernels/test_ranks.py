"""Rank statistics against scikit-learn, NumPy and a slow twin; any cut of the columns gives the same bits."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import deep
from helpers.columns import CLOSE, bfloat16, cases, labels_of_every_kind, twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from relact.errors import InputError
from relact.kernels import STATISTICS, Labels, NotANumber, rank_statistics, ranks


def by_scikit_learn(score: Callable[..., Any], truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [neurons]: one of scikit-learn's scores of every column, asked for all of them at once."""
    truths = np.repeat(truth[:, None], values.shape[1], axis=1)
    return np.atleast_1d(score(truths, ordinal(values), average=None))


def ordinal(values: np.ndarray) -> np.ndarray:
    """Ranks with ties kept: scikit-learn refuses infinities, and order is all it uses."""
    return np.unique(values + 0.0, return_inverse=True)[1].reshape(values.shape).astype(np.float64)


@pytest.mark.parametrize("count", deep.more(1_000, 10_000))
def test_average_precision_and_auroc_equal_scikit_learn(count: int) -> None:
    for values, roles, labels, results in cases(count):
        for r in range(len(labels.relations)):
            counted = roles[:, r] >= 0
            truth, scored = roles[counted, r], values[counted]
            precision, auroc = results["average_precision"][r], results["auroc"][r]
            expected = by_scikit_learn(average_precision_score, truth, scored)
            assert (np.abs(precision - expected) < CLOSE).all()
            assert (np.abs([twin(column, roles[:, r]) for column in values.T] - expected) < CLOSE).all()
            if truth.all():
                assert (precision == 1.0).all() and np.isnan(auroc).all()
            else:
                assert (np.abs(auroc - by_scikit_learn(roc_auc_score, truth, scored)) < CLOSE).all()


def test_percentiles_and_means_equal_numpy() -> None:
    for values, roles, labels, results in cases(3_000):
        for r, n in np.ndindex(len(labels.relations), values.shape[1]):
            on, off = np.sort(values[roles[:, r] == 1, n]), np.sort(values[roles[:, r] == 0, n])
            found = {name: results[name][r, n] for name in results}
            expected = {"on_p50": (on, 50), "on_p90": (on, 90), "off_p50": (off, 50)}
            for name, (sample, percent) in expected.items():
                if not len(sample):
                    assert math.isnan(found[name])
                elif np.isfinite(sample).all():
                    np.testing.assert_allclose(
                        found[name], np.percentile(sample, percent), rtol=CLOSE, atol=0
                    )
            for name, sample in (("on_mean", on), ("off_mean", off)):
                with np.errstate(invalid="ignore"):
                    mean = np.mean(sample) if len(sample) else np.nan
                scale = np.abs(sample[np.isfinite(sample)]).max(initial=0)
                np.testing.assert_allclose(found[name], mean, rtol=CLOSE, atol=CLOSE * scale)


def test_six_prompts_by_hand() -> None:
    column = np.array([[3.0], [2.0], [2.0], [1.0], [0.0], [-0.0]], np.float16)
    labels = Labels.from_matrix(np.array([[0], [1], [0], [1], [1], [0]]), ["it"])
    # thresholds 3: 0 of 1; 2: 1 of 3; 1: 2 of 4; 0: 3 of 6, the two zeros being equal
    assert rank_statistics([column], labels)["average_precision"][0, 0] == pytest.approx(
        (1 / 3 + 1 / 2 + 1 / 2) / 3, abs=1e-15
    )


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(
        np.float16,
        st.tuples(st.integers(1, 40), st.integers(1, 6)),
        elements=st.floats(width=16, allow_nan=False),
    ),
    seed=st.integers(0, 1000),
)
def test_any_half_floats_equal_the_twin(values: np.ndarray, seed: int) -> None:
    labels = labels_of_every_kind(np.random.default_rng(seed), len(values), seed % 4)
    result = rank_statistics([values], labels)["average_precision"]
    roles = labels.roles[labels.classes]
    for r, n in np.ndindex(result.shape):
        assert abs(result[r, n] - twin(values[:, n], roles[:, r])) < CLOSE


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
@pytest.mark.parametrize("kind", range(4))
def test_the_cut_does_not_matter_to_the_last_bit(dtype: type, kind: int) -> None:
    random = np.random.default_rng(kind)
    values = random.normal(size=(517, 299)).astype(np.float32)
    values = bfloat16(values) if dtype is np.uint16 else values.astype(dtype)
    labels = labels_of_every_kind(random, 517, kind)
    whole = rank_statistics([values], labels, list(STATISTICS))
    for rows, columns in ((512, 299), (100, 1), (1, 64), (7, 37)):
        blocks = [values[i : i + rows] for i in range(0, 517, rows)]
        starts = range(0, 299, columns)
        parts = [
            rank_statistics([b[:, s : s + columns] for b in blocks], labels, list(STATISTICS)) for s in starts
        ]
        for name, expected in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], axis=1), expected)


def test_strided_readonly_misaligned_and_fortran_views() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(40, 72)).astype(np.float16)
    labels = labels_of_every_kind(random, 40, 0)
    expected = rank_statistics([values], labels, list(STATISTICS))
    wide = np.zeros((40, 2, 75), np.float16)
    wide[:, 1, 3:] = values
    wide.flags.writeable = False
    buffer = np.zeros(values.nbytes + 1, np.uint8)
    buffer[1:] = np.frombuffer(values.tobytes(), np.uint8)
    shifted = buffer[1:].view(np.float16).reshape(values.shape)
    for view in (wide[:, 1, 3:], shifted, np.asfortranarray(values), values[::-1].copy()[::-1]):
        for cut in (11, 12):
            for name, result in rank_statistics([view[:cut], view[cut:]], labels, list(STATISTICS)).items():
                np.testing.assert_array_equal(result, expected[name])


def test_threads_give_the_same_bits() -> None:
    random = np.random.default_rng(2)
    values, labels = random.normal(size=(300, 128)).astype(np.float16), labels_of_every_kind(random, 300, 0)
    expected, found = rank_statistics([values], labels)["average_precision"], {}

    def score(start: int) -> None:
        found[start] = rank_statistics([values[:, start : start + 32]], labels)["average_precision"]

    threads = [threading.Thread(target=score, args=(start,)) for start in range(0, 128, 32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate([found[s] for s in sorted(found)], axis=1), expected)


@pytest.mark.parametrize("names", [["average_precision"], ["off_mean"], ["on_p50", "off_mean"]])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_nan_is_refused_with_its_place(names: list[str], dtype: type) -> None:
    values = np.ones((30, 130), dtype)
    values[21, 77] = np.nan
    with pytest.raises(NotANumber, match="neuron 77 on prompt 21 is NaN") as caught:
        rank_statistics([values[:13], values[13:]], Labels.one_vs_rest(["a", "b"] * 15), names)
    assert (caught.value.neuron, caught.value.prompt) == (77, 21)


def test_of_several_nan_the_first_prompt_of_the_first_neuron_is_named() -> None:
    values = np.ones((30, 130), np.float16)
    values[[3, 20, 21, 22], [78, 77, 77, 77]] = np.nan
    with pytest.raises(NotANumber, match="neuron 77 on prompt 20 is NaN"):
        rank_statistics([values[:13], values[13:]], Labels.one_vs_rest(["b", "a", "c"] * 10))


def test_more_relations_than_fit_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(p % 5) for p in range(60)]
    values = np.random.default_rng(3).normal(size=(60, 9)).astype(np.float16)
    expected = rank_statistics([values], Labels.one_vs_rest(names), list(STATISTICS))
    monkeypatch.setattr(ranks, "MOST_STATES", 4)
    for name, found in rank_statistics([values], Labels.one_vs_rest(names), list(STATISTICS)).items():
        np.testing.assert_allclose(found, expected[name], rtol=CLOSE)


def test_infinities_of_both_signs_are_no_nan() -> None:
    values = np.array([[np.inf], [-np.inf], [1.0], [2.0]], np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rank_statistics([values], Labels.one_vs_rest(["a", "a", "b", "b"]), list(STATISTICS))
    assert result["average_precision"][0, 0] == pytest.approx((1 + 2 / 4) / 2)
    assert math.isnan(result["on_mean"][0, 0]) and result["off_mean"][0, 0] == 1.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_prompt_and_no_negatives(dtype: type) -> None:
    result = rank_statistics([np.array([[0.5, -2.0]], dtype)], Labels.one_vs_rest(["a"]), list(STATISTICS))
    assert (result["average_precision"] == 1.0).all() and np.isnan(result["auroc"]).all()
    np.testing.assert_array_equal(result["on_p90"], [[0.5, -2.0]])
    assert np.isnan(result["off_mean"]).all() and np.isnan(result["off_p50"]).all()


def test_a_relation_scores_the_same_whichever_others_are_asked_for() -> None:
    random = np.random.default_rng(3)
    names = [f"r{i}" for i in random.integers(0, 6, 200)]
    values = random.normal(size=(200, 9)).astype(np.float32)
    for labels, subset in (
        (Labels.one_vs_rest(names), Labels.one_vs_rest(names, ["r3", "r1"])),
        (Labels.one_vs_rest(names).sampled(2, 5), Labels.one_vs_rest(names, ["r3", "r1"]).sampled(2, 5)),
    ):
        every, some = rank_statistics([values], labels), rank_statistics([values], subset)
        rows = [labels.relations.index(name) for name in subset.relations]
        np.testing.assert_allclose(some["average_precision"], every["average_precision"][rows], atol=CLOSE)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.ones((2, 3))], "dtype"),
        ([np.ones((1, 3), np.float16), np.ones((1, 3), np.float32)], "dtype"),
        ([np.ones((1, 3), np.float16), np.ones((1, 4), np.float16)], "one width"),
        ([np.ones((3, 3), np.float16)], "3 rows of activations for 2 labelled prompts"),
        ([], "no block"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(blocks: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rank_statistics(blocks, Labels.one_vs_rest(["a", "b"]))

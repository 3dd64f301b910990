"""Kernels against scikit-learn, NumPy and a slow twin; any cutting of rows
and neurons gives the same bits.
"""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

import relact
from relact.errors import InputError
from relact.kernels import (
    STATISTICS,
    Labels,
    NotANumber,
    average_precision_null,
    false_discovery,
    lape,
    p_values,
    rank_statistics,
    ranks,
    statistic,
)
from relact.kernels.columns import FORMATS, keys_to_floats
from relact.kernels.sorting import runs_of, scratch, sort_two

CLOSE = 1e-12


def twin(values: np.ndarray, roles: np.ndarray) -> float:
    """Average precision of one column, in NumPy: roles 1, 0, -1."""
    counted = roles >= 0
    values, positive = values[counted].astype(np.float64) + 0.0, roles[counted] == 1
    order = np.argsort(-values, kind="stable")
    ends = np.r_[values[order][1:] != values[order][:-1], True]
    hits = np.cumsum(positive[order])[ends]
    return float(np.sum(np.diff(np.r_[0, hits]) * hits / (np.flatnonzero(ends) + 1)) / positive.sum())


def bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 cut to bfloat16, as bits."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def columns_of_every_kind(random: np.random.Generator, prompts: int, neurons: int) -> np.ndarray:
    """float32 [prompts, neurons] with many ties, constants, both zeros, infinities, tiny and huge values,
    mixed by column.
    """
    values = random.normal(size=(prompts, neurons)) * 10.0 ** random.integers(-6, 4, neurons)
    coarse = random.integers(0, 4, neurons)
    values = np.where(coarse == 0, np.sign(values).round(), values)
    values = np.where(
        coarse == 1,
        random.integers(-2, 3, values.shape) * -0.0 + random.integers(-1, 2, values.shape),
        values,
    )
    special = random.choice([np.inf, -np.inf, 0.0, -0.0, 65504.0, 6e-8], values.shape)
    values = np.where((random.random(values.shape) < 0.2) & (coarse == 2), special, values)
    return np.where(random.random(neurons) < 0.05, values[:1], values).astype(np.float32)


def labels_of_every_kind(random: np.random.Generator, prompts: int, kind: int) -> Labels:
    relations = min(prompts, int(random.integers(1, 9)))
    of_prompt = np.r_[np.arange(relations), random.integers(0, relations, prompts - relations)]
    names = [f"r{i}" for i in random.permutation(of_prompt)]
    if kind == 0:
        return Labels.one_vs_rest(names)
    if kind == 1:
        return Labels.one_vs_rest(names).sampled(int(random.integers(1, 5)), int(random.integers(100)))
    if kind == 2:
        return Labels.one_vs_rest(names, sorted(set(names))[: max(1, relations // 2)])
    matrix = random.choice([-1, 0, 1], (prompts, relations), p=[0.3, 0.4, 0.3])
    matrix[random.integers(0, prompts, relations), np.arange(relations)] = 1
    return Labels.from_matrix(matrix, [f"r{i}" for i in range(relations)])


def cases(count: int) -> Iterator[tuple[np.ndarray, np.ndarray, Labels, dict[str, np.ndarray]]]:
    """(values float64, roles, labels, results) with at least ``count`` relation-and-neuron pairs in all."""
    random, seen = np.random.default_rng(4), 0
    for trial in itertools.count():
        if seen >= count:
            return
        prompts, neurons = int(random.integers(1, 90)), int(random.integers(1, 40))
        values = columns_of_every_kind(random, prompts, neurons)
        with np.errstate(over="ignore"):
            stored = [values, values.astype(np.float16), bfloat16(values)][trial % 3]
        labels = labels_of_every_kind(random, prompts, trial % 4)
        cut = int(random.integers(0, prompts + 1))
        results = rank_statistics([stored[:cut], stored[cut:]], labels, list(STATISTICS))
        read = from_bfloat16(stored) if stored.dtype == np.uint16 else stored
        seen += len(labels.relations) * neurons
        yield read.astype(np.float64), labels.roles[labels.classes], labels, results


def ordinal(values: np.ndarray) -> np.ndarray:
    """Ranks with ties kept: scikit-learn refuses infinities, and order is all it uses."""
    return np.unique(values + 0.0, return_inverse=True)[1].reshape(values.shape).astype(np.float64)


def by_scikit_learn(score: Callable[..., Any], truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """float64 [neurons]: one of scikit-learn's scores of every column, asked for all of them at once."""
    truths = np.repeat(truth[:, None], values.shape[1], axis=1)
    return np.atleast_1d(score(truths, ordinal(values), average=None))


@pytest.mark.slow
def test_ten_thousand_cases_equal_scikit_learn() -> None:
    for values, roles, labels, results in cases(10_000):
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


@numba.njit
def sort(bits, infinity, runs, keys):
    space, found = scratch(keys[:2]), False
    for n in range(0, bits.shape[0], 2):
        found |= sort_two(bits[n], bits[n + 1], infinity, runs, space, keys[n : n + 2])
    return found


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_keys_are_sorted_by_value_then_class(dtype: type) -> None:
    """Both zeros are one value, infinities are ends, and equal values are in order of class."""
    random = np.random.default_rng(6)
    values = np.concatenate(
        [random.normal(size=(500, 8)), np.zeros((9, 8)), -np.zeros((9, 8)), np.full((2, 8), -np.inf)]
    )
    values = random.permuted(values.astype(dtype), axis=0)
    classes = random.integers(0, 40, len(values))
    classes[100:300].sort()  # runs of many and of one
    runs = runs_of(classes)
    bits = np.ascontiguousarray(values.T).view(FORMATS[values.dtype].bits)
    keys = np.empty(bits.shape, FORMATS[values.dtype].key)
    assert not sort(bits, FORMATS[values.dtype].infinity, runs, keys)
    order = np.stack([np.lexsort((classes, column + 0.0)) for column in values.T])
    np.testing.assert_array_equal(keys & 0xFFFF, classes[order])
    expected = np.take_along_axis(values.T.astype(np.float64), order, axis=1)
    np.testing.assert_array_equal(keys_to_floats(keys >> 16, values.dtype), expected)
    bits[3, 5] = FORMATS[values.dtype].infinity + 1
    assert sort(bits, FORMATS[values.dtype].infinity, runs, keys)


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


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_kernels_keep_to_the_definitions_of_the_registry(name: str) -> None:
    random = np.random.default_rng(7)
    values = random.normal(size=(61, 21)).round(1).astype(np.float32)
    for kind in range(4):
        labels = labels_of_every_kind(random, 61, kind)
        roles, result = labels.roles[labels.classes], rank_statistics([values], labels, [name])[name]
        for r, n in np.ndindex(result.shape):
            on, off = np.sort(values[roles[:, r] == 1, n]), np.sort(values[roles[:, r] == 0, n])
            expected = STATISTICS[name].definition(on.astype(np.float64), off.astype(np.float64))
            np.testing.assert_allclose(result[r, n], expected, rtol=CLOSE, atol=CLOSE)


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


def test_labels_cannot_change_after_something_was_worked_out_from_them() -> None:
    classes, roles = np.array([0, 1], np.uint16), np.eye(2, dtype=np.int8)
    labels = Labels(("a", "b"), classes, roles)
    classes[:] = 1
    assert labels.classes.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        labels.roles[0, 0] = -1


@pytest.mark.slow
def test_a_change_of_any_kernel_file_is_compiled_anew(tmp_path: Path) -> None:
    """Numba itself would serve what it kept: the file of the called kernel is still the same."""
    package = tmp_path / "relact"
    shutil.copytree(Path(relact.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np; from relact.kernels import Labels, rank_statistics; "
        "v = np.array([[1], [2], [3]], np.float16); "
        "print(rank_statistics([v], Labels.one_vs_rest(['a', 'b', 'b']))['average_precision'][0, 0])"
    )

    def score() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert score() == pytest.approx(1 / 3)
    sorting = package / "kernels" / "sorting.py"
    mirrored = sorting.read_text().replace("if bits[p] >> uint16(15)", "if not bits[p] >> uint16(15)")
    sorting.write_text(mirrored)
    assert score() == 1.0


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


def test_labels_refuse_what_has_no_score() -> None:
    with pytest.raises(InputError, match=r"relation c: no prompt is positive"):
        Labels.one_vs_rest(["a", "b"], ["a", "c"])
    with pytest.raises(InputError, match="one of 1, 0, -1"):
        Labels.from_matrix(np.array([[2], [1]]), ["a"])
    with pytest.raises(InputError, match="for 2 relations"):
        Labels.from_matrix(np.array([[1], [1]]), ["a", "b"])
    with pytest.raises(InputError, match="named twice"):
        Labels.from_matrix(np.array([[1, 1]]), ["a", "a"])


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


def test_sampled_negatives_are_seeded_and_as_many_as_asked() -> None:
    names = ["a"] * 5 + ["b"] * 30 + ["c"] * 20
    first, again, other = (Labels.one_vs_rest(names).sampled(4, seed) for seed in (0, 0, 1))
    assert first.count(0).tolist() == [20, 25, 35] and first.count(1).tolist() == [5, 30, 20]
    np.testing.assert_array_equal(first.roles[first.classes], again.roles[again.classes])
    assert (first.roles[first.classes] != other.roles[other.classes]).any()


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


def test_a_registered_statistic_is_scored_and_built_in_names_are_kept() -> None:
    @statistic("gap", "difference of the medians")
    def gap(positives: np.ndarray, negatives: np.ndarray) -> float:
        return float(np.median(positives) - np.median(negatives))

    try:
        random = np.random.default_rng(5)
        values, labels = random.normal(size=(50, 70)).astype(np.float16), labels_of_every_kind(random, 50, 0)
        result = rank_statistics([values], labels, ["gap", "on_p50", "off_p50"])
        np.testing.assert_allclose(result["gap"], result["on_p50"] - result["off_p50"], atol=CLOSE)
        with pytest.raises(InputError, match="on_p50 is built in"):
            statistic("on_p50", "mine")(gap)
    finally:
        del STATISTICS["gap"]
    with pytest.raises(InputError, match="no statistic 'gap'"):
        rank_statistics([values], labels, ["gap"])


def test_lape_is_low_where_one_relation_activates() -> None:
    found = lape(np.array([[0.5, 0.9, 0.0], [0.5, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [np.log(2), 0.0, np.nan])


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

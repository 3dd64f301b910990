"""Columns of activations and labels of every kind, at random, and a slow twin of average precision."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from relact.kernels import STATISTICS, Labels, rank_statistics

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
    """The float32 values that bits of bfloat16 stand for."""
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
    """Of up to eight relations; ``kind``: one against the rest, sampled, a part of them, any matrix."""
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

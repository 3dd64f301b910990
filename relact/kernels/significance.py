"""How surprising a score is under permutation, and which survive a bound on false discoveries."""

from __future__ import annotations

import numpy as np

from relact.errors import InputError


def average_precision_null(n_positive: int, n: int, draws: int, seed: int) -> np.ndarray:
    """Average precisions of random rankings of ``n`` prompts without ties: float64 [draws], sorted.

    Permuting labels makes every set of ranks equally likely, so the null depends on the two counts only: one
    table serves all neurons and relations of these counts, and nothing is sorted again.
    """
    if not 0 < n_positive <= n or draws < 1:
        raise InputError(
            f"{n_positive} positives among {n} prompts, {draws} draws",
            where="permutation null",
            fix="give 1 to n positives and at least one draw",
        )
    random, null = np.random.default_rng(seed), np.empty(draws)
    hits = np.arange(1, n_positive + 1)
    for i in range(draws):
        ranks = np.sort(random.choice(n, n_positive, replace=False, shuffle=False)) + 1
        null[i] = np.mean(hits / ranks)
    null.sort()
    return null


def p_values(ap: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of the null at or above each score, itself counted in (never zero), in the shape of ``ap``.

    Source: Phipson and Smyth 2010, (exceedances + 1) / (draws + 1).
    """
    # a hair below, so that a score equal to a drawn one counts as reached although it went through float32
    above = null.size - np.searchsorted(null, np.asarray(ap, np.float64) * (1 - 2.0**-22), side="left")
    values: np.ndarray = (above + 1) / (null.size + 1)
    return values


def false_discovery(p: np.ndarray, q: float) -> np.ndarray:
    """Which p-values are kept when the expected share of false ones among them may be ``q``.

    Source: Benjamini and Hochberg 1995, as scipy has it.
    """
    if not 0 < q < 1:
        raise InputError(
            f"a false-discovery rate of {q}", where="false discovery", fix="give a number between 0 and 1"
        )
    from scipy.stats import false_discovery_control  # most of a second that scoring does without

    p = np.asarray(p, np.float64)
    kept: np.ndarray = false_discovery_control(p.ravel()).reshape(p.shape) <= q
    return kept

"""Tests: against the intact model, against random sets, and the correction for having made many."""

from __future__ import annotations

import numpy as np
import scipy.stats

LEVEL = 0.05  # of corrected p-values
DECIDES = 20  # random sets in all from which their own p-values can tell one in twenty


def mcnemar(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Exact two-sided McNemar test of paired verdicts: p-values [condition].

    ``before`` is bool [prompt], ``after`` [condition, prompt]. Of the prompts whose verdict changed, half
    should change each way: a binomial test. Source: McNemar 1947.
    """
    lost, gained = (before & ~after).sum(axis=1), (~before & after).sum(axis=1)
    return np.minimum(1.0, 2 * scipy.stats.binom.cdf(np.minimum(lost, gained), lost + gained, 0.5))


def signed_rank(differences: np.ndarray) -> np.ndarray:
    """Two-sided Wilcoxon signed-rank test of differences [row, unit], all finite: p-values [row].

    Exact up to 50 units without ties. 1 where no difference is left, NaN where there are no units. Source:
    Wilcoxon 1945.
    """
    n_rows, n = differences.shape
    if not n:
        return np.full(n_rows, np.nan)
    sizes = np.sort(np.abs(differences), axis=1)
    none = sizes[:, -1] == 0
    tied = (sizes[:, 0] == 0) | (np.diff(sizes, axis=1) == 0).any(axis=1)
    p = np.ones(n_rows)
    if not tied.all():
        p[~tied] = scipy.stats.wilcoxon(differences[~tied], axis=1, correction=True).pvalue
    for row in np.flatnonzero(tied & ~none):  # scipy tests all rows the rough way where one has ties
        p[row] = scipy.stats.wilcoxon(differences[row], correction=True).pvalue
    return p


def beyond_random(own: np.ndarray, random: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Whether the chosen sets' drops are further out than random sets' drops are: two-sided p [relation].

    The larger of two p-values, since a reader may doubt either:

    - Student's, that the chosen set is one more random set: t = (own - mean) / (s sqrt(1 + 1/n)), n - 1
      degrees of freedom. It takes the drops of sets to be normal; they are skewed where a few sets hit what
      everything needs, and then it finds far too much.
    - the place of t, without its sign, among those of all relations' random sets, each compared with the
      others of its relation, the chosen one among them: (1 + as large) / (1 + sets). It takes the sets to be
      exchangeable and nothing to be normal. Left out where there are fewer than 20 in all: too few to tell.

    Args:
        own: float [relation]. random: float [relation, set].
        floor: float [relation], what s is at least: a handful of sets that happen to do the same would
            otherwise give certainty.

    Returns:
        NaN with fewer than two random sets, and where own is. Source of the second: Bates et al. 2023, Annals
        of Statistics 51 (such p-values allow Benjamini and Hochberg's correction).
    """
    n = random.shape[1]
    if n < 2:
        return np.full(own.shape, np.nan)
    sets = np.column_stack([own, random])
    distances = [_distance(sets[:, at], np.delete(sets, at, axis=1), floor) for at in range(n + 1)]
    student: np.ndarray = 2 * scipy.stats.t.sf(distances[0], n - 1)
    reference = np.concatenate(distances[1:])
    reference = np.sort(reference[~np.isnan(reference)])
    if reference.size < DECIDES:
        return student
    # equal drops round differently, and ties count against the chosen set
    as_large = reference.size - np.searchsorted(reference, distances[0] * (1 - 1e-9))
    return np.where(np.isnan(student), np.nan, np.maximum(student, (1 + as_large) / (1 + reference.size)))


def _distance(value: np.ndarray, others: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Student's t [row], without its sign, of value [row] as one more of others [row, n], n at least 2.

    0 where it is their mean, NaN where it is not and nothing says how much they vary.
    """
    n = others.shape[1]
    error = np.maximum(others.std(axis=1, ddof=1), floor) * np.sqrt(1 + 1 / n)
    distance = np.abs(value - others.mean(axis=1))
    unknown = np.where(distance == 0, 0.0, np.nan)
    return np.divide(distance, error, out=unknown, where=error > 0)


def corrected(p: np.ndarray, family: np.ndarray) -> np.ndarray:
    """p-values corrected for those of one family (mask of p's shape); NaN outside of it and where p is.

    Source: Benjamini and Hochberg 1995.
    """
    q = np.full(p.shape, np.nan)
    tested = family & ~np.isnan(p)
    if tested.any():
        q[tested] = scipy.stats.false_discovery_control(p[tested])
    return q

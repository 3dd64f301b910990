"""Intervals of 95 %: of a paired difference of shares, of a mean over prompts, of one over relations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.special
import scipy.stats

TAIL = 0.025  # on either side
AT_ONCE = 1 << 21  # drawn prompts held in memory


def newcombe(
    both: np.ndarray, lost: np.ndarray, gained: np.ndarray, neither: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the share lost on balance, (lost - gained) / n, of pairs counted by their two verdicts.

    Wilson's intervals of the two shares, squared and added, less what their correlation explains, which is
    corrected for continuity. Never of zero width, not even where no verdict changes. Counts are arrays of one
    shape. Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
    """
    n = np.asarray(both + lost + gained + neither, float)
    before, after = (both + lost) / n, (both + gained) / n
    (low_before, high_before), (low_after, high_after) = _wilson(before, n), _wilson(after, n)
    margins = np.sqrt(1.0 * (both + lost) * (gained + neither) * (both + gained) * (lost + neither))
    product = 1.0 * both * neither - 1.0 * lost * gained
    corrected = np.where(product < 0, product, np.maximum(product - n / 2, 0))
    phi = np.divide(corrected, margins, out=np.zeros_like(n), where=margins > 0)

    def distance(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(one**2 - 2 * phi * one * two + two**2, 0))

    difference = before - after
    low = difference - distance(before - low_before, high_after - after)
    return low, difference + distance(after - low_after, high_before - before)


def _wilson(share: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of a share of n. Source: Wilson 1927."""
    z = -scipy.special.ndtri(TAIL)
    middle, scale = share + z**2 / (2 * n), 1 + z**2 / n
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - half) / scale, (middle + half) / scale


def of_means(
    values: np.ndarray, resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [row] of the mean of every row of values [row, prompt], the same prompts drawn for all rows.

    The bootstrap that corrects bias and skewness (BCa, Efron 1987), since few prompts lose most of the nats,
    at tails widened for the number of prompts as in `tail`. Zero width only where all values of a row are
    equal; NaN with fewer than two prompts.
    """
    n_rows, n = values.shape
    if n < 2:
        return np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    samples = sums_of_means(values, np.ones(resamples, np.int64), generator)
    mean = values.mean(axis=1)
    samples.sort(axis=0)
    below = (samples < mean).mean(axis=0) + (samples == mean).mean(axis=0) / 2
    bias = scipy.special.ndtri(np.clip(below, 1 / (resamples + 1), resamples / (resamples + 1)))
    centred = values - mean[:, None]
    spread = (centred**2).sum(axis=1)
    skewed = np.divide((centred**3).sum(axis=1), 6 * spread**1.5, out=np.zeros(n_rows), where=spread > 0)
    bounds = []
    lowest = scipy.special.ndtri(tail(n))
    for edge in (lowest, -lowest):  # of two prompts 1 - tail(n) is 1, and its edge infinite
        shifted = bias + edge
        level = scipy.special.ndtr(bias + shifted / np.maximum(1 - skewed * shifted, 1e-9))
        at = np.clip(np.rint(level * (resamples - 1)), 0, resamples - 1).astype(int)
        bound = samples[at, np.arange(n_rows)]
        bounds.append(np.where((values == values[:, :1]).all(axis=1), mean, bound))
    return bounds[0], bounds[1]


def over_relations(
    tables: Sequence[np.ndarray], resamples: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [column] of a mean over relations, had other relations and other prompts been at hand.

    Relations are drawn with replacement, then every draw of one draws its prompts with replacement, the same
    for all columns, so that a column of differences is paired. Tails are widened for the number of relations
    (`tail`). As the spread between relations holds that of their prompts already, the interval is wider than
    it must be where relations hardly differ. Of one relation, its prompts alone are drawn. Zero width where
    all values of a column are equal (`alike`); NaN where a column has fewer than two values.

    Args:
        tables: of every relation, values [column, prompt]; a column is NaN where a relation does not have it.
            Relations without prompts count for nothing.
    """
    n_columns = len(tables[0])
    tables = [table for table in tables if table.shape[1]]
    n = len(tables)
    if not n:
        return np.full(n_columns, np.nan), np.full(n_columns, np.nan)
    times = np.concatenate([drawn for _, drawn in _redrawn(np.ones(resamples, np.int64), n, generator)])
    there = np.array([~np.isnan(table).any(axis=1) for table in tables])  # [relation, column]
    sums = np.zeros((resamples, n_columns))
    for at, table in enumerate(tables):
        known = np.where(there[at][:, None], table, 0.0)
        sums += sums_of_means(known, times[:, at], generator)
    counts = times @ there.astype(float)  # [draw, column]: drawn relations that have it
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    bounds = np.full((2, n_columns), np.nan)
    known = there.T @ [table.shape[1] for table in tables]  # [column]: prompts
    for column, size in enumerate(there.sum(axis=0)):
        if known[column] > 1:
            edges = [tail(int(size)), 1 - tail(int(size))]
            bounds[:, column] = np.nanquantile(means[:, column], edges)
    return bounds[0], bounds[1]


def alike(tables: Sequence[np.ndarray]) -> np.ndarray:
    """bool [column] of what `over_relations` takes: all values are equal, so that drawing them anew tells
    nothing of what other prompts would give.
    """
    values = np.concatenate(tables, axis=1)
    known = ~np.isnan(values)
    most = np.where(known, values, -np.inf).max(axis=1, initial=-np.inf)
    least = np.where(known, values, np.inf).min(axis=1, initial=np.inf)
    return np.asarray(most == least)


def tail(n: int) -> float:
    """The tail at which percentiles of a bootstrap of n units are read, so that few units do not narrow it.

    A bootstrap's spread is sqrt((n - 1) / n) of what it stands for, and it has the normal's tails where few
    units have Student's. Of one unit: as is. Source: Hesterberg 2015, The American Statistician 69, 371-386.
    """
    if n < 2:
        return TAIL
    return float(scipy.special.ndtr(np.sqrt(n / (n - 1)) * scipy.stats.t.ppf(TAIL, n - 1)))


def sums_of_means(values: np.ndarray, times: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """float [draw, row]: draw i adds ``times[i]`` means of values [row, prompt] over prompts drawn anew."""
    sums = np.empty((len(times), len(values)))
    for chunk, drawn in _redrawn(times, values.shape[1], generator):
        sums[chunk] = drawn @ values.T / values.shape[1]
    return sums


def _redrawn(times: np.ndarray, n: int, generator: np.random.Generator) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of draws, and how often each of n is in them [draw, n] when draw i takes times[i] * n."""
    step = max(1, AT_ONCE // n)
    for start in range(0, len(times), step):
        chunk = slice(start, start + step)
        draws = np.repeat(np.arange(len(times[chunk])), times[chunk] * n)
        places = draws * n + generator.integers(n, size=draws.size)
        counts = np.bincount(places, minlength=len(times[chunk]) * n)
        yield chunk, counts.reshape(-1, n)

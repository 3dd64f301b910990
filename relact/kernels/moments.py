"""Statistics from counts, means and variances: no order is needed, rows are taken as they are stored.

Another one is one more entry, a function of the `Moments` of all relations at once:

>>> @of_moments("spread", "standard deviation of the positives")
... def spread(moments):
...     return np.sqrt(moments.on.variance)
>>> STATISTICS.pop("spread").meaning
'standard deviation of the positives'

``on`` are a relation's positives, ``off`` its negatives; "other relations" are the positives of the others,
whether or not these are negatives of the relation (sampled ones, several labels), every relation weighing the
same. Variances are of the population: divided by the count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relact.errors import InputError
from relact.kernels import totals
from relact.kernels.columns import COPIED_TOGETHER, FORMATS, TILE, NotANumber, as_floats
from relact.kernels.labels import NEGATIVE, POSITIVE, Labels
from relact.kernels.statistics import MEANS, STATISTICS, MomentStatistic, lape
from relact.schema import MARGIN

D_PRIME, Z, LAPE = "d_prime", "z", "lape"
SMALLEST = 1e-10  # squared standard error that every z has
ROWS = 512  # of a tile whose values stay in a core's cache


@dataclass(frozen=True)
class Sample:
    """What is known of the prompts of one role: counts [relations, 1], the others [relations, neurons].

    NaN where a relation has no such prompt.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray  # sum of squared distances from the mean

    @property
    def variance(self) -> np.ndarray:
        """Of the population."""
        variance: np.ndarray = self.squares / self.count
        return variance


@dataclass(frozen=True)
class Moments:
    """Means and variances of every relation, from those of the classes of ``labels``.

    Attributes:
        counts: float64 [classes]. means, squares: float64 [classes, neurons].
    """

    labels: Labels
    counts: np.ndarray
    means: np.ndarray
    squares: np.ndarray

    @cached_property
    def on(self) -> Sample:
        """A relation's positives."""
        return self._of(POSITIVE)

    @cached_property
    def off(self) -> Sample:
        """A relation's negatives."""
        return self._of(NEGATIVE)

    def _of(self, role: int) -> Sample:
        chosen = np.ascontiguousarray(self.labels.roles.T) == role
        mean, squares = (np.empty((len(chosen), self.means.shape[1])) for _ in range(2))
        totals.join_classes(self.counts, self.means, self.squares, chosen, mean, squares)
        count = self.labels.count(role).astype(np.float64)[:, None]
        count[count == 0] = mean[count[:, 0] == 0] = np.nan
        return Sample(count, mean, squares)


def of_moments(
    name: str, meaning: str
) -> Callable[[Callable[[Moments], np.ndarray]], Callable[[Moments], np.ndarray]]:
    """Register a statistic of moments under a name.

    Raises:
        InputError: there is one of that name.
    """

    def register(definition: Callable[[Moments], np.ndarray]) -> Callable[[Moments], np.ndarray]:
        if name in STATISTICS:
            raise InputError(f"there is a statistic {name} already", where="statistics", fix="rename it")
        STATISTICS[name] = MomentStatistic(name, meaning, definition)
        return definition

    return register


@of_moments(D_PRIME, "difference of the means in standard deviations; NaN without negatives")
def _d_prime(moments: Moments) -> np.ndarray:
    """(mean_on - mean_off) / sqrt((variance_on + variance_off) / 2)."""
    on, off = moments.on, moments.off
    return _ratio(on.mean - off.mean, np.sqrt((on.variance + off.variance) / 2))


@of_moments(MARGIN, "standard deviations from the mean to the nearest other relation's; NaN without another")
def _margin(moments: Moments) -> np.ndarray:
    """(mean_r - max over r' != r of mean_r') / pooled standard deviation.

    Pooled: sqrt(sum over r of the squared distances of r's prompts from mean_r / sum over r of n_r).
    """
    on = moments.on
    every = np.ones((1, len(on.count)), bool)
    pooled = np.empty((1, on.mean.shape[1]))
    totals.add_classes(on.squares, every, pooled)
    return _ratio(on.mean - _over_others(np.maximum, on.mean), np.sqrt(pooled / on.count.sum()))


@of_moments(Z, "Welch's z against the mean of the other relations, weighing the same; NaN without another")
def _z(moments: Moments) -> np.ndarray:
    """(mean_r - M) / sqrt(v_r + V + 1e-10).

    v_r is variance_r / n_r, M and V are the means of mean_r' and of v_r' over r' != r.
    """
    on = moments.on
    error, others = on.variance / on.count, len(on.count) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = on.mean - _over_others(np.add, on.mean) / others
        return _ratio(gap, np.sqrt(error + _over_others(np.add, error) / others + SMALLEST))


def _ratio(gap: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """0 where there is no gap; infinite where there is one and no spread."""
    return np.where(gap == 0, 0.0, gap / spread)


def _over_others(fold: np.ufunc, values: np.ndarray) -> np.ndarray:
    """For each row ``fold`` over all others: those before it and those after it. NaN of a single one."""
    if len(values) == 1:
        return np.full_like(values, np.nan)
    before = fold.accumulate(values, axis=0)
    after = fold.accumulate(values[::-1], axis=0)[::-1]
    others: np.ndarray = np.concatenate([after[1:2], fold(before[:-2], after[2:]), before[-2:-1]])
    return others


def fill(blocks: Sequence[np.ndarray], labels: Labels, results: dict[str, np.ndarray]) -> set[str]:
    """Fill those of ``results`` [relations, neurons] that need no order; returns their names.

    Raises:
        NotANumber: a NaN, where any is filled.
    """
    means = results.keys() & MEANS.keys()
    known = {name: STATISTICS[name] for name in results}
    definitions = {name: each for name, each in known.items() if isinstance(each, MomentStatistic)}
    if means:
        _fill_means(blocks, labels, {name: results[name] for name in means})
    for start in range(0, blocks[0].shape[1] if definitions else 0, COPIED_TOGETHER):
        columns = slice(start, start + COPIED_TOGETHER)
        with np.errstate(all="ignore"):  # of infinities and of constant neurons
            moments = _moments_of([block[:, columns] for block in blocks], labels, start)
            for name, statistic in definitions.items():
                results[name][:, columns] = statistic.definition(moments)
    return means | definitions.keys()


def _moments_of(blocks: Sequence[np.ndarray], labels: Labels, first: int) -> Moments:
    """Of a few columns, the first of them numbered ``first``."""
    counts = np.zeros(len(labels.roles))
    means, squares = (np.zeros((len(counts), blocks[0].shape[1])) for _ in range(2))
    row = 0
    for block in blocks:
        for start in range(0, len(block), ROWS):
            values = np.require(block[start : start + ROWS], requirements=["C", "A"])
            classes = labels.classes[row : row + len(values)]
            if block.dtype == np.float32:
                totals.follow_singles(values, classes, counts, means, squares)
            else:
                stored, bits = FORMATS[block.dtype], values.view(np.uint16)
                form = stored.infinity, stored.to_single, stored.scale
                totals.follow_halves(bits, classes, *form, counts, means, squares)
            row += len(values)
    if np.isnan(means).any():
        _refuse_nan(blocks, first)
    return Moments(labels, counts, means, squares)


def _fill_means(blocks: Sequence[np.ndarray], labels: Labels, results: dict[str, np.ndarray]) -> None:
    """Means of positives and negatives from float64 sums per class, rows added in their order."""
    sums, row = np.zeros((len(labels.roles), blocks[0].shape[1])), 0
    for block in blocks:
        classes = labels.classes[row : row + len(block)]
        # most are: adding along strides takes twice the time
        values = np.require(block, requirements=["C", "A"])
        if block.dtype == np.float32:
            totals.add_singles(values, classes, sums)
        else:
            stored, bits = FORMATS[block.dtype], values.view(np.uint16)
            totals.add_halves(bits, classes, stored.infinity, stored.to_single, stored.scale, sums)
        row += len(block)
    if np.isnan(sums).any():
        _refuse_nan(blocks)
    for name in results:
        count = labels.count(MEANS[name]).astype(np.float64)[:, None]
        totals.add_classes(sums, np.ascontiguousarray(labels.roles.T) == MEANS[name], results[name])
        results[name] /= np.where(count > 0, count, np.nan)


def _refuse_nan(blocks: Sequence[np.ndarray], first: int = 0) -> None:
    """Raise for the first NaN, if there is one: a sum is NaN also where infinities of both signs meet."""
    row = 0
    for block in blocks:
        for start in range(0, len(block), TILE):
            missing = np.isnan(as_floats(np.ascontiguousarray(block[start : start + TILE]), block.dtype))
            if missing.any():
                prompt, neuron = np.argwhere(missing)[0].tolist()
                raise NotANumber(first + neuron, row + start + prompt)
        row += len(block)


@of_moments(
    LAPE,
    "minus the entropy of the relations' shares in the means, for the relation with the largest; NaN for the "
    "others, and where a mean is negative",
)
def _lape(moments: Moments) -> np.ndarray:
    """Of pooled shares of positive tokens (pool ``positive``) minus what `statistics.lape` gives.

    A neuron belongs to the relation that it is most often active in. Source: Tang et al. 2024, arXiv
    2402.16438.
    """
    means = moments.on.mean
    entropy = np.where((means < 0).any(axis=0), np.nan, lape(np.maximum(means, 0)))
    largest = np.arange(len(means))[:, None] == means.argmax(axis=0)
    scores: np.ndarray = np.where(largest, -entropy, np.nan)
    return scores

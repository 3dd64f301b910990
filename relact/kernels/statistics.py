"""Statistics of a neuron for a relation, by their definitions: the built-in ones and those of users.

A statistic is defined by a plain function of a relation's sorted positives and negatives. Any such function
can be registered:

>>> @statistic("gap", "difference of the medians")
... def gap(positives, negatives):  # ascending float64 arrays
...     return np.median(positives) - np.median(negatives)
>>> STATISTICS.pop("gap").meaning
'difference of the medians'

The built-in ones have fast kernels (`ranks`); their definitions here are what the tests hold the kernels to.
Those that compare means and variances, also of several relations, are in `moments`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from relact.errors import InputError
from relact.kernels.labels import NEGATIVE, POSITIVE
from relact.schema import AVERAGE_PRECISION, OFF_MEAN, OFF_P50, ON_MEAN, ON_P50, ON_P90

Definition = Callable[[np.ndarray, np.ndarray], float]
AUROC = "auroc"
QUANTILES = {ON_P50: (POSITIVE, 0.5), ON_P90: (POSITIVE, 0.9), OFF_P50: (NEGATIVE, 0.5)}
MEANS = {ON_MEAN: POSITIVE, OFF_MEAN: NEGATIVE}
BUILT_IN = {AVERAGE_PRECISION, AUROC, *QUANTILES, *MEANS}


@dataclass(frozen=True)
class Statistic:
    """A named per-neuron, per-relation number, defined on ascending float64 positives and negatives."""

    name: str
    meaning: str
    definition: Definition


@dataclass(frozen=True)
class MomentStatistic:
    """A named per-neuron, per-relation number, defined on means and variances of all relations at once."""

    name: str
    meaning: str
    definition: Callable[[Any], np.ndarray]  # of a `moments.Moments`, float64 [relations, neurons]


STATISTICS: dict[str, Statistic | MomentStatistic] = {}


def statistic(name: str, meaning: str) -> Callable[[Definition], Definition]:
    """Register a statistic under a name; the last one of a name wins.

    Raises:
        InputError: the name of one that is built in.
    """

    def register(definition: Definition) -> Definition:
        known = STATISTICS.get(name)
        if known is not None and (name in BUILT_IN or isinstance(known, MomentStatistic)):
            raise InputError(f"{name} is built in", where="statistics", fix="choose another name")
        STATISTICS[name] = Statistic(name, meaning, definition)
        return definition

    return register


@statistic(AVERAGE_PRECISION, "mean over positives of the precision at their rank, ties as one threshold")
def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    hits = positives.size - np.searchsorted(positives, positives)
    return float(np.mean(hits / (hits + negatives.size - np.searchsorted(negatives, positives))))


@statistic(
    AUROC, "probability that a positive is above a negative, ties counting half; NaN without negatives"
)
def _auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    below, upto = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float(np.sum(below + upto)) / (2 * positives.size * negatives.size) if negatives.size else np.nan


@statistic(ON_P50, "median of the positives")
def _on_p50(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.percentile(positives, 50))


@statistic(ON_P90, "90th percentile of the positives, linear between neighbours")
def _on_p90(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.percentile(positives, 90))


@statistic(ON_MEAN, "mean of the positives")
def _on_mean(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.mean(positives))


@statistic(OFF_MEAN, "mean of the negatives; NaN without any")
def _off_mean(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.mean(negatives)) if negatives.size else np.nan


@statistic(OFF_P50, "median of the negatives; NaN without any")
def _off_p50(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.percentile(negatives, 50)) if negatives.size else np.nan


def lape(on_mean: np.ndarray) -> np.ndarray:
    """Language activation probability entropy of every neuron: low means that few relations activate it.

    Args:
        on_mean: [relations, neurons], the statistic of that name on a store captured with the ``positive``
            pool, where an activation is the share of tokens on which the neuron is positive.

    Returns:
        [neurons] in nats; NaN where no relation activates the neuron. Source: Tang et al. 2024, arXiv
        2402.16438.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = on_mean / on_mean.sum(axis=0)
        terms = np.where(share > 0, -share * np.log(share), share)
    entropy: np.ndarray = terms.sum(axis=0)
    return entropy

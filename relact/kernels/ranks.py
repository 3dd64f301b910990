"""Statistics of neurons from the order of their activations: sort each column once,
read every relation off it.

A statistic is defined by a plain function of a relation's sorted positives and negatives. Any such function
can be registered::

    @statistic("gap", "difference of the medians")
    def gap(positives, negatives):                     # ascending float64 arrays
        return np.median(positives) - np.median(negatives)

The built-in ones have fast kernels; their definitions here are what the tests hold the kernels to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from relact.errors import InputError, NumericError
from relact.kernels import totals, walks
from relact.kernels.columns import (
    COPIED_TOGETHER,
    FORMATS,
    TILE,
    Format,
    Rows,
    as_floats,
    format_of,
    keys_to_floats,
)
from relact.kernels.labels import NEGATIVE, POSITIVE, Labels
from relact.kernels.sorting import runs_of

MOST_KEPT = 2**24  # bytes of buffers that a thread keeps between calls
Definition = Callable[[np.ndarray, np.ndarray], float]


class NotANumber(NumericError):
    """A NaN among the activations: ``neuron`` and ``prompt`` number it within the arrays given."""

    def __init__(self, neuron: int, prompt: int, where: object = None) -> None:
        self.neuron, self.prompt = neuron, prompt
        what = f"the activation of neuron {neuron} on prompt {prompt} is NaN"
        super().__init__(what, where=where, fix="capture again; if it stays, the model itself produces it")


@dataclass(frozen=True)
class Statistic:
    """A named per-neuron, per-relation number, defined on ascending float64 positives and negatives."""

    name: str
    meaning: str
    definition: Definition


STATISTICS: dict[str, Statistic] = {}


def statistic(name: str, meaning: str) -> Callable[[Definition], Definition]:
    """Register a statistic under a name; the last of a name wins,
    unless the name is built in (InputError).
    """

    def register(definition: Definition) -> Definition:
        if name in BUILT_IN and name in STATISTICS:
            raise InputError(f"{name} is built in", where="statistics", fix="choose another name")
        STATISTICS[name] = Statistic(name, meaning, definition)
        return definition

    return register


QUANTILES = {"on_p50": (POSITIVE, 0.5), "on_p90": (POSITIVE, 0.9), "off_p50": (NEGATIVE, 0.5)}
MEANS = {"on_mean": POSITIVE, "off_mean": NEGATIVE}
BUILT_IN = {"average_precision", "auroc", *QUANTILES, *MEANS}


@statistic("average_precision", "mean over positives of the precision at their rank, ties as one threshold")
def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    hits = positives.size - np.searchsorted(positives, positives)
    return float(np.mean(hits / (hits + negatives.size - np.searchsorted(negatives, positives))))


@statistic(
    "auroc", "probability that a positive is above a negative, ties counting half; NaN without negatives"
)
def _auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    below, upto = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float(np.sum(below + upto)) / (2 * positives.size * negatives.size) if negatives.size else np.nan


@statistic("on_p50", "median of the positives")
def _on_p50(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.percentile(positives, 50))


@statistic("on_p90", "90th percentile of the positives, linear between neighbours")
def _on_p90(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.percentile(positives, 90))


@statistic("on_mean", "mean of the positives")
def _on_mean(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.mean(positives))


@statistic("off_mean", "mean of the negatives; NaN without any")
def _off_mean(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.mean(negatives)) if negatives.size else np.nan


@statistic("off_p50", "median of the negatives; NaN without any")
def _off_p50(positives: np.ndarray, negatives: np.ndarray) -> float:
    return float(np.percentile(negatives, 50)) if negatives.size else np.nan


def rank_statistics(
    blocks: Sequence[np.ndarray], labels: Labels, statistics: Sequence[str] = ("average_precision",)
) -> dict[str, np.ndarray]:
    """``rank_statistics(blocks, labels, ["average_precision", "on_p90"])["on_p90"]``: float64 [relations,
    neurons].

    The result does not depend, to the last bit, on how rows are cut into blocks or neurons into calls.

    Args:
        blocks: [rows, neurons] each, float16, float32 or bfloat16 bits as uint16; strided and read-only views
            too. One after the other their rows are the prompts in the order of ``labels``.
        statistics: names in ``STATISTICS``.

    Raises:
        NotANumber: a NaN, with the neuron and prompt. Infinities are ordered like any number.
        InputError: an unknown statistic, or blocks that do not fit the labels.
    """
    for name in statistics:
        if name not in STATISTICS:
            raise InputError(
                f"no statistic {name!r}", where="statistics", fix=f"choose from {', '.join(STATISTICS)}"
            )
    stored = format_of(blocks, labels.prompts)
    neurons, dtype = blocks[0].shape[1], blocks[0].dtype
    results = {name: np.empty((len(labels.relations), neurons)) for name in statistics}
    if any(name in MEANS for name in statistics):
        _means(blocks, labels, results)
    if not set(statistics) <= MEANS.keys():
        blocks = [block for block in blocks if len(block)]
        table = _Table.of(labels, tuple(map(len, blocks)), tuple(statistics))
        rows = Rows.of(blocks, stored.bits, table.orders)
        with _Buffers.of(labels, stored) as buffers:
            for start in range(0, neurons, COPIED_TOGETHER):
                columns = slice(start, min(start + COPIED_TOGETHER, neurons))
                bits = buffers.bits[: columns.stop - start]
                for some in rows:
                    some.transpose(columns.start, columns.stop, bits)
                here = {name: out[:, columns] for name, out in results.items()}
                _ranked(bits, buffers.keys, dtype, table, here, start)
    return results


@dataclass(frozen=True)
class _Table:
    """What sorting and the walks look up."""

    labels: Labels
    partition: bool
    class_of: np.ndarray  # int64 [relations]: the class of a relation's positives, when they partition
    roles: np.ndarray  # int8 [relations, classes]
    orders: tuple[np.ndarray, ...]  # uint32 [rows] of each block: its rows by class
    order: np.ndarray  # int64 [prompts]: their numbers, as they follow each other in a column
    runs: np.ndarray  # int64 [runs, 3]: neighbours of one class in it, as for sorting
    stops: np.ndarray  # int64 [classes + 1]: prompts in all classes before each
    positives: np.ndarray  # int64 [relations, 1]
    negatives: np.ndarray  # int64 [relations, 1]
    reciprocals: np.ndarray  # float64 [prompts + 1]
    quantiles: tuple[str, ...]  # those of the positives, then those of the negatives
    weights: np.ndarray  # float64 [quantiles, relations, 1]: of the upper neighbour
    ranks: dict[int, np.ndarray]  # role -> int64 [relations, 2 per quantile]

    @classmethod
    @lru_cache(maxsize=2)  # calls for other neurons of the same prompts find it again
    def of(cls, labels: Labels, lengths: tuple[int, ...], statistics: tuple[str, ...]) -> _Table:
        """For blocks of ``lengths`` rows."""
        firsts = np.cumsum((0, *lengths))[:-1]
        classes = [
            labels.classes[first : first + length] for first, length in zip(firsts, lengths, strict=True)
        ]
        orders = tuple(np.argsort(some, kind="stable").astype(np.uint32) for some in classes)
        order = np.concatenate([first + some for first, some in zip(firsts, orders, strict=True)])
        positives, negatives = labels.count(POSITIVE), labels.count(NEGATIVE)
        names = [name for name in QUANTILES if name in statistics]
        ranks: dict[int, list[np.ndarray]] = {POSITIVE: [], NEGATIVE: []}
        weights = np.empty((len(names), len(positives), 1))
        names.sort(key=lambda name: -QUANTILES[name][0])
        for at, name in enumerate(names):
            role, quantile = QUANTILES[name]
            count = positives if role == POSITIVE else negatives
            place = (count - 1) * quantile
            lower = np.floor(place).astype(np.int64)
            ranks[role] += [
                np.where(count > 0, lower, -1),
                np.where(count > 0, np.minimum(lower + 1, count - 1), -1),
            ]
            weights[at, :, 0] = np.where(count > 0, place - lower, np.nan)
        none = np.empty((len(labels.relations), 0), np.int64)
        partition = labels.partition and len(labels.roles) <= walks.MOST_STATES
        return cls(
            labels=labels,
            partition=partition,
            class_of=np.argmax(labels.roles, axis=0).astype(np.int64),
            roles=np.ascontiguousarray(labels.roles.T),
            orders=orders,
            order=order,
            runs=runs_of(labels.classes[order], walks.STATE if partition else 1),
            stops=np.concatenate([[0], np.cumsum(labels.class_sizes)]).astype(np.int64),
            positives=positives[:, None],
            negatives=negatives[:, None],
            reciprocals=1.0 / np.maximum(np.arange(labels.prompts + 1), 1),
            quantiles=tuple(names),
            ranks={role: np.stack(some, axis=1) if some else none for role, some in ranks.items()},
            weights=weights,
        )


@dataclass(frozen=True)
class _Buffers:
    """Memory reused from tile to tile: the columns copied and two columns' keys."""

    bits: np.ndarray
    keys: np.ndarray

    @classmethod
    @contextmanager
    def of(cls, labels: Labels, stored: Format) -> Iterator[_Buffers]:
        """``with _Buffers.of(labels, stored) as buffers``: this thread's last, if they fit:
        new memory is slow at first.
        """
        buffers, _kept.buffers = getattr(_kept, "buffers", None), None
        if buffers is None or (buffers.keys.shape[1], buffers.keys.dtype) != (labels.prompts, stored.key):
            line = 64 // np.dtype(stored.bits).itemsize  # values of a cache line
            # odd, or a prompt's values of all columns compete for few lines
            lines = -(-labels.prompts // line) | 1
            bits = np.empty((COPIED_TOGETHER, lines * line), stored.bits)
            buffers = cls(bits, np.empty((2, labels.prompts), stored.key))
        yield buffers
        if buffers.bits.nbytes <= MOST_KEPT:
            _kept.buffers = buffers


_kept = threading.local()


def _ranked(
    bits: np.ndarray,
    keys: np.ndarray,
    dtype: np.dtype,
    table: _Table,
    results: dict[str, np.ndarray],
    first: int,
) -> None:
    """Fill the statistics among ``results`` [relations, columns] from bits [columns, prompts or more],
    by way of ``keys``.

    ``first`` numbers the first column.
    """
    shape, none = (len(table.positives), len(bits)), (0, 0)
    on, off = table.ranks[POSITIVE], table.ranks[NEGATIVE]
    order = np.zeros((on.shape[1] + off.shape[1], *shape), np.int64)
    precision = results.get("average_precision", np.empty(none))
    wins = np.empty(shape if "auroc" in results else none, np.int64)
    begin, end = (
        (bits, keys, FORMATS[dtype].infinity, table.runs),
        (table.reciprocals, on, off, precision, wins, order),
    )
    if table.partition:
        missing = walks.rank_partition(*begin, table.stops, table.class_of, *end)
    else:
        missing = walks.rank_roles(*begin, table.roles, *end)
    if missing:
        _refuse(bits, dtype, table, first)
    if "auroc" in results:
        results["auroc"][:] = _share(wins, table)
    if table.quantiles:
        values = keys_to_floats(order, dtype)
        for name, found in zip(
            table.quantiles, _between(values[0::2], values[1::2], table.weights), strict=True
        ):
            results[name][:] = found
    own = {name: out for name, out in results.items() if name not in BUILT_IN}
    _defined(bits[:, : table.labels.prompts], dtype, table, own)


def _refuse(bits: np.ndarray, dtype: np.dtype, table: _Table, first: int) -> None:
    """Raise for the first NaN among columns, and in it the first prompt."""
    columns, places = np.nonzero(np.isnan(as_floats(bits[:, : table.labels.prompts], dtype)))
    prompt = table.order[places[columns == columns[0]]].min()
    raise NotANumber(first + int(columns[0]), int(prompt))


def _share(wins: np.ndarray, table: _Table) -> np.ndarray:
    """Twice the won pairs -> share of all pairs; NaN where a relation has no negatives."""
    pairs = np.where(table.negatives > 0, 2.0 * table.positives * table.negatives, np.nan)
    shares: np.ndarray = wins / pairs
    return shares


def _between(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Linear between neighbours, as numpy.percentile does it; equal neighbours stay as they are,
    infinite ones too.
    """
    with np.errstate(invalid="ignore"):
        gap = upper - lower
        values = np.where(weight >= 0.5, upper - gap * (1 - weight), lower + gap * weight)
    values = np.where(lower == upper, lower, values)
    return np.where(np.isnan(weight), np.nan, values)


def _means(blocks: Sequence[np.ndarray], labels: Labels, results: dict[str, np.ndarray]) -> None:
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
    for name in results.keys() & MEANS.keys():
        counts = labels.count(MEANS[name]).astype(np.float64)[:, None]
        totals.add_classes(sums, np.ascontiguousarray(labels.roles.T) == MEANS[name], results[name])
        results[name] /= np.where(counts > 0, counts, np.nan)


def _refuse_nan(blocks: Sequence[np.ndarray]) -> None:
    """Raise for the first NaN, if there is one: a sum is NaN also where infinities of both signs meet."""
    row = 0
    for block in blocks:
        for start in range(0, len(block), TILE):
            missing = np.isnan(as_floats(np.ascontiguousarray(block[start : start + TILE]), block.dtype))
            if missing.any():
                prompt, neuron = np.argwhere(missing)[0].tolist()
                raise NotANumber(neuron, row + start + prompt)
        row += len(block)


def _defined(bits: np.ndarray, dtype: np.dtype, table: _Table, results: dict[str, np.ndarray]) -> None:
    """Registered statistics without a kernel: their definition, column by column."""
    if not results:
        return
    roles = table.labels.roles[table.labels.classes[table.order]]  # [prompts, relations]
    for column, values in enumerate(bits):
        floats = as_floats(values, dtype).astype(np.float64)
        for r in range(roles.shape[1]):
            positives, negatives = (np.sort(floats[roles[:, r] == role]) for role in (POSITIVE, NEGATIVE))
            for name, out in results.items():
                out[r, column] = STATISTICS[name].definition(positives, negatives)


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

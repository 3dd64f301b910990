"""Statistics of neurons from the order of their activations: sort a column once, read every relation off it.

Columns are taken a tile at a time: copied out of the rows, sorted and walked over by the kernels (`walks`).
Means and variances need no order and are taken from the rows as they are stored (`moments`); statistics
without a kernel are computed by their definitions, column by column.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from relact.errors import InputError
from relact.kernels import moments, sorting, walks
from relact.kernels.average_precision import MOST_STATES, STATE
from relact.kernels.columns import (
    COPIED_TOGETHER,
    FORMATS,
    Format,
    NotANumber,
    Rows,
    as_floats,
    format_of,
    keys_to_floats,
)
from relact.kernels.labels import NEGATIVE, POSITIVE, Labels
from relact.kernels.sorting import runs_of
from relact.kernels.statistics import AUROC, BUILT_IN, QUANTILES, STATISTICS, Statistic
from relact.schema import AVERAGE_PRECISION

MOST_KEPT = 2**24  # bytes of buffers that a thread keeps between calls


def rank_statistics(
    blocks: Sequence[np.ndarray], labels: Labels, statistics: Sequence[str] = (AVERAGE_PRECISION,)
) -> dict[str, np.ndarray]:
    """Statistics of every neuron for every relation: float64 [relations, neurons] each.

    >>> labels = Labels.one_vs_rest(["capital", "sport", "sport"])
    >>> rank_statistics([np.float16([[3], [1], [2]])], labels, ["average_precision", "on_p50"])["on_p50"]
    array([[3. ],
           [1.5]])

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
    unordered = moments.fill(blocks, labels, results)
    if not set(statistics) <= unordered:
        blocks = [block for block in blocks if len(block)]
        table = _Table.of(labels, tuple(map(len, blocks)), tuple(statistics))
        rows = Rows.of(blocks, stored.bits, table.orders)
        with _Buffers.of(labels, stored) as buffers:
            for start in range(0, neurons, COPIED_TOGETHER):
                columns = slice(start, min(start + COPIED_TOGETHER, neurons))
                bits = buffers.bits[: columns.stop - start]
                for block in rows:
                    block.transpose(columns.start, columns.stop, bits)
                of_columns = {name: out[:, columns] for name, out in results.items()}
                _rank(bits, buffers.keys, dtype, table, of_columns, start)
    return results


@dataclass(frozen=True)
class _Quantiles:
    """Between which values of a relation its quantiles lie: those of the positives, then of the negatives."""

    names: tuple[str, ...]
    on: np.ndarray  # int64 [relations, 2 per name]: ranks of both neighbours from 0; -1 where no prompt is
    off: np.ndarray
    weights: np.ndarray  # float64 [names, relations, 1]: of the upper neighbour; NaN where no prompt is

    @classmethod
    def of(cls, labels: Labels, statistics: Sequence[str]) -> _Quantiles:
        """Of the quantiles among ``statistics``."""
        names = [name for name in QUANTILES if name in statistics]
        names.sort(key=lambda name: -QUANTILES[name][0])
        none = np.empty((len(labels.relations), 0), np.int64)
        ranks, weights = {POSITIVE: none, NEGATIVE: none}, np.empty((len(names), len(labels.relations), 1))
        for number, name in enumerate(names):
            role, quantile = QUANTILES[name]
            count = labels.count(role)
            place = (count - 1) * quantile
            lower = np.floor(place).astype(np.int64)
            neighbours = np.stack([lower, np.minimum(lower + 1, count - 1)], axis=1)
            neighbours[count == 0] = -1
            ranks[role] = np.concatenate([ranks[role], neighbours], axis=1)
            weights[number, :, 0] = np.where(count > 0, place - lower, np.nan)
        return cls(tuple(names), ranks[POSITIVE], ranks[NEGATIVE], weights)


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
    words: np.ndarray  # uint32 [prompts]: what stands for their classes in keys
    stops: np.ndarray  # int64 [classes + 1]: prompts in all classes before each
    positives: np.ndarray  # int64 [relations, 1]
    negatives: np.ndarray  # int64 [relations, 1]
    reciprocals: np.ndarray  # float64 [prompts + 1]
    quantiles: _Quantiles

    @classmethod
    @lru_cache(maxsize=2)  # calls for other neurons of the same prompts find it again
    def of(cls, labels: Labels, lengths: tuple[int, ...], statistics: tuple[str, ...]) -> _Table:
        """For blocks of ``lengths`` rows."""
        stops = np.cumsum(lengths)
        classes = np.split(labels.classes, stops[:-1])  # of each block
        orders = tuple(np.argsort(part, kind="stable").astype(np.uint32) for part in classes)
        order = np.concatenate([first + part for first, part in zip(stops - lengths, orders, strict=True)])
        partition = labels.partition and len(labels.roles) <= MOST_STATES
        step = STATE if partition else 1
        return cls(
            labels=labels,
            partition=partition,
            class_of=np.argmax(labels.roles, axis=0).astype(np.int64),
            roles=np.ascontiguousarray(labels.roles.T),
            orders=orders,
            order=order,
            runs=runs_of(labels.classes[order], step),
            words=(labels.classes[order] * step).astype(np.uint32),
            stops=np.concatenate([[0], np.cumsum(labels.class_sizes)]).astype(np.int64),
            positives=labels.count(POSITIVE)[:, None],
            negatives=labels.count(NEGATIVE)[:, None],
            reciprocals=1.0 / np.maximum(np.arange(labels.prompts + 1), 1),
            quantiles=_Quantiles.of(labels, statistics),
        )


@dataclass(frozen=True)
class _Buffers:
    """Memory reused from tile to tile: the columns copied and two columns' keys, or all of theirs."""

    bits: np.ndarray
    keys: np.ndarray

    @classmethod
    @contextmanager
    def of(cls, labels: Labels, stored: Format) -> Iterator[_Buffers]:
        """Those that this thread had last, if they fit: new memory is slow at first."""
        buffers, _kept.buffers = getattr(_kept, "buffers", None), None
        if buffers is None or (buffers.keys.shape[1], buffers.keys.dtype) != (labels.prompts, stored.key):
            line = 64 // np.dtype(stored.bits).itemsize  # values of a cache line
            # odd, or a prompt's values of all columns compete for few lines
            lines = -(-labels.prompts // line) | 1
            bits = np.empty((COPIED_TOGETHER, lines * line), stored.bits)
            columns = COPIED_TOGETHER if sorting.by_numpy(labels.prompts) else 2
            buffers = cls(bits, np.empty((columns, labels.prompts), stored.key))
        yield buffers
        if buffers.bits.nbytes <= MOST_KEPT:
            _kept.buffers = buffers


_kept = threading.local()


def _rank(
    bits: np.ndarray,
    keys: np.ndarray,
    dtype: np.dtype,
    table: _Table,
    results: dict[str, np.ndarray],
    first: int,
) -> None:
    """Fill the statistics among ``results`` [relations, columns] that need an order or all values.

    Args:
        bits: [columns, prompts or more]. keys: [2, prompts] to work in, or for all columns, and one more of
            an odd number: then NumPy sorts.
        first: the number of the first column.
    """
    shape, none = (len(table.positives), len(bits)), (0, 0)
    quantiles = table.quantiles
    order = np.zeros((quantiles.on.shape[1] + quantiles.off.shape[1], *shape), np.int64)
    precision = results.get(AVERAGE_PRECISION, np.empty(none))
    wins = np.empty(shape if AUROC in results else none, np.int64)
    ordered = len(keys) > 2
    if ordered:
        sorting.pack(bits, table.words, keys)
        keys[: len(bits)].sort(axis=1)
        keys[len(bits) : len(bits) + len(bits) % 2] = keys[len(bits) - 1]
    columns = bits, keys, ordered, FORMATS[dtype].infinity, table.runs
    outputs = table.reciprocals, quantiles.on, quantiles.off, precision, wins, order
    if table.partition:
        missing = walks.rank_partition(*columns, table.stops, table.class_of, *outputs)
    else:
        missing = walks.rank_roles(*columns, table.roles, *outputs)
    if missing:
        _refuse(bits, dtype, table, first)
    if AUROC in results:
        results[AUROC][:] = _share(wins, table)
    if quantiles.names:
        neighbours = keys_to_floats(order, dtype)
        values = _between(neighbours[0::2], neighbours[1::2], quantiles.weights)
        for name, value in zip(quantiles.names, values, strict=True):
            results[name][:] = value
    _define(bits[:, : table.labels.prompts], dtype, table, results)


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
    """Linear between neighbours, as numpy.percentile does it; equal ones stay as they are, infinite too."""
    with np.errstate(invalid="ignore"):
        gap = upper - lower
        values = np.where(weight >= 0.5, upper - gap * (1 - weight), lower + gap * weight)
    values = np.where(lower == upper, lower, values)
    return np.where(np.isnan(weight), np.nan, values)


def _define(bits: np.ndarray, dtype: np.dtype, table: _Table, results: dict[str, np.ndarray]) -> None:
    """Registered statistics without a kernel: their definition, column by column."""
    known = {name: STATISTICS[name] for name in results.keys() - BUILT_IN}
    registered = {name: each for name, each in known.items() if isinstance(each, Statistic)}
    if not registered:
        return
    roles = table.labels.roles[table.labels.classes[table.order]]  # [prompts, relations]
    for column, values in enumerate(bits):
        floats = as_floats(values, dtype).astype(np.float64)
        for r in range(roles.shape[1]):
            positives, negatives = (np.sort(floats[roles[:, r] == role]) for role in (POSITIVE, NEGATIVE))
            for name, each in registered.items():
                results[name][r, column] = each.definition(positives, negatives)

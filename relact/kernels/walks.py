"""The two compiled kernels: sort columns of activations, walk over their keys once for all relations.

`rank_partition` is for relations that partition the prompts, `rank_roles` for any labels. Both take two
columns at a time, so that what is at work stays in the caches of one core; the last of an odd number of
columns is taken twice. No walk has branches that depend on the data. The walk for average precision is in
`average_precision`; those for pairs won and for order statistics follow the first kernel.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types, uint64

from relact.kernels.average_precision import STATE, walk_partition, walk_roles
from relact.kernels.jit import kernel, reads
from relact.kernels.sorting import CLASS, CLASS_BITS, VALUE, has_nan, scratch, sort_two

f8, i1, i8 = types.float64, types.int8, types.int64
u2, u4, u8 = types.uint16, types.uint32, types.uint64


def both(*groups: types.Type) -> list[Any]:
    """A kernel's signatures for 16-bit and for 32-bit floats; ``groups`` say who is positive for what."""
    begin = [
        (reads(bits, 2), types.Array(key, 2, "C"), types.boolean, i8, reads(i8, 2))
        for bits, key in ((u2, u4), (u4, u8))
    ]
    ranks = reads(f8, 1), reads(i8, 2), reads(i8, 2)
    out = types.Array(f8, 2, "A"), types.Array(i8, 2, "C"), types.Array(i8, 3, "C")
    return [types.boolean(*columns, *groups, *ranks, *out) for columns in begin]


@numba.njit(nogil=True)
def _sorted(
    bits: Any, column: Any, keys: Any, ordered: bool, infinity: int, runs: Any, space: Any
) -> tuple[Any, bool]:
    """The sorted keys [2, prompts] of this column and the next, and whether there is a NaN.

    Args:
        bits: [columns, prompts or more]. keys: [2, prompts] to work in; or ``ordered``: those of every column
            already, of an odd number the last one twice.
        infinity, runs, space: as for `sort_two`.
    """
    if ordered:
        pair = keys[column : column + 2]
        return pair, has_nan(pair, infinity)
    pair, following = keys[:2], min(column + 1, bits.shape[0] - 1)
    return pair, sort_two(bits[column], bits[following], infinity, runs, space, pair)


@kernel(*both(reads(i8, 1), reads(i8, 1)))
def rank_partition(
    bits: np.ndarray,
    keys: np.ndarray,
    ordered: bool,
    infinity: int,
    runs: np.ndarray,
    stops: np.ndarray,
    class_of: np.ndarray,
    reciprocals: np.ndarray,
    on: np.ndarray,
    off: np.ndarray,
    precision: np.ndarray,
    wins: np.ndarray,
    order: np.ndarray,
) -> bool:
    """Statistics of relations whose positives are one class each, against all other prompts.

    Args:
        bits, keys, ordered, infinity, runs: see `_sorted`.
        stops: [classes + 1] prompts in all classes before each. class_of: [relations].
        reciprocals: [prompts + 1], 1/n at n.
        on, off: [relations, ranks] from 0, ascending; a rank of -1 is skipped.
        precision: [relations, columns] or empty; filled with average precision.
        wins: [relations, columns] or empty; filled with twice the pairs in which the positive is higher, ties
            counting one.
        order: [on and off ranks, relations, columns]; filled with the keys, without class, at these ranks
            among a relation's positives, then among its negatives.

    Returns:
        whether there is a NaN; what is filled then means nothing.
    """
    columns, classes, missing = bits.shape[0], stops.size - 1, False
    space, state, midranks = scratch(keys), np.empty(classes * STATE, np.int64), np.empty(classes, np.int64)
    sums, places = state.view(np.float64), np.empty((2, keys.shape[1]), np.uint32)
    for column in range(0, columns, 2):
        lanes = min(2, columns - column)
        pair, found = _sorted(bits, column, keys, ordered, infinity, runs, space)
        missing |= found
        if precision.size:
            walk_partition(pair, stops, state, reciprocals)
            for r in range(class_of.size):
                c = class_of[r]
                for lane in range(lanes):
                    precision[r, column + lane] = sums[STATE * c + 2 * lane + 1] / (stops[c + 1] - stops[c])
        if wins.size:
            for lane in range(lanes):
                _midranks(pair[lane], midranks)
                for r in range(class_of.size):
                    c = class_of[r]
                    wins[r, column + lane] = midranks[c] - (stops[c + 1] - stops[c]) ** 2
        if order.size:
            _list_places(pair, stops, state, places)
            for lane in range(lanes):
                _order_statistics(
                    pair[lane], places[lane], stops, class_of, on, off, order[:, :, column + lane]
                )
    return missing


@numba.njit(nogil=True)
def _midranks(keys: Any, out: Any) -> None:
    """Sum over each class of the keys below and up to their groups: twice its midranks, less its size."""
    prompts = keys.size
    out[:] = 0
    previous, start = ~keys[0], 0
    for i in range(prompts):
        start = i if keys[i] ^ previous >= VALUE else start
        previous = keys[i]
        out[uint64(keys[i] & CLASS) // uint64(STATE)] += start
    previous, end = ~keys[prompts - 1], prompts
    for i in range(prompts - 1, -1, -1):
        end = i + 1 if keys[i] ^ previous >= VALUE else end
        previous = keys[i]
        out[uint64(keys[i] & CLASS) // uint64(STATE)] += end


@numba.njit(nogil=True)
def _list_places(keys: Any, stops: Any, ends: Any, places: Any) -> None:
    """List the places of each class's keys in the sorted columns, ascending, from the class's stop on."""
    k0, k1, places0, places1 = keys[0], keys[1], places[0], places[1]
    for c in range(stops.size - 1):
        ends[STATE * c] = ends[STATE * c + 1] = stops[c]
    for i in range(uint64(k0.size)):
        _place(i, places0, ends, uint64(k0[i] & CLASS))
        _place(i, places1, ends, uint64(k1[i] & CLASS) + uint64(1))


@numba.njit(nogil=True)
def _place(i: Any, places: Any, ends: Any, at: Any) -> None:
    places[uint64(ends[at])] = i
    ends[at] += 1


@numba.njit(nogil=True)
def _order_statistics(keys: Any, places: Any, stops: Any, class_of: Any, on: Any, off: Any, out: Any) -> None:
    """A positive of rank q is a lookup among its class's places.

    The negative of rank q sits j places after q, where j counts the positives before it: found by bisection.
    """
    for r in range(class_of.size):
        positives = places[stops[class_of[r]] : stops[class_of[r] + 1]]
        for s in range(on.shape[1]):
            if on[r, s] >= 0:
                out[s, r] = keys[positives[on[r, s]]] >> CLASS_BITS
        for s in range(off.shape[1]):
            if off[r, s] >= 0:
                place = off[r, s] + _positives_before(positives, off[r, s])
                out[on.shape[1] + s, r] = keys[place] >> CLASS_BITS


@numba.njit(nogil=True)
def _positives_before(places: Any, rank: int) -> int:
    """Positives before the negative of this rank: the first with more than ``rank`` negatives before it."""
    low, high = 0, places.size
    while low < high:
        middle = (low + high) // 2
        if np.int64(places[middle]) - middle > rank:
            high = middle
        else:
            low = middle + 1
    return low


@kernel(*both(reads(i1, 2)))
def rank_roles(
    bits: np.ndarray,
    keys: np.ndarray,
    ordered: bool,
    infinity: int,
    runs: np.ndarray,
    roles: np.ndarray,
    reciprocals: np.ndarray,
    on: np.ndarray,
    off: np.ndarray,
    precision: np.ndarray,
    wins: np.ndarray,
    order: np.ndarray,
) -> bool:
    """All of the above for any labels (several per prompt, prompts left out), one relation after the other.

    Args:
        roles: [relations, classes]. The others: as above.
    """
    columns, missing = bits.shape[0], False
    space = scratch(keys)
    lists = np.empty((2, keys.shape[1] + 1), np.int64)  # values of negatives, of positives
    for column in range(0, columns, 2):
        lanes = min(2, columns - column)
        pair, found = _sorted(bits, column, keys, ordered, infinity, runs, space)
        missing |= found
        for lane in range(lanes):
            n = column + lane
            for r in range(roles.shape[0]):
                mean, won = walk_roles(pair[lane], roles[r], reciprocals, lists)
                if precision.size:
                    precision[r, n] = mean
                if wins.size:
                    wins[r, n] = won
                for s in range(on.shape[1]):
                    if on[r, s] >= 0:
                        order[s, r, n] = lists[1, on[r, s]]
                for s in range(off.shape[1]):
                    if off[r, s] >= 0:
                        order[on.shape[1] + s, r, n] = lists[0, off[r, s]]
    return missing

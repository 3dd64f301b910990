"""One pass over sorted keys for every relation, without branches that depend on the data.

Keys ascend, so ranks from the top are counted down: at the first key of a group of equal values, the number of keys not
yet passed is the rank of the group's end, and the positives of a class not yet passed are its true positives there.
Inside a group keys ascend by class, so each class's are adjacent, and the first of them carries the count for the
others. Two columns are walked together: their chains of additions overlap, and both still fit into the innermost cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types, uint64

from relact.kernels.jit import kernel, reads

LANES = 2  # columns walked together; the last of an odd number is walked twice
CLASS, VALUE = 0xFFFF, 1 << 16  # bits of the class; the smallest difference between keys of different values
f8, i1, i8 = types.float64, types.int8, types.int64
u2, u4, u8 = types.uint16, types.uint32, types.uint64


def both(*rest: Any) -> list[Any]:
    """Signatures for uint32 and uint64 keys [columns, prompts], followed by the same further arguments."""
    return [types.void(reads(key, 2), *rest) for key in (u4, u8)]


@numba.njit(nogil=True)
def _step(
    key: Any, previous: Any, rank: Any, end: int, hits: int, left: Any, sums: Any, reciprocals: Any, lane: int
) -> Any:
    """One key of one column; returns the new previous key, the rank of its group's end, and true positives there.

    What is chosen between are integers: processors choose those without a branch, other than floats.
    """
    own = uint64(key & CLASS) * uint64(LANES) + uint64(lane)
    change = key ^ previous
    there = left[own]
    end = rank if change >= VALUE else end
    hits = there if change != 0 else hits
    sums[own] += hits * reciprocals[uint64(end)]
    left[own] = there - 1
    return key, end, hits


@kernel(*both(reads(i8, 1), reads(i8, 1), reads(f8, 1), types.Array(f8, 2, "A")))
def walk_average_precision(
    keys: np.ndarray, stops: np.ndarray, class_of: np.ndarray, reciprocals: np.ndarray, out: np.ndarray
) -> None:
    """Average precision of every relation, whose positives are one class, against all other prompts.

    Args:
        keys: [columns, prompts] sorted along prompts.
        stops: [classes + 1] prompts in all classes before each. class_of: [relations].
        reciprocals: [prompts + 1], 1/n at n.
        out: [relations, columns].
    """
    (columns, prompts), classes = keys.shape, stops.size - 1
    left, sums = np.empty(classes * LANES, np.int64), np.empty(classes * LANES)  # not yet passed; all lanes together
    for column in range(0, columns, LANES):
        k0, k1 = keys[column], keys[min(column + 1, columns - 1)]
        p0, p1 = ~k0[0], ~k1[0]
        e0 = e1 = h0 = h1 = 0
        for c in range(classes):
            for lane in range(LANES):
                left[LANES * c + lane], sums[LANES * c + lane] = stops[c + 1] - stops[c], 0.0
        for i in range(np.uint64(prompts)):  # unsigned: nothing to be checked for counting from the end
            rank = np.int64(prompts - i)
            p0, e0, h0 = _step(k0[i], p0, rank, e0, h0, left, sums, reciprocals, 0)
            p1, e1, h1 = _step(k1[i], p1, rank, e1, h1, left, sums, reciprocals, 1)
        for r in range(class_of.size):
            c = class_of[r]
            for lane in range(min(LANES, columns - column)):
                out[r, column + lane] = sums[LANES * c + lane] / (stops[c + 1] - stops[c])


@kernel(*both(types.Array(i8, 2, "C")))
def walk_midranks(keys: np.ndarray, out: np.ndarray) -> None:
    """Sum over each class of (keys below the group) + (keys up to its end): twice the midranks less the class's size.

    Args:
        keys: [columns, prompts] sorted along prompts. out: [classes, columns].
    """
    prompts = keys.shape[1]
    out[:] = 0
    for column in range(keys.shape[0]):
        row = keys[column]
        previous, start = ~row[0], 0
        for i in range(prompts):
            start = i if row[i] ^ previous >= VALUE else start
            previous = row[i]
            out[uint64(row[i] & CLASS), column] += start
        previous, end = ~row[prompts - 1], prompts
        for i in range(prompts - 1, -1, -1):
            end = i + 1 if row[i] ^ previous >= VALUE else end
            previous = row[i]
            out[uint64(row[i] & CLASS), column] += end


@kernel(*both(reads(i8, 1), reads(i8, 1), reads(i8, 2), reads(i8, 2), types.Array(i8, 3, "C")))
def walk_order_statistics(
    keys: np.ndarray, stops: np.ndarray, class_of: np.ndarray, on: np.ndarray, off: np.ndarray, out: np.ndarray
) -> None:
    """The keys at given ranks (from 0, ascending) among each relation's positives and among its negatives.

    The places of each class in the sorted column are listed; a positive of rank q is then a lookup, and the
    negative of rank q sits j places after q, where j counts the positives before it: found by bisection.

    Args:
        keys: [columns, prompts] sorted along prompts.
        stops: [classes + 1] where a class's list begins and the one before ends.
        class_of: [relations] the class of a relation's positives.
        on, off: [relations, ranks]; a rank of -1 is skipped.
        out: [on and off ranks, relations, columns] keys without class.
    """
    (columns, prompts), classes = keys.shape, stops.size - 1
    places, ends = np.empty((LANES, prompts), np.uint32), np.empty((LANES, classes), np.uint64)
    places0, places1, ends0, ends1 = places[0], places[1], ends[0], ends[1]
    for first in range(0, columns, LANES):
        k0, k1 = keys[first], keys[min(first + 1, columns - 1)]
        for lane in range(LANES):
            for c in range(classes):
                ends[lane, c] = stops[c]
        for i in range(np.uint64(prompts)):
            _place(k0[i], i, places0, ends0)
            _place(k1[i], i, places1, ends1)
        for lane in range(min(LANES, columns - first)):
            row = keys[first + lane]
            for r in range(class_of.size):
                own = places[lane, stops[class_of[r]] : stops[class_of[r] + 1]]
                for s in range(on.shape[1]):
                    if on[r, s] >= 0:
                        out[s, r, first + lane] = row[own[on[r, s]]] >> 16
                for s in range(off.shape[1]):
                    if off[r, s] >= 0:
                        out[on.shape[1] + s, r, first + lane] = row[off[r, s] + _positives_before(own, off[r, s])] >> 16


@numba.njit(nogil=True)
def _place(key: Any, i: int, places: Any, ends: Any) -> None:
    own = uint64(key & CLASS)
    places[ends[own]] = i
    ends[own] += uint64(1)


@numba.njit(nogil=True)
def _positives_before(places: Any, rank: int) -> int:
    """Positives before the negative of this rank: the first j with more than ``rank`` negatives before place j."""
    low, high = 0, places.size
    while low < high:
        middle = (low + high) // 2
        if np.int64(places[middle]) - middle > rank:
            high = middle
        else:
            low = middle + 1
    return low


@kernel(
    *both(
        reads(i1, 2),
        reads(f8, 1),
        reads(i8, 2),
        reads(i8, 2),
        types.Array(f8, 2, "C"),
        types.Array(i8, 2, "C"),
        types.Array(i8, 3, "C"),
    )
)
def walk_roles(
    keys: np.ndarray,
    roles: np.ndarray,
    reciprocals: np.ndarray,
    on: np.ndarray,
    off: np.ndarray,
    precision: np.ndarray,
    wins: np.ndarray,
    order: np.ndarray,
) -> None:
    """All of the above for any labels (several per prompt, prompts left out), one relation after the other.

    Args:
        keys: [columns, prompts] sorted along prompts. roles: [relations, classes].
        precision: [relations, columns] not yet divided by the positives.
        wins: [relations, columns] twice the pairs in which the positive is higher, ties counting one.
        reciprocals, on, off, order: as above.
    """
    prompts = keys.shape[1]
    lists = np.empty((2, prompts + 1), np.int64)  # values of negatives, of positives
    for column in range(keys.shape[0]):
        row = keys[column]
        for r in range(roles.shape[0]):
            role_of = roles[r]
            counted = positives = 0
            for i in range(prompts):
                role = role_of[uint64(row[i] & CLASS)]
                counted += role >= 0
                positives += role > 0
            negatives = counted - positives
            n = p = end = hits = n_below = p_below = wins2 = 0
            total, previous = 0.0, ~row[0]
            for i in range(prompts):
                role = role_of[uint64(row[i] & CLASS)]
                is_on, is_off = int(role > 0), int(role == 0)
                fresh = row[i] ^ previous >= VALUE
                previous = row[i]
                end = counted - n - p if fresh else end
                hits = positives - p if fresh else hits
                n_below, p_below = (n if fresh else n_below), (p if fresh else p_below)
                total += is_on * hits * reciprocals[end]
                wins2 += is_on * n_below - is_off * p_below
                lists[0, n] = lists[1, p] = row[i] >> 16
                n, p = n + is_off, p + is_on
            precision[r, column] = total
            wins[r, column] = wins2 + positives * negatives  # negatives <= p are all but those with positives below
            for s in range(on.shape[1]):
                if on[r, s] >= 0:
                    order[s, r, column] = lists[1, on[r, s]]
            for s in range(off.shape[1]):
                if off[r, s] >= 0:
                    order[on.shape[1] + s, r, column] = lists[0, off[r, s]]


@kernel(types.void(reads(types.float32, 2), reads(u2, 1), types.Array(f8, 2, "C")))
def add_singles(values: np.ndarray, classes: np.ndarray, sums: np.ndarray) -> None:
    """Add rows [rows, neurons] in their order to the sums [classes, neurons] of their classes."""
    for i in range(values.shape[0]):
        total = sums[uint64(classes[i])]
        for n in range(values.shape[1]):
            total[n] += values[i, n]


@kernel(types.void(reads(u2, 2), reads(u2, 1), u4, u4, f8, types.Array(f8, 2, "C")))
def add_halves(
    bits: np.ndarray, classes: np.ndarray, infinity: int, shift: int, scale: float, sums: np.ndarray
) -> None:
    """The same for bits of 16-bit floats, moved into the fields of a float32 and scaled to its exponents."""
    shifted = np.empty(bits.shape[1], np.uint32)
    values = shifted.view(np.float32)
    for i in range(bits.shape[0]):
        for n in range(bits.shape[1]):
            magnitude = np.uint32(bits[i, n]) & np.uint32(0x7FFF)
            finite = magnitude << shift
            special = np.uint32(0x7F800000) | (magnitude - infinity)  # infinity, or above it NaN
            shifted[n] = (special if magnitude >= infinity else finite) | (np.uint32(bits[i, n] >> 15) << np.uint32(31))
        total = sums[uint64(classes[i])]
        for n in range(bits.shape[1]):
            total[n] += np.float64(values[n]) * scale


@kernel(types.void(reads(f8, 2), reads(types.boolean, 2), types.Array(f8, 2, "C")))
def add_classes(sums: np.ndarray, chosen: np.ndarray, out: np.ndarray) -> None:
    """Add up the sums [classes, neurons] of the chosen [relations, classes], in order of class: [relations, neurons]."""
    for r in range(chosen.shape[0]):
        out[r] = 0.0
        for c in range(chosen.shape[1]):
            if chosen[r, c]:
                for n in range(sums.shape[1]):
                    out[r, n] += sums[c, n]

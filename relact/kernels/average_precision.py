"""Average precision from sorted keys: equal values are one threshold, as scikit-learn defines it.

The precision of a positive is the share of positives among the prompts *at or above its value*, so all of a
group of equal values have the precision at the group's end, in whatever order they were sorted::

    value            0.1   0.5   0.5   0.9         ascending, as the keys are
    label             -     +     -     +
    at or above       4     3     3     1          the rank from the top of the group's end
    positives there   2     2     2     1          average precision = (2/3 + 1/1) / 2

The walks go up the keys and count down. At the first key of a group nothing of the group has been passed: the
keys not yet passed are those at or above the threshold, and so are the positives among them. Both counts are
kept until the value changes, and each positive adds one times the reciprocal of the other (looked up: 1/n at
n). Where a value changes is seen in the keys' bits above the class; 0.0 and -0.0 have the same.

The definition that the tests hold these walks to is in `statistics`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import uint64

from relact.kernels.labels import MOST_CLASSES
from relact.kernels.sorting import CLASS, CLASS_BITS, VALUE

STATE = (
    4  # words per class, of two columns; keys of partitions carry this times the class: where its words begin
)
MOST_STATES = MOST_CLASSES // STATE


@numba.njit(nogil=True)
def walk_partition(keys: Any, stops: Any, left: Any, reciprocals: Any) -> None:
    """For relations whose positives are one class each, against all other prompts: all of them in one walk.

    Two columns are walked together: their chains of additions overlap. Inside a group keys ascend by class,
    so each class's are adjacent, and the first of them carries the count for the others.

    Args:
        keys: [2, prompts], sorted, with ``STATE`` times the class. stops: [classes + 1] prompts in all
            classes before each.
        left: int64 [classes * STATE], filled with positives not yet passed (none in the end) and, as float64,
            the sum of precisions, of the first column, then of the second.
        reciprocals: [prompts + 1].
    """
    k0, k1, prompts, sums = keys[0], keys[1], uint64(keys.shape[1]), left.view(np.float64)
    for c in range(stops.size - 1):
        left[STATE * c] = left[STATE * c + 2] = stops[c + 1] - stops[c]
        sums[STATE * c + 1] = sums[STATE * c + 3] = 0.0
    p0, p1 = ~k0[0], ~k1[0]
    e0 = e1 = uint64(0)
    h0 = h1 = 0
    for i in range(prompts):  # unsigned: nothing to be checked for counting from the end
        key0, key1 = k0[i], k1[i]
        p0, e0, h0 = _step(key0, p0, prompts - i, e0, h0, left, sums, reciprocals, uint64(key0 & CLASS))
        p1, e1, h1 = _step(
            key1, p1, prompts - i, e1, h1, left, sums, reciprocals, uint64(key1 & CLASS) + uint64(2)
        )


@numba.njit(nogil=True)
def _step(
    key: Any, previous: Any, rank: Any, end: Any, hits: int, left: Any, sums: Any, reciprocals: Any, at: Any
) -> Any:
    """One key of one column, whose class has its words ``at`` there.

    What is chosen between are integers: processors choose those without a branch, other than floats.

    Returns:
        the new previous key, the rank of its group's end, and true positives there.
    """
    change = key ^ previous
    remaining = left[at]
    end = rank if change >= VALUE else end
    hits = remaining if change != 0 else hits
    sums[at + uint64(1)] += hits * reciprocals[end]
    left[at] = remaining - 1
    return key, end, hits


@numba.njit(nogil=True)
def walk_roles(keys: Any, role_of: Any, reciprocals: Any, lists: Any) -> Any:
    """For any labels: one relation in one column, and in the same walk what other statistics need.

    Args:
        keys: [prompts], sorted. role_of: [classes], 1 positive, 0 negative, -1 left out.
        lists: int64 [2, prompts + 1], filled with the sorted values of negatives and of positives.

    Returns:
        average precision, and twice the pairs in which the positive is higher, ties counting one.
    """
    prompts = keys.size
    counted = positives = 0
    for i in range(prompts):
        role = role_of[uint64(keys[i] & CLASS)]
        counted += role >= 0
        positives += role > 0
    negatives = counted - positives
    n = p = end = hits = n_below = p_below = wins = 0  # n, p: negatives and positives passed
    total, previous = 0.0, ~keys[0]
    for i in range(prompts):
        role = role_of[uint64(keys[i] & CLASS)]
        is_on, is_off = int(role > 0), int(role == 0)
        fresh = keys[i] ^ previous >= VALUE
        previous = keys[i]
        end = counted - n - p if fresh else end
        hits = positives - p if fresh else hits
        n_below, p_below = (n if fresh else n_below), (p if fresh else p_below)
        total += is_on * hits * reciprocals[end]
        wins += is_on * n_below - is_off * p_below
        lists[0, n] = lists[1, p] = keys[i] >> CLASS_BITS
        n, p = n + is_off, p + is_on
    # negatives <= p are all but those with positives below
    return total / positives, wins + positives * negatives

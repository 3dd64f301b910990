"""Columns of activations -> sorted keys, by radix: each digit's values are counted, then every key is put in its place.

A key is (order-preserving bits << 16) | class of the prompt. The bits of a float, read as an unsigned integer, order
like the float once negative numbers are mirrored; both zeros get the same key. 16-bit floats give uint32 keys, sorted by two
digits of 8 bits, float32 gives uint64 by three of 11. Prompts go in ordered by class and equal keys keep their order, so
the class is never compared. On 2,000 prompts and more this takes two thirds of the time of ``numpy.sort`` without AVX-512.
Where a key goes depends on the key before it with the same digit; two short columns are sorted together, to wait less.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types, uint16, uint32, uint64

from relact.kernels.jit import kernel, reads

CLASS_BITS = 16
u2, u4, u8, i8 = types.uint16, types.uint32, types.uint64, types.int64


@numba.njit(nogil=True)
def _places(counts: Any) -> None:
    """How often each digit occurs -> where its first key goes."""
    total = uint32(0)
    for digit in range(counts.size):
        count = counts[digit]
        counts[digit] = total
        total += count


@numba.njit(nogil=True)
def _put(key: Any, digit: Any, places: Any, keys: Any) -> None:
    """The next key with this digit."""
    place = places[digit]
    keys[place] = key
    places[digit] = place + uint32(1)


@numba.njit(nogil=True)
def _begin_halves(bits: Any, ordered: Any, low: Any, high: Any) -> None:
    """Order-preserving bits of one column, and where each digit's keys begin."""
    for p in range(ordered.size):
        magnitude = bits[p] & uint16(0x7FFF)
        ordered[p] = uint16(0x8000) - magnitude if bits[p] >> uint16(15) else uint16(0x8000) + magnitude
    low[:], high[:] = uint32(0), uint32(0)
    for p in range(ordered.size):
        low[ordered[p] & uint16(255)] += uint32(1)
        high[ordered[p] >> uint16(8)] += uint32(1)
    _places(low)
    _places(high)


@numba.njit(nogil=True)
def _has_nan(keys: Any, zero: int, infinity: int) -> bool:
    """Whether sorted keys begin below or end above the infinities."""
    return keys[0] >> CLASS_BITS < zero - infinity or keys[keys.size - 1] >> CLASS_BITS > zero + infinity


@kernel(types.boolean(reads(u2, 2), i8, reads(u4, 1), reads(i8, 1), types.Array(u4, 2, "C")))
def sort_halves(bits: np.ndarray, infinity: int, by_class: np.ndarray, stops: np.ndarray, keys: np.ndarray) -> bool:
    """Fill sorted keys [columns, prompts] from the bits [columns, prompts or more] of 16-bit floats.

    Args:
        infinity: its bits; a magnitude above them is a NaN.
        by_class: [prompts] prompt numbers in order of class.
        stops: [classes + 1] where in it a class begins and the one before ends.

    Returns:
        whether there is a NaN.
    """
    (columns, prompts), found = keys.shape, False
    ordered, half_sorted = np.empty((2, prompts), np.uint16), np.empty((2, prompts), np.uint32)
    digits = np.empty((4, 256), np.uint32)
    ordered0, ordered1, half0, half1 = ordered[0], ordered[1], half_sorted[0], half_sorted[1]
    low0, low1, high0, high1 = digits[0], digits[1], digits[2], digits[3]
    for n in range(0, columns, 2):
        m = min(n + 1, columns - 1)  # the last of an odd number is sorted twice
        _begin_halves(bits[n], ordered0, low0, high0)
        _begin_halves(bits[m], ordered1, low1, high1)
        for c in range(stops.size - 1):
            for i in range(np.uint64(stops[c]), np.uint64(stops[c + 1])):
                value0, value1 = ordered0[by_class[i]], ordered1[by_class[i]]
                _put((uint32(value0) << uint32(CLASS_BITS)) | uint32(c), value0 & uint16(255), low0, half0)
                _put((uint32(value1) << uint32(CLASS_BITS)) | uint32(c), value1 & uint16(255), low1, half1)
        keys0, keys1 = keys[n], keys[m]
        for i in range(np.uint64(prompts)):
            _put(half0[i], half0[i] >> uint32(24), high0, keys0)
            _put(half1[i], half1[i] >> uint32(24), high1, keys1)
        found |= _has_nan(keys0, 0x8000, infinity) or _has_nan(keys1, 0x8000, infinity)
    return found


@kernel(types.boolean(reads(u4, 2), i8, reads(u4, 1), reads(i8, 1), types.Array(u8, 2, "C")))
def sort_singles(bits: np.ndarray, infinity: int, by_class: np.ndarray, stops: np.ndarray, keys: np.ndarray) -> bool:
    """The same for 32-bit floats, one column at a time."""
    (columns, prompts), digit, found = keys.shape, uint32(2047), False
    ordered, first, second = np.empty(prompts, np.uint32), np.empty(prompts, np.uint64), np.empty(prompts, np.uint64)
    low, middle, high = np.empty(2048, np.uint32), np.empty(2048, np.uint32), np.empty(1024, np.uint32)
    for n in range(columns):
        low[:], middle[:], high[:] = uint32(0), uint32(0), uint32(0)
        for p in range(prompts):
            magnitude = bits[n, p] & uint32(0x7FFFFFFF)
            ordered[p] = uint32(0x80000000) - magnitude if bits[n, p] >> uint32(31) else uint32(0x80000000) + magnitude
        for p in range(prompts):
            low[ordered[p] & digit] += uint32(1)
            middle[(ordered[p] >> uint32(11)) & digit] += uint32(1)
            high[ordered[p] >> uint32(22)] += uint32(1)
        _places(low)
        _places(middle)
        _places(high)
        for c in range(stops.size - 1):
            for i in range(np.uint64(stops[c]), np.uint64(stops[c + 1])):
                value = ordered[by_class[i]]
                _put((uint64(value) << uint64(CLASS_BITS)) | uint64(c), value & digit, low, first)
        for i in range(np.uint64(prompts)):
            _put(first[i], (first[i] >> uint64(CLASS_BITS + 11)) & uint64(digit), middle, second)
        row = keys[n]
        for i in range(np.uint64(prompts)):
            _put(second[i], second[i] >> uint64(CLASS_BITS + 22), high, row)
        found |= _has_nan(row, 0x80000000, infinity)
    return found


def sort(bits: np.ndarray, infinity: int, by_class: np.ndarray, stops: np.ndarray, keys: np.ndarray) -> bool:
    """Fill ``keys`` and return whether there is a NaN, for either width of float."""
    return (sort_halves if bits.dtype == np.uint16 else sort_singles)(bits, infinity, by_class, stops, keys)

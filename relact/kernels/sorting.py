"""Columns of activations -> sorted keys, by radix: each digit's values are counted, then every key is put in its place.

A key is (order-preserving bits << 16) | class of the prompt. The bits of a float, read as an unsigned integer, order
like the float once negative numbers are mirrored; both zeros get the same key. 16-bit floats give uint32 keys, sorted by two
digits of 8 bits, float32 gives uint64 by three of 11. Prompts go in ordered by class and equal keys keep their order, so
the class is never compared. On 2,000 prompts and more this takes two thirds of the time of ``numpy.sort`` without AVX-512.
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


@kernel(types.uint16(reads(u2, 2), reads(u4, 1), reads(i8, 1), types.Array(u4, 2, "C")))
def sort_halves(bits: np.ndarray, by_class: np.ndarray, stops: np.ndarray, keys: np.ndarray) -> Any:
    """Fill sorted keys [columns, prompts] from the bits [columns, prompts or more] of 16-bit floats.

    Args:
        by_class: [prompts] prompt numbers in order of class.
        stops: [classes + 1] where in it a class begins and the one before ends.

    Returns:
        the largest magnitude seen: above that of infinity if there is a NaN.
    """
    prompts, largest, one = keys.shape[1], uint16(0), uint32(1)
    ordered, half_sorted = np.empty(prompts, np.uint16), np.empty(prompts, np.uint32)
    low, high = np.empty(256, np.uint32), np.empty(256, np.uint32)
    for n in range(bits.shape[0]):
        low[:], high[:] = uint32(0), uint32(0)
        for p in range(prompts):
            magnitude = bits[n, p] & uint16(0x7FFF)
            largest = max(largest, magnitude)
            ordered[p] = uint16(0x8000) - magnitude if bits[n, p] >> uint16(15) else uint16(0x8000) + magnitude
        for p in range(prompts):
            low[ordered[p] & uint16(255)] += one
            high[ordered[p] >> uint16(8)] += one
        _places(low)
        _places(high)
        for c in range(stops.size - 1):
            for i in range(stops[c], stops[c + 1]):
                value = ordered[by_class[i]]
                place = low[value & uint16(255)]
                half_sorted[place] = (uint32(value) << uint32(CLASS_BITS)) | uint32(c)
                low[value & uint16(255)] = place + one
        for i in range(prompts):
            key = half_sorted[i]
            place = high[key >> uint32(24)]
            keys[n, place] = key
            high[key >> uint32(24)] = place + one
    return largest


@kernel(types.uint32(reads(u4, 2), reads(u4, 1), reads(i8, 1), types.Array(u8, 2, "C")))
def sort_singles(bits: np.ndarray, by_class: np.ndarray, stops: np.ndarray, keys: np.ndarray) -> Any:
    """The same for 32-bit floats."""
    prompts, largest, one, digit = keys.shape[1], uint32(0), uint32(1), uint32(2047)
    ordered, first, second = np.empty(prompts, np.uint32), np.empty(prompts, np.uint64), np.empty(prompts, np.uint64)
    low, middle, high = np.empty(2048, np.uint32), np.empty(2048, np.uint32), np.empty(1024, np.uint32)
    for n in range(bits.shape[0]):
        low[:], middle[:], high[:] = uint32(0), uint32(0), uint32(0)
        for p in range(prompts):
            magnitude = bits[n, p] & uint32(0x7FFFFFFF)
            largest = max(largest, magnitude)
            ordered[p] = uint32(0x80000000) - magnitude if bits[n, p] >> uint32(31) else uint32(0x80000000) + magnitude
        for p in range(prompts):
            low[ordered[p] & digit] += one
            middle[(ordered[p] >> uint32(11)) & digit] += one
            high[ordered[p] >> uint32(22)] += one
        _places(low)
        _places(middle)
        _places(high)
        for c in range(stops.size - 1):
            for i in range(stops[c], stops[c + 1]):
                value = ordered[by_class[i]]
                place = low[value & digit]
                first[place] = (uint64(value) << uint64(CLASS_BITS)) | uint64(c)
                low[value & digit] = place + one
        for i in range(prompts):
            key = first[i]
            place = middle[(key >> uint64(CLASS_BITS + 11)) & uint64(digit)]
            second[place] = key
            middle[(key >> uint64(CLASS_BITS + 11)) & uint64(digit)] = place + one
        for i in range(prompts):
            key = second[i]
            place = high[key >> uint64(CLASS_BITS + 22)]
            keys[n, place] = key
            high[key >> uint64(CLASS_BITS + 22)] = place + one
    return largest


def sort(bits: np.ndarray, by_class: np.ndarray, stops: np.ndarray, keys: np.ndarray) -> int:
    """Fill ``keys`` and return the largest magnitude, for either width of float."""
    return int((sort_halves if bits.dtype == np.uint16 else sort_singles)(bits, by_class, stops, keys))

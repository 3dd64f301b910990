"""Columns of activations -> sorted keys, by radix: count each digit's values, put every key in its place.

A key is (order-preserving bits << 16) | what stands for the prompt's class. The bits of a float, read as an
unsigned integer, order like the float once negative numbers are mirrored; both zeros get the same key. 16-bit
floats give uint32 keys, sorted by digits of 7 and 9 bits (the upper one is crowded: many values share few
exponents), float32 gives uint64 by three of 11. Prompts go in ordered by class and equal keys keep their
order, so the class is never compared. Where a key goes depends on the key before it with the same digit; two
columns are sorted together, to wait less. Without AVX-512 this takes half to two thirds of the time of
``numpy.sort``; with it, NumPy is faster on few prompts: `by_numpy`. The keys are the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import types, uint16, uint32, uint64
from numba.extending import overload

from relact.kernels.jit import kernel, reads

CLASS_BITS = 16
CLASS = (1 << CLASS_BITS) - 1  # the bits of what stands for the class
VALUE = 1 << CLASS_BITS  # the smallest difference between keys of different values
LOW_BITS, LOW = uint16(7), uint16(127)  # of 16-bit floats
HIGH = uint32(CLASS_BITS + 7)
FEW = 4096  # prompts, up to which NumPy sorts faster with AVX-512: so measured, for both widths of keys
WIDE = ("avx512f", "avx512dq", "avx512bw", "avx512vl")  # what NumPy's own sort asks for


def by_numpy(prompts: int) -> bool:
    """Whether `pack` and ``numpy.sort`` fill a column's sorted keys faster than `sort_two`."""
    return prompts <= FEW and _has_wide()


@cache
def _has_wide() -> bool:
    features = llvmlite.binding.get_host_cpu_features()
    return all(features.get(name, False) for name in WIDE)


def runs_of(classes: np.ndarray, step: int = 1) -> np.ndarray:
    """Where neighbours of one class lie among the classes [prompts] of a column's values.

    Returns:
        int64 [runs, 3], in order of class: ``step`` times the class, which stands for it in keys, the place
        of the first, the place after the last.
    """
    starts = np.flatnonzero(np.concatenate([[True], classes[1:] != classes[:-1]]))
    class_of_run = classes[starts].astype(np.int64)
    runs = np.stack([class_of_run * step, starts, np.append(starts[1:], classes.size)], axis=1)
    return runs[np.argsort(class_of_run, kind="stable")]


@kernel(
    types.void(reads(types.uint16, 2), reads(types.uint32, 1), types.Array(types.uint32, 2, "C")),
    types.void(reads(types.uint32, 2), reads(types.uint32, 1), types.Array(types.uint64, 2, "C")),
)
def pack(bits: np.ndarray, classes: np.ndarray, keys: np.ndarray) -> None:
    """Fill keys [columns, prompts], not yet sorted, from bits [columns, prompts or more] and what stands for
    each prompt's class.
    """
    for column in range(bits.shape[0]):
        from_, to = bits[column], keys[column]
        for p in range(to.size):
            to[p] = key_of(from_[p], classes[p])


def key_of(bits: int, class_bits: int) -> int:
    """In kernels: the key of a value's bits, for their width."""
    raise NotImplementedError


def has_nan(keys: np.ndarray, infinity: int) -> bool:
    """In kernels: whether sorted keys [2, prompts] hold a NaN; ``infinity`` as for `sort_two`."""
    raise NotImplementedError


def scratch(keys: np.ndarray) -> tuple[np.ndarray, ...]:
    """In kernels: memory to sort two columns in, for the width of their keys [2, prompts]."""
    raise NotImplementedError


def sort_two(
    bits0: np.ndarray,
    bits1: np.ndarray,
    infinity: int,
    runs: np.ndarray,
    scratch: tuple[np.ndarray, ...],
    keys: np.ndarray,
) -> bool:
    """In kernels: fill sorted keys [2, prompts] from the bits [prompts or more] of two columns.

    Args:
        infinity: its bits; a magnitude above them is a NaN.
        runs: as of `runs_of`.

    Returns:
        whether there is a NaN.
    """
    raise NotImplementedError


@overload(key_of)
def _key_of(bits: Any, class_bits: Any) -> Any:
    return _key_of_half if bits == types.uint16 else _key_of_single


@overload(has_nan)
def _nan_of(keys: Any, infinity: Any) -> Any:
    return _nan_of_halves if keys.dtype == types.uint32 else _nan_of_singles


@overload(scratch)
def _scratch_of(keys: Any) -> Any:
    return _scratch_of_halves if keys.dtype == types.uint32 else _scratch_of_singles


@overload(sort_two)
def _sort_of(bits0: Any, bits1: Any, infinity: Any, runs: Any, scratch: Any, keys: Any) -> Any:
    return _sort_halves if keys.dtype == types.uint32 else _sort_singles


def _key_of_half(bits: Any, class_bits: Any) -> Any:
    magnitude = bits & uint16(0x7FFF)
    ordered = uint16(0x8000) - magnitude if bits >> uint16(15) else uint16(0x8000) + magnitude
    return (uint32(uint16(ordered)) << uint32(CLASS_BITS)) | class_bits


def _key_of_single(bits: Any, class_bits: Any) -> Any:
    magnitude = bits & uint32(0x7FFFFFFF)
    ordered = uint32(0x80000000) - magnitude if bits >> uint32(31) else uint32(0x80000000) + magnitude
    return (uint64(uint32(ordered)) << uint64(CLASS_BITS)) | uint64(class_bits)


def _nan_of_halves(keys: Any, infinity: Any) -> Any:
    return _has_nan(keys[0], 0x8000, infinity) or _has_nan(keys[1], 0x8000, infinity)


def _nan_of_singles(keys: Any, infinity: Any) -> Any:
    return _has_nan(keys[0], 0x80000000, infinity) or _has_nan(keys[1], 0x80000000, infinity)


def _scratch_of_halves(keys: Any) -> Any:
    prompts = keys.shape[1]
    lows, highs = np.empty((2, LOW + 1), np.uint32), np.empty((2, 0x10000 >> LOW_BITS), np.uint32)
    return np.empty((2, prompts), np.uint16), np.empty((2, prompts), np.uint32), lows, highs


def _sort_halves(bits0: Any, bits1: Any, infinity: Any, runs: Any, scratch: Any, keys: Any) -> Any:
    ordered, half, lows, highs = scratch
    ordered0, ordered1, half0, half1 = ordered[0], ordered[1], half[0], half[1]
    keys0, keys1 = keys[0], keys[1]
    low0, low1, high0, high1 = lows[0], lows[1], highs[0], highs[1]
    _begin_halves(bits0, ordered0, low0)
    _begin_halves(bits1, ordered1, low1)
    highs[:] = uint32(0)
    for run in range(runs.shape[0]):
        class_bits = uint32(runs[run, 0])
        for i in range(uint64(runs[run, 1]), uint64(runs[run, 2])):
            value0, value1 = ordered0[i], ordered1[i]
            high0[value0 >> LOW_BITS] += uint32(1)
            high1[value1 >> LOW_BITS] += uint32(1)
            _put((uint32(value0) << uint32(CLASS_BITS)) | class_bits, value0 & LOW, low0, half0)
            _put((uint32(value1) << uint32(CLASS_BITS)) | class_bits, value1 & LOW, low1, half1)
    _places(high0)
    _places(high1)
    for i in range(uint64(half0.size)):
        _put(half0[i], half0[i] >> HIGH, high0, keys0)
        _put(half1[i], half1[i] >> HIGH, high1, keys1)
    return has_nan(keys, infinity)


@numba.njit(nogil=True)
def _begin_halves(bits: Any, ordered: Any, low: Any) -> None:
    """Order-preserving bits of one column, and where each lower digit's keys begin."""
    for p in range(ordered.size):
        magnitude = bits[p] & uint16(0x7FFF)
        ordered[p] = uint16(0x8000) - magnitude if bits[p] >> uint16(15) else uint16(0x8000) + magnitude
    low[:] = uint32(0)
    for p in range(ordered.size):
        low[ordered[p] & LOW] += uint32(1)
    _places(low)


def _scratch_of_singles(keys: Any) -> Any:
    prompts = keys.shape[1]
    digits = np.empty(2048, np.uint32), np.empty(2048, np.uint32), np.empty(1024, np.uint32)
    return np.empty(prompts, np.uint32), np.empty(prompts, np.uint64), np.empty(prompts, np.uint64), digits


def _sort_singles(bits0: Any, bits1: Any, infinity: Any, runs: Any, scratch: Any, keys: Any) -> Any:
    _sort_single(bits0, runs, scratch, keys[0])
    _sort_single(bits1, runs, scratch, keys[1])
    return has_nan(keys, infinity)


@numba.njit(nogil=True)
def _sort_single(bits: Any, runs: Any, scratch: Any, keys: Any) -> None:
    ordered, first, second, digits = scratch
    (low, middle, high), digit = digits, uint32(2047)
    low[:], middle[:], high[:] = uint32(0), uint32(0), uint32(0)
    for p in range(ordered.size):
        magnitude = bits[p] & uint32(0x7FFFFFFF)
        ordered[p] = (
            uint32(0x80000000) - magnitude if bits[p] >> uint32(31) else uint32(0x80000000) + magnitude
        )
    for p in range(ordered.size):
        low[ordered[p] & digit] += uint32(1)
        middle[(ordered[p] >> uint32(11)) & digit] += uint32(1)
        high[ordered[p] >> uint32(22)] += uint32(1)
    _places(low)
    _places(middle)
    _places(high)
    for run in range(runs.shape[0]):
        class_bits = uint64(runs[run, 0])
        for i in range(uint64(runs[run, 1]), uint64(runs[run, 2])):
            _put((uint64(ordered[i]) << uint64(CLASS_BITS)) | class_bits, ordered[i] & digit, low, first)
    for i in range(uint64(first.size)):
        _put(first[i], (first[i] >> uint64(CLASS_BITS + 11)) & uint64(digit), middle, second)
    for i in range(uint64(first.size)):
        _put(second[i], second[i] >> uint64(CLASS_BITS + 22), high, keys)


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
def _has_nan(keys: Any, zero: int, infinity: int) -> bool:
    """Whether sorted keys begin below or end above the infinities."""
    return keys[0] >> CLASS_BITS < zero - infinity or keys[keys.size - 1] >> CLASS_BITS > zero + infinity

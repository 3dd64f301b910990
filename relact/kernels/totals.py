"""Sums, means and squares of activations over the prompts of each class, row by row as they are stored."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types, uint64

from relact.kernels.jit import kernel, reads

f8, u2, u4 = types.float64, types.uint16, types.uint32
f8_2 = types.Array(f8, 2, "C")
OF_CLASSES = (types.Array(f8, 1, "C"), f8_2, f8_2)


@kernel(types.void(reads(types.float32, 2), reads(u2, 1), f8_2))
def add_singles(values: np.ndarray, classes: np.ndarray, sums: np.ndarray) -> None:
    """Add rows [rows, neurons] in their order to the sums [classes, neurons] of their classes."""
    for i in range(values.shape[0]):
        total = sums[uint64(classes[i])]
        for n in range(values.shape[1]):
            total[n] += values[i, n]


@kernel(types.void(reads(u2, 2), reads(u2, 1), u4, u4, f8, f8_2))
def add_halves(
    bits: np.ndarray, classes: np.ndarray, infinity: int, shift: int, scale: float, sums: np.ndarray
) -> None:
    """The same for bits of 16-bit floats, moved into the fields of a float32 and scaled to its exponents."""
    shifted = np.empty(bits.shape[1], np.uint32)
    values = shifted.view(np.float32)
    for i in range(bits.shape[0]):
        _shift(bits[i], infinity, shift, shifted)
        total = sums[uint64(classes[i])]
        for n in range(bits.shape[1]):
            total[n] += np.float64(values[n]) * scale


@numba.njit(nogil=True)
def _shift(bits: Any, infinity: Any, shift: Any, shifted: Any) -> None:
    """A row of 16-bit floats as the bits of float32, not scaled yet."""
    for n in range(bits.shape[0]):
        magnitude = np.uint32(bits[n]) & np.uint32(0x7FFF)
        finite = magnitude << shift
        special = np.uint32(0x7F800000) | (magnitude - infinity)  # infinity, or above it NaN
        shifted[n] = (special if magnitude >= infinity else finite) | (
            np.uint32(bits[n] >> 15) << np.uint32(31)
        )


@numba.njit(nogil=True)
def _follow(values: Any, scale: Any, count: Any, mean: Any, squares: Any) -> None:
    """Welford's step: a row more, the ``count``-th of its class."""
    share = 1.0 / count
    for n in range(values.shape[0]):
        value = np.float64(values[n]) * scale
        gap = value - mean[n]
        mean[n] += gap * share
        squares[n] += gap * (value - mean[n])


@kernel(types.void(reads(types.float32, 2), reads(u2, 1), *OF_CLASSES))
def follow_singles(
    values: np.ndarray, classes: np.ndarray, counts: np.ndarray, means: np.ndarray, squares: np.ndarray
) -> None:
    """Take rows [rows, neurons] in their order into what their classes are so far.

    Args:
        counts: [classes] rows. means, squares: [classes, neurons], of the values, and the sum of squared
            distances from the mean. Source: Welford 1962, Technometrics 4, 419.
    """
    for i in range(values.shape[0]):
        c = uint64(classes[i])
        counts[c] += 1.0
        _follow(values[i], 1.0, counts[c], means[c], squares[c])


@kernel(types.void(reads(u2, 2), reads(u2, 1), u4, u4, f8, *OF_CLASSES))
def follow_halves(
    bits: np.ndarray,
    classes: np.ndarray,
    infinity: int,
    shift: int,
    scale: float,
    counts: np.ndarray,
    means: np.ndarray,
    squares: np.ndarray,
) -> None:
    """The same for bits of 16-bit floats."""
    shifted = np.empty(bits.shape[1], np.uint32)
    values = shifted.view(np.float32)
    for i in range(bits.shape[0]):
        c = uint64(classes[i])
        counts[c] += 1.0
        _shift(bits[i], infinity, shift, shifted)
        _follow(values, scale, counts[c], means[c], squares[c])


@kernel(types.void(reads(f8, 1), reads(f8, 2), reads(f8, 2), reads(types.boolean, 2), *2 * (f8_2,)))
def join_classes(
    counts: np.ndarray,
    means: np.ndarray,
    squares: np.ndarray,
    chosen: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
) -> None:
    """Join the chosen [relations, classes] in order of class: ``mean``, ``square`` [relations, neurons].

    Source: Chan, Golub and LeVeque 1983, American Statistician 37, 242.
    """
    for r in range(chosen.shape[0]):
        mean[r], square[r], total = 0.0, 0.0, 0.0
        for c in range(chosen.shape[1]):
            if chosen[r, c] and counts[c] > 0:
                before, total = total, total + counts[c]
                share = counts[c] / total
                for n in range(means.shape[1]):
                    gap = means[c, n] - mean[r, n]
                    mean[r, n] += gap * share
                    square[r, n] += squares[c, n] + gap * gap * (before * share)


@kernel(types.void(reads(f8, 2), reads(types.boolean, 2), f8_2))
def add_classes(sums: np.ndarray, chosen: np.ndarray, out: np.ndarray) -> None:
    """Add the sums [classes, neurons] of the chosen [relations, classes] up in order of class."""
    for r in range(chosen.shape[0]):
        out[r] = 0.0
        for c in range(chosen.shape[1]):
            if chosen[r, c]:
                for n in range(sums.shape[1]):
                    out[r, n] += sums[c, n]

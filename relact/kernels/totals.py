"""Sums of activations over the prompts of each class, row by row as they are stored."""

from __future__ import annotations

import numpy as np
from numba import types, uint64

from relact.kernels.jit import kernel, reads

f8, u2, u4 = types.float64, types.uint16, types.uint32


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
            shifted[n] = (special if magnitude >= infinity else finite) | (
                np.uint32(bits[i, n] >> 15) << np.uint32(31)
            )
        total = sums[uint64(classes[i])]
        for n in range(bits.shape[1]):
            total[n] += np.float64(values[n]) * scale


@kernel(types.void(reads(f8, 2), reads(types.boolean, 2), types.Array(f8, 2, "C")))
def add_classes(sums: np.ndarray, chosen: np.ndarray, out: np.ndarray) -> None:
    """Add the sums [classes, neurons] of the chosen [relations, classes] up in order of class."""
    for r in range(chosen.shape[0]):
        out[r] = 0.0
        for c in range(chosen.shape[1]):
            if chosen[r, c]:
                for n in range(sums.shape[1]):
                    out[r, n] += sums[c, n]

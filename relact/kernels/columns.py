"""Rows of activations -> columns: a neuron's values side by side, as bits.

Stores keep prompts as rows, ranks are taken along columns; the transposition is most of what reading costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import types, uint64

from relact.errors import InputError
from relact.kernels.jit import kernel, reads

TILE = 64  # rows of a transposing tile, and columns of a narrow one
WIDE = 128  # columns of a tile of words: four rows are read in long runs, a tile of 16 KiB stays in the innermost cache
u2, u4, u8 = types.uint16, types.uint32, types.uint64


@dataclass(frozen=True)
class Format:
    """How a stored dtype becomes keys and numbers.

    Args:
        bits, key: dtypes of its bits and of its keys. infinity: the bits of infinity; above them is NaN.
        to_single, scale: shifted left by this and multiplied by that, the magnitude's bits are its float32.
    """

    bits: type[np.unsignedinteger]
    key: type[np.unsignedinteger]
    infinity: int
    to_single: int
    scale: float


FORMATS = {
    np.dtype(np.float16): Format(np.uint16, np.uint32, 0x7C00, 13, 2.0**112),
    np.dtype(np.uint16): Format(np.uint16, np.uint32, 0x7F80, 16, 1.0),  # bfloat16, which NumPy lacks, as its bits
    np.dtype(np.float32): Format(np.uint32, np.uint64, 0x7F800000, 0, 1.0),
}


def format_of(blocks: Sequence[np.ndarray], prompts: int) -> Format:
    """The common format of blocks that together hold ``prompts`` rows; anything else is refused with InputError."""
    if not blocks:
        raise InputError("no block of activations", where="activations", fix="give at least one")
    dtypes = {block.dtype for block in blocks}
    shapes = [block.shape for block in blocks]
    if len(dtypes) != 1 or not dtypes <= FORMATS.keys():
        what = f"blocks of dtype {sorted(map(str, dtypes))}"
        raise InputError(what, where="activations", fix="give float16, float32, or bfloat16 bits as uint16")
    if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise InputError(f"blocks of shapes {shapes}", where="activations", fix="give [rows, neurons] of one width")
    if sum(shape[0] for shape in shapes) != prompts:
        what = f"{sum(shape[0] for shape in shapes)} rows of activations for {prompts} labelled prompts"
        raise InputError(what, where="activations", fix="label exactly the prompts of these blocks")
    return FORMATS[dtypes.pop()]


def as_floats(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bits of a stored dtype as float32: exact for all three."""
    if dtype == np.uint16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(dtype).astype(np.float32, copy=False)


def keys_to_floats(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values that order-preserving keys (class bits shifted out) stand for, as float64; -0.0 comes back as 0.0."""
    half = 1 << (8 * dtype.itemsize - 1)
    signed = keys.astype(np.int64) - half
    bits = np.where(signed < 0, half - signed, signed).astype(FORMATS[dtype].bits)
    return as_floats(bits, dtype).astype(np.float64)


@dataclass(frozen=True)
class Rows:
    """A block of rows ready to be transposed: its bits, its first row's number, and four neurons to a word if they align."""

    bits: np.ndarray
    first: int
    words: np.ndarray | None

    @classmethod
    def of(cls, blocks: Sequence[np.ndarray], bits: type[np.unsignedinteger]) -> list[Rows]:
        """Blocks [rows, neurons] one after the other, viewed as bits; copied only where memory is not aligned to values."""
        rows, first = [], 0
        for block in blocks:
            if not len(block):
                continue
            seen = np.require(block, requirements="A").view(bits)
            whole = seen[: len(seen) // 4 * 4, : seen.shape[1] // 4 * 4]
            aligned = seen.strides[1] == 2 and seen.strides[0] % 8 == seen.ctypes.data % 8 == first % 4 == 0
            words = whole.view(np.uint64).reshape(len(whole) // 4, 4, -1) if aligned and whole.size else None
            rows.append(cls(seen, first, words))
            first += len(seen)
        return rows

    def transpose(self, start: int, stop: int, out: np.ndarray) -> None:
        """Copy neurons start to stop, start a multiple of four, to ``out`` [neurons, prompts], whose rows are whole words."""
        first, last = self.first, self.first + len(self.bits)
        if self.words is None:
            copy = transpose_halves if self.bits.dtype == np.uint16 else transpose_singles
            copy(self.bits[:, start:stop], out[: stop - start, first:last])
            return
        words = self.words[:, :, start // 4 : stop // 4]
        rows, columns = 4 * len(words), 4 * words.shape[2]
        target = out[:columns].view(np.uint64).reshape(columns // 4, 4, -1)
        transpose_words(words, target[:, :, first // 4 : (first + rows) // 4])
        if rows < len(self.bits):
            transpose_halves(self.bits[rows:, start:stop], out[: stop - start, first + rows : last])
        if start + columns < stop:
            transpose_halves(
                self.bits[:rows, start + columns : stop], out[columns : stop - start, first : first + rows]
            )


@kernel(types.void(reads(u8, 3, "A"), types.Array(u8, 3, "A")))
def transpose_words(source: np.ndarray, target: np.ndarray) -> None:
    """[rows/4, 4, neurons/4] words of four halves -> [neurons/4, 4, rows/4]: 4 x 4 halves at a time, by masks and shifts."""
    rows, words = np.uint64(source.shape[0]), np.uint64(source.shape[2])  # unsigned: no index counts from the end
    even, low = uint64(0x0000FFFF0000FFFF), uint64(0x00000000FFFFFFFF)
    half, word = uint64(16), uint64(32)
    for r0 in range(0, rows, TILE // 4):
        for w0 in range(0, words, WIDE // 4):
            for r in range(r0, min(r0 + np.uint64(TILE // 4), rows)):
                for w in range(w0, min(w0 + np.uint64(WIDE // 4), words)):
                    a, b, c, d = source[r, 0, w], source[r, 1, w], source[r, 2, w], source[r, 3, w]
                    ab0, ab1 = (a & even) | ((b & even) << half), ((a >> half) & even) | (b & ~even)
                    cd0, cd1 = (c & even) | ((d & even) << half), ((c >> half) & even) | (d & ~even)
                    target[w, 0, r] = (ab0 & low) | (cd0 << word)
                    target[w, 1, r] = (ab1 & low) | (cd1 << word)
                    target[w, 2, r] = (ab0 >> word) | (cd0 & ~low)
                    target[w, 3, r] = (ab1 >> word) | (cd1 & ~low)


def _transpose(source: np.ndarray, target: np.ndarray) -> None:
    rows, columns = source.shape
    for r0 in range(0, rows, TILE):
        for c0 in range(0, columns, TILE):
            for r in range(r0, min(r0 + TILE, rows)):
                for c in range(c0, min(c0 + TILE, columns)):
                    target[c, r] = source[r, c]


transpose_halves = kernel(types.void(reads(u2, 2, "A"), types.Array(u2, 2, "A")))(_transpose)
transpose_singles = kernel(types.void(reads(u4, 2, "A"), types.Array(u4, 2, "A")))(_transpose)

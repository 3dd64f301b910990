"""Rows of activations -> columns: a neuron's values side by side, as bits.

Stores keep prompts as rows, ranks are taken along columns; the transposition is most of what reading costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types, uint64
from numpy.lib.stride_tricks import as_strided

from relact.errors import InputError, NumericError
from relact.kernels.jit import kernel, prefetch, reads

COPIED_TOGETHER = 128  # columns that a kernel transposes at a time; a multiple of 4
TILE = 64  # rows and columns of a transposing tile of single values
WORDS = COPIED_TOGETHER // 4  # of a row that are transposed together, at most
LINE = 8  # words of a cache line
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
    # bfloat16, which NumPy lacks, as its bits
    np.dtype(np.uint16): Format(np.uint16, np.uint32, 0x7F80, 16, 1.0),
    np.dtype(np.float32): Format(np.uint32, np.uint64, 0x7F800000, 0, 1.0),
}


class NotANumber(NumericError):
    """A NaN among the activations: ``neuron`` and ``prompt`` number it within the arrays given."""

    def __init__(self, neuron: int, prompt: int, where: object = None) -> None:
        self.neuron, self.prompt = neuron, prompt
        problem = f"the activation of neuron {neuron} on prompt {prompt} is NaN"
        super().__init__(problem, where=where, fix="capture again; if it stays, the model itself produces it")


def format_of(blocks: Sequence[np.ndarray], prompts: int) -> Format:
    """The common format of blocks that together hold ``prompts`` rows; `InputError` for anything else."""
    if not blocks:
        raise InputError("no block of activations", where="activations", fix="give at least one")
    dtypes = {block.dtype for block in blocks}
    shapes = [block.shape for block in blocks]
    if len(dtypes) != 1 or not dtypes <= FORMATS.keys():
        raise InputError(
            f"blocks of dtype {sorted(map(str, dtypes))}",
            where="activations",
            fix="give float16, float32, or bfloat16 bits as uint16",
        )
    if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise InputError(
            f"blocks of shapes {shapes}", where="activations", fix="give [rows, neurons] of one width"
        )
    if (rows := sum(shape[0] for shape in shapes)) != prompts:
        raise InputError(
            f"{rows} rows of activations for {prompts} labelled prompts",
            where="activations",
            fix="label exactly the prompts of these blocks",
        )
    return FORMATS[dtypes.pop()]


def as_floats(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bits of a stored dtype as float32: exact for all three."""
    if dtype == np.uint16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(dtype).astype(np.float32, copy=False)


def keys_to_floats(keys: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values of order-preserving keys, class bits shifted out, as float64; -0.0 comes back as 0.0."""
    half = 1 << (8 * dtype.itemsize - 1)
    signed = keys.astype(np.int64) - half
    bits = np.where(signed < 0, half - signed, signed).astype(FORMATS[dtype].bits)
    return as_floats(bits, dtype).astype(np.float64)


@dataclass(frozen=True)
class Beside:
    """Arrays [rows, neurons] of as many rows that are taken as one, side by side."""

    pieces: Sequence[np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), sum(piece.shape[1] for piece in self.pieces)

    @property
    def dtype(self) -> np.dtype:
        return self.pieces[0].dtype

    def __len__(self) -> int:
        return len(self.pieces[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self.pieces, axis=1, dtype=dtype)

    def pieces_of(self, columns: slice) -> Iterator[tuple[slice, np.ndarray]]:
        """Parts of some columns: where each lies among them, and it."""
        first = 0
        for piece in self.pieces:
            start, stop = max(columns.start, first), min(columns.stop, first + piece.shape[1])
            if start < stop:
                yield (
                    slice(start - columns.start, stop - columns.start),
                    piece[:, start - first : stop - first],
                )
            first += piece.shape[1]


@dataclass(frozen=True)
class Rows:
    """A block of rows ready to be transposed.

    Args:
        bits: [rows, neurons]. first: number of its first row.
        words: the memory from its first to its last value, four neurons to a word, rows ``pitch`` words
            apart; None where memory is not aligned to words.
        order: uint32 [rows], in which columns hold them.
    """

    bits: np.ndarray
    first: int
    words: np.ndarray | None
    pitch: int
    order: np.ndarray

    @classmethod
    def of(
        cls, blocks: Sequence[np.ndarray], bits: type[np.unsignedinteger], orders: Sequence[np.ndarray]
    ) -> list[Rows]:
        """Blocks [rows, neurons] one after the other, copied only where memory is not aligned to values."""
        rows, first = [], 0
        for block, order in zip(blocks, orders, strict=True):
            values = (block if block.flags.aligned else block.copy()).view(bits)
            address, (row, value) = values.__array_interface__["data"][0], values.strides
            pitch, width, words = row // 8, values.shape[1] // 4, None
            if value == 2 and row % 8 == address % 8 == first % 4 == 0 and pitch > 0 < width:
                size = ((len(values) - 1) * pitch + width) * 4
                flat = values.reshape(-1) if values.flags.c_contiguous else as_strided(values, (size,), (2,))
                words = flat.view(np.uint64)
            rows.append(cls(values, first, words, pitch, order))
            first += len(values)
        return rows

    def transpose(self, start: int, stop: int, out: np.ndarray) -> None:
        """Copy neurons start to stop to ``out`` [neurons, prompts], whose rows are whole words.

        ``start`` is a multiple of four, and there are at most ``COPIED_TOGETHER`` neurons.
        """
        rows, words, first = len(self.bits), 0, self.first
        if self.words is not None:
            rows, words = rows // 4 * 4, stop // 4 - start // 4
            transpose_words(self.words, self.pitch, self.order, start // 4, stop // 4, out, first // 4)
        if start + 4 * words < stop:
            rest = out[4 * words : stop - start, first : first + rows]
            transpose_values(self.bits[:, start + 4 * words : stop], self.order, rest)
        if rows < len(self.bits):
            rest = out[: stop - start, first + rows : first + len(self.bits)]
            transpose_values(self.bits[:, start:stop], self.order[rows:], rest)


@kernel(types.void(reads(u8, 1), u8, reads(u4, 1), u8, u8, types.Array(u2, 2, "C"), u8))
def transpose_words(
    source: np.ndarray, pitch: int, order: np.ndarray, start: int, stop: int, out: np.ndarray, first: int
) -> None:
    """Words start to stop of whole groups of four rows, in ``order``, to words of columns from ``first`` on.

    Four rows of a word of halves are four columns of a word, by masks and shifts: of many words in one
    instruction, as they go to ``turned`` first. Processors do not foresee what is read of the next four rows,
    so it is asked for in advance.

    Args:
        source: words, rows ``pitch`` apart. out: [neurons, prompts] halves.
    """
    groups, words = uint64(order.size // 4), stop - start  # unsigned: no index counts from the end
    target, turned = out.view(np.uint64), np.empty(4 * WORDS, np.uint64)
    even, low = uint64(0x0000FFFF0000FFFF), uint64(0x00000000FFFFFFFF)
    half, word = uint64(16), uint64(32)
    data = uint64(source.ctypes.data)
    for group in range(groups):
        n, at = uint64(4) * group, first + group
        for following in range(n + uint64(4), min(n + uint64(8), uint64(4) * groups)):
            for w in range(start, stop, uint64(LINE)):
                prefetch(data + (uint64(order[following]) * pitch + w) * uint64(8))
        row0 = start + uint64(order[n]) * pitch
        row1 = start + uint64(order[n + uint64(1)]) * pitch
        row2 = start + uint64(order[n + uint64(2)]) * pitch
        row3 = start + uint64(order[n + uint64(3)]) * pitch
        for w in range(words):
            a, b, c, d = source[row0 + w], source[row1 + w], source[row2 + w], source[row3 + w]
            ab0, ab1 = (a & even) | ((b & even) << half), ((a >> half) & even) | (b & ~even)
            cd0, cd1 = (c & even) | ((d & even) << half), ((c >> half) & even) | (d & ~even)
            turned[w] = (ab0 & low) | (cd0 << word)
            turned[w + uint64(WORDS)] = (ab1 & low) | (cd1 << word)
            turned[w + uint64(2 * WORDS)] = (ab0 >> word) | (cd0 & ~low)
            turned[w + uint64(3 * WORDS)] = (ab1 >> word) | (cd1 & ~low)
        for w in range(words):
            column = uint64(4) * w
            target[column, at] = turned[w]
            target[column + uint64(1), at] = turned[w + uint64(WORDS)]
            target[column + uint64(2), at] = turned[w + uint64(2 * WORDS)]
            target[column + uint64(3), at] = turned[w + uint64(3 * WORDS)]


@kernel(
    types.void(reads(u2, 2, "A"), reads(u4, 1), types.Array(u2, 2, "A")),
    types.void(reads(u4, 2, "A"), reads(u4, 1), types.Array(u4, 2, "A")),
)
def transpose_values(source: np.ndarray, order: np.ndarray, target: np.ndarray) -> None:
    """The same for single values and any strides; ``target`` is [neurons, prompts in ``order``]."""
    columns, rows = target.shape
    for r0 in range(0, rows, TILE):
        for c0 in range(0, columns, TILE):
            for r in range(r0, min(r0 + TILE, rows)):
                row = source[order[r]]
                for c in range(c0, min(c0 + TILE, columns)):
                    target[c, r] = row[c]

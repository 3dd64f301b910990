"""Shards as bytes: encode one, find an inner chunk of one, map it without copying.

A shard is what zarr's ``sharding_indexed`` codec writes with the index at the end: the inner chunks one after the other,
then for each chunk its offset and length as little-endian uint64, then the CRC-32C of that index
(zarr v3 specification, sharding codec 1.0). For uncompressed chunks the bytes on disk are the array, so a memory map
of the file is the data.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from relact.errors import StoreError

INDEX_ENTRY = 16  # offset, length
CHECKSUM = 4


def encode_shard(data: np.ndarray, compressor: Any = None) -> list[bytes | memoryview]:
    """The pieces of one shard file, in order.

    Args:
        data: [chunk, row, neuron], contiguous, little-endian.
        compressor: a numcodecs codec for every inner chunk; None leaves the array's own bytes.
    """
    if compressor is None:
        lengths = [data[0].nbytes] * len(data)
        return [data.data.cast("B"), shard_index(lengths)]
    chunks = [bytes(compressor.encode(chunk)) for chunk in data]
    return [*chunks, shard_index([len(chunk) for chunk in chunks])]


def shard_index(lengths: Sequence[int]) -> bytes:
    """Index of a shard whose chunks lie in order without gaps, with its checksum."""
    sizes = np.array(lengths, "<u8")
    offsets = np.cumsum(sizes, dtype="<u8") - sizes
    entries = np.stack([offsets, sizes], axis=1).tobytes()
    return entries + google_crc32c.value(entries).to_bytes(CHECKSUM, "little")


def map_chunk(path: Path, number: int, n_chunks: int, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Read-only view [rows, neurons] of inner chunk ``number`` on the mapped shard file; it keeps the map open.

    Where no more files can be mapped (every map holds a file descriptor) the chunk is read instead.

    Args:
        path: the shard's file, uncompressed.
        n_chunks: inner chunks in the shard.
        shape: (rows, neurons) of one inner chunk.

    Raises:
        StoreError: the file is missing, shorter than its index says, or its index fails its checksum.
    """
    try:
        with path.open("rb") as file:
            try:
                whole: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                whole = file.read()
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise StoreError(f"cannot map this shard ({error})", where=path, fix="run `relact verify`") from error
    offset, length = _entry(whole, number, n_chunks, path)
    count = shape[0] * shape[1]
    if length != count * dtype.itemsize or offset + length > len(whole):
        raise StoreError(
            f"inner chunk at {offset} has {length} bytes, expected {count * dtype.itemsize}",
            where=path,
            fix="run `relact verify`",
        )
    return np.frombuffer(whole, dtype, count=count, offset=offset).reshape(shape)


def _entry(whole: Any, number: int, n_chunks: int, path: Path) -> tuple[int, int]:
    """Offset and length of one chunk, from the index at the end of the shard."""
    size = n_chunks * INDEX_ENTRY
    if len(whole) < size + CHECKSUM:
        raise StoreError(f"shard of {len(whole)} bytes is too short", where=path, fix="run `relact verify`")
    tail = whole[len(whole) - size - CHECKSUM :]
    found, expected = google_crc32c.value(tail[:size]), int.from_bytes(tail[size:], "little")
    if found != expected:
        raise StoreError(
            f"shard index checksum is {found:08x}, recorded {expected:08x}", where=path, fix="run `relact verify`"
        )
    offset, length = np.frombuffer(tail, "<u8", count=2, offset=number * INDEX_ENTRY)
    return int(offset), int(length)

"""Shards as bytes: encode one, find the inner chunks of one, map them without copying.

A shard is what zarr's ``sharding_indexed`` codec writes with the index at the end: the inner chunks one after the other,
then for each chunk its offset and length as little-endian uint64, then the CRC-32C of that index
(zarr v3 specification, sharding codec 1.0). For uncompressed chunks the bytes on disk are the array, so a memory map
of the file is the data.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import google_crc32c
import numpy as np

from relact.errors import StoreError

INDEX_ENTRY = 16  # offset, length
CHECKSUM = 4


def shard_index(n_chunks: int, chunk_bytes: int) -> bytes:
    """Index of an uncompressed shard whose chunks lie in order without gaps, with its checksum."""
    offsets = np.arange(n_chunks, dtype="<u8") * chunk_bytes
    entries = np.stack([offsets, np.full(n_chunks, chunk_bytes, "<u8")], axis=1).tobytes()
    return entries + google_crc32c.value(entries).to_bytes(CHECKSUM, "little")


def map_shard(path: Path, n_chunks: int, shape: tuple[int, int], dtype: np.dtype) -> list[np.ndarray]:
    """Read-only views, one per inner chunk, on the mapped shard file.

    Args:
        path: the shard's file, uncompressed.
        n_chunks: inner chunks in the shard.
        shape: (rows, neurons) of one inner chunk.

    Returns:
        ``n_chunks`` arrays [rows, neurons]; they keep the map open as long as one of them lives.

    Raises:
        StoreError: the file is missing, shorter than its index says, or its index fails its checksum.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise StoreError(f"cannot map this shard ({error})", where=path, fix="run `relact verify`") from error
    return [_view(mapped, offset, length, shape, dtype, path) for offset, length in _read_index(mapped, n_chunks, path)]


def _read_index(mapped: mmap.mmap, n_chunks: int, path: Path) -> list[tuple[int, int]]:
    size = n_chunks * INDEX_ENTRY
    if len(mapped) < size + CHECKSUM:
        raise StoreError(f"shard of {len(mapped)} bytes is too short", where=path, fix="run `relact verify`")
    tail = mapped[len(mapped) - size - CHECKSUM :]
    found, expected = google_crc32c.value(tail[:size]), int.from_bytes(tail[size:], "little")
    if found != expected:
        raise StoreError(
            f"shard index checksum is {found:08x}, recorded {expected:08x}", where=path, fix="run `relact verify`"
        )
    entries = np.frombuffer(tail, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    return [(int(offset), int(length)) for offset, length in entries]


def _view(
    mapped: mmap.mmap, offset: int, length: int, shape: tuple[int, int], dtype: np.dtype, path: Path
) -> np.ndarray:
    count = shape[0] * shape[1]
    if length != count * dtype.itemsize or offset + length > len(mapped):
        raise StoreError(
            f"inner chunk at {offset} has {length} bytes, expected {count * dtype.itemsize}",
            where=path,
            fix="run `relact verify`",
        )
    return np.frombuffer(mapped, dtype, count=count, offset=offset).reshape(shape)

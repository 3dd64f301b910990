"""Shards as bytes: encode one, find an inner chunk of one, map it or copy it.

A shard is what zarr's ``sharding_indexed`` codec writes with the index at the end: the inner chunks one after
the other, then for each chunk its offset and length as little-endian uint64, then the CRC-32C of that index
(zarr v3 specification, sharding codec 1.0). For uncompressed chunks the bytes on disk are the array, so a
memory map of the file is the data.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from relact.durable import open_plain
from relact.errors import StoreError
from relact.store.layout import CHECKSUM, INDEX_ENTRY

MAPPED_BYTES = 2**28  # of activations that stay mapped between two tasks
VERIFY = "run `relact verify`"


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


def read_index(tail: bytes, n_chunks: int) -> list[tuple[int, int]]:
    """(offset, length) of every chunk of a shard, from bytes that end with its index.

    Raises:
        ValueError: too few bytes, or not those that were written.
    """
    size = n_chunks * INDEX_ENTRY
    if len(tail) < size + CHECKSUM:
        raise ValueError(f"shard of {len(tail)} bytes is too short")
    index = tail[len(tail) - size - CHECKSUM :]
    checksum, recorded = google_crc32c.value(index[:size]), int.from_bytes(index[size:], "little")
    if checksum != recorded:
        raise ValueError(f"shard index checksum is {checksum:08x}, recorded {recorded:08x}")
    entries = np.frombuffer(index, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    return [(offset, length) for offset, length in entries.tolist()]


def read_chunk(path: str, number: int, n_chunks: int, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An inner chunk [rows, neurons] in memory of its own, read-only; arguments are those of `Maps.chunk`.

    Whoever touches a page of a map whose file was cut meanwhile, or whose disk fails, is ended by the system
    (SIGBUS). Here it is an error.

    Raises:
        StoreError: as `Maps.chunk`, and when the file ends before its chunk does.
    """
    values = np.empty(shape, dtype)
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            tail = min(size, n_chunks * INDEX_ENTRY + CHECKSUM)
            offset, length = read_index(os.pread(file.fileno(), tail, size - tail), n_chunks)[number]
            if length == values.nbytes:
                file.seek(offset)
                length = file.readinto(values.data.cast("B"))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read this shard ({error})", where=path, fix=VERIFY) from error
    if length != values.nbytes:
        problem = f"inner chunk at {offset} has {length} bytes, expected {values.nbytes}"
        raise StoreError(problem, where=path, fix=VERIFY)
    values.flags.writeable = False
    return values


class Maps:
    """Mapped shard files of one store; the last ones stay mapped: spans of a layer are read in turn.

    Args:
        size: bytes of shards that stay mapped at most.
        files: how many; every map holds a file descriptor.
    """

    def __init__(self, size: int = MAPPED_BYTES, files: int = 128) -> None:
        self._size, self._files = size, files
        self._kept: OrderedDict[str, _Shard] = OrderedDict()
        self._guard = threading.Lock()

    def chunk(
        self, path: str, number: int, n_chunks: int, shape: tuple[int, int], dtype: np.dtype
    ) -> np.ndarray:
        """Read-only view [rows, neurons] of an inner chunk on the mapped shard file, which it keeps open.

        Where no more files can be mapped the shard is read instead.

        Args:
            path: the shard's file, uncompressed.
            n_chunks: inner chunks in the shard.
            shape: (rows, neurons) of one inner chunk.

        Raises:
            StoreError: the file is missing, shorter than its index says, or its index fails its checksum.
        """
        shard = self._shard(path, n_chunks)
        offset, length = shard.places[number]
        count = shape[0] * shape[1]
        if length != count * dtype.itemsize or offset + length > len(shard.whole):
            problem = f"inner chunk at {offset} has {length} bytes, expected {count * dtype.itemsize}"
            raise StoreError(problem, where=path, fix=VERIFY)
        return np.frombuffer(shard.whole, dtype, count=count, offset=offset).reshape(shape)

    def _shard(self, path: str, n_chunks: int) -> _Shard:
        """The map of a file as it is now: one that was replaced since is mapped anew."""
        try:
            status = os.stat(path)  # noqa: PTH116  (called for every chunk)
            version = status.st_ino, status.st_mtime_ns, status.st_size
            with self._guard:
                shard = self._kept.get(path)
                if shard is not None and shard.version == version:
                    self._kept.move_to_end(path)
                    return shard
            whole = _map(path)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise StoreError(f"cannot map this shard ({error})", where=path, fix=VERIFY) from error
        try:
            shard = _Shard(version, whole, read_index(whole, n_chunks))
        except ValueError as error:
            raise StoreError(str(error), where=path, fix=VERIFY) from error
        with self._guard:
            self._kept[path] = shard
            held = sum(len(other.whole) for other in self._kept.values())
            while len(self._kept) > self._files or held > self._size:
                held -= len(self._kept.popitem(last=False)[1].whole)
        return shard


class _Shard(NamedTuple):
    """A shard's bytes, (offset, length) of its chunks, and whether the file is still this: its version."""

    version: tuple[int, int, int]
    whole: Any
    places: list[tuple[int, int]]


def _map(path: str) -> Any:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)

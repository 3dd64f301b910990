"""Chunks as bytes: they decode to exactly what their array promises.

Every declared size is checked before anything is decompressed.
"""

from __future__ import annotations

import math
from itertools import pairwise

import google_crc32c
from numcodecs import blosc, zstd

from relact import schema
from relact.errors import StoreError
from relact.packed.metadata import CHUNK_BYTES, ITEMS, ArrayFacts
from relact.packed.refusal import AGAIN, DISTRUST, require
from relact.store.layout import CHECKSUM, INDEX_ENTRY
from relact.store.shards import read_index

ABSENT = 2**64 - 1  # offset and length of a chunk that a shard does not hold
BLOSC_HEAD = 16
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def check_object(raw: bytes, facts: ArrayFacts, where: object) -> None:
    """The bytes of one stored object decode to exactly one chunk, or to the chunks of one shard."""
    if facts.shard is None:
        check_chunk(raw, facts, where)
        return
    for start, length in check_shard_index(raw, len(raw), facts.chunks_per_shard, where):
        check_chunk(raw[start : start + length], facts, where)


def check_shard_index(tail: bytes, size: int, n_chunks: int, where: object) -> list[tuple[int, int]]:
    """(offset, length) of the chunks that a shard holds, from bytes that end with its index.

    Args:
        size: of the whole shard.
    """
    try:
        entries = read_index(tail, n_chunks)
    except ValueError as error:
        raise StoreError(str(error), where=where, fix=AGAIN) from error
    places = [(start, length) for start, length in entries if (start, length) != (ABSENT, ABSENT)]
    ends = [(start, start + length) for start, length in sorted(places)]
    ends.append((size - n_chunks * INDEX_ENTRY - CHECKSUM, size))  # the index itself
    if any(stop > following for (_, stop), (following, _) in pairwise(ends)):
        raise StoreError("chunks of a shard overlap or lie outside it", where=where, fix=DISTRUST)
    return places


def check_chunk(raw: bytes, facts: ArrayFacts, where: object) -> None:
    """One encoded chunk: every declared size is right before anything is decompressed, the text is text."""
    count = math.prod(facts.chunk)
    expected = count * ITEMS[facts.dtype] if facts.dtype in ITEMS else None
    limit = CHUNK_BYTES if expected is None else expected
    data = raw
    for compressor in reversed(facts.compressors):
        data = _undo(compressor, data, limit, where)
    if expected is not None:
        require(len(data) == expected, f"a chunk of {len(data)} bytes, expected {expected}", where)
    else:
        _check_texts(data, count, facts.named, where)


def _undo(compressor: str, data: bytes, limit: int, where: object) -> bytes:
    """What was compressed, at most ``limit`` bytes."""
    if compressor == "crc32c":
        body, tail = data[:-CHECKSUM], data[-CHECKSUM:]
        sound = len(data) >= CHECKSUM and google_crc32c.value(body) == int.from_bytes(tail, "little")
        require(sound, "a chunk that does not match its checksum", where)
        return body
    declared = _blosc_size(data) if compressor == "blosc" else _zstd_size(data)
    if declared is None or declared > limit:
        problem = f"a chunk that declares {declared} bytes, at most {limit} fit"
        raise StoreError(problem, where=where, fix=DISTRUST)
    try:
        return bytes((blosc if compressor == "blosc" else zstd).decompress(data))
    except Exception as error:  # RuntimeError, ValueError: whatever the C library's wrapper raises
        raise StoreError(f"a chunk cannot be decompressed ({error})", where=where, fix=AGAIN) from error


def _blosc_size(data: bytes) -> int | None:
    """Bytes that a blosc frame declares; None when it is not one whole frame."""
    if len(data) < BLOSC_HEAD or int.from_bytes(data[12:16], "little") != len(data):
        return None
    return int.from_bytes(data[4:8], "little")


def _zstd_size(data: bytes) -> int | None:
    """Bytes that a zstd frame declares (RFC 8878, 3.1.1.1); None where it declares none."""
    if data[:4] != ZSTD_MAGIC or len(data) < 6:
        return None
    descriptor = data[4]
    single, code = descriptor >> 5 & 1, descriptor >> 6
    width = (1 if single else 0, 2, 4, 8)[code]
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if width == 0 or len(data) < at + width:
        return None
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


def _check_texts(data: bytes, count: int, named: bool, where: object) -> None:
    """zarr's variable-length UTF-8: a count, then every text's length and bytes."""
    right_count = len(data) >= 4 and int.from_bytes(data[:4], "little") == count
    require(right_count, "a chunk with another number of texts", where)
    at = 4
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little")
        encoded = data[at + 4 : at + 4 + size]
        require(len(data) >= at + 4 and len(encoded) == size, "a text that is cut off", where)
        at += 4 + size
        try:
            text = encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StoreError("a text that is not UTF-8", where=where, fix=DISTRUST) from error
        require(not named or schema.is_label(text), f"the name {text[:60]!r}", where)
    require(at == len(data), "bytes after the last text", where)

"""Captured values for transport, and back to the same bytes: compressed, each chunk with its checksum.

Uncompressed shards can be mapped, compressed ones travel. A chunk that is read by its range, without the rest
of its shard, needs a checksum of its own: zarr's ``crc32c`` codec. All are the same array to zarr: only its
metadata, the shards and the checksums in the commit records change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from relact import schema
from relact.packed.chunks import check_shard_index
from relact.packed.metadata import CRC32C, LITTLE
from relact.schema import DOCUMENT
from relact.store import blocks
from relact.store.layout import CHECKSUM, Layout
from relact.store.shards import encode_shard, shard_index


def compressed_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """The zarr.json of an uncompressed array of a stream, when its chunks are compressed."""
    codec = {
        "name": "blosc",
        "configuration": {
            "typesize": np.dtype(node["data_type"]).itemsize,
            "cname": "zstd",
            "clevel": blocks.COMPRESSION,
            "shuffle": "bitshuffle",
            "blocksize": 0,
        },
    }
    return _with_codecs(node, [LITTLE, codec])


def plain_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `compressed_node`."""
    return _with_codecs(node, [LITTLE])


def shielded_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """The zarr.json of a stream's array when each of its chunks has a checksum."""
    return _with_codecs(node, [*_inner(node), CRC32C])


def bare_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `shielded_node`."""
    return _with_codecs(node, _inner(node)[:-1])


def describes_stream(name: str) -> bool:
    """Whether a file of a store is the zarr.json of a stream's array."""
    quantity, *parts = name.split("/")
    return quantity in schema.ARRAYS and parts[1:] == [schema.ARRAYS[quantity], DOCUMENT]


def compress(raw: bytes, lay: Layout) -> bytes:
    """A compressed shard from an uncompressed one."""
    count = lay.n_spans * lay.rows * lay.span
    data = np.frombuffer(raw, lay.dtype, count=count).reshape(lay.n_spans, lay.rows, lay.span)
    return b"".join(encode_shard(data, blocks.compressor(lay.dtype)))


def expand(raw: bytes, lay: Layout, where: object) -> bytes:
    """The uncompressed shard from a compressed one whose chunks were checked (`chunks.check_object`)."""
    codec = blocks.compressor(lay.dtype)
    places = check_shard_index(raw, len(raw), lay.n_spans, where)
    chunks = [np.frombuffer(codec.decode(raw[start : start + size]), lay.dtype) for start, size in places]
    data = np.concatenate(chunks).reshape(lay.n_spans, lay.rows, lay.span)
    return b"".join(encode_shard(data))


def shield(raw: bytes, n_chunks: int, where: object) -> bytes:
    """A shard whose chunks each end with their CRC-32C."""
    places = check_shard_index(raw, len(raw), n_chunks, where)
    parts: list[bytes] = []
    for start, size in places:
        chunk = raw[start : start + size]
        parts += [chunk, google_crc32c.value(chunk).to_bytes(CHECKSUM, "little")]
    return b"".join([*parts, shard_index([size + CHECKSUM for _, size in places])])


def unshield(raw: bytes, n_chunks: int, where: object) -> bytes:
    """Undo `shield`, of a shard whose chunks were checked."""
    places = check_shard_index(raw, len(raw), n_chunks, where)
    chunks = [memoryview(raw)[start : start + size - CHECKSUM] for start, size in places]
    return b"".join([*chunks, shard_index([len(chunk) for chunk in chunks])])


def _inner(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    (sharding,) = node["codecs"]
    return list(sharding["configuration"]["codecs"])


def _with_codecs(node: Mapping[str, Any], inner: list[dict[str, Any]]) -> dict[str, Any]:
    (sharding,) = node["codecs"]
    configuration = {**sharding["configuration"], "codecs": inner}
    return {**node, "codecs": [{**sharding, "configuration": configuration}]}

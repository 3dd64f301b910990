"""The commit log: which blocks exist, and the checksum of each of their shards.

``commits/record`` is one array (block, field) of uint64 with one chunk, so one file, per block: start row,
stop row, then the CRC-32C of every shard (stream, layer). The chunk carries a checksum of its own. A block
without a chunk reads as zeros: not committed. A block whose record stops early is the last one of a store
that has grown since: its rows count, the rest is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from relact import durable, schema
from relact.errors import StoreError
from relact.store.layout import CHECKSUM

# all files of an array in one folder, so that one fsync makes its records, or a block's shards, durable
KEYS: Any = {"name": "default", "separator": "."}


def create(root: zarr.Group, fields: Sequence[str], n_blocks: int) -> None:
    """Add an empty log for ``n_blocks`` blocks to a store that is being built."""
    group = root.create_group(schema.COMMITS)
    group.create_array(
        schema.RECORD,
        shape=(n_blocks, len(fields)),
        chunks=(1, len(fields)),
        dtype="uint64",
        fill_value=0,
        serializer=BytesCodec(endian="little"),
        compressors=Crc32cCodec(),
        chunk_key_encoding=KEYS,
        dimension_names=("block", schema.FIELD),
    )
    labels = np.array(list(fields), dtype=np.dtypes.StringDType())
    group.create_array(schema.FIELD, data=labels, dimension_names=(schema.FIELD,))


class CommitLog:
    """The log of one store on a local disk.

    Args:
        root: the store's folder.
        fields: `schema.commit_fields` of the store.
        n_blocks: length of the block axis.
    """

    def __init__(self, root: Path, fields: Sequence[str], n_blocks: int) -> None:
        self._folder = root / schema.COMMITS / schema.RECORD
        self.fields = list(fields)
        self.n_blocks = n_blocks

    def present(self) -> list[int]:
        """Blocks that have a commit object, in order."""
        if not self._folder.is_dir():
            return []
        names = (re.fullmatch(r"c\.(\d+)\.0", name) for name in os.listdir(self._folder))
        blocks = (int(name[1]) for name in names if name)
        return sorted(block for block in blocks if block < self.n_blocks)

    def has(self, block: int) -> bool:
        """Whether ``block`` has a commit object."""
        return self.path(block).exists()

    def record(self, block: int) -> np.ndarray:
        """uint64 [field] of one committed block; `StoreError` when it is damaged."""
        try:
            return decode(durable.read(self.path(block), durable.DOCUMENT_BYTES), len(self.fields))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"this commit record is damaged ({error})",
                where=self.path(block),
                fix="run `relact verify`, then `relact capture --repair`",
            ) from error

    def put(self, block: int, raw: bytes) -> None:
        """Commit ``block`` with an encoded record: all that the block consists of is durable."""
        durable.replace(self.path(block), [raw])

    def remove(self, block: int) -> None:
        """Take a commit back, durably, before its shards are written anew."""
        self.path(block).unlink(missing_ok=True)
        durable.sync(self._folder)

    def path(self, block: int) -> Path:
        """File of one block's record."""
        return self._folder / f"c.{block}.0"


def encode(values: Sequence[int]) -> bytes:
    """A record's file: uint64 little-endian, then their CRC-32C (zarr's ``crc32c`` codec)."""
    raw = np.array(values, "<u8").tobytes()
    return raw + google_crc32c.value(raw).to_bytes(CHECKSUM, "little")


def decode(raw: bytes, n_fields: int) -> np.ndarray:
    """uint64 [field]; `ValueError` when the bytes are not a whole record."""
    values, tail = raw[:-CHECKSUM], raw[-CHECKSUM:]
    if len(values) != 8 * n_fields:
        raise ValueError(f"{len(raw)} bytes, expected {8 * n_fields + CHECKSUM}")
    if google_crc32c.value(values) != int.from_bytes(tail, "little"):
        raise ValueError("its checksum does not match")
    return np.frombuffer(values, "<u8")

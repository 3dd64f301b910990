"""The commit log: which blocks exist, and the checksum of each of their shards.

``commits/record`` is one array (block, field) of uint64 with one chunk, so one file, per block: start row, stop row,
then the CRC-32C of every shard (site, layer). The chunk carries a checksum of its own. A block without a chunk
reads as zeros: not committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from relact import durable, schema
from relact.errors import StoreError


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
        self._folder = root / schema.COMMITS / schema.RECORD / "c"
        self.fields = list(fields)
        self.n_blocks = n_blocks

    def read(self) -> np.ndarray:
        """uint64 [block, field]; rows of zeros are blocks not committed. `StoreError` names a damaged record."""
        records = np.zeros((self.n_blocks, len(self.fields)), "<u8")
        for block, path in self._present():
            records[block] = self._decode(path)
        return records

    def committed(self) -> np.ndarray:
        """bool [block]; existence of the commit object decides."""
        present = np.zeros(self.n_blocks, bool)
        for block, _ in self._present():
            present[block] = True
        return present

    def write(self, block: int, start: int, stop: int, checksums: Sequence[int]) -> None:
        """Commit ``block``: rows ``start`` to ``stop``, one checksum per (site, layer) in field order.

        Everything the block consists of must be durable before this is called.
        """
        values = np.array([start, stop, *checksums], "<u8").tobytes()
        path = self.path(block)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            durable.write_partial(path, [values, google_crc32c.value(values).to_bytes(4, "little")])
            durable.publish(path)
            for folder in (path.parent, path.parent.parent):
                durable.sync_directory(folder)
        except OSError as error:
            raise (error if isinstance(error, StoreError) else durable.explain(error, path)) from error

    def remove(self, block: int) -> None:
        """Take a commit back, durably, before its shards are written anew."""
        path = self.path(block)
        path.unlink(missing_ok=True)
        durable.sync_directory(path.parent)

    def path(self, block: int) -> Path:
        """File of one block's record (zarr's default chunk key)."""
        return self._folder / str(block) / "0"

    def _present(self) -> Iterator[tuple[int, Path]]:
        if not self._folder.is_dir():
            return
        for name in os.listdir(self._folder):
            path = self._folder / name / "0"
            if name.isdecimal() and int(name) < self.n_blocks and path.is_file():
                yield int(name), path

    def _decode(self, path: Path) -> np.ndarray:
        raw = path.read_bytes()
        values, tail = raw[:-4], raw[-4:]
        if len(values) != 8 * len(self.fields) or google_crc32c.value(values) != int.from_bytes(tail, "little"):
            raise StoreError(
                "this commit record is damaged", where=path, fix="run `relact verify`, then `relact capture --repair`"
            )
        return np.frombuffer(values, "<u8")

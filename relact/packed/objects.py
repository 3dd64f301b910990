"""A package as plain zarr and our commit log see it: a read-only zarr store, a log of its blocks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from relact.errors import StoreError
from relact.packed.package import Package
from relact.schema import DOCUMENT
from relact.store import commits
from relact.store.reading import READ_ONLY


class Objects(Store):
    """The objects of a package as a read-only zarr store; metadata costs no request."""

    def __init__(self, package: Package) -> None:
        super().__init__(read_only=True)
        self.package = package
        contents = package.contents
        root = {name: contents.document[name] for name in ("zarr_format", "node_type", "attributes")}
        nodes = {f"{path}/{DOCUMENT}": node for path, node in contents.nodes.items()}
        self._documents = {DOCUMENT: root, **nodes}
        self._children: dict[str, set[str]] = {}
        for key in self._documents:
            parts = key.split("/")
            for depth in range(len(parts)):
                self._children.setdefault("/".join(parts[:depth]), set()).add(parts[depth])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects) and other.package is self.package

    __hash__ = None  # type: ignore[assignment]

    supports_writes = supports_deletes = supports_partial_writes = False
    supports_listing = True

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in self._documents:  # sooner read than a thread is begun
            return prototype.buffer.from_bytes(json.dumps(self._documents[key]).encode())
        raw = await asyncio.to_thread(self._read, key, byte_range)
        return None if raw is None else prototype.buffer.from_bytes(raw)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        match byte_range:
            case None:
                return self.package.get(key)
            case RangeByteRequest(start, end):
                return self.package.part(key, start, end)
            case SuffixByteRequest(suffix):
                return self.package.tail(key, suffix)
            case OffsetByteRequest(offset):
                whole = self.package.get(key)
                return None if whole is None else whole[offset:]
        raise NotImplementedError(byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        return key in self._documents or self.package.has(key)

    async def list(self) -> AsyncIterator[str]:
        for key in {**self._documents, **self.package.contents.sums}:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in sorted(self._children.get(prefix.strip("/"), ())):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        raise StoreError("a packed store is read-only", where=self.package.shown, fix=READ_ONLY)

    async def delete(self, key: str) -> None:
        raise StoreError("a packed store is read-only", where=self.package.shown, fix=READ_ONLY)


class PackedLog(commits.CommitLog):
    """The commit log of a package."""

    def __init__(self, package: Package, fields: list[str], n_blocks: int) -> None:
        super().__init__(Path(), fields, n_blocks)
        self._package = package
        self._present: list[int] | None = None

    def present(self) -> list[int]:
        """Blocks that have a commit object, in order; where the package does not list them each is asked for,
        once.
        """
        if self._present is None:
            about = self._package.contents.about
            blocks = range(self.n_blocks) if about.activations else ()
            if about.committed is not None:
                self._present = [block for block in blocks if block in about.committed]
            else:
                self._present = [block for block in blocks if self._raw(block) is not None]
        return self._present

    def has(self, block: int) -> bool:
        """Whether ``block`` has a commit object."""
        return block in self.present()

    def record(self, block: int) -> np.ndarray:
        """uint64 [field] of one block."""
        raw = self._raw(block)
        if raw is None:
            raise StoreError(f"block {block} is not in this package", where=self._package.shown)
        return commits.decode(raw, len(self.fields))

    def _raw(self, block: int) -> bytes | None:
        return self._package.get(self.path(block).as_posix())

"""A packed store opened for reading, wherever it lies: the questions a `Store` answers, the same answers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from relact.store import commits
from relact import schema
from relact.store import local
from relact.errors import RelactError, StoreError
from relact.remote import places, trust
from relact.remote.package import ZIP, Package, open_package
from relact.store.seal import NAME

READ_ONLY = "unpack it first: `relact unpack STORE FOLDER`"


class Objects(Store):
    """The objects of a package as a read-only zarr store; metadata costs no request."""

    def __init__(self, package: Package) -> None:
        super().__init__(read_only=True)
        self.package = package
        root = {name: package.document[name] for name in ("zarr_format", "node_type", "attributes")}
        self._documents = {NAME: root, **{f"{path}/{NAME}": node for path, node in package.nodes.items()}}
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

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        raw = await asyncio.to_thread(self._read, key, byte_range)
        return None if raw is None else prototype.buffer.from_bytes(raw)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if key in self._documents:
            return json.dumps(self._documents[key]).encode()
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
        for key in {**self._documents, **self.package.sums}:
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


class Log(commits.CommitLog):
    """The commit log of a package."""

    def __init__(self, package: Package, fields: list[str], n_blocks: int) -> None:
        super().__init__(Path(), fields, n_blocks)
        self._package = package
        self._present: list[int] | None = None

    def present(self) -> list[int]:
        """Blocks that have a commit object, in order; in a folder each is asked for, once."""
        if self._present is None:
            blocks = range(self.n_blocks) if self._package.about["activations"] else ()
            self._present = [block for block in blocks if self._package.get(self._key(block)) is not None]
        return self._present

    def record(self, block: int) -> np.ndarray:
        """uint64 [field] of one block."""
        raw = self._package.get(self._key(block))
        if raw is None:
            raise StoreError(f"block {block} is not in this package", where=self._package.shown)
        return commits.decode(raw, len(self.fields))

    def _key(self, block: int) -> str:
        return f"{schema.COMMITS}/{schema.RECORD}/c.{block}.0"


class SharedStore(local.Store):
    """A packed store, read-only; use `open`.

    Attributes:
        package: its objects.
        card: what its maker says of it.
    """

    def __init__(self, package: Package) -> None:
        self.package, self.objects = package, Objects(package)
        root = zarr.open_group(self.objects, mode="r", use_consolidated=False)
        super().__init__(Path(), root, package.manifest)
        self.path = package.shown  # type: ignore[assignment]  # for messages only: it may be a URL
        self._plain = dict.fromkeys(self._plain, False)
        self.log = Log(package, self.log.fields, self.n_blocks)

    @property
    def card(self) -> dict[str, Any]:
        """What `relact pack` wrote about it."""
        return dict(self.package.about["card"])

    def committed_stop(self, block: int) -> int:
        """One past the last committed row of ``block``; its first row when nothing is."""
        return int(self.log.record(block)[1]) if block in self.log.present() else self.rows_of(block)[0]

    def missing_blocks(self) -> list[int]:
        """Blocks that are not in the package; all of them unless it was packed with activations."""
        return sorted(set(range(self.n_blocks)) - set(self.log.present()))

    def dataset(self, group: str) -> xr.Dataset:
        """One group as a lazy Dataset."""
        if not self.has(group):
            raise StoreError(f"no {group} in this package", where=self.path, fix="choose another store")
        with _told(self.path):
            return xr.open_zarr(self.objects, group=group, consolidated=False, chunks=None)

    def tree(self) -> xr.DataTree:
        """The whole hierarchy, lazily."""
        with _told(self.path):
            return xr.open_datatree(self.objects, engine="zarr", consolidated=False, chunks=None)  # type: ignore[arg-type]

    def has(self, group: str) -> bool:
        """Whether the group exists."""
        return group in self.package.nodes

    def children(self, group: str) -> list[str]:
        """Names below ``group``, sorted."""
        start = f"{group}/"
        return sorted(path[len(start) :] for path in self.package.nodes if path.startswith(start) and
                      "/" not in path[len(start) :])  # fmt: skip

    def attributes(self, group: str) -> dict[str, Any]:
        """What was recorded about a stage."""
        found = self.package.nodes[group].get("attributes", {}).get(schema.ATTRIBUTE, {})
        if not isinstance(found, dict):
            raise StoreError("attributes that are not an object", where=f"{self.path}: {group}", fix=trust.DISTRUST)
        return dict(found)

    def top(self, relation: str, n: int, sites: tuple[str, ...], statistic: str) -> pd.DataFrame | None:
        """The best neurons from the package's own short list; None when it cannot tell and the scores must be read."""
        with _told(self.path):
            return self._top(relation, n, sites, statistic)

    def _top(self, relation: str, n: int, sites: tuple[str, ...], statistic: str) -> pd.DataFrame | None:
        if not self.has(schema.TOP) or self.attributes(schema.TOP).get("statistic") != statistic:
            return None
        listed = self.dataset(schema.TOP)
        names = [str(name) for name in listed["relation"].values]
        if relation not in names:
            return None
        place = listed["place"][names.index(relation)].values  # [rank, (site, layer, neuron)]
        value = listed["value"][names.index(relation)].values  # [rank, statistic]
        known = self.attributes(schema.TOP)["sites"]
        frame = pd.DataFrame(
            {
                "site": [known[at] for at in place[:, 0]],
                "layer": place[:, 1].astype(int),
                "neuron": place[:, 2].astype(int),
            }
        )
        for at, name in enumerate(listed["statistic"].values):
            frame[str(name)] = value[:, at]
        chosen = frame[frame["site"].isin(sites)].reset_index(drop=True)
        return chosen.head(n) if len(chosen) >= n else None

    @contextmanager
    def stage(self, group: str, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
        """Refused: a packed store is read-only."""
        self.require_writable()
        yield self.root

    def require_writable(self) -> None:
        """Refuse every writer."""
        raise StoreError("a packed store is read-only", where=self.path, fix=READ_ONLY)


def open(location: str | os.PathLike[str] | local.Store, *, timeout: float = places.TIMEOUT) -> local.Store:
    """A store to read: a folder, a ``.zarr.zip``, or the URL of either.

    Args:
        location: a path, or http(s)://, s3://, hf://datasets/...; an opened store is handed back.
        timeout: seconds for one request.

    Raises:
        StoreError: missing, forbidden, cut off, too slow, damaged, or not a store.
    """
    if isinstance(location, local.Store):
        return location
    if not is_packed(location):
        return local.open(location)
    with _told(location):
        return SharedStore(open_package(places.place(location, timeout=timeout)))


def is_packed(location: str | os.PathLike[str]) -> bool:
    """Whether a location can only be a packed store: a URL, a zip archive, or a folder that was packed."""
    if places.is_url(location):
        return True
    path = Path(location)
    if path.suffix == ZIP:
        return path.is_file()
    try:
        raw = (path / NAME).read_bytes()
    except OSError:
        return False
    return f'"{schema.PACKAGE}"'.encode() in raw and schema.PACKAGE in trust.document(raw, path).get("attributes", {})


@contextmanager
def _told(where: object) -> Iterator[None]:
    """Whatever zarr and xarray raise on a package that passed all checks is still one line."""
    try:
        yield
    except RelactError:
        raise
    except Exception as error:
        raise StoreError(f"cannot be read ({type(error).__name__}: {error})", where=where, fix=trust.AGAIN) from error

"""A packed store opened for reading, wherever it lies: the questions a `Store` answers, the same answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from relact import durable, schema
from relact.errors import StoreError
from relact.packed import urls
from relact.packed.refusal import AGAIN, DISTRUST
from relact.schema import DOCUMENT
from relact.store import local
from relact.store.reading import Store, told

if TYPE_CHECKING:
    import xarray as xr

    from relact.packed.package import Package


class PackedStore(Store):
    """A packed store, read-only; use `open_store`.

    Attributes:
        package: its objects.
        card: what its maker says of it.
    """

    def __init__(self, package: Package) -> None:
        from relact.packed.objects import Objects, PackedLog  # what a folder is opened without

        self.package, self.objects = package, Objects(package)
        root = zarr.open_group(self.objects, mode="r", zarr_format=3, use_consolidated=False)
        super().__init__(package.shown, root, package.contents.manifest)
        fields = self.fields
        self.log = PackedLog(package, fields, self.n_blocks)

    @property
    def card(self) -> dict[str, Any]:
        """What `relact pack` wrote about it."""
        return dict(self.package.contents.about.card)

    def has(self, group: str) -> bool:
        """Whether the group exists."""
        return group in self.package.contents.nodes

    def children(self, group: str) -> list[str]:
        """Names below ``group``, sorted."""
        start = f"{group}/" if group else ""
        below = (path[len(start) :] for path in self.package.contents.nodes if path.startswith(start))
        return sorted(name for name in below if "/" not in name)

    def attributes(self, group: str) -> dict[str, Any]:
        """What was recorded about a stage."""
        attributes = self.package.contents.nodes[group].get("attributes", {}).get(schema.ATTRIBUTE, {})
        if not isinstance(attributes, dict):
            problem = "attributes that are not an object"
            raise StoreError(problem, where=f"{self.path}: {group}", fix=DISTRUST)
        return dict(attributes)

    def dataset(self, group: str) -> xr.Dataset:
        """One group as a lazy Dataset."""
        if not self.has(group):
            raise StoreError(f"no {group} in this package", where=self.path, fix="choose another store")
        import xarray as xr  # costs a fifth of a second that a query of scores does not need

        with told(self.path, AGAIN):
            return xr.open_zarr(self.objects, group=group, consolidated=False, chunks=None)

    def tree(self) -> xr.DataTree:
        """The whole hierarchy, lazily."""
        import xarray as xr

        source: Any = self.objects  # xarray's annotation knows paths only
        with told(self.path, AGAIN):
            return xr.open_datatree(source, engine="zarr", consolidated=False, chunks=None)

    def short_list(
        self, relation: str, n: int, sites: tuple[str, ...], statistic: str
    ) -> dict[str, np.ndarray] | None:
        """Columns of the best neurons from the package's own short list; None where it cannot tell."""
        from relact.packed import shortlist

        with told(self.path, AGAIN):
            return shortlist.read(self, relation, n, sites, statistic)


def open_store(location: str | os.PathLike[str] | Store, *, timeout: float = urls.TIMEOUT) -> Store:
    """A store to read: a folder, a ``.zarr.zip``, or the URL of either.

    Args:
        location: a path, or http(s)://, s3://, hf://datasets/...; an opened store is handed back.
        timeout: seconds for one request.

    Raises:
        StoreError: missing, forbidden, cut off, too slow, damaged, or not a store.
    """
    if isinstance(location, Store):
        return location
    if not is_packed(location):
        return local.open(location)
    from relact.packed.package import open_package

    with told(location, AGAIN):
        return PackedStore(open_package(urls.place(location, timeout=timeout)))


def is_packed(location: str | os.PathLike[str]) -> bool:
    """Whether a location can only be a packed store: a URL, a zip archive, or a folder that was packed."""
    if urls.is_url(location):
        return True
    path = Path(location)
    if urls.is_archive(path):
        return path.is_file()
    try:
        raw = durable.read(path / DOCUMENT, durable.DOCUMENT_BYTES)
    except OSError:
        return False
    if f'"{schema.PACKAGE}"'.encode() not in raw:
        return False
    from relact.packed.metadata import parse_document

    return schema.PACKAGE in parse_document(raw, path).get("attributes", {})

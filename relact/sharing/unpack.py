"""Unpack: a packed store, from wherever it lies, becomes a store that can be worked on.
Nothing is trusted before it is checked.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from relact import durable, schema
from relact.analysis import query
from relact.errors import StoreError
from relact.packed import trust
from relact.packed.package import CONSOLIDATED
from relact.packed.store import PackedStore, open_store
from relact.progress import Progress, silent
from relact.schema import DOCUMENT
from relact.sharing import recode
from relact.sharing.pack import put_file, sha256_of
from relact.store import blocks, commits, local, locks
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import FILES, hexadecimal, render

MEGABYTE = 10**6


def unpack(
    source: str | Path | Store, out: str | Path, *, sha256: str | None = None, progress: Progress = silent
) -> LocalStore:
    """Write the store that was packed to the folder ``out``; whole or not at all.

    Every file is checked against its checksum, decoded, and compared with what its metadata promises.

    Args:
        source: a packed store: path or URL.
        sha256: of an archive on this machine, as its author published it.

    Raises:
        StoreError: not a packed store, something in it is not as relact writes it, or ``out`` exists.
    """
    if sha256 is not None:
        _require_sha256(source, sha256)
    shared = open_store(source)
    if not isinstance(shared, PackedStore):
        raise StoreError("is not packed", where=source, fix="use it as it is, or copy the folder")
    target = Path(out)
    building = durable.aside_of(target) / "new~unpacked"
    with locks.writing(target):
        if target.exists():
            raise StoreError("exists already", where=target, fix="choose another path or remove it")
        try:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            _require_room(shared, building)
            _fill(building, shared, progress)
            _check_top(shared, building)
            durable.swap_in(building, target, building.with_name("old~unpacked"))
        except OSError as error:
            raise (error if isinstance(error, StoreError) else durable.explain(error, target)) from error
        finally:
            shutil.rmtree(building.parent, ignore_errors=True)
    return local.open(target)


def _fill(folder: Path, shared: PackedStore, progress: Progress) -> None:
    package = shared.package
    root = _root(package.document)
    _check_files(shared)
    names = _results(shared)
    for number, name in enumerate(names, 1):
        raw = _checked(shared, name)
        if package.about["recoded"] and recode.describes_activations(name):
            raw = json.dumps(recode.plain_node(json.loads(raw)), indent=2).encode()
            root["attributes"][SEAL][FILES][name] = hexadecimal(google_crc32c.value(raw))
        put_file(folder, name, raw)
        progress("unpack", number, len(names), "files")
    present = shared.log.present()
    for number, block in enumerate(present, 1):
        _write_block(folder, shared, block)
        progress("blocks", number, len(present), "blocks")
    put_file(folder, DOCUMENT, render(root))


def _results(shared: PackedStore) -> list[str]:
    """Files of the unpacked store, but for its blocks and its root: all that are sealed,
    and the groups between.
    """
    package = shared.package
    own = [name for name in package.sums if name.split("/")[0] != schema.TOP]
    between = [
        f"{path}/{DOCUMENT}"
        for path, node in package.nodes.items()
        if node["node_type"] == "group" and f"{path}/{DOCUMENT}" not in package.sums and path != schema.TOP
    ]
    return sorted([*own, *between])


def _checked(shared: PackedStore, name: str) -> bytes:
    """A file's bytes: sealed, decodable, and its metadata the same as the root's copy."""
    package = shared.package
    raw = package.get(name) if name in package.sums else package.unsealed(name)
    where = f"{package.shown}: {name}"
    if raw is None:
        raise StoreError("missing", where=where, fix=trust.AGAIN)
    if (
        name.endswith(f"/{DOCUMENT}")
        and trust.document(raw, where) != package.nodes[name.removesuffix(f"/{DOCUMENT}")]
    ):
        raise StoreError("differs from the copy in the root's zarr.json", where=where, fix=trust.DISTRUST)
    return raw


def _check_files(shared: PackedStore) -> None:
    """Every node's metadata is a file of the package, so that the unpacked store has all of it."""
    package = shared.package
    sealed = {name.removesuffix(f"/{DOCUMENT}") for name in package.sums if name.endswith(f"/{DOCUMENT}")}
    for path, node in package.nodes.items():
        inside = path.rpartition("/")[0] in sealed or path.count("/") == 0 or node["node_type"] == "group"
        if path not in sealed and (node["node_type"] == "array" or not inside):
            raise StoreError("is not sealed", where=f"{package.shown}: {path}", fix=trust.DISTRUST)


def _write_block(folder: Path, shared: PackedStore, block: int) -> None:
    """The shards of one block and, after them, its record; checked against each other."""
    package = shared.package
    first, last = shared.rows_of(block)
    start, stop, *sums = (int(value) for value in shared.log.record(block))
    where = f"{package.shown}: block {block}"
    if start != first or not first < stop <= last:
        raise StoreError(
            f"records rows {start} to {stop}, the block has {first} to {last}",
            where=where,
            fix=trust.DISTRUST,
        )
    fresh = []
    for (site, layer), sum_ in zip(blocks.places_of(shared.layouts), sums, strict=True):
        lay = shared.layouts[site]
        name = blocks.shard_path(Path(), site, block, layer).as_posix()
        raw = package.get(name)
        if raw is None or google_crc32c.value(raw) != sum_:
            what = "missing" if raw is None else "damaged: its checksum is not the one its block records"
            raise StoreError(what, where=f"{package.shown}: {name}", fix=trust.AGAIN)
        if package.about["recoded"]:
            raw = recode.expand(raw, lay, shared.dtype.name, f"{package.shown}: {name}")
        fresh.append(google_crc32c.value(raw))
        put_file(folder, name, raw)
    record = f"{schema.COMMITS}/{schema.RECORD}/c.{block}.0"
    put_file(folder, record, commits.encode([start, stop, *fresh]))


def _root(document: dict[str, Any]) -> dict[str, Any]:
    """The root's zarr.json as it was before packing."""
    plain = {name: value for name, value in document.items() if name != CONSOLIDATED}
    attributes = {name: value for name, value in document["attributes"].items() if name != schema.PACKAGE}
    seal = {**attributes[SEAL], FILES: dict(attributes[SEAL][FILES])}
    return {**plain, "attributes": {**attributes, SEAL: seal}}


def _check_top(shared: PackedStore, folder: Path) -> None:
    """The short list says what the scores say, where they were packed."""
    if not shared.has(schema.TOP) or not shared.has(schema.SCORES):
        return
    unpacked, statistic = local.open(folder), shared.attributes(schema.TOP)["statistic"]
    ranks = shared.dataset(schema.TOP).sizes["rank"]
    for relation in unpacked.scores_record().relations:
        listed = shared.short_list(relation, ranks, shared.manifest.capture.sites, statistic)
        real = query.top(unpacked, relation=relation, n=ranks, statistic=statistic)
        if listed is None or not _same(listed, real):
            raise StoreError(
                f"its list of the best neurons of {relation!r} is not what its scores say",
                where=shared.path,
                fix=trust.DISTRUST,
            )


def _same(one: Any, other: Any) -> bool:
    return list(one.columns) == list(other.columns) and all(
        np.array_equal(one[name].to_numpy(), other[name].to_numpy(), equal_nan=one[name].dtype.kind == "f")
        for name in one.columns
    )


def _require_room(shared: PackedStore, folder: Path) -> None:
    """Before anything is written: what the metadata promises fits on the disk."""
    need = shared.n_blocks * sum(lay.n_layers * lay.shard_bytes for lay in shared.layouts.values())
    free = shutil.disk_usage(folder).free
    if shared.package.about["activations"] and need > free:
        raise StoreError(f"needs {need} bytes, the disk has {free}", where=shared.path, fix="make room")


def _require_sha256(source: Any, expected: str) -> None:
    path = Path(os.fspath(source))
    if not path.is_file():
        raise StoreError(
            "only an archive on this machine has a SHA-256", where=source, fix="fetch it with `relact pull`"
        )
    if (found := sha256_of(path)) != expected.lower():
        raise StoreError(f"SHA-256 is {found}, expected {expected}", where=source, fix=trust.AGAIN)

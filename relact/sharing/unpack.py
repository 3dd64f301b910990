"""Unpack: a packed store, from wherever it lies, becomes a store that can be worked on.

Nothing is trusted before it is checked.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from relact import durable, schema
from relact.analysis import query
from relact.errors import StoreError
from relact.packed import shortlist
from relact.packed.metadata import parse_document
from relact.packed.refusal import AGAIN, DISTRUST
from relact.packed.store import PackedStore, open_store
from relact.progress import Progress, in_notebooks
from relact.schema import DOCUMENT
from relact.sharing import recode
from relact.sharing.pack import put_file, sha256_of
from relact.store import aside, blocks, commits, listing, local, locks
from relact.store.layout import array_of
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import CONSOLIDATED, FILES, hexadecimal, render
from relact.store.verify import Problem, Verdict

UNPACKED = "fetch the package again, or pack it again from its store"


def unpack(
    source: str | Path | Store,
    out: str | Path,
    *,
    sha256: str | None = None,
    progress: Progress = in_notebooks,
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
    with locks.writing(target):
        local.require_absent(target)
        aside.clear(target)  # of a store that was here before
        aside.prepare(target)
        new, parked = (aside.place(target, kind, "unpacked") for kind in ("new", "old"))
        put = partial(durable.swap_in, target=target, parked=parked)
        try:
            with durable.building(target, new, put):
                new.mkdir()
                _require_room(shared, new)
                _fill(new, shared, progress)
                _check_top(shared, new)
        finally:
            aside.clear(target)  # nothing else is built beside a store that is not there yet
    return local.open(target)


def check(source: str | Path | Store, *, progress: Progress = in_notebooks) -> Verdict:
    """Check a packed store where it lies, as `unpack` does; damage is reported, not raised.

    Raises:
        StoreError: not a packed store, or its root cannot be trusted: nothing else can be judged then.
    """
    shared = open_store(source)
    if not isinstance(shared, PackedStore):
        raise StoreError("is not packed", where=source, fix="check it with `relact.verify`")
    verdict = Verdict(files=1, blocks=shared.n_blocks)
    contents = shared.package.contents
    shared.package.forget()

    def judged(name: str, group: str, read: Callable[[], int], block: int | None = None) -> None:
        verdict.files += 1
        try:
            verdict.bytes += read()
        except StoreError as error:
            file = name if block is None else str(error.where).rpartition(": ")[2]
            verdict.problems.append(Problem(error.what, file, group, UNPACKED, block=block))

    _check_sealed(shared)
    groups = (path for path, node in contents.nodes.items() if node["node_type"] == "group")
    names = sorted({*contents.sums, *(f"{path}/{DOCUMENT}" for path in groups)})
    for number, name in enumerate(names, 1):
        judged(name, "/".join(name.split("/")[:2]), partial(_file_bytes, shared, name))
        progress("verify", number, len(names), "files")
    present = shared.log.present()
    verdict.missing = sorted(set(range(shared.n_blocks)) - set(present))
    for number, block in enumerate(present, 1):
        judged(f"block {block}", schema.COMMITS, partial(_block_bytes, shared, block), block)
        progress("blocks", number, len(present), "blocks")
    return verdict


def _file_bytes(shared: PackedStore, name: str) -> int:
    """Bytes of one file, checked."""
    return len(_checked(shared, name))


def _block_bytes(shared: PackedStore, block: int) -> int:
    """Bytes of the shards of one block, all checked."""
    return sum(len(raw) for _, raw in _shards(shared, block))


def _fill(folder: Path, shared: PackedStore, progress: Progress) -> None:
    """All files of the store, the root last."""
    contents = shared.package.contents
    root = _root(contents.document)
    _check_sealed(shared)
    names = _results(shared)
    for number, name in enumerate(names, 1):
        raw = _checked(shared, name)
        if (contents.about.recoded or contents.about.shielded) and recode.describes_stream(name):
            node = json.loads(raw)
            node = recode.bare_node(node) if contents.about.shielded else node
            node = recode.plain_node(node) if contents.about.recoded else node
            raw = json.dumps(node, indent=2).encode()
            root["attributes"][SEAL][FILES][name] = hexadecimal(google_crc32c.value(raw))
        put_file(folder, name, raw)
        progress("unpack", number, len(names), "files")
    present = shared.log.present()
    for number, block in enumerate(present, 1):
        _write_block(folder, shared, block)
        progress("blocks", number, len(present), "blocks")
    put_file(folder, DOCUMENT, render(root))
    listing.write(folder)


def _results(shared: PackedStore) -> list[str]:
    """Files of the store but for its blocks and its root: all that are sealed, and the groups between."""
    contents = shared.package.contents
    sealed = [name for name in contents.sums if not shortlist.is_listed(name)]
    between = [
        f"{path}/{DOCUMENT}"
        for path, node in contents.nodes.items()
        if node["node_type"] == "group"
        and f"{path}/{DOCUMENT}" not in contents.sums
        and not shortlist.is_listed(path)
    ]
    return sorted([*sealed, *between])


def _checked(shared: PackedStore, name: str) -> bytes:
    """A file's bytes: sealed, decodable, and its metadata the same as the root's copy."""
    package, contents = shared.package, shared.package.contents
    raw = package.get(name) if name in contents.sums else package.unsealed(name)
    where = f"{package.shown}: {name}"
    if raw is None:
        raise StoreError("missing", where=where, fix=AGAIN)
    path, _, file = name.rpartition("/")
    if path and file == DOCUMENT and parse_document(raw, where) != contents.nodes.get(path):
        raise StoreError("differs from the copy in the root's zarr.json", where=where, fix=DISTRUST)
    return raw


def _check_sealed(shared: PackedStore) -> None:
    """Every array's metadata is a file of the package, so that the unpacked store has all of it."""
    package, contents = shared.package, shared.package.contents
    sealed = {name.removesuffix(f"/{DOCUMENT}") for name in contents.sums if name.endswith(f"/{DOCUMENT}")}
    for path, node in contents.nodes.items():
        if node["node_type"] == "array" and path not in sealed:
            raise StoreError("is not sealed", where=f"{package.shown}: {path}", fix=DISTRUST)


def _write_block(folder: Path, shared: PackedStore, block: int) -> None:
    """The shards of one block and, after them, its record; checked against each other."""
    start, stop = (int(value) for value in shared.log.record(block)[:2])
    unpacked_sums = []
    for name, raw in _shards(shared, block):
        unpacked_sums.append(google_crc32c.value(raw))
        put_file(folder, name, raw)
    put_file(folder, shared.log.path(block).as_posix(), commits.encode([start, stop, *unpacked_sums]))


def _shards(shared: PackedStore, block: int) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the shards of one block, as they are unpacked, each checked against its record."""
    package = shared.package
    first, last = shared.rows_of(block)
    start, stop, *sums = (int(value) for value in shared.log.record(block))
    if start != first or not first < stop <= last:
        problem = f"records rows {start} to {stop}, the block has {first} to {last}"
        raise StoreError(problem, where=f"{package.shown}: block {block}", fix=DISTRUST)
    for (stream, layer), checksum in zip(blocks.places_of(shared.streams), sums, strict=True):
        name = blocks.shard_path(Path(), stream, block, layer).as_posix()
        where = f"{package.shown}: {name}"
        raw = package.get(name)
        if raw is None or google_crc32c.value(raw) != checksum:
            problem = "missing" if raw is None else "damaged: its checksum is not the one its block records"
            raise StoreError(problem, where=where, fix=AGAIN)
        if package.contents.about.shielded:
            facts = package.contents.arrays[array_of(stream)]
            raw = recode.unshield(raw, facts.chunks_per_shard, where)
        if package.contents.about.recoded:
            raw = recode.expand(raw, shared.streams[stream], where)
        yield name, raw


def _root(document: dict[str, Any]) -> dict[str, Any]:
    """The root's zarr.json as it was before packing."""
    plain = {name: value for name, value in document.items() if name != CONSOLIDATED}
    attributes = {name: value for name, value in document["attributes"].items() if name != schema.PACKAGE}
    seal = {**attributes[SEAL], FILES: dict(attributes[SEAL][FILES])}
    identity = {**attributes[schema.ATTRIBUTE], "id": secrets.token_hex(16)}
    return {**plain, "attributes": {**attributes, schema.ATTRIBUTE: identity, SEAL: seal}}


def _check_top(shared: PackedStore, folder: Path) -> None:
    """The short list says what the scores say, where they were packed."""
    if not shared.has(schema.TOP) or not shared.has(schema.SCORES):
        return
    unpacked = local.open(folder)
    lists, relations = shortlist.lengths(shared), unpacked.scores_record().relations
    for (statistic, n_ranks), relation in product(lists.items(), relations):
        listed = shared.short_list(relation, n_ranks, shared.sites, statistic)
        scored = query.top_columns(unpacked, relation=relation, n=n_ranks, statistic=statistic)
        if listed is None or not _same(listed, scored):
            problem = f"its list of the best neurons of {relation!r} is not what its scores say"
            raise StoreError(problem, where=shared.path, fix=DISTRUST)


def _same(listed: Mapping[str, np.ndarray], scored: Mapping[str, np.ndarray]) -> bool:
    return list(listed) == list(scored) and all(
        np.array_equal(column, scored[name], equal_nan=column.dtype.kind == "f")
        for name, column in listed.items()
    )


def _require_room(shared: PackedStore, folder: Path) -> None:
    """Before anything is written: what the metadata promises fits on the disk."""
    need = shared.n_blocks * sum(lay.n_layers * lay.shard_bytes for lay in shared.streams.values())
    free = shutil.disk_usage(folder).free
    if shared.package.contents.about.activations and need > free:
        raise StoreError(f"needs {need} bytes, the disk has {free}", where=shared.path, fix="make room")


def _require_sha256(source: Any, expected: str) -> None:
    path = Path(os.fspath(source))
    if not path.is_file():
        raise StoreError(
            "only an archive on this machine has a SHA-256", where=source, fix="fetch it with `relact pull`"
        )
    if (sha256 := sha256_of(path)) != expected.lower():
        raise StoreError(f"SHA-256 is {sha256}, expected {expected}", where=source, fix=AGAIN)

"""Pack: chosen stages of a store as one archive or one folder that anybody opens, where it lies, over a
network.

The files are the store's own, byte for byte. Added are: the metadata of all groups in the root's zarr.json
(one request opens the store), the group ``top`` (a relation's best neurons, in a few kilobytes), and a card.
`unpack` takes them out again.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_crc32c

from relact import durable, schema
from relact.analysis import query
from relact.errors import InputError
from relact.packed import shortlist
from relact.packed.contents import About, render
from relact.packed.metadata import NAMED, NUMBERED
from relact.packed.urls import is_archive
from relact.progress import Progress, in_notebooks
from relact.schema import DOCUMENT
from relact.scoring.criteria import USUAL
from relact.sharing import card as cards
from relact.sharing.source import Source
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import CONSOLIDATED, FILES, files_below, hexadecimal

STAGES = (schema.SCORES, schema.MASKS, schema.ABLATIONS)
CARD = "README.md"
LISTED = 1000  # neurons per relation in the short list
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same store gives the same archive
MEGABYTE = 10**6


@dataclass(frozen=True)
class Packed:
    """What was written: ``sha256`` is of the archive; a folder has none."""

    path: Path
    files: int
    bytes: int
    sha256: str | None
    card: Mapping[str, Any]


def pack(
    store: str | Path | Store,
    out: str | Path,
    *,
    stages: Sequence[str] = STAGES,
    activations: bool = False,
    licence: str | None = None,
    progress: Progress = in_notebooks,
) -> Packed:
    """Write ``out``: an archive when its name ends in ``.zip``, a folder otherwise; whole or not at all.

    Args:
        stages: of scores, masks and ablations; those the store does not have are left out.
        activations: pack them too, compressed.
        licence: of the data, for the card: an SPDX identifier or expression.

    Raises:
        StoreError: a file does not match its checksum, or ``out`` exists or cannot be written.
        InputError: an unknown stage, or a licence that SPDX does not know.
    """
    opened, licence = local.writable(store), licence and cards.spdx(licence)
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        raise InputError(
            f"no stage {', '.join(unknown)}", where="--stages", fix=f"choose from {', '.join(STAGES)}"
        )
    target = Path(out)
    local.require_absent(target)
    chosen = [stage for stage in STAGES if stage in stages and opened.has(stage)]
    source = Source(opened, chosen, activations)
    card = _card(source, [*chosen, *([schema.ACTIVATIONS] if activations else [])], licence)

    def put(built: Path) -> None:
        os.replace(built, target)
        durable.sync(target.parent)

    partial = target.with_name(f".{target.name}{durable.PARTIAL}")
    with durable.building(target, partial, put):
        writer = _write(partial, is_archive(target), source, card, progress)
    sha256 = sha256_of(target) if target.is_file() else None
    return Packed(target, writer.files, writer.size, sha256, card)


def add_metadata(put: Callable[[str, bytes], None], store: LocalStore, licence: str | None) -> None:
    """Make a package of a complete capture whose blocks are where they belong already: ``put`` all else, the
    root last.
    """
    source, writer = Source(store, [], True, away=True), _Writer(put)
    writer.size = sum(lay.bytes for lay in store.streams.values())
    _fill(writer, source, _card(source, [schema.ACTIVATIONS], licence), in_notebooks)


def put_file(folder: Path, name: str, raw: bytes) -> None:
    """Write ``folder/name`` and the folders between."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Writer:
    """Files put into a folder or an archive, and counted."""

    def __init__(self, put: Callable[[str, bytes], None]) -> None:
        self._put, self.files, self.size = put, 0, 0

    def add(self, name: str, raw: bytes) -> None:
        self._put(name, raw)
        self.files, self.size = self.files + 1, self.size + len(raw)


def _card(source: Source, stages: Sequence[str], licence: str | None) -> dict[str, Any]:
    return {**cards.describe(source.store, stages, licence), "model": source.model}


def _write(path: Path, zipped: bool, source: Source, card: dict[str, Any], progress: Progress) -> _Writer:
    """All files of a package at ``path``, flushed to the disk."""
    if not zipped:
        writer = _Writer(lambda name, raw: put_file(path, name, raw))
        _fill(writer, source, card, progress)
        durable.sync_tree(path)
        return writer
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            writer = _Writer(lambda name, raw: archive.writestr(_entry(name), raw))
            _fill(writer, source, card, progress)
        file.flush()
        os.fsync(file.fileno())
    return writer


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o100644 << 16
    return entry


def _fill(writer: _Writer, source: Source, card: dict[str, Any], progress: Progress) -> None:
    """Large files first; what every reader wants lies at the end, where one request fetches it."""
    for name, raw in source.blocks():
        writer.add(name, raw)
        progress("pack", writer.size // MEGABYTE, max(1, writer.size // MEGABYTE), "MB")
    sums: dict[str, str] = {}
    coordinates: dict[str, bytes] = {}
    for name in sorted(source.files, key=lambda name: (-_rank(name), -source.size_of(name), name)):
        raw = source.read(name)
        sums[name] = hexadecimal(google_crc32c.value(raw))
        if _rank(name):
            writer.add(name, raw)
        else:
            coordinates[name] = raw
    top = _short_list(source.store)
    for name, raw in top.items():
        if name.endswith(DOCUMENT) or name.split("/")[1] in (schema.PLACE, schema.VALUE):
            writer.add(name, raw)
        else:
            coordinates[name] = raw
    writer.add(CARD, cards.render(card, writer.size).encode())
    for name, raw in coordinates.items():
        writer.add(name, raw)
    writer.add(DOCUMENT, render(_root(source, card, sums, top)))
    megabytes = max(1, writer.size // MEGABYTE)
    progress("pack", megabytes, megabytes, "MB")


def _rank(name: str) -> int:
    """2 for metadata, 1 for results, 0 for the coordinates that a reader needs first."""
    parts = name.split("/")
    if name.endswith(DOCUMENT):
        return 2
    return 0 if "c" in parts and parts[parts.index("c") - 1] in (*NAMED, *NUMBERED) else 1


def _short_list(store: LocalStore) -> dict[str, bytes]:
    """Files of the groups ``top``, by name; none without scores."""
    if not store.has(schema.SCORES):
        return {}
    relations, stored = store.scores_record().relations, store.statistics()
    found: dict[str, bytes] = {}
    for statistic in dict.fromkeys([stored[0], *(name for name in USUAL.values() if name in stored)]):
        tables = {name: query.top(store, relation=name, n=LISTED, statistic=statistic) for name in relations}
        group = shortlist.group_of(statistic, stored[0])
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / group
            shortlist.write(folder, tables, store.sites, statistic)
            found |= {f"{group}/{name}": (folder / name).read_bytes() for name in files_below(folder)}
    return found


def _root(
    source: Source, card: dict[str, Any], sums: Mapping[str, str], top: Mapping[str, bytes]
) -> dict[str, Any]:
    """The root's zarr.json: the store's, with what `contents` reads from it.

    Args:
        sums: checksums of the packed files.
        top: files of the short list.
    """
    root = source.root
    sealed = root["attributes"][SEAL]
    sealed[FILES] = {name: sums[name] for name in sealed[FILES]}
    committed = tuple(source.store.log.present()) if source.activations else ()
    about = About(source.activations, source.recoded, card, bool(source.shielded), committed)
    root["attributes"][schema.PACKAGE] = about.to_attributes()
    documents = {name: json.loads(raw) for name, raw in top.items() if name.endswith(DOCUMENT)}
    nodes = source.nodes | {name.removesuffix(f"/{DOCUMENT}"): node for name, node in documents.items()}
    metadata = {path: nodes[path] for path in sorted(nodes)}
    root[CONSOLIDATED] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return root

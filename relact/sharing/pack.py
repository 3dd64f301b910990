"""Pack: chosen stages of a store as one archive or one folder that anybody opens, where it lies,
over a network.

The files are the store's own, byte for byte. Added are: the metadata of all groups in the root's zarr.json
(one request opens the store), the group ``top`` (a relation's best neurons, in a few kilobytes), and a card.
`unpack` takes them out again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google_crc32c
import numpy as np
import zarr

from relact import durable, schema
from relact.analysis import query
from relact.errors import InputError, StoreError
from relact.packed import trust
from relact.packed.package import CONSOLIDATED, LAYOUT, ZIP, render
from relact.progress import Progress, silent
from relact.schema import DOCUMENT
from relact.sharing import card as cards
from relact.sharing import recode
from relact.store import blocks, commits, local, skeleton
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import FILES, files_below, hexadecimal, recorded, seal

STAGES = (schema.SCORES, schema.MASKS, schema.ABLATIONS)
CARD = "README.md"
LISTED = 1000  # neurons per relation in the short list
STATISTIC = "average_precision"
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
    progress: Progress = silent,
) -> Packed:
    """Write ``out``: an archive when its name ends in ``.zip``, a folder otherwise; whole or not at all.

    Args:
        stages: of scores, masks and ablations; those the store does not have are left out.
        activations: pack them too, compressed.
        licence: of the data, for the card: an SPDX identifier or expression.

    Raises:
        StoreError: a file does not match its checksum, or ``out`` exists or cannot be written.
        InputError: an unknown stage.
    """
    opened = local.writable(store)
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        raise InputError(
            f"no stage {', '.join(unknown)}", where="--stages", fix=f"choose from {', '.join(STAGES)}"
        )
    target = Path(out)
    if target.exists():
        raise StoreError("exists already", where=target, fix="choose another path or remove it")
    chosen = [stage for stage in STAGES if stage in stages and opened.has(stage)]
    source = _Source(opened, chosen, activations)
    described = cards.describe(opened, [*chosen, *([schema.ACTIVATIONS] if activations else [])], licence)
    described["model"] = source.model
    partial = target.with_name(f".{target.name}{durable.PARTIAL}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        written = _write(partial, target.suffix == ZIP, source, described, progress)
        os.replace(partial, target)
        durable.sync(target.parent)
    except OSError as error:
        raise (error if isinstance(error, StoreError) else durable.explain(error, target)) from error
    finally:
        _remove(partial)
    return Packed(
        target, written.files, written.size, sha256_of(target) if target.is_file() else None, described
    )


def add_metadata(put: Callable[[str, bytes], None], store: LocalStore, licence: str | None) -> None:
    """Make a package of a complete capture whose blocks are where they belong already: ``put`` all else,
    the root last.
    """
    source, writer = _Source(store, [], True, away=True), _Writer(put)
    writer.size = sum(lay.bytes for lay in store.layouts.values())
    card = {**cards.describe(store, [schema.ACTIVATIONS], licence), "model": source.model}
    _fill(writer, source, card, silent)


class _Source:
    """The files of the chosen stages, each checked against its seal, and their metadata."""

    def __init__(
        self, store: LocalStore, stages: Sequence[str], activations: bool, away: bool = False
    ) -> None:
        """``away``: the blocks are where they belong already, as they were written."""
        self.store, self.stages, self.activations, self.away = store, stages, activations, away
        self.root = json.loads((store.path / DOCUMENT).read_bytes())
        self.model = without_path(store.manifest.model.id)
        self.root["attributes"][schema.ATTRIBUTE]["model"]["id"] = self.model
        arrays = {site: skeleton.array_of(store.root, site, store.path) for site in store.layouts}
        plain = all(skeleton.is_plain(arrays[site], lay) for site, lay in store.layouts.items())
        self.recoded = activations and plain and not away
        self.sums = dict(self.root["attributes"][SEAL][FILES])
        for group in self._sealed_groups():
            raw = (store.path / group / DOCUMENT).read_bytes()
            listed = recorded(raw)
            if listed is None:
                raise StoreError("is not sealed", where=f"{store.path}/{group}", fix=skeleton.VERIFY)
            self.sums[f"{group}/{DOCUMENT}"] = hexadecimal(google_crc32c.value(raw))
            self.sums |= {f"{group}/{name}": sum_ for name, sum_ in listed.items()}
        self.parents = [
            f"{stage}/{DOCUMENT}" for stage in (schema.MASKS, schema.ABLATIONS) if stage in stages
        ]
        self.nodes = {
            name.removesuffix(f"/{DOCUMENT}"): json.loads(self.read(name))
            for name in sorted([*self.sums, *self.parents])
            if name.endswith(f"/{DOCUMENT}")
        }
        self.files = [*self.sums, *self.parents]

    def _sealed_groups(self) -> list[str]:
        groups = [schema.SCORES] if schema.SCORES in self.stages else []
        for stage in (schema.MASKS, schema.ABLATIONS):
            groups += [f"{stage}/{name}" for name in self.store.children(stage) if stage in self.stages]
        return groups

    def read(self, name: str) -> bytes:
        """A file's bytes; `StoreError` when they are not those that were sealed."""
        raw = (self.store.path / name).read_bytes()
        found = hexadecimal(google_crc32c.value(raw))
        if found != self.sums.get(name, found):
            what = f"damaged: its checksum is {found}, recorded {self.sums[name]}"
            raise StoreError(what, where=self.store.path / name, fix=skeleton.VERIFY)
        if self.recoded and recode.describes_activations(name):
            return json.dumps(
                recode.compressed_node(json.loads(raw), self.store.dtype.name), indent=2
            ).encode()
        return raw

    def blocks(self) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of every committed shard, and of its block's record after them."""
        store = self.store
        for block in store.log.present() if self.activations and not self.away else ():
            start, stop, *sums = (int(value) for value in store.log.record(block))
            fresh = []
            for (site, layer), sum_ in zip(blocks.places_of(store.layouts), sums, strict=True):
                path = blocks.shard_path(store.path, site, block, layer)
                raw = path.read_bytes()
                if google_crc32c.value(raw) != sum_:
                    raise StoreError("damaged: its checksum does not match", where=path, fix=skeleton.VERIFY)
                if self.recoded:
                    raw = recode.compress(raw, store.layouts[site], store.dtype.name)
                fresh.append(google_crc32c.value(raw))
                yield path.relative_to(store.path).as_posix(), raw
            yield (
                store.log.path(block).relative_to(store.path).as_posix(),
                commits.encode([start, stop, *fresh]),
            )


class _Writer:
    """Files put into a folder or an archive, and counted."""

    def __init__(self, put: Callable[[str, bytes], None]) -> None:
        self._put, self.files, self.size = put, 0, 0

    def add(self, name: str, raw: bytes) -> None:
        self._put(name, raw)
        self.files, self.size = self.files + 1, self.size + len(raw)


def _write(path: Path, zipped: bool, source: _Source, card: dict[str, Any], progress: Progress) -> _Writer:
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


def put_file(folder: Path, name: str, raw: bytes) -> None:
    """Write ``folder/name`` and the folders between."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def _fill(writer: _Writer, source: _Source, card: dict[str, Any], progress: Progress) -> None:
    """Large files first; what every reader wants lies at the end, where one request fetches it."""
    sizes = {name: (source.store.path / name).stat().st_size for name in source.files}
    for name, raw in source.blocks():
        writer.add(name, raw)
        progress("pack", writer.size // MEGABYTE, max(1, writer.size // MEGABYTE), "MB")
    sums: dict[str, str] = {}
    ordered = sorted(source.files, key=lambda name: (-_rank(name), -sizes[name], name))
    coordinates = {}
    for name in ordered:
        raw = source.read(name)
        sums[name] = hexadecimal(google_crc32c.value(raw))
        if _rank(name) == 0:
            coordinates[name] = raw
        else:
            writer.add(name, raw)
    with TemporaryDirectory() as scratch:
        built = Path(scratch) / schema.TOP
        if _write_top(built, source.store):
            for name in files_below(built):
                raw = (built / name).read_bytes()
                if name.endswith(DOCUMENT):
                    path = f"{schema.TOP}/{name}".removesuffix(f"/{DOCUMENT}")
                    source.nodes[path] = json.loads(raw)
            for name in files_below(built):
                own = f"{schema.TOP}/{name}"
                if name.split("/")[0] in ("place", "value") or name.endswith(DOCUMENT):
                    writer.add(own, (built / name).read_bytes())
                else:
                    coordinates[own] = (built / name).read_bytes()
    root = source.root
    root["attributes"][SEAL][FILES] = {name: sums[name] for name in root["attributes"][SEAL][FILES]}
    about = {"layout": LAYOUT, "activations": source.activations, "recoded": source.recoded, "card": card}
    root["attributes"][schema.PACKAGE] = about
    writer.add(CARD, cards.render(card, writer.size).encode())
    for name, raw in coordinates.items():
        writer.add(name, raw)
    nodes = {path: source.nodes[path] for path in sorted(source.nodes)}
    root[CONSOLIDATED] = {"kind": "inline", "must_understand": False, "metadata": nodes}
    writer.add(DOCUMENT, render(root))
    progress("pack", max(1, writer.size // MEGABYTE), max(1, writer.size // MEGABYTE), "MB")


def _rank(name: str) -> int:
    """Results, then their metadata, then the coordinates that a reader needs first."""
    parts = name.split("/")
    if name.endswith(DOCUMENT):
        return 2
    return 0 if "c" in parts and parts[parts.index("c") - 1] in (*trust.NAMED, *trust.NUMBERED) else 1


def _write_top(path: Path, store: LocalStore) -> bool:
    """The group ``top``: place [relation, rank, (site, layer, neuron)], value [relation, rank, statistic]."""
    if not store.has(schema.SCORES):
        return False
    relations = list(store.scores_record().relations)
    sites = list(store.manifest.capture.sites)
    tables = [query.top(store, relation=relation, n=LISTED) for relation in relations]
    statistics = [name for name in tables[0].columns if name not in ("site", "layer", "neuron")]
    place = np.stack(
        [
            np.stack([table["site"].map(sites.index).to_numpy(), table["layer"], table["neuron"]], axis=1)
            for table in tables
        ]
    )
    value = np.stack([table[statistics].to_numpy() for table in tables])
    attributes = {"statistic": STATISTIC, "sites": sites}
    group = zarr.create_group(path, attributes={schema.ATTRIBUTE: attributes})
    skeleton.write_coordinates(
        group, relation=relations, statistic=statistics, axis=["site", "layer", "neuron"]
    )
    for name, data, last in (
        ("place", place.astype(np.int32), "axis"),
        ("value", value.astype(np.float32), "statistic"),
    ):
        group.create_array(
            name, data=data, chunks=(1, *data.shape[1:]), dimension_names=("relation", "rank", last)
        )
    seal(path)
    return True


def without_path(model: str) -> str:
    """A model's name without the folders of the machine it was on; its fingerprint tells which one it is."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() or model.startswith((".", "~")) or ":\\" in model else model


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

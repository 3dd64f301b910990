"""A packed store as objects: its metadata from one request, every other object checked as it arrives.

The root's zarr.json holds the metadata of the whole hierarchy and, in the seals of its groups, the checksum
of every file. So there is no listing, nothing is asked that is not there, and a byte that changed on the way
is found before it is used. Objects of equal checksum (the coordinates of every site) are fetched once, and
kept on disk for the next process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c

from relact import durable, schema
from relact.caches import cache_folder
from relact.errors import StoreError
from relact.packed import trust
from relact.packed.archive import Archive
from relact.packed.urls import MissingError, Place, is_url
from relact.schema import DOCUMENT
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import BLANK, FILES, hexadecimal, intact, signed

ZIP = ".zip"
LAYOUT = 1  # of packages
CONSOLIDATED = "consolidated_metadata"
CACHE_BYTES = 1 << 30  # kept on disk, all stores together
CACHED_OBJECT = 32 << 20  # larger ones are not kept
SMALL_OBJECT = 1 << 16  # kept in memory: coordinates, which every site has
ABSENT_BYTES = 1 << 30  # of results whose chunks hold nothing but the fill value
# in the package attribute: the checksum of the root's own zarr.json, as `seal.signed` writes it
OWN = "this_package"
HEX = re.compile("[0-9a-f]{8}")


class Package:
    """The objects of a packed store (`open_package`).

    Attributes:
        shown: the location as it was given.
        raw, document: the root's zarr.json.
        about: what `relact pack` recorded: stages, card, ...
        nodes: zarr.json of every group and array below the root, by path.
        arrays: facts of every array.
        sums: checksum of every file that has one, by key.
        manifest: the store's identity.

    Raises:
        StoreError: not a packed store, cut off, damaged, or with metadata that relact would not write.
    """

    def __init__(self, objects: Place | Archive, shown: str, cache: bool) -> None:
        self._objects, self.shown = objects, shown
        self.raw = objects.get(DOCUMENT, trust.DOCUMENT)
        self.document = trust.document(self.raw, f"{shown}: {DOCUMENT}")
        self.nodes = _nodes(self.document, shown)
        self.about = _about(self.document, shown)
        if not intact(self.raw, OWN):
            raise StoreError(
                "damaged: its checksum does not match", where=f"{shown}: {DOCUMENT}", fix=trust.AGAIN
            )
        self.manifest = trust.check_manifest(self.document["attributes"].get(schema.ATTRIBUTE), shown)
        self.arrays = _arrays(self.nodes, shown)
        self.sums = _sums(self.document, self.nodes, shown)
        _check_complete(self)
        _check_sites(self)
        self._small: dict[str, bytes] = {}  # by checksum
        self._ends: dict[str, bytes] = {}  # the index of every shard that was asked for
        self._cache = Cache(shown) if cache else None

    @property
    def archive(self) -> Archive | None:
        """The archive it is in, if it is in one."""
        return self._objects if isinstance(self._objects, Archive) else None

    def get(self, key: str) -> bytes | None:
        """One object, checked; None when the store has none of that name. The root's zarr.json is `raw`."""
        if not self.has(key):
            return None
        name, facts = self.owner(key)
        chunk_of = facts if facts is not None and key != f"{name}/{DOCUMENT}" else None
        limit = chunk_of.limit if chunk_of else trust.DOCUMENT
        sum_ = self.sums.get(key)
        try:
            raw = self._summed(key, sum_, limit) if sum_ else self._objects.get(key, limit)
        except MissingError:
            if sum_:
                raise
            return None  # a block that is not committed
        if chunk_of:
            trust.check_object(raw, chunk_of, f"{self.shown}: {key}")
        return raw

    def unsealed(self, key: str) -> bytes:
        """The zarr.json of a group between the root and the stages, which no seal covers."""
        return self._objects.get(key, trust.DOCUMENT)

    def has(self, key: str) -> bool:
        """Whether the store promises this object; a shard or a commit record may still be missing."""
        if key in self.sums:
            return True
        name, facts = self.owner(key)
        if facts is None or not _grows(name) or not facts.has(key[len(name) + 1 :]):
            return False
        return self.about["activations"] and (self.archive is None or key in self.archive.entries)

    def part(self, key: str, start: int, stop: int) -> bytes | None:
        """One chunk of a shard, by its range."""
        facts = self.owner(key)[1]
        if not self.has(key) or facts is None:
            return None
        if not 0 <= stop - start <= facts.limit:
            raise StoreError(
                f"a chunk of {stop - start} bytes", where=f"{self.shown}: {key}", fix=trust.DISTRUST
            )
        raw = self._objects.part(key, start, stop)
        trust.check_chunk(raw, facts, f"{self.shown}: {key}")
        return raw

    def tail(self, key: str, count: int) -> bytes | None:
        """The last bytes of a shard: its index, checked."""
        facts = self.owner(key)[1]
        if not self.has(key) or facts is None or facts.shard is None:
            return None
        if key not in self._ends:
            try:
                end, size = self._objects.tail(key, count)
            except MissingError:
                return None
            n_chunks = math.prod(
                outer // inner for outer, inner in zip(facts.shard, facts.chunk, strict=True)
            )
            trust.check_shard_index(end, size, n_chunks, f"{self.shown}: {key}")
            self._ends[key] = end
        return self._ends[key][-count:]

    def owner(self, key: str) -> tuple[str, trust.ArrayFacts | None]:
        """The array that a key lies in, with its facts."""
        name = key
        while name:
            name = name.rpartition("/")[0]
            if name in self.arrays:
                return name, self.arrays[name]
        return "", None

    def _summed(self, key: str, sum_: str, limit: int) -> bytes:
        """An object of known checksum: from memory, from disk, or from where the store is."""
        if sum_ in self._small:
            return self._small[sum_]
        raw = self._cache.get(sum_) if self._cache else None
        if raw is None:
            raw = self._objects.get(key, limit)
            found = hexadecimal(google_crc32c.value(raw))
            if found != sum_:
                what = f"damaged: its checksum is {found}, recorded {sum_}"
                raise StoreError(what, where=f"{self.shown}: {key}", fix=trust.AGAIN)
            if self._cache and len(raw) <= CACHED_OBJECT:
                self._cache.put(sum_, raw)
        if len(raw) <= SMALL_OBJECT:
            self._small[sum_] = raw
        return raw


def open_package(location: Place) -> Package:
    """The packed store at a place: a zip archive when its name ends in ``.zip``, a folder otherwise.

    What comes over a network is kept on disk for the next process.
    """
    objects = Archive(location) if location.key.endswith(ZIP) else location
    return Package(objects, location.shown, cache=is_url(location.shown))


def render(document: dict[str, Any]) -> bytes:
    """The root's zarr.json of a package as its bytes, its own checksum made anew."""
    document["attributes"][schema.PACKAGE][OWN] = BLANK
    return signed(json.dumps(document, ensure_ascii=False).encode(), OWN)


def _nodes(document: Mapping[str, Any], shown: str) -> dict[str, Any]:
    """Metadata of everything below the root, by path."""
    where = f"{shown}: {DOCUMENT}"
    table = document.get(CONSOLIDATED)
    if not isinstance(table, dict):
        raise StoreError(
            "not packed for sharing: its zarr.json has no consolidated metadata",
            where=shown,
            fix="pack it with `relact pack` and publish that",
        )
    trust.check_group({name: value for name, value in document.items() if name != CONSOLIDATED}, where)
    nodes = table.get("metadata")
    if document.get("node_type") != "group" or not isinstance(nodes, dict):
        raise StoreError("is not a group with consolidated metadata", where=where, fix=trust.DISTRUST)
    for path in nodes:
        trust.check_key(path, shown)
    return nodes


def _arrays(nodes: Mapping[str, Any], shown: str) -> dict[str, trust.ArrayFacts]:
    """Facts of every array; groups and their dimensions are checked on the way."""
    arrays: dict[str, trust.ArrayFacts] = {}
    groups: dict[str, dict[str, trust.ArrayFacts]] = {}
    for path, node in nodes.items():
        where = f"{shown}: {path}"
        kind = node.get("node_type") if isinstance(node, dict) else None
        group, _, name = path.rpartition("/")
        if group and (group not in nodes or nodes[group].get("node_type") != "group"):
            raise StoreError("lies in no group", where=where, fix=trust.DISTRUST)
        if kind == "group":
            trust.check_group(node, where)
        elif kind == "array":
            arrays[path] = groups.setdefault(group, {})[name] = trust.check_array(name, node, where)
            if not _grows(path):
                trust.check_result(arrays[path], where)
        else:
            raise StoreError("is neither group nor array", where=where, fix=trust.DISTRUST)
    for group, own in groups.items():
        trust.check_dimensions(group, own, shown)
    return arrays


def _sums(document: Mapping[str, Any], nodes: Mapping[str, Any], shown: str) -> dict[str, str]:
    """Checksums of all files, from the seals of all groups."""
    sums: dict[str, str] = {}
    groups = {"": document, **{path: node for path, node in nodes.items() if node["node_type"] == "group"}}
    for path, node in groups.items():
        seal = node.get("attributes", {}).get(SEAL)
        if seal is None:
            continue
        where = f"{shown}: {path or DOCUMENT}"
        files = seal.get(FILES) if isinstance(seal, dict) else None
        if not isinstance(files, dict):
            raise StoreError("a seal without checksums", where=where, fix=trust.DISTRUST)
        for name, sum_ in files.items():
            key = f"{path}/{name}" if path else name
            trust.check_key(key, shown)
            if not isinstance(sum_, str) or not HEX.fullmatch(sum_):
                raise StoreError(f"checksum {sum_!r:.40}", where=f"{shown}: {key}", fix=trust.DISTRUST)
            sums[key] = sum_
    trust.check_names(sums, shown)
    return sums


def _check_complete(package: Package) -> None:
    """What the metadata promises is there: every chunk of a result,
    or so few missing that they fit in memory.
    """
    absent, listed = 0, dict.fromkeys(package.arrays, 0)
    for key in package.sums:
        name, facts = package.owner(key)
        if facts is None or key == f"{name}/{DOCUMENT}":
            continue
        if not facts.has(key[len(name) + 1 :]):
            raise StoreError("lies outside its array", where=f"{package.shown}: {key}", fix=trust.DISTRUST)
        listed[name] += 1
    for name, facts in package.arrays.items():
        if not _grows(name):
            missing = math.prod(facts.grid()) - listed[name]
            absent += missing * math.prod(facts.stored) * trust.ITEMS.get(facts.dtype, 16)
    if absent > ABSENT_BYTES:
        raise StoreError(
            f"{absent} bytes of its results are missing", where=package.shown, fix=trust.DISTRUST
        )


def _check_sites(package: Package) -> None:
    """The arrays have the shapes that the root's identity and the activations give them."""
    manifest, arrays = package.manifest, package.arrays
    n_prompts, rows = int(manifest.prompts[schema.IDENTIFY]["n"]), manifest.capture.block
    layers = set()
    for site in manifest.capture.sites:
        facts = arrays.get(f"{schema.ACTIVATIONS}/{site}/{schema.ACTIVATION}")
        if facts is None or facts.dimensions != ("prompt", "layer", "neuron") or facts.shape[0] != n_prompts:
            raise StoreError(
                f"its identity says {site} of {n_prompts} prompts", where=package.shown, fix=trust.DISTRUST
            )
        _, n_layers, width = facts.shape
        layers.add(n_layers)
        if facts.shard != (rows, 1, width) or facts.chunk[0] != rows or facts.dtype != manifest.capture.dtype:
            raise StoreError(
                f"{site} is not laid out in blocks of {rows}", where=package.shown, fix=trust.DISTRUST
            )
        for path, other in arrays.items():
            sizes = dict(zip(other.dimensions, other.shape, strict=True))
            own = path.split("/")[-2:-1] == [site]
            if own and (sizes.get("layer", n_layers), sizes.get("neuron", width)) != (n_layers, width):
                raise StoreError(
                    f"{n_layers} layers of {width} neurons are captured, it has {list(other.shape)}",
                    where=f"{package.shown}: {path}",
                    fix=trust.DISTRUST,
                )
    fields = schema.commit_fields(manifest.capture.sites, min(layers)) if len(layers) == 1 else []
    log = arrays.get(f"{schema.COMMITS}/{schema.RECORD}")
    if log is None or log.shape != (-(-n_prompts // rows), len(fields)) or log.dtype != "uint64":
        raise StoreError("its commit log does not fit its sites", where=package.shown, fix=trust.DISTRUST)


def _about(document: Mapping[str, Any], shown: str) -> dict[str, Any]:
    about = document["attributes"].get(schema.PACKAGE)
    if not isinstance(about, dict) or about.get("layout") != LAYOUT:
        raise StoreError(
            "not packed for sharing, or by a later relact", where=shown, fix="pack it with `relact pack`"
        )
    flags = (about.get("activations"), about.get("recoded"))
    if not all(isinstance(flag, bool) for flag in flags) or not isinstance(about.get("card"), dict):
        raise StoreError("its package attributes are incomplete", where=shown, fix=trust.DISTRUST)
    return about


def _grows(name: str) -> bool:
    """Arrays whose chunks come with the capture; all others are results or coordinates,
    sealed with their group.
    """
    log = name == f"{schema.COMMITS}/{schema.RECORD}"
    return log or (name.startswith(f"{schema.ACTIVATIONS}/") and name.endswith(f"/{schema.ACTIVATION}"))


class Cache:
    """Objects of one location on disk, named by their checksum;
    the oldest locations go when all are too large.
    """

    def __init__(self, shown: str) -> None:
        root = cache_folder() / "stores"
        self._folder = root / hashlib.blake2b(shown.encode(), digest_size=16).hexdigest()
        with suppress(OSError):
            _make_room(root, keep=self._folder)

    def get(self, sum_: str) -> bytes | None:
        """The object, if it is here whole."""
        try:
            raw = (self._folder / sum_).read_bytes()
        except OSError:
            return None
        return raw if hexadecimal(google_crc32c.value(raw)) == sum_ else None

    def put(self, sum_: str, raw: bytes) -> None:
        """Keep it; a disk that refuses is no reason to stop."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f"{sum_}.{os.getpid()}.{threading.get_ident()}{durable.PARTIAL}"
            partial.write_bytes(raw)
            partial.replace(self._folder / sum_)


def _make_room(root: Path, keep: Path) -> None:
    sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in root.iterdir()}
    total = sum(sizes.values())
    for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
        if total <= CACHE_BYTES:
            break
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]

"""The files of a store that are to be packed, as they travel: each checked against its seal on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c

from relact import schema
from relact.errors import StoreError
from relact.schema import DOCUMENT
from relact.sharing import recode
from relact.store import blocks, commits, skeleton
from relact.store.local import LocalStore
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import FILES, recorded
from relact.store.shards import VERIFY


class Source:
    """The files of the chosen stages, and their metadata.

    Args:
        away: the blocks are where they belong already, as they were written.

    Attributes:
        model: its name, without folders.
        root: the root's zarr.json, with that name.
        recoded: whether what is captured is compressed for the way.
        shielded: streams whose chunks are each given a checksum for the way.
        files: names of all but the root and the blocks.
        nodes: zarr.json of every group and array among them, by path.

    Raises:
        StoreError: a file does not match its checksum, or a stage is not sealed.
    """

    def __init__(
        self, store: LocalStore, stages: Sequence[str], activations: bool, away: bool = False
    ) -> None:
        self.store, self.activations, self._away = store, activations, away
        self.root = store.files.document("")
        self.model = without_path(store.manifest.model.id)
        self.root["attributes"][schema.ATTRIBUTE]["model"]["id"] = self.model
        self.root["attributes"][schema.ATTRIBUTE].pop("id", None)  # of this folder alone
        plain = all(skeleton.is_plain(store.arrays[name], lay) for name, lay in store.streams.items())
        self.recoded = activations and plain and not away
        self.shielded = shielded_of(store) if activations else {}
        groups = [schema.SCORES] if schema.SCORES in stages else []
        parents = [stage for stage in (schema.MASKS, schema.ABLATIONS) if stage in stages]
        # what masks leave out, what their neurons write, and what was said before an ablation, go with them
        groups += [schema.SUPER_UNITS] if parents and store.has(schema.SUPER_UNITS) else []
        parents += [schema.LOOKS] if schema.MASKS in stages and store.has(schema.LOOKS) else []
        parents += [schema.REGISTRATIONS] if parents and store.has(schema.REGISTRATIONS) else []
        for parent in parents:
            groups += [f"{parent}/{name}" for name in store.children(parent)]
        names = list(self.root["attributes"][SEAL][FILES])
        for group in groups:
            names += _names_of(store, group)
        self.files = [*names, *(f"{parent}/{DOCUMENT}" for parent in parents)]
        _require_names(store, self.files)
        self.nodes = {
            name.removesuffix(f"/{DOCUMENT}"): json.loads(self.read(name))
            for name in sorted(self.files)
            if name.endswith(f"/{DOCUMENT}")
        }

    def size_of(self, name: str) -> int:
        """Bytes of a file in the store."""
        try:
            return (self.store.path / name).stat().st_size
        except OSError:
            return len(self.read(name))  # tells what is wrong with it

    def read(self, name: str) -> bytes:
        """A file's bytes; `StoreError` when they are not those that were sealed."""
        raw = self._checked(name)
        if not recode.describes_stream(name) or not (self.recoded or self.shielded):
            return raw
        node = json.loads(raw)
        if self.recoded:
            node = recode.compressed_node(node)
        if self.shielded:
            node = recode.shielded_node(node)
        return json.dumps(node, indent=2).encode()

    def blocks(self) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of every committed shard, and of its block's record after them."""
        store = self.store
        for block in store.log.present() if self.activations and not self._away else ():
            start, stop = (int(value) for value in store.log.record(block)[:2])
            packed_sums = []
            for stream, layer in blocks.places_of(store.streams):
                name = blocks.shard_path(Path(), stream, block, layer).as_posix()
                raw = self._checked(name)
                if self.recoded:
                    raw = recode.compress(raw, store.streams[stream])
                if self.shielded:
                    raw = recode.shield(raw, self.shielded[stream], store.path / name)
                packed_sums.append(google_crc32c.value(raw))
                yield name, raw
            record = store.log.path(block).relative_to(store.path).as_posix()
            yield record, commits.encode([start, stop, *packed_sums])

    def _checked(self, name: str) -> bytes:
        raw = self.store.files.read(name)
        if raw is None:
            raise StoreError("missing", where=self.store.path / name, fix=VERIFY)
        return raw


def shielded_of(store: LocalStore) -> dict[str, int]:
    """Chunks per shard of every stream; empty where shards are not laid out so that chunks can be given
    checksums.
    """
    found = {}
    for stream, array in store.arrays.items():
        codecs: Any = array.metadata.to_dict()["codecs"]
        configuration = codecs[0].get("configuration", {})
        inner = configuration.get("codecs", ())
        ends = configuration.get("index_location") == "end" and inner[-1]["name"] != "crc32c"
        if array.shards is None or not ends:
            return {}
        pairs = zip(array.shards, array.chunks, strict=True)
        found[stream] = math.prod(outer // chunk for outer, chunk in pairs)
    return found


def _require_names(store: LocalStore, files: Sequence[str]) -> None:
    """Refuse what no reader of a package accepts: earlier versions gave such names."""
    fix = "make it again under another --name, and remove this folder"
    for name in files:
        if problem := schema.trouble_of_path(name):
            raise StoreError(f"{name!r:.120} cannot be packed: {problem}", where=store.path, fix=fix)
    if problem := schema.trouble_of_paths(files):
        raise StoreError(f"cannot be packed: {problem}", where=store.path, fix=fix)
    for relation in store.relations():
        if not schema.is_label(relation):
            problem = f"the relation {relation!r:.80} cannot be packed: it is not printable"
            raise StoreError(problem, where=store.path, fix="capture it under another name")


def without_path(model: str) -> str:
    """A model's name without the folders of the machine it was on; its fingerprint tells which one it is."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() or model.startswith((".", "~")) or ":\\" in model else model


def _names_of(store: LocalStore, group: str) -> list[str]:
    """A sealed group's files and its zarr.json, by their names in the store."""
    listed = recorded(store.files.read(f"{group}/{DOCUMENT}") or b"")
    if listed is None:
        raise StoreError("is not sealed", where=f"{store.path}/{group}", fix=VERIFY)
    return [f"{group}/{DOCUMENT}", *(f"{group}/{name}" for name in listed)]

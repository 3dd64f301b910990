"""The files of a store that are to be packed, as they travel: each checked against its seal on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c

from relact import schema
from relact.errors import StoreError
from relact.schema import DOCUMENT
from relact.sharing import recode
from relact.store import blocks, commits, skeleton
from relact.store.local import LocalStore
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import FILES, hexadecimal, recorded
from relact.store.shards import VERIFY


class Source:
    """The files of the chosen stages, and their metadata.

    Args:
        away: the blocks are where they belong already, as they were written.

    Attributes:
        model: its name, without folders.
        root: the root's zarr.json, with that name.
        recoded: whether what is captured is compressed for the way.
        files: names of all but the root and the blocks.
        nodes: zarr.json of every group and array among them, by path.

    Raises:
        StoreError: a file does not match its checksum, or a stage is not sealed.
    """

    def __init__(
        self, store: LocalStore, stages: Sequence[str], activations: bool, away: bool = False
    ) -> None:
        self.store, self.activations, self._away = store, activations, away
        self.root = json.loads((store.path / DOCUMENT).read_bytes())
        self.model = without_path(store.manifest.model.id)
        self.root["attributes"][schema.ATTRIBUTE]["model"]["id"] = self.model
        plain = all(skeleton.is_plain(store.arrays[name], lay) for name, lay in store.streams.items())
        self.recoded = activations and plain and not away
        groups = [schema.SCORES] if schema.SCORES in stages else []
        parents = [stage for stage in (schema.MASKS, schema.ABLATIONS) if stage in stages]
        # what masks leave out, what their neurons write, and what was said before an ablation, go with them
        groups += [schema.SUPER_UNITS] if parents and store.has(schema.SUPER_UNITS) else []
        parents += [schema.LOOKS] if schema.MASKS in stages and store.has(schema.LOOKS) else []
        parents += [schema.REGISTRATIONS] if parents and store.has(schema.REGISTRATIONS) else []
        for parent in parents:
            groups += [f"{parent}/{name}" for name in store.children(parent)]
        self._sums = dict(self.root["attributes"][SEAL][FILES])
        for group in groups:
            self._sums |= _seal_of(store.path, group)
        self.files = [*self._sums, *(f"{parent}/{DOCUMENT}" for parent in parents)]
        self.nodes = {
            name.removesuffix(f"/{DOCUMENT}"): json.loads(self.read(name))
            for name in sorted(self.files)
            if name.endswith(f"/{DOCUMENT}")
        }

    def size_of(self, name: str) -> int:
        """Bytes of a file in the store."""
        return (self.store.path / name).stat().st_size

    def read(self, name: str) -> bytes:
        """A file's bytes; `StoreError` when they are not those that were sealed."""
        raw = (self.store.path / name).read_bytes()
        checksum = hexadecimal(google_crc32c.value(raw))
        if checksum != self._sums.get(name, checksum):
            problem = f"damaged: its checksum is {checksum}, recorded {self._sums[name]}"
            raise StoreError(problem, where=self.store.path / name, fix=VERIFY)
        if self.recoded and recode.describes_stream(name):
            node = recode.compressed_node(json.loads(raw))
            return json.dumps(node, indent=2).encode()
        return raw

    def blocks(self) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of every committed shard, and of its block's record after them."""
        store = self.store
        for block in store.log.present() if self.activations and not self._away else ():
            start, stop, *sums = (int(value) for value in store.log.record(block))
            packed_sums = []
            for (stream, layer), checksum in zip(blocks.places_of(store.streams), sums, strict=True):
                path = blocks.shard_path(store.path, stream, block, layer)
                raw = path.read_bytes()
                if google_crc32c.value(raw) != checksum:
                    raise StoreError("damaged: its checksum does not match", where=path, fix=VERIFY)
                if self.recoded:
                    raw = recode.compress(raw, store.streams[stream])
                packed_sums.append(google_crc32c.value(raw))
                yield path.relative_to(store.path).as_posix(), raw
            record = store.log.path(block).relative_to(store.path).as_posix()
            yield record, commits.encode([start, stop, *packed_sums])


def without_path(model: str) -> str:
    """A model's name without the folders of the machine it was on; its fingerprint tells which one it is."""
    path = Path(model).expanduser()
    return path.name if path.is_absolute() or model.startswith((".", "~")) or ":\\" in model else model


def _seal_of(path: Path, group: str) -> dict[str, str]:
    """Checksums of a sealed group's files and of its zarr.json, by their names in the store at ``path``."""
    raw = (path / group / DOCUMENT).read_bytes()
    listed = recorded(raw)
    if listed is None:
        raise StoreError("is not sealed", where=f"{path}/{group}", fix=VERIFY)
    document = {f"{group}/{DOCUMENT}": hexadecimal(google_crc32c.value(raw))}
    return document | {f"{group}/{name}": checksum for name, checksum in listed.items()}

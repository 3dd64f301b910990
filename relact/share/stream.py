"""Stream: a capture whose blocks go to an object store as they are committed; this machine keeps a few at a time.

What a package has beside its blocks is put last, the root at the very end, so that a reader who comes early finds no store. A
small object, `UNFINISHED`, says until then what is being captured. An interrupted stream goes on, from another machine
too: the commit records that are there tell which blocks need not be captured again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from relact.store import blocks, commits
from relact.models import loading
from relact import remote, schema
from relact import capture as capturing
from relact.store import local
from relact.caches import cache_folder
from relact.errors import IdentityError, InputError
from relact.store.locks import Crew
from relact.progress import Progress, silent
from relact.remote import places, trust
from relact.remote.package import ZIP
from relact.remote.places import BUCKETS, MissingError, Place
from relact.store.seal import NAME
from relact.share.pack import add_metadata, without_path

UNFINISHED = "unfinished.json"
UPLOADS = 4  # shards on their way at a time


def stream(
    model: str | loading.LoadedModel,
    prompts: pd.DataFrame | str | Path,
    url: str,
    *,
    licence: str | None = None,
    timeout: float = places.TIMEOUT,
    progress: Progress = silent,
    **options: Any,
) -> local.Store:
    """Capture into an object store; run it again to resume. The result is a package with activations, as `push` makes.

    Args:
        model, prompts: as of `capture`, as are the ``options``, other than append and repair.
        url: ``s3://bucket/path/name.zarr`` and other object stores.
        licence: of the data, for the card.
        timeout: seconds of one request.

    Returns:
        The finished store, opened where it lies.

    Raises:
        InputError: blocks cannot be put there. IdentityError: something else is being captured there.
        StoreError: refused, or the connection broke; blocks that are there stay. And what `capture` raises.
    """
    url = url.rstrip("/")
    if url.partition("://")[0] not in BUCKETS or url.endswith(ZIP):
        fix = f"capture to a folder of {', '.join(f'{name}://' for name in BUCKETS)}, or to disk and `relact push` it"
        raise InputError("blocks cannot be added there one by one", where=url, fix=fix)
    if Crew.of_environment().size > 1:
        raise InputError("several ranks cannot stream", where=url, fix="capture to disk, then `relact push`")
    there = _There(remote.place(url, timeout=timeout))
    folder = cache_folder() / "streams" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    opened = capturing.capture(model, prompts, folder / "store.zarr", sink=there, progress=progress, **options)
    there.finish(opened, licence)
    shutil.rmtree(folder)
    return remote.open(url, timeout=timeout)


class _There:
    """The store that grows at ``place``; a `capture.Sink`."""

    def __init__(self, place: Place) -> None:
        self.place, self.finished = place, False

    def begin(self, store: local.Store) -> None:
        """Make sure that it is the same capture, learn which blocks are there, and send those that only this machine has."""
        known = self._known()
        if known is None:
            marker = {schema.ATTRIBUTE: _published(store.manifest).to_attributes(), "compressed": store.compressed}
            self.place.put(UNFINISHED, json.dumps(marker, indent=2).encode())
        else:
            self._require_same(store, *known)
            for block in store.missing_blocks():
                self._learn(store, block)
        for block in store.log.present():
            if all(path.exists() for path in blocks.shard_paths(store.path, store.layouts, block)):
                self.committed(store, block)

    def committed(self, store: local.Store, block: int) -> None:
        """Send a block, its record last, and forget its shards here."""
        shards = blocks.shard_paths(store.path, store.layouts, block)
        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(lambda path: self.place.put(path.relative_to(store.path).as_posix(), path), shards))
        record = store.log.path(block)
        self.place.put(record.relative_to(store.path).as_posix(), record)
        for path in shards:
            path.unlink()

    def finish(self, store: local.Store, licence: str | None) -> None:
        """Put everything else, the root last."""
        if not self.finished:
            add_metadata(self.place.put, store, licence)
            self.place.delete(UNFINISHED)

    def _known(self) -> tuple[schema.Manifest, bool | None] | None:
        """What is captured there and whether compressed (None when it is finished); None when nothing is there."""
        raw = self._get(NAME)
        if raw is not None:
            self.finished = True
            return remote.open_package(self.place).manifest, None
        raw = self._get(UNFINISHED)
        if raw is None:
            return None
        marker: Mapping[str, Any] = trust.document(raw, f"{self.place.shown}: {UNFINISHED}")
        return schema.Manifest.from_attributes(marker.get(schema.ATTRIBUTE), self.place.shown), marker.get("compressed")

    def _require_same(self, store: local.Store, manifest: schema.Manifest, compressed: bool | None) -> None:
        differences = _published(store.manifest).differences(manifest)
        if compressed is not None and compressed != store.compressed:
            differences = [*differences, ("compression", store.compressed, compressed)]
        if differences:
            name, mine, theirs = differences[0]
            what = f"another capture is there: {name} = {theirs!s:.60}, this run has {mine!s:.60}"
            raise IdentityError(what, where=self.place.shown, fix="use its setting, or capture to another place")

    def _learn(self, store: local.Store, block: int) -> None:
        """Take over the record of a block that is there."""
        raw = self._get(store.log.path(block).relative_to(store.path).as_posix())
        if raw is not None:
            try:
                commits.decode(raw, len(store.log.fields))
            except ValueError:
                return  # captured again
            store.log.put(block, raw)

    def _get(self, key: str) -> bytes | None:
        try:
            return self.place.get(key, trust.DOCUMENT)
        except MissingError:
            return None


def _published(manifest: schema.Manifest) -> schema.Manifest:
    """The identity without folders of this machine."""
    return replace(manifest, model=replace(manifest.model, id=without_path(manifest.model.id)))

"""Stream: a capture whose blocks go to an object store as they are committed; few of them are kept here.

What a package has beside its blocks is put last, the root at the very end, so that a reader who comes early
finds no store. A small object, `UNFINISHED`, says until then what is being captured. An interrupted stream
goes on, from another machine too: the commit records that are there tell which blocks need not be captured
again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pandas as pd

from relact import schema
from relact.caches import cache_folder
from relact.capturing.capture import capture_with
from relact.capturing.options import CaptureOptions
from relact.errors import IdentityError, InputError
from relact.models.loading import LoadedModel
from relact.packed import urls
from relact.packed.metadata import DOCUMENT_BYTES, parse_document
from relact.packed.package import open_package
from relact.packed.store import open_store
from relact.packed.urls import BUCKETS, MissingError, Place
from relact.progress import Progress, in_notebooks
from relact.schema import DOCUMENT
from relact.sharing import recode
from relact.sharing.card import spdx
from relact.sharing.pack import add_metadata
from relact.sharing.source import shielded_of, without_path
from relact.store import blocks, commits
from relact.store.local import LocalStore
from relact.store.locks import Crew
from relact.store.reading import Store

UNFINISHED = "unfinished.json"
COMPRESSED, SHIELDED = "compressed", "shielded"  # keys in it
UPLOADS = 4  # shards on their way at a time


def stream(
    model: str | LoadedModel,
    prompts: pd.DataFrame | str | Path,
    url: str,
    *,
    sites: str | Sequence[str] = CaptureOptions.sites,
    pool: str = CaptureOptions.pool,
    dtype: str = CaptureOptions.dtype,
    block: int | None = CaptureOptions.block,
    batch_tokens: int = CaptureOptions.batch_tokens,
    special_tokens: bool = CaptureOptions.special_tokens,
    memory: str | int | None = CaptureOptions.memory,
    compress: bool = CaptureOptions.compress,
    attribution: bool = CaptureOptions.attribution,
    attribution_sites: str | Sequence[str] = CaptureOptions.attribution_sites,
    attribution_pool: str = CaptureOptions.attribution_pool,
    attribution_dtype: str = CaptureOptions.attribution_dtype,
    target: str = CaptureOptions.target,
    target_token: str | int | None = CaptureOptions.target_token,
    attribution_method: str | None = CaptureOptions.attribution_method,
    attribution_steps: int | None = CaptureOptions.attribution_steps,
    attribution_path: str | None = CaptureOptions.attribution_path,
    skip_first_token: bool = CaptureOptions.skip_first_token,
    model_dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    licence: str | None = None,
    timeout: float = urls.TIMEOUT,
    progress: Progress = in_notebooks,
) -> Store:
    """Capture into an object store, to a package with activations as `push` makes; run it again to resume.

    Args:
        url: ``s3://bucket/path/name.zarr`` and other object stores.
        licence: of the data, for the card: an SPDX identifier or expression.
        timeout: seconds of one request.
        model, prompts and the others: as of `capture`.

    Returns:
        The finished store, opened where it lies.

    Raises:
        InputError: blocks cannot be put there. IdentityError: something else is being captured there.
        StoreError: refused, or the connection broke; blocks that are there stay. And what `capture` raises.
    """
    attributed = attribution, attribution_sites, attribution_pool, attribution_dtype, target, target_token
    method = attribution_method, attribution_steps, attribution_path
    options = CaptureOptions(
        sites,
        pool,
        dtype,
        block,
        batch_tokens,
        special_tokens,
        memory,
        compress,
        *attributed,
        *method,
        skip_first_token,
    )
    return stream_with(
        options,
        model,
        prompts,
        url,
        model_dtype=model_dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        licence=licence,
        timeout=timeout,
        progress=progress,
    )


def stream_with(
    options: CaptureOptions,
    model: str | LoadedModel,
    prompts: pd.DataFrame | str | Path,
    url: str,
    *,
    model_dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    licence: str | None = None,
    timeout: float = urls.TIMEOUT,
    progress: Progress = in_notebooks,
) -> Store:
    """`stream` with options that travel together."""
    url, licence = url.rstrip("/"), licence and spdx(licence)
    if url.partition("://")[0] not in BUCKETS or urls.is_archive(url):
        folders = ", ".join(f"{name}://" for name in BUCKETS)
        fix = f"capture to a folder of {folders}, or to disk and `relact push` it"
        raise InputError("blocks cannot be added there one by one", where=url, fix=fix)
    if Crew.of_environment().size > 1:
        raise InputError("several ranks cannot stream", where=url, fix="capture to disk, then `relact push`")
    remote = _Remote(urls.place(url, timeout=timeout))
    remote.place.has(DOCUMENT)  # no bucket, or no way in, is said before a model is loaded
    folder = cache_folder() / "streams" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store.zarr"
    opened = capture_with(
        options,
        model,
        prompts,
        store,
        model_dtype=model_dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        sink=remote,
        progress=progress,
    )
    remote.finish(opened, licence)
    shutil.rmtree(folder)
    return open_store(url, timeout=timeout)


class _Remote:
    """The store that grows at ``place``; a `Sink` of the capture."""

    def __init__(self, place: Place) -> None:
        self.place, self.finished = place, False

    def begin(self, store: LocalStore) -> None:
        """Make sure that it is the same capture; learn which blocks are there, send those that are not."""
        known = self._known()
        if known is None:
            identity = _published(store.manifest).to_attributes()
            marker = {schema.ATTRIBUTE: identity, COMPRESSED: store.compressed, SHIELDED: True}
            self.place.put(UNFINISHED, json.dumps(marker, indent=2).encode())
        else:
            self._require_same(store, *known)
            for block in store.missing_blocks():
                self._learn(store, block)
        for block in store.log.present():
            if all(path.exists() for path in blocks.shard_paths(store.path, store.streams, block)):
                self.committed(store, block)

    def committed(self, store: LocalStore, block: int) -> None:
        """Send a block, its record last, and forget its shards here."""
        shards, chunks = blocks.shard_paths(store.path, store.streams, block), shielded_of(store)
        places = blocks.places_of(store.streams)

        def send(place: tuple[str, int], path: Path) -> int:
            raw = recode.shield(path.read_bytes(), chunks[place[0]], path)
            self.place.put(path.relative_to(store.path).as_posix(), raw)
            return int(google_crc32c.value(raw))

        with ThreadPoolExecutor(UPLOADS) as pool:
            sums = list(pool.map(send, places, shards))
        rows = (int(value) for value in store.log.record(block)[:2])
        record = store.log.path(block).relative_to(store.path).as_posix()
        self.place.put(record, commits.encode([*rows, *sums]))
        for path in shards:
            path.unlink()

    def finish(self, store: LocalStore, licence: str | None) -> None:
        """Put everything else, the root last."""
        if not self.finished:
            add_metadata(self.place.put, store, licence)
            self.place.delete(UNFINISHED)

    def _known(self) -> tuple[schema.Manifest, bool | None] | None:
        """What is captured there and whether compressed (None once it is finished); None for nothing."""
        raw = self._get(DOCUMENT)
        if raw is not None:
            self.finished = True
            return open_package(self.place).contents.manifest, None
        raw = self._get(UNFINISHED)
        if raw is None:
            return None
        marker = parse_document(raw, f"{self.place.shown}: {UNFINISHED}")
        if not marker.get(SHIELDED):
            problem = "an earlier version of relact began this, without checksums of its chunks"
            raise IdentityError(
                problem, where=self.place.shown, fix="finish it with that one, or stream elsewhere"
            )
        manifest = schema.Manifest.from_attributes(marker.get(schema.ATTRIBUTE), self.place.shown)
        return manifest, marker.get(COMPRESSED)

    def _require_same(self, store: LocalStore, manifest: schema.Manifest, compressed: bool | None) -> None:
        """`IdentityError` shows the first difference."""
        differences = _published(store.manifest).differences(manifest)
        if compressed is not None and compressed != store.compressed:
            differences = [*differences, ("compression", store.compressed, compressed)]
        if differences:
            name, setting, recorded = differences[0]
            problem = f"another capture is there: {name} = {recorded!s:.60}, this run has {setting!s:.60}"
            fix = "use its setting, or capture to another place"
            raise IdentityError(problem, where=self.place.shown, fix=fix)

    def _learn(self, store: LocalStore, block: int) -> None:
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
            return self.place.get(key, DOCUMENT_BYTES)
        except MissingError:
            return None


def _published(manifest: schema.Manifest) -> schema.Manifest:
    """The identity without folders of this machine."""
    return replace(manifest, model=replace(manifest.model, id=without_path(manifest.model.id)))

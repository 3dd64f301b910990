"""A store in a folder: made, opened, resumed, grown, and its stages swapped in.

One `LocalStore` is one Zarr v3 hierarchy (docs/format.md). Here is what plain zarr cannot do: zero-copy
views, blocks committed one by one, and stages that appear whole or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from relact import durable, schema
from relact.errors import BusyError, IdentityError, StoreError
from relact.schema import DOCUMENT
from relact.store import aside, blocks, listing, locks, skeleton
from relact.store.commits import CommitLog
from relact.store.reading import READ_ONLY, Store, told
from relact.store.seal import EMPTY_GROUP, seal
from relact.store.sealed import Objects, Sealed
from relact.store.shards import VERIFY, Maps, read_chunk
from relact.store.skeleton import Blueprint

if TYPE_CHECKING:
    import xarray as xr


class LocalStore(Store):
    """A store in a folder of this machine; `create` and `open` of this module give one.

    Attributes:
        path: the store's folder.
    """

    path: Path

    def __init__(self, path: Path, files: Sealed, manifest: schema.Manifest) -> None:
        self.files = files
        with told(path, VERIFY):
            root = zarr.open_group(Objects(files), mode="r", zarr_format=3, use_consolidated=False)
        super().__init__(path, root, manifest)
        self._plain = {
            stream: skeleton.is_plain(array, self.streams[stream]) for stream, array in self.arrays.items()
        }
        self._maps = Maps()
        self._folders = {stream: str(blocks.shard_folder(path, stream)) for stream in self.streams}
        self.log = CommitLog(path, self.fields, self.n_blocks)
        files.log, files.most = self.log, blocks.most_bytes(self.streams)

    def is_mapped(self, stream: str) -> bool:
        """Whether the stream's shards can be mapped: uncompressed, as relact lays them out."""
        return self._plain[stream]

    def chunk(self, stream: str, layer: int, block: int, start: int, stop: int) -> np.ndarray:
        """[rows of the block, neurons start to stop]: a view on the mapped shard where there is one."""
        if not self._plain[stream]:
            return super().chunk(stream, layer, block, start, stop)
        return self._cut(self._maps.chunk, stream, layer, block, start, stop)

    def copied(self, stream: str, layer: int, block: int, start: int, stop: int) -> np.ndarray:
        """`chunk` in memory of its own."""
        if not self._plain[stream]:
            return super().chunk(stream, layer, block, start, stop)
        part = self._cut(read_chunk, stream, layer, block, start, stop)
        return part if stop - start == self.streams[stream].span else part.copy()  # not all of its chunk

    def _cut(
        self, read: Callable[..., np.ndarray], stream: str, layer: int, block: int, start: int, stop: int
    ) -> np.ndarray:
        """[rows of the block, neurons start to stop] of the inner chunk that ``read`` finds."""
        first, last = self.rows_of(block)
        lay = self.streams[stream]
        number, offset = divmod(start, lay.span)
        path = f"{self._folders[stream]}{os.sep}{blocks.shard_name(block, layer)}"
        self.files.require_shard(path, stream, block, layer)
        whole = read(path, number, lay.n_spans, (lay.rows, lay.span), np.dtype(lay.dtype))
        return whole[: last - first, offset : offset + stop - start]

    def has(self, group: str) -> bool:
        """Whether the group exists; `StoreError` when files of it are there without its document."""
        return self.files.has(f"{group}/{DOCUMENT}")

    def children(self, group: str) -> list[str]:
        """Names of the groups in ``group``, sorted; empty when it does not exist."""
        return self.files.children(group)

    def attributes(self, group: str) -> dict[str, Any]:
        """What was recorded about a stage: its ``relact`` attributes."""
        attributes = self.files.document(group).get("attributes", {})
        return dict(attributes.get(schema.ATTRIBUTE, {}))

    def dataset(self, group: str) -> xr.Dataset:
        """One group as a lazy Dataset; `StoreError` names the command that makes it when it is not there.

        What is read of it later is checked as well: damaged, or replaced since, it is refused.
        """
        self._require(group)
        import xarray as xr  # costs a fifth of a second that a query of scores does not need

        with told(self.path, VERIFY):
            return xr.open_zarr(self._pinned(), group=group, consolidated=False, chunks=None)

    def tree(self) -> xr.DataTree:
        """The whole hierarchy, lazily; checked as `dataset` is."""
        import xarray as xr

        with told(self.path, VERIFY):
            return xr.open_datatree(self._pinned(), engine="zarr", consolidated=False, chunks=None)

    def _pinned(self) -> Any:
        """The files for one result; xarray's annotation knows paths only."""
        return Objects(self.files.pinned())

    # --- writing

    def buffer(self) -> blocks.BlockBuffer:
        """Memory for one block of every stream."""
        return blocks.BlockBuffer(self.streams)

    def load_block(self, block: int, buffer: blocks.BlockBuffer) -> int:
        """Put the committed rows of ``block`` into ``buffer``; returns one past the last of them."""
        first, stop = self.rows_of(block)[0], self.committed_stop(block)
        if stop > first:
            for stream, lay in self.streams.items():
                for layer in range(lay.n_layers):
                    spans = range(0, lay.width, lay.span)
                    chunks = [self.copied(stream, layer, block, start, start + lay.span) for start in spans]
                    buffer.load(stream, layer, [chunk[: stop - first] for chunk in chunks])
        return stop

    def write_block(self, block: int, buffer: blocks.BlockBuffer) -> None:
        """Write and commit one block; see `blocks.write_block`."""
        blocks.write_block(self.path, self.log, block, *self.rows_of(block), buffer, self.compressed)

    @contextmanager
    def stage(self, group: str, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
        """Build ``group`` aside and swap it in whole when the block ends without an error.

        Yields an empty zarr group to fill. A crash or an exception leaves the former group as it was.
        """
        with locks.writing(self.path):
            aside.prepare(self.path)
            new, parked = (aside.place(self.path, kind, group) for kind in ("new", "old"))
            with durable.building(self.path / group, new, partial(self._put, group, parked)):
                yield zarr.create_group(new, attributes={schema.ATTRIBUTE: dict(attributes)})
                seal(new)

    def _put(self, group: str, parked: Path, built: Path) -> None:
        """Swap a group in, after the groups above it: `masks` above `masks/<name>`."""
        parts = group.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = self.path.joinpath(*parts[:depth])
            if not (folder / DOCUMENT).is_file():
                folder.mkdir(exist_ok=True)
                durable.replace(folder / DOCUMENT, [EMPTY_GROUP])
                durable.sync(folder.parent)
        if self.has(group):
            listing.write(self.path, without=group)
        durable.swap_in(built, self.path / group, parked)
        listing.write(self.path)


def create(path: str | os.PathLike[str], blueprint: Blueprint) -> LocalStore:
    """Make a new store, whole or not at all, at a folder that does not exist yet."""
    target = Path(path)
    with locks.writing(target):
        require_absent(target)
        aside.clear(target)  # of a store that was here before
        aside.prepare(target)
        new, parked = (aside.place(target, kind, "store") for kind in ("new", "old"))
        with durable.building(target, new, partial(durable.swap_in, target=target, parked=parked)):
            skeleton.build(new, blueprint)
        aside.clear(target)
    return open(target)


def rebuild(path: Path, blueprint: Blueprint) -> LocalStore:
    """Replace everything but the blocks and results of a store; a crash leaves either state.

    Blocks of a larger blueprint are missing until they are captured.
    """

    def put(built: Path) -> None:
        skeleton.promise_growth(built, path)
        skeleton.apply_growth(path)

    with locks.writing(path):
        _settle(path)
        aside.prepare(path)
        new = aside.place(path, "new", "grow")
        with durable.building(path, new, put):
            skeleton.build(new, blueprint)
        aside.clear(path)
        listing.write(path)
    return open(path)


def drop(path: Path, group: str) -> None:
    """Delete a stage of the store at ``path``, readable or not; a crash leaves all of it or nothing."""
    with locks.writing(path):
        aside.prepare(path)
        parked = aside.place(path, "gone", group)
        durable.remove(parked)
        listing.write(path, without=group)
        os.rename(path / group, parked)
        durable.sync((path / group).parent)
        durable.remove(parked)


def discard(store: LocalStore) -> None:
    """Delete a store that holds nothing; by a caller who makes another in its place."""
    with locks.writing(store.path):
        aside.prepare(store.path)
        parked = aside.place(store.path, "gone", "store")
        os.rename(aside.home(store.path), parked)
        aside.clear(store.path)
        durable.remove(parked)


def open(path: str | os.PathLike[str]) -> LocalStore:
    """Open an existing store; `StoreError` says whether it is missing, foreign or damaged.

    What a crash left half done is finished first, unless a writer is at work or the place is read-only.
    """
    target = Path(path)
    if aside.is_there(target) and os.access(aside.folder_of(target), os.W_OK) and locks.is_free(target):
        with suppress(BusyError), locks.writing(target):
            _settle(target)
    return _open(target)


def writable(store: str | os.PathLike[str] | Store) -> LocalStore:
    """The store that is to be written, opened where it is a path; `StoreError` when it can only be read."""
    if isinstance(store, LocalStore):
        return store
    if isinstance(store, Store):
        raise StoreError("a packed store is read-only", where=store.path, fix=READ_ONLY)
    return open(store)


def _open(target: Path) -> LocalStore:
    manifest = read_manifest(target)
    return LocalStore(target, Sealed(target), manifest)


def read_manifest(target: Path) -> schema.Manifest:
    """The identity of the store at ``target``, from its root attributes alone."""
    require_here(target)
    if not (target / DOCUMENT).exists() and not (target / schema.COMMITS).is_dir():
        if target.is_file() and target.suffix.lower() == ".zip":
            raise StoreError("a packed store is read-only", where=target, fix=READ_ONLY)
        problem = "exists, but is not a relact store" if target.exists() else "no such store"
        raise StoreError(problem, where=target, fix="make one with `relact capture` or `relact run`")
    attributes = Sealed(target).document("").get("attributes", {})
    if schema.PACKAGE in attributes:
        raise StoreError(
            "packed for sharing, so it can only be read", where=target, fix="unpack it: `relact unpack`"
        )
    return schema.Manifest.from_attributes(attributes.get(schema.ATTRIBUTE), target)


def require_here(target: Path) -> None:
    """Refuse a URL where a folder is needed; a path has lost one of its slashes."""
    if (url := re.match(r"(\w+):/+(?=.)", str(target))) and not target.exists():
        raise StoreError(
            "only a store on this machine's disks can be worked on",
            where=f"{url[1]}://{str(target)[url.end() :]}",
            fix="pull it first: `relact pull URL FOLDER`",
        )


def require_absent(target: Path) -> None:
    """Refuse to write over anything."""
    if target.exists():
        raise StoreError("exists already", where=target, fix="choose another path or remove it")


def check_target(path: str | os.PathLike[str], damaged: bool = False) -> None:
    """Refuse a place where no store can be, before any work; ``damaged``: it may be an unreadable one."""
    target = Path(path)
    require_here(target)
    if target.exists() and not damaged:
        read_manifest(target)
    # the lock and new groups go here
    parent = next(parent for parent in target.absolute().parents if parent.exists())
    for folder in (parent, target) if target.exists() else (parent,):
        if not folder.is_dir():
            raise StoreError(f"{folder} is a file, not a folder", where=target, fix="choose another path")
        if not os.access(folder, os.W_OK):
            raise StoreError(
                f"no permission to write in {folder}", where=target, fix="choose a folder you may write to"
            )


@contextmanager
def writing(store: LocalStore) -> Iterator[None]:
    """Be the store's only writer inside the block, and first finish or undo what an interrupted one left.

    Raises:
        BusyError: another process is writing it.
    """
    with locks.writing(store.path):
        _settle(store.path)
        yield


def recover(store: LocalStore) -> None:
    """Finish or undo what an interrupted writer left: promises, partial files, groups parked or half made."""
    with writing(store):
        pass


def _settle(path: Path) -> None:
    """The work of `recover`, by the holder of the lock."""
    if path.is_dir():
        skeleton.apply_growth(path)
        if aside.parked(path, f"{blocks.PROMISE}*"):
            store = _open(path)
            blocks.keep_promises(path, store.log, store.streams)
        aside.restore(path)
    aside.clear(path)
    if path.is_dir():
        durable.sweep(path)
        listing.write(path)


def require_identity(store: Store, manifest: schema.Manifest) -> None:
    """Refuse to mix: `IdentityError` shows the first difference with both values."""
    differences = store.manifest.differences(manifest)
    if differences:
        prompts = [each for each in differences if each[0].startswith("prompts.")]
        name, recorded, asked = (prompts or differences)[0]
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise IdentityError(
            f"{'it holds other prompts: ' if prompts else ''}the store records {name} = {_short(recorded)}, "
            f"this run has {_short(asked)}{more}",
            where=store.path,
            fix="use the recorded setting, or write to another store",
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."

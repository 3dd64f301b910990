"""A store on disk: create, open, resume, read columns, swap stages in.

One `Store` is one Zarr v3 hierarchy (docs/format.md). Everything that plain zarr can do is left to zarr and xarray;
here is what they cannot: the commit log, zero-copy columns, and stages that appear whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import numpy as np
import pandas as pd
import zarr

from relact.store import blocks, commits, locks, skeleton
from relact import durable, plan, schema
from relact.errors import BusyError, IdentityError, StoreError
from relact.store.shards import Maps
from relact.store.seal import EMPTY_GROUP, NAME, seal
from relact.store.skeleton import write_coordinates, write_whole

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Store", "check_target", "create", "drop", "grow", "open", "read_manifest", "rebuild", "recover",
    "require_identity", "write_coordinates", "write_whole", "writing",
]  # fmt: skip


class Store:
    """An opened store.

    Use `create` or `open`, not the constructor.

    Attributes:
        path: the store's folder.
        manifest: its identity.
        layouts: per site, the shape of its activations.
    """

    def __init__(self, path: Path, root: zarr.Group, manifest: schema.Manifest) -> None:
        self.path, self.root, self.manifest = path, root, manifest
        self._arrays = {site: skeleton.array_of(root, site, path) for site in manifest.capture.sites}
        rows = manifest.capture.block
        self.layouts = {
            site: plan.Layout(self.n_prompts, rows, array.shape[1], array.shape[2], array.dtype.itemsize)
            for site, array in self._arrays.items()
        }
        self._plain = {site: skeleton.is_plain(array, self.layouts[site]) for site, array in self._arrays.items()}
        self._maps = Maps()
        self._folders = {site: str(blocks.shard_folder(path, site)) for site in self.layouts}
        n_layers = next(iter(self.layouts.values())).n_layers
        self.log = commits.CommitLog(path, schema.commit_fields(manifest.capture.sites, n_layers), self.n_blocks)

    @property
    def n_prompts(self) -> int:
        """Identification prompts, committed or not."""
        return int(self.manifest.prompts[schema.IDENTIFY]["n"])

    @property
    def n_blocks(self) -> int:
        return next(iter(self.layouts.values())).n_blocks

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.manifest.capture.dtype)

    @property
    def compressed(self) -> bool:
        """Whether inner chunks are compressed."""
        return any(skeleton.inner_codecs(array)[1:] for array in self._arrays.values())

    def is_mapped(self, site: str) -> bool:
        """Whether `columns` of the site are views on mapped files."""
        return self._plain[site]

    def rows_of(self, block: int) -> tuple[int, int]:
        """First row and one past the last row of ``block``."""
        rows = self.manifest.capture.block
        return block * rows, min((block + 1) * rows, self.n_prompts)

    def committed_stop(self, block: int) -> int:
        """One past the last committed row of ``block``; its first row when nothing is."""
        return int(self.log.record(block)[1]) if self.log.path(block).exists() else self.rows_of(block)[0]

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed, or not with all the rows that an append gave them; in order."""
        missing = set(np.flatnonzero(~self.log.committed()).tolist())
        grown = {row // self.manifest.capture.block for row in self.appended()} - missing
        return sorted(missing | {block for block in grown if self.committed_stop(block) < self.rows_of(block)[1]})

    def appended(self) -> list[int]:
        """First row of every later append."""
        return [int(row) for row in self.manifest.prompts[schema.IDENTIFY].get(schema.APPENDED, ())]

    def segments(self, block: int) -> list[tuple[int, int]]:
        """Row ranges of ``block`` that were given together: batches never cross an append, whenever it is captured."""
        first, last = self.rows_of(block)
        cuts = [first, *(row for row in self.appended() if first < row < last), last]
        return list(pairwise(cuts))

    def buffer(self) -> blocks.BlockBuffer:
        """Memory for one block of every site."""
        return blocks.BlockBuffer(self.layouts, self.dtype.name)

    def load_block(self, block: int, buffer: blocks.BlockBuffer) -> int:
        """Put the committed rows of ``block`` into ``buffer``; returns one past the last of them."""
        first, stop = self.rows_of(block)[0], self.committed_stop(block)
        if stop > first:
            for site, lay in self.layouts.items():
                for layer in range(lay.n_layers):
                    spans = range(0, lay.width, lay.span)
                    chunks = [
                        self._chunk(site, layer, block, start, start + lay.span)[: stop - first] for start in spans
                    ]
                    buffer.load(site, layer, chunks)
        return stop

    def write_block(self, block: int, buffer: blocks.BlockBuffer) -> None:
        """Write and commit one block; see `blocks.write_block`."""
        blocks.write_block(self.path, self.log, block, *self.rows_of(block), buffer, self.compressed)

    def columns(self, site: str, layer: int, start: int, stop: int) -> list[np.ndarray]:
        """Activations of neurons ``start`` to ``stop``: one read-only array [rows, neurons] per block, in order.

        The store must be complete, and the slice lie inside one inner chunk (`Layout.span`). Zero-copy where the shard can
        be mapped; through zarr, with the same numbers, where it cannot (compressed, or written by another tool).
        """
        return [self._chunk(site, layer, block, start, stop) for block in range(self.n_blocks)]

    def _chunk(self, site: str, layer: int, block: int, start: int, stop: int) -> np.ndarray:
        """[rows of the block, neurons start to stop]."""
        first, last = self.rows_of(block)
        if not self._plain[site]:
            values = np.asarray(self._arrays[site][first:last, layer, start:stop])
            values.flags.writeable = False
            return values
        lay = self.layouts[site]
        number, offset = divmod(start, lay.span)
        path = f"{self._folders[site]}{os.sep}{blocks.shard_name(block, layer)}"
        chunk = self._maps.chunk(path, number, lay.n_spans, (lay.rows, lay.span), self.dtype)
        return chunk[: last - first, offset : offset + stop - start]

    def prompts(self, split: str) -> pd.DataFrame:
        """The prompts of ``identify`` or ``test`` as a table; test prompts carry ``answers`` as lists."""
        dataset = self.dataset(f"{schema.PROMPTS}/{split}")
        frame = pd.DataFrame({name: dataset[name].values for name in (*schema.PROMPT_TEXT, "n_tokens")})
        for name in schema.PROMPT_TEXT:
            frame[name] = frame[name].astype(object).map(str)
        if schema.ANSWERS in dataset:
            frame[schema.ANSWERS] = [[str(text) for text in row if text] for row in dataset[schema.ANSWERS].values]
        return frame

    def relations(self) -> list[str]:
        """Relation names in the order in which they first occur among the identification prompts."""
        return list(dict.fromkeys(self.prompts(schema.IDENTIFY)["relation"]))

    def dataset(self, group: str) -> xr.Dataset:
        """One group as a lazy Dataset; `StoreError` names the command that makes it when it is not there."""
        if not self.has(group):
            stage = group.split("/")[0]
            command = {schema.SCORES: "score", schema.MASKS: "select", schema.ABLATIONS: "ablate"}.get(stage, "capture")
            raise StoreError(f"no {group} in this store", where=self.path, fix=f"run `relact {command}` first")
        import xarray as xr  # costs a fifth of a second that a query of scores does not need

        return xr.open_zarr(self.path, group=group, consolidated=False, chunks=None)

    def has(self, group: str) -> bool:
        """Whether the group exists."""
        return (self.path / group / "zarr.json").is_file()

    def children(self, group: str) -> list[str]:
        """Names below ``group``, sorted; empty when it does not exist."""
        folder = self.path / group
        return sorted(path.parent.name for path in folder.glob("*/zarr.json"))

    def attributes(self, group: str) -> dict[str, Any]:
        """What we recorded about a stage: its ``relact`` attributes."""
        return dict(
            cast(Mapping[str, Any], zarr.open_group(self.path / group, mode="r").attrs.get(schema.ATTRIBUTE, {}))
        )

    def describe(self) -> dict[str, Any]:
        """What the store holds, in words: names and values as `relact info` prints them."""
        manifest = self.manifest
        missing = len(self.missing_blocks())
        return {
            "store": str(self.path),
            "model": f"{manifest.model.id} ({manifest.model.family}, {manifest.model.dtype})",
            "fingerprint": manifest.model.fingerprint,
            "relations": ", ".join(self.relations()),
            "prompts": f"{self.n_prompts} to identify, {manifest.prompts[schema.TEST]['n']} to test",
            "sites": ", ".join(f"{site} {lay.n_layers} x {lay.width}" for site, lay in self.layouts.items()),
            "neurons": sum(lay.n_layers * lay.width for lay in self.layouts.values()),
            "pool": manifest.capture.pool,
            "dtype": manifest.capture.dtype,
            "size": plan.show_bytes(sum(lay.bytes for lay in self.layouts.values())),
            "blocks": f"{self.n_blocks - missing} of {self.n_blocks} committed",
            "scores": "yes" if self.has(schema.SCORES) else "no",
            "masks": ", ".join(self.children(schema.MASKS)) or "none",
            "ablations": ", ".join(self.children(schema.ABLATIONS)) or "none",
        }

    def _repr_html_(self) -> str:
        """`describe` as a table, for notebooks."""
        rows = (
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in self.describe().items()
        )
        return f"<table class='relact-store'>{''.join(rows)}</table>"

    @contextmanager
    def stage(self, group: str, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
        """Build ``group`` aside and swap it in whole when the block ends without an error.

        Yields an empty zarr group to fill. A crash or an exception leaves the former group as it was.
        """
        self.require_writable()
        building, parked = (durable.place_aside(self.path, kind, group) for kind in ("new", "old"))
        with locks.writing(self.path):
            try:
                shutil.rmtree(building, ignore_errors=True)
                building.parent.mkdir(exist_ok=True)
                yield zarr.create_group(building, attributes={schema.ATTRIBUTE: dict(attributes)})
                seal(building)
                self._parents(group)
                durable.swap_in(building, self.path / group, parked)
            except OSError as error:
                raise (error if isinstance(error, StoreError) else durable.explain(error, self.path / group)) from error
            finally:
                shutil.rmtree(building, ignore_errors=True)

    def require_writable(self) -> None:
        """Raise `StoreError` for a store that can only be read; see `relact.remote`."""

    def _parents(self, group: str) -> None:
        """Make the groups above ``group``: `masks` above `masks/<name>`."""
        parts = group.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = self.path.joinpath(*parts[:depth])
            if not (folder / NAME).is_file():
                folder.mkdir(exist_ok=True)
                durable.replace(folder / NAME, [EMPTY_GROUP])
                durable.sync(folder.parent)


def create(
    path: str | os.PathLike[str],
    manifest: schema.Manifest,
    prompts: Mapping[str, pd.DataFrame],
    n_layers: int,
    widths: Mapping[str, int],
    compress: bool = False,
) -> Store:
    """Make a new store, whole or not at all.

    Args:
        path: a folder that does not exist yet; its parent must be writable.
        prompts: ``identify`` and ``test`` tables with the columns of `schema.PROMPT_TEXT` and ``n_tokens``;
            ``test`` also has ``answers`` (lists of strings).
        widths: neurons per layer of every captured site.
        compress: bitshuffle and zstd on every inner chunk: smaller, slower, not mappable.
    """
    target = Path(path)
    building = durable.aside_of(target) / "new~store"
    with locks.writing(target):
        if target.exists():
            raise StoreError("exists already", where=target, fix="choose another path or remove it")
        try:
            skeleton.build(building, manifest, prompts, n_layers, widths, compress)
            durable.swap_in(building, target, building.with_name("old~store"))
        except OSError as error:
            raise (error if isinstance(error, StoreError) else durable.explain(error, target)) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return open(target)


def grow(store: Store, prompts: Mapping[str, pd.DataFrame], described: Mapping[str, Mapping[str, Any]]) -> Store:
    """The same store with more prompts after the ones it has; their blocks are missing until they are captured.

    Args:
        prompts: both tables, the rows of the store first.
        described: the new ``prompts`` of the manifest.
    """
    widths = {site: own.width for site, own in store.layouts.items()}
    n_layers = next(iter(store.layouts.values())).n_layers
    manifest = replace(store.manifest, prompts=described)
    return rebuild(store.path, manifest, prompts, n_layers, widths, store.compressed)


def rebuild(
    path: Path,
    manifest: schema.Manifest,
    prompts: Mapping[str, pd.DataFrame],
    n_layers: int,
    widths: Mapping[str, int],
    compress: bool,
) -> Store:
    """Replace everything but the blocks and results of a store (arguments as of `create`); a crash leaves either state."""
    building = durable.aside_of(path) / "new~grow"
    with locks.writing(path):
        _settle(path)
        try:
            skeleton.build(building, manifest, prompts, n_layers, widths, compress)
            skeleton.promise_growth(building, path)
            skeleton.apply_growth(path)
        except OSError as error:
            raise (error if isinstance(error, StoreError) else durable.explain(error, path)) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return open(path)


def drop(path: Path, group: str) -> None:
    """Delete a stage of the store at ``path``, readable or not; a crash leaves all of it or nothing."""
    parked = durable.place_aside(path, "gone", group)
    with locks.writing(path):
        shutil.rmtree(parked, ignore_errors=True)
        parked.parent.mkdir(exist_ok=True)
        os.rename(path / group, parked)
        durable.sync((path / group).parent)
        shutil.rmtree(parked)


def open(path: str | os.PathLike[str]) -> Store:
    """Open an existing store; `StoreError` says whether it is missing, foreign or damaged.

    What a crash left half done is finished first, unless a writer is at work or the place is read-only.
    """
    target = Path(path)
    aside = durable.aside_of(target)
    if aside.is_dir() and os.access(aside, os.W_OK) and locks.is_free(target):
        with suppress(BusyError), locks.writing(target):
            _settle(target)
    return _open(target)


def _open(target: Path) -> Store:
    manifest = read_manifest(target)
    root = zarr.open_group(target, mode="r+" if os.access(target, os.W_OK) else "r")
    return Store(target, root, manifest)


def read_manifest(target: Path) -> schema.Manifest:
    """The identity of the store at ``target``, from its root attributes alone."""
    if not (target / NAME).is_file():
        what = "exists, but is not a relact store" if target.exists() else "no such store"
        raise StoreError(what, where=target, fix="make one with `relact capture` or `relact run`")
    try:
        attributes = dict(zarr.open_group(target, mode="r", use_consolidated=False).attrs)
    except Exception as error:  # whatever zarr's parsers raise on a damaged file
        raise StoreError(f"its zarr.json cannot be read ({error})", where=target, fix=skeleton.VERIFY) from error
    if schema.PACKAGE in attributes:
        raise StoreError("packed for sharing, so it can only be read", where=target, fix="unpack it: `relact unpack`")
    return schema.Manifest.from_attributes(attributes.get(schema.ATTRIBUTE), target)


def check_target(path: str | os.PathLike[str], damaged: bool = False) -> None:
    """Refuse a place where no store can be, before any work is spent on it; ``damaged``: it may be an unreadable one."""
    target = Path(path)
    if target.exists() and not damaged:
        read_manifest(target)
    folders = [
        next(parent for parent in target.absolute().parents if parent.exists())
    ]  # the lock and new groups go here
    if target.exists():
        folders.append(target)
    for folder in folders:
        if not folder.is_dir():
            raise StoreError(f"{folder} is a file, not a folder", where=target, fix="choose another path")
        if not os.access(folder, os.W_OK):
            raise StoreError(
                f"no permission to write in {folder}", where=target, fix="choose a folder you may write to"
            )


@contextmanager
def writing(store: Store) -> Iterator[None]:
    """Be the store's only writer inside the block, and first finish or undo what an interrupted one left.

    Raises:
        BusyError: another process is writing it.
    """
    store.require_writable()
    with locks.writing(store.path):
        _settle(store.path)
        yield


def recover(store: Store) -> None:
    """Finish or undo what an interrupted writer left: promised changes, partial files, parked stages, half-built groups."""
    with writing(store):
        pass


def _settle(path: Path) -> None:
    """The work of `recover`, by the holder of the lock."""
    aside = durable.aside_of(path)
    if path.is_dir():
        skeleton.apply_growth(path)
    if aside.is_dir():
        if any(aside.glob(f"{blocks.PROMISE}*")):
            store = _open(path)
            blocks.keep_promises(path, store.log, store.layouts)
        for parked in sorted(aside.glob("old~*")):
            durable.restore(parked, path / unquote(parked.name.removeprefix("old~")))
        shutil.rmtree(aside, ignore_errors=True)
    if path.is_dir():
        durable.sweep(path)


def require_identity(store: Store, manifest: schema.Manifest) -> None:
    """Refuse to mix: `IdentityError` shows the first difference with both values."""
    differences = store.manifest.differences(manifest)
    if differences:
        name, recorded, given = differences[0]
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise IdentityError(
            f"the store records {name} = {_short(recorded)}, this run has {_short(given)}{more}",
            where=store.path,
            fix="use the recorded setting, or write to another store",
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""A store on disk: create, open, resume, read columns, swap stages in.

One `Store` is one Zarr v3 hierarchy (docs/format.md). Everything that plain zarr can do is left to zarr and xarray; here
is what they cannot: the commit log, zero-copy columns, and stages that appear whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from relact import blocks, commits, durable, plan, schema
from relact.errors import IdentityError, StoreError
from relact.mmap import map_shard


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
        self.layouts = {site: _layout(root, site, manifest, path) for site in manifest.capture.sites}
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

    def rows_of(self, block: int) -> tuple[int, int]:
        """First row and one past the last row of ``block``."""
        rows = self.manifest.capture.block
        return block * rows, min((block + 1) * rows, self.n_prompts)

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed, in order."""
        return np.flatnonzero(~self.log.committed()).tolist()

    def buffer(self) -> blocks.BlockBuffer:
        """Memory for one block of every site."""
        return blocks.BlockBuffer(self.layouts, self.dtype.name)

    def write_block(self, block: int, buffer: blocks.BlockBuffer) -> None:
        """Write and commit one block; see `blocks.write_block`."""
        blocks.write_block(self.path, self.log, block, *self.rows_of(block), buffer)

    def columns(self, site: str, layer: int, start: int, stop: int) -> list[np.ndarray]:
        """Activations of neurons ``start`` to ``stop``: one read-only array [rows, neurons] per block, in order.

        The slice must lie inside one inner chunk (`Layout.span`). Zero-copy where the shard can be mapped.
        """
        lay = self.layouts[site]
        number, offset = divmod(start, lay.span)
        columns = []
        for block in range(lay.n_blocks):
            first, last = self.rows_of(block)
            chunks = map_shard(
                blocks.shard_path(self.path, site, block, layer), lay.n_spans, (lay.rows, lay.span), self.dtype
            )
            columns.append(chunks[number][: last - first, offset : offset + stop - start])
        return columns

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
        return dict(zarr.open_group(self.path / group, mode="r").attrs.get(schema.ATTRIBUTE, {}))

    @contextmanager
    def stage(self, group: str, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
        """Build ``group`` aside and swap it in whole when the block ends without an error.

        Yields an empty zarr group to fill. A crash or an exception leaves the former group as it was.
        """
        aside = durable.aside_of(self.path)
        name = group.replace("/", "~")
        building = aside / f"new~{name}"
        try:
            shutil.rmtree(building, ignore_errors=True)
            building.parent.mkdir(exist_ok=True)
            fresh = zarr.create_group(building, attributes={schema.ATTRIBUTE: dict(attributes)})
            yield fresh
            self._parents(group)
            durable.swap_in(building, self.path / group, aside / f"old~{name}")
        except OSError as error:
            raise (error if isinstance(error, StoreError) else durable.explain(error, self.path / group)) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
            _remove_if_empty(aside)

    def _parents(self, group: str) -> None:
        """Make the groups above ``group``: `masks` above `masks/<name>`."""
        parts = group.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            if not self.has("/".join(parts[:depth])):
                self.root.create_group("/".join(parts[:depth]))


def create(
    path: str | os.PathLike[str],
    manifest: schema.Manifest,
    prompts: Mapping[str, pd.DataFrame],
    n_layers: int,
    widths: Mapping[str, int],
) -> Store:
    """Make a new store, whole or not at all.

    Args:
        path: a folder that does not exist yet; its parent must be writable.
        prompts: ``identify`` and ``test`` tables with the columns of `schema.PROMPT_TEXT` and ``n_tokens``;
            ``test`` also has ``answers`` (lists of strings).
        widths: neurons per layer of every captured site.
    """
    target = Path(path)
    if target.exists():
        raise StoreError("exists already", where=target, fix="choose another path or remove it")
    building = durable.aside_of(target) / "new~store"
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        _build(building, manifest, prompts, n_layers, widths)
        durable.swap_in(building, target, building.with_name("old~store"))
    except OSError as error:
        raise (error if isinstance(error, StoreError) else durable.explain(error, target)) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
        _remove_if_empty(building.parent)
    return open(target)


def open(path: str | os.PathLike[str]) -> Store:
    """Open an existing store; `StoreError` says whether it is missing, foreign or damaged."""
    target = Path(path)
    if not (target / "zarr.json").is_file():
        what = "exists, but is not a relact store" if target.exists() else "no such store"
        raise StoreError(what, where=target, fix="make one with `relact capture` or `relact run`")
    try:
        root = zarr.open_group(target, mode="r+" if os.access(target, os.W_OK) else "r")
        raw = root.attrs.get(schema.ATTRIBUTE)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise StoreError(f"its zarr.json cannot be read ({error})", where=target) from error
    return Store(target, root, schema.Manifest.from_attributes(raw, target))


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a place where no store can be, before any work is spent on it."""
    target = Path(path)
    if target.exists():
        open(target)
        folder = target
    else:
        folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file, not a folder", where=target, fix="choose another path")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"no permission to write in {folder}", where=target, fix="choose a folder you may write to")


def recover(store: Store) -> None:
    """Finish or undo what an interrupted writer left: partial files, parked stages, half-built groups."""
    aside = durable.aside_of(store.path)
    for parked in sorted(aside.glob("old~*")):
        durable.restore(parked, store.path / parked.name.removeprefix("old~").replace("~", "/"))
    shutil.rmtree(aside, ignore_errors=True)
    durable.sweep(store.path)


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


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _layout(root: zarr.Group, site: str, manifest: schema.Manifest, where: Path) -> plan.Layout:
    name = f"{schema.ACTIVATIONS}/{site}/{schema.ACTIVATION}"
    try:
        array = root[name]
    except KeyError as error:
        raise StoreError(f"{name} is missing", where=where, fix="run `relact verify`") from error
    assert isinstance(array, zarr.Array)
    n_prompts, n_layers, width = array.shape
    return plan.Layout(n_prompts, manifest.capture.block, n_layers, width, array.dtype.itemsize)


def _build(
    path: Path,
    manifest: schema.Manifest,
    prompts: Mapping[str, pd.DataFrame],
    n_layers: int,
    widths: Mapping[str, int],
) -> None:
    root = zarr.create_group(path, attributes={schema.ATTRIBUTE: manifest.to_attributes()})
    tables = root.create_group(schema.PROMPTS)
    for split in (schema.IDENTIFY, schema.TEST):
        _write_prompts(tables.create_group(split), prompts[split])
    activations = root.create_group(schema.ACTIVATIONS)
    n_prompts = len(prompts[schema.IDENTIFY])
    layouts = plan.layouts(n_prompts, manifest.capture.block, n_layers, widths, manifest.capture.dtype)
    for site, lay in layouts.items():
        group = activations.create_group(site)
        group.create_array(
            schema.ACTIVATION,
            shape=(n_prompts, n_layers, lay.width),
            shards=(lay.rows, 1, lay.width),
            chunks=(lay.rows, 1, lay.span),
            dtype=manifest.capture.dtype,
            fill_value=float("nan"),
            compressors=None,
            filters=None,
            dimension_names=("prompt", "layer", "neuron"),
        )
        write_coordinates(group, prompt=range(n_prompts), layer=range(n_layers), neuron=range(lay.width))
    commits.create(root, schema.commit_fields(manifest.capture.sites, n_layers), lay.n_blocks)


def write_coordinates(group: zarr.Group, **coordinates: Sequence[Any] | np.ndarray) -> None:
    """Add one-dimensional coordinate arrays: integers, or text when the values are strings."""
    for name, values in coordinates.items():
        data = np.asarray(values)
        if data.dtype.kind in "UOT":
            data = data.astype(np.dtypes.StringDType())
        group.create_array(name, data=data, chunks=data.shape, dimension_names=(name,))


def _write_prompts(group: zarr.Group, table: pd.DataFrame) -> None:
    write_coordinates(group, prompt=range(len(table)))
    for name in schema.PROMPT_TEXT:
        text = np.array(table[name].astype(str).tolist(), dtype=np.dtypes.StringDType())
        group.create_array(name, data=text, dimension_names=("prompt",))
    group.create_array("n_tokens", data=table["n_tokens"].to_numpy("int32"), dimension_names=("prompt",))
    if schema.ANSWERS in table:
        width = max((len(answers) for answers in table[schema.ANSWERS]), default=1)
        padded = [[*answers, *[""] * (width - len(answers))] for answers in table[schema.ANSWERS]]
        data = np.array(padded, dtype=np.dtypes.StringDType())
        group.create_array(schema.ANSWERS, data=data, dimension_names=("prompt", "answer"))

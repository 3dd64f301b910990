"""The skeleton of a store: everything but the captured values themselves, whole before it is seen.

A new store is a skeleton that is renamed into place. A store grows (more prompts) by a second skeleton of the
greater size whose files replace the first one's: all of them are one chunk per array, so the names are the
same and none is left over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from relact import durable, schema
from relact.errors import StoreError
from relact.schema import DOCUMENT
from relact.store import aside, blocks, commits, listing
from relact.store.layout import Layout, array_of, layouts
from relact.store.seal import files_below, seal
from relact.store.shards import VERIFY

if TYPE_CHECKING:
    import pandas as pd

GROWTH = "ready~grow"  # a skeleton that shall replace the store's, complete and durable
COMPRESSED = BloscCodec(cname="zstd", clevel=blocks.COMPRESSION, shuffle="bitshuffle")


@dataclass(frozen=True)
class Blueprint:
    """What a new store is made of.

    Attributes:
        tables: ``identify`` and ``test`` prompts with the columns of `schema.PROMPT_TEXT` and ``n_tokens``;
            ``test`` also has ``answers`` (lists of strings).
        n_layers: of the model.
        widths: neurons per layer of every captured stream.
        compress: bitshuffle and zstd on every inner chunk: smaller, slower, not mappable.
    """

    manifest: schema.Manifest
    tables: Mapping[str, pd.DataFrame]
    n_layers: int
    widths: Mapping[str, int]
    compress: bool = False

    @property
    def n_prompts(self) -> int:
        """Identification prompts."""
        return len(self.tables[schema.IDENTIFY])

    @property
    def layouts(self) -> dict[str, Layout]:
        """Shape of every stream."""
        capture = self.manifest.capture
        shape = self.n_prompts, capture.block, self.n_layers, self.widths, capture.streams
        return layouts(*shape, capture.layers, capture.experts)


def build(path: Path, blueprint: Blueprint) -> None:
    """Write the skeleton of a store into the folder ``path``, sealed; nothing is flushed to the disk yet."""
    manifest, n_prompts, streams = blueprint.manifest, blueprint.n_prompts, blueprint.layouts
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    root = zarr.create_group(path, attributes={schema.ATTRIBUTE: manifest.to_attributes()})
    tables = root.create_group(schema.PROMPTS)
    for split in (schema.IDENTIFY, schema.TEST):
        _write_prompts(tables.create_group(split), blueprint.tables[split])
    for stream, lay in streams.items():
        quantity, site, name = array_of(stream).split("/")
        group = root.require_group(quantity).create_group(site)
        group.create_array(
            name,
            shape=(n_prompts, lay.n_layers, lay.width),
            shards=(lay.rows, 1, lay.width),
            chunks=(lay.rows, 1, lay.span),
            dtype=lay.dtype,
            fill_value=float("nan"),
            compressors=COMPRESSED if blueprint.compress else None,
            filters=None,
            chunk_key_encoding=commits.KEYS,
            dimension_names=("prompt", "layer", "neuron"),
        )
        write_coordinates(group, prompt=range(n_prompts))
        write_places(group, lay.layers, lay.width, lay.experts)
    commits.create(root, schema.commit_fields({s: each.layers for s, each in streams.items()}), lay.n_blocks)
    seal(path)
    listing.write(path)


def promise_growth(path: Path, store: Path) -> None:
    """The skeleton at ``path`` shall replace the store's: from here on `apply_growth` finishes a crash."""
    durable.sync_tree(path)
    ready = aside.prepare(store) / GROWTH
    os.rename(path, ready)
    durable.sync(ready.parent)


def apply_growth(store: Path) -> None:
    """Move the promised files into place, the root's document last; safe to repeat after a crash in it."""
    ready = next(iter(aside.parked(store, GROWTH)), None)
    if ready is None or not ready.is_dir():
        return
    names = [name for name in files_below(ready) if name != DOCUMENT]
    for name in names:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(ready / name, store / name)
    parents = {parent for name in names for parent in (store / name).parents}
    for folder in sorted(parent for parent in parents if parent.is_relative_to(store)):
        durable.sync(folder)
    if (ready / DOCUMENT).exists():
        os.replace(ready / DOCUMENT, store / DOCUMENT)
        durable.sync(store)
    shutil.rmtree(ready)


def write_coordinates(group: zarr.Group, **coordinates: Sequence[Any] | np.ndarray) -> None:
    """Add one-dimensional coordinate arrays: integers, or text when the values are strings."""
    for name, values in coordinates.items():
        numbers = (
            np.arange(values.start, values.stop, values.step) if isinstance(values, range) else values
        )  # also of none: integers
        write_whole(group, name, np.asarray(numbers), (name,))


def write_places(group: zarr.Group, layers: Sequence[int], width: int, experts: int = 0) -> None:
    """Coordinates of a site: layers by their numbers, neurons, of each its expert and its unit in that."""
    write_coordinates(group, layer=layers, neuron=range(width))
    if experts:
        places = np.divmod(np.arange(width), width // experts)
        for name, numbers in zip((schema.EXPERT, schema.UNIT), places, strict=True):
            write_whole(group, name, numbers, ("neuron",))
        group.attrs["coordinates"] = f"{schema.EXPERT} {schema.UNIT}"


def _write_prompts(group: zarr.Group, table: pd.DataFrame) -> None:
    write_coordinates(group, prompt=range(len(table)))
    for name in schema.PROMPT_TEXT:
        write_whole(group, name, np.array(table[name].astype(str).tolist(), dtype="T"), ("prompt",))
    write_whole(group, schema.N_TOKENS, table[schema.N_TOKENS].to_numpy("int32"), ("prompt",))
    if schema.ANSWERS in table:
        write_whole(group, schema.ANSWERS, padded(table[schema.ANSWERS]), ("prompt", schema.ANSWER))


def padded(answers: Iterable[Sequence[str]]) -> np.ndarray:
    """Accepted answers of every prompt as text [prompt, answer], "" where a prompt has fewer than another."""
    listed = list(answers)
    width = max(map(len, listed), default=1)
    rows = [[*accepted, *[""] * (width - len(accepted))] for accepted in listed]
    return np.array(rows, dtype="T").reshape(len(listed), width)


def write_whole(group: zarr.Group, name: str, data: np.ndarray, dimensions: tuple[str, ...]) -> None:
    """An array of one chunk (none when it is empty); text as zarr's variable-length strings."""
    if data.dtype.kind in "UOT":
        data = data.astype(np.dtypes.StringDType())
    chunks = tuple(max(1, size) for size in data.shape)
    group.create_array(name, data=data, chunks=chunks, dimension_names=dimensions)


def open_array(root: zarr.Group, stream: str, where: object) -> zarr.Array[Any]:
    """The array of one stream; `StoreError` says what is wrong with its metadata."""
    name = array_of(stream)
    try:
        array = root[name]
    except KeyError as error:
        raise StoreError(f"{name} is missing", where=where, fix=VERIFY) from error
    except StoreError:
        raise
    except Exception as error:  # whatever zarr's parsers raise on a damaged file
        raise StoreError(f"{name}/{DOCUMENT} cannot be read ({error})", where=where, fix=VERIFY) from error
    if not isinstance(array, zarr.Array) or array.ndim != 3:
        raise StoreError(f"{name} is not an array (prompt, layer, neuron)", where=where, fix=VERIFY)
    return array


def inner_codecs(array: zarr.Array[Any]) -> list[Any]:
    """Codecs of an inner chunk, the ``bytes`` codec first."""
    configuration = _codecs(array)[0].get("configuration", {})
    return list(configuration.get("codecs", [None]))


def _codecs(array: zarr.Array[Any]) -> list[Any]:
    return list(array.metadata.to_dict()["codecs"])  # type: ignore[arg-type]


def is_plain(array: zarr.Array[Any], lay: Layout) -> bool:
    """Whether the shards are as `mmap` expects them: uncompressed, in our layout, index at the end."""
    expected = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": (lay.rows, 1, lay.span),
            "codecs": ({"name": "bytes", "configuration": {"endian": "little"}},),
            "index_codecs": ({"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}),
            "index_location": "end",
        },
    }
    keys = array.metadata.to_dict()["chunk_key_encoding"]
    return (
        _codecs(array) == [expected]
        and array.shards == (lay.rows, 1, lay.width)
        and keys == {"name": "default", "configuration": {"separator": "."}}
    )

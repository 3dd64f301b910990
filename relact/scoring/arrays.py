"""Arrays of scores as they lie in a store: written a few layers at a time, read a relation at a time.

A task of scoring gives all relations of few neurons, a chunk holds few relations of all neurons. Where a few
layers are more than `HELD`, they are turned in a file without a name: memory does not grow with relations.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from relact import schema
from relact.scoring.memory import HELD, layers_per_chunk, relations_per_chunk
from relact.store.layout import Layout
from relact.store.reading import Store, told
from relact.store.shards import VERIFY
from relact.store.skeleton import write_coordinates, write_places

if TYPE_CHECKING:
    import xarray as xr

WRITTEN = 2**26  # bytes of scores that go to the store at a time


def runs_of(lay: Layout) -> Iterator[range]:
    """Layers that are written together."""
    step = layers_per_chunk(lay.n_layers, lay.width)
    for first in range(0, lay.n_layers, step):
        yield range(first, min(first + step, lay.n_layers))


def create_arrays(
    group: zarr.Group, lay: Layout, relations: Sequence[str], statistics: Sequence[str]
) -> list[zarr.Array[Any]]:
    """Empty arrays [relation, layer, neuron], one per statistic; a query for one relation reads its own
    chunks, and of a small model those of others.
    """
    layers = layers_per_chunk(lay.n_layers, lay.width)
    together = relations_per_chunk(len(relations), layers * lay.width)
    if "relation" not in group:
        write_coordinates(group, relation=list(relations))
        write_places(group, lay.layers, lay.width, lay.experts)
    return [
        group.create_array(
            name,
            shape=(len(relations), lay.n_layers, lay.width),
            dtype="float32",
            fill_value=float("nan"),
            chunks=(together, layers, lay.width),
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=schema.BY_NEURON,
        )
        for name in statistics
    ]


def stored(store: Store, statistic: str, sites: Iterable[str]) -> dict[str, Stored]:
    """The scores of sites that have a statistic."""
    return {site: Stored(array_at(store, f"{schema.SCORES}/{site}/{statistic}")) for site in sites}


def array_at(store: Store, path: str) -> zarr.Array[Any]:
    """An array of the store by its path; what is read of it is checked as everything is."""
    with told(store.path, VERIFY):
        return cast("zarr.Array[Any]", store.root[path])


class Stored:
    """Scores, or masks, of a site as they lie in a store: [relation, layer, neuron], read by relations.

    Relations that share a chunk are read together and kept until others are asked for.

    Args:
        rows: of which relations, by their places; all by default.
    """

    def __init__(self, array: zarr.Array[Any], rows: Sequence[int] | None = None) -> None:
        self._array, self._rows = array, range(array.shape[0]) if rows is None else list(rows)
        self._step = array.chunks[0]
        self._kept: tuple[int, np.ndarray] = -1, np.empty(0)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._rows), *self._array.shape[1:]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, relation: int) -> np.ndarray:
        """[layer, neuron]"""
        chunk, place = divmod(self._rows[relation], self._step)
        if self._kept[0] != chunk:
            first = chunk * self._step
            self._kept = chunk, np.asarray(self._array[first : first + self._step])
        return cast("np.ndarray", self._kept[1][place])

    def of(self, relations: Sequence[int]) -> Stored:
        """Some relations, in another order."""
        return Stored(self._array, [self._rows[at] for at in relations])


class Part:
    """Scores of a few layers of a site, [statistic, relation, layer, neuron], from when they are computed
    until they are written.

    Args:
        beside: a folder with room for them, where they are more than `HELD` bytes; nothing stays there.
    """

    def __init__(
        self, n_statistics: int, relations: Sequence[str], layers: range, width: int, beside: Path
    ) -> None:
        self.relations, self.layers, self.width = list(relations), layers, width
        shape = (n_statistics, len(self.relations), len(layers), width)
        held = 4 * math.prod(shape) <= HELD
        self._values = np.empty(shape if held else 0, np.float32)
        self._file = None if held else tempfile.TemporaryFile(dir=beside)
        self._pieces: list[
            tuple[int, int, int, int]
        ] = []  # place of the layer, start, stop, place in the file

    def put(self, layer: int, start: int, stop: int, values: np.ndarray) -> None:
        """Of neurons ``start`` to ``stop`` of a layer: float32 [statistic, relation, neuron]."""
        place = layer - self.layers.start
        if self._file is None:
            self._values[:, :, place, start:stop] = values
        else:
            self._pieces.append((place, start, stop, self._file.tell()))
            self._file.write(np.ascontiguousarray(values).data)

    def rows(self, statistic: int, first: int, last: int) -> np.ndarray:
        """float32 [relation, layer, neuron] of relations ``first`` to ``last``."""
        if self._file is None:
            return self._values[statistic, first:last]
        self._file.flush()
        found = np.empty((last - first, len(self.layers), self.width), np.float32)
        for layer, start, stop, place in self._pieces:
            piece = np.empty((last - first, stop - start), np.float32)
            before = (statistic * len(self.relations) + first) * (stop - start)
            os.preadv(self._file.fileno(), [piece.data], place + before * piece.itemsize)
            found[:, layer, start:stop] = piece
        return found

    def write(
        self, statistic: int, array: zarr.Array[Any], relations: Sequence[str], former: xr.DataArray | None
    ) -> None:
        """Fill the layers of ``array``, whose ``relations`` are the part's and those that are ``former``."""
        row, together = 4 * len(self.layers) * self.width, array.chunks[0]
        step = together * max(1, WRITTEN // (row * together))
        layers, at = slice(self.layers.start, self.layers.stop), 0
        for first in range(0, len(relations), step):
            names = relations[first : first + step]
            new = [place for place, name in enumerate(names) if name in self._new]
            values, at = self.rows(statistic, at, at + len(new)), at + len(new)
            if former is not None and len(new) < len(names):
                values = _beside(values, new, names, former.isel(layer=layers))
            array[first : first + len(names), layers] = values

    @cached_property
    def _new(self) -> set[str]:
        return set(self.relations)


def _beside(values: np.ndarray, new: Sequence[int], names: Sequence[str], former: xr.DataArray) -> np.ndarray:
    """[relation, layer, neuron] of ``names``: ``values`` at the ``new`` places, what is stored at others."""
    found = np.empty((len(names), *values.shape[1:]), np.float32)
    found[new] = values
    others = [place for place in range(len(names)) if place not in set(new)]
    found[others] = former.sel(relation=[names[place] for place in others]).values
    return found

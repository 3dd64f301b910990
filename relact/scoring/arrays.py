"""Arrays of scores as they lie in a store, and the layers that are written together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import zarr
from zarr.codecs import ZstdCodec

from relact import schema
from relact.scoring.memory import layers_per_chunk, relations_per_chunk
from relact.store.layout import Layout
from relact.store.skeleton import write_coordinates, write_places


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

"""The short list of a package: every relation's best neurons, so that they are shown without its scores.

The group ``top`` holds place [relation, rank, (site, layer, neuron)], a site by its number in the attribute
``sites``, and value [relation, rank, statistic]. A group ``top-<statistic>`` holds the same by that one: the
best by attribution beside the best by activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr

from relact import schema
from relact.store.reading import Store
from relact.store.seal import seal
from relact.store.skeleton import write_coordinates

if TYPE_CHECKING:
    import pandas as pd

AXIS = ("site", "layer", "neuron")


def group_of(statistic: str, first: str) -> str:
    """The group of a list; ``first`` is what `schema.TOP` is ranked by."""
    return schema.TOP if statistic == first else f"{schema.TOP}-{statistic}"


def is_listed(name: str) -> bool:
    """Whether a file of a package, or a group, is of a short list."""
    group = name.split("/")[0]
    return group == schema.TOP or group.startswith(f"{schema.TOP}-")


def write(path: Path, tables: Mapping[str, pd.DataFrame], sites: Sequence[str], statistic: str) -> None:
    """Make the group at ``path``, sealed.

    Args:
        tables: every relation's best neurons, as `query.top` gives them; all have the same columns and
            number of rows.
        statistic: what they are ranked by.
    """
    first = next(iter(tables.values()))
    statistics = [name for name in first.columns if name not in AXIS]
    places = [
        np.stack([table["site"].map(list(sites).index).to_numpy(), table["layer"], table["neuron"]], axis=1)
        for table in tables.values()
    ]
    values = [table[statistics].to_numpy() for table in tables.values()]
    attributes = {schema.TOP_STATISTIC: statistic, schema.TOP_SITES: list(sites)}
    group = zarr.create_group(path, attributes={schema.ATTRIBUTE: attributes})
    write_coordinates(group, relation=list(tables), statistic=statistics, axis=AXIS)
    for name, data, last in (
        (schema.PLACE, np.stack(places).astype(np.int32), "axis"),
        (schema.VALUE, np.stack(values).astype(np.float32), "statistic"),
    ):
        chunks, dimensions = (1, *data.shape[1:]), ("relation", "rank", last)
        group.create_array(name, data=data, chunks=chunks, dimension_names=dimensions)
    seal(path)


def lengths(store: Store) -> dict[str, int]:
    """What the lists of a package rank by -> how many neurons each has."""
    groups = [group for group in store.children("") if is_listed(group)]
    return {
        str(store.attributes(group).get(schema.TOP_STATISTIC)): store.dataset(group).sizes.get("rank", 0)
        for group in groups
    }


def read(
    store: Store, relation: str, n: int, sites: Sequence[str], statistic: str
) -> dict[str, np.ndarray] | None:
    """The ``n`` best neurons of a relation, as `query.top_columns`; None when the list cannot tell."""
    groups = (schema.TOP, f"{schema.TOP}-{statistic}")
    ranked = (group for group in groups if store.has(group))
    group = next((g for g in ranked if store.attributes(g).get(schema.TOP_STATISTIC) == statistic), None)
    if group is None:
        return None
    listed = cast("zarr.Group", store.root[group])
    names, statistics = (
        [str(text) for text in np.asarray(_array(listed, name)[:])] for name in ("relation", "statistic")
    )
    if relation not in names:
        return None
    place = np.asarray(_array(listed, schema.PLACE)[names.index(relation)])  # [rank, (site, layer, neuron)]
    value = np.asarray(_array(listed, schema.VALUE)[names.index(relation)])  # [rank, statistic]
    known = np.array(store.attributes(group)[schema.TOP_SITES], object)[place[:, 0]]
    chosen = np.flatnonzero(np.isin(known.astype(str), sites))[:n]
    if len(chosen) < n:
        return None
    columns = {"site": known, "layer": place[:, 1].astype(int), "neuron": place[:, 2].astype(int)}
    columns |= {name: value[:, column] for column, name in enumerate(statistics)}
    return {name: values[chosen] for name, values in columns.items()}


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    return cast("zarr.Array[Any]", group[name])

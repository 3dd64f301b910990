"""The short list of a package: every relation's best neurons, so that they are shown without its scores.

The group ``top`` holds place [relation, rank, (site, layer, neuron)], a site by its number in the attribute
``sites``, and value [relation, rank, statistic]. A group ``top-<statistic>`` holds the same by that one: the
best by attribution beside the best by activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import zarr

from relact import schema
from relact.store.reading import Store
from relact.store.seal import seal
from relact.store.skeleton import write_coordinates

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


def read(store: Store, relation: str, n: int, sites: Sequence[str], statistic: str) -> pd.DataFrame | None:
    """The ``n`` best neurons of a relation, as `query.top` gives them; None when the list cannot tell."""
    groups = (schema.TOP, f"{schema.TOP}-{statistic}")
    ranked = (group for group in groups if store.has(group))
    group = next((g for g in ranked if store.attributes(g).get(schema.TOP_STATISTIC) == statistic), None)
    if group is None:
        return None
    listed = store.dataset(group)
    names = [str(name) for name in listed["relation"].values]
    if relation not in names:
        return None
    place = listed[schema.PLACE][names.index(relation)].values  # [rank, (site, layer, neuron)]
    value = listed[schema.VALUE][names.index(relation)].values  # [rank, statistic]
    known = store.attributes(group)[schema.TOP_SITES]
    frame = pd.DataFrame(
        {
            "site": [known[number] for number in place[:, 0]],
            "layer": place[:, 1].astype(int),
            "neuron": place[:, 2].astype(int),
        }
    )
    for column, name in enumerate(listed["statistic"].values):
        frame[str(name)] = value[:, column]
    chosen = frame[frame["site"].isin(sites)].reset_index(drop=True)
    return chosen.head(n) if len(chosen) >= n else None

"""Ask a store: a lazy tree for xarray, and the two questions everybody asks first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import remote, schema, score
from relact import sites as site_names
from relact import store as stores
from relact.errors import InputError


def tree(path: str | Path) -> xr.DataTree:
    """The whole store as a lazy `xarray.DataTree`; activations end at the last committed block.

    Groups and names are those of docs/format.md: ``tree["scores/mlp.gate"]["average_precision"]`` has dimensions
    (relation, layer, neuron). Nothing is read before it is asked for.

    Raises:
        StoreError: no store there.
    """
    store = remote.open(path)
    if isinstance(store, remote.SharedStore):
        found = store.tree()
    else:
        found = xr.open_datatree(store.path, engine="zarr", consolidated=False, chunks=None)
    missing = store.missing_blocks()
    if missing:
        rows = store.rows_of(missing[0])[0]
        for site in store.layouts:
            node = found[f"{schema.ACTIVATIONS}/{site}"]
            node.dataset = node.to_dataset().isel(prompt=slice(rows))
    return found


def top(
    store: str | Path | stores.Store,
    *,
    relation: str,
    n: int = 20,
    sites: str | Sequence[str] | None = None,
    statistic: str = "average_precision",
) -> pd.DataFrame:
    """The ``n`` neurons with the highest score for a relation: site, layer, neuron and every stored statistic.

    Ties keep the store's order (site, layer, neuron).
    """
    opened = remote.open(store)
    wanted = tuple(site_names.expand(sites) if sites is not None else opened.manifest.capture.sites)
    if isinstance(opened, remote.SharedStore) and (listed := opened.top(relation, n, wanted, statistic)) is not None:
        return listed
    parts = []
    for site in opened.manifest.capture.sites:
        if site not in wanted:
            continue
        dataset = opened.dataset(f"{schema.SCORES}/{site}")
        values = _of_relation(dataset, statistic, relation, opened).ravel()
        best = np.argsort(-values, kind="stable")[:n]
        layer, neuron = np.unravel_index(best, tuple(dataset.sizes[name] for name in ("layer", "neuron")))
        columns = {name: _of_relation(dataset, name, relation, opened).ravel()[best] for name in score.names(dataset)}
        parts.append(pd.DataFrame({"site": site, "layer": layer, "neuron": neuron, **columns}))
    if not parts:
        raise InputError(f"none of the sites {sites} is scored", where=opened.path)
    return pd.concat(parts).sort_values(statistic, ascending=False, kind="stable").head(n).reset_index(drop=True)


def neuron(store: str | Path | stores.Store, site: str, layer: int, index: int) -> pd.DataFrame:
    """Every statistic of one neuron in every relation, best average precision first."""
    opened = remote.open(store)
    (site,) = site_names.expand(site)
    dataset = opened.dataset(f"{schema.SCORES}/{site}")
    for name, value in (("layer", layer), ("neuron", index)):
        if not 0 <= value < dataset.sizes[name]:
            raise InputError(f"{name} {value} of {dataset.sizes[name]}", where=site, fix="count from 0")
    one = dataset.isel(layer=layer, neuron=index).load()
    table = pd.DataFrame({name: one[name].values for name in score.names(one)})
    table.insert(0, "relation", [str(name) for name in one["relation"].values])
    return table.sort_values(table.columns[1], ascending=False, kind="stable").reset_index(drop=True)


def _of_relation(dataset: xr.Dataset, statistic: str, relation: str, store: stores.Store) -> np.ndarray:
    if statistic not in dataset:
        known = ", ".join(score.names(dataset))
        raise InputError(f"no statistic {statistic!r}", where=store.path, fix=f"choose from {known}")
    names = [str(name) for name in dataset["relation"].values]
    if relation not in names:
        raise InputError(f"no relation {relation!r}", where=store.path, fix=f"choose from {', '.join(names)}")
    return dataset[statistic][names.index(relation)].values

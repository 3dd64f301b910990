"""Ask a store: a lazy tree for xarray, and the questions everybody asks first.

>>> open("study.zarr")["scores/mlp.gate"]["average_precision"].dims  # everything, lazily, by name
('relation', 'layer', 'neuron')
>>> len(top("study.zarr", relation="country_capital", n=20))  # a relation's best neurons
20
>>> len(neuron("study.zarr", "mlp.gate", 2, 345))  # one neuron in every relation
3
>>> extremes("study.zarr", "mlp.gate", 2, 345, n=2)["drive"].tolist()  # what drives it most and least
['most', 'most', 'least', 'least']

Score tables are read with zarr alone, one chunk per relation and statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from relact import schema
from relact import sites as site_names
from relact.errors import InputError, StoreError
from relact.packed.store import open_store
from relact.schema import ACTIVATION, ARRAYS, ATTRIBUTIONS, OF_ATTRIBUTIONS
from relact.scoring.criteria import named, of_attributions
from relact.scoring.selection import Numbering
from relact.store.layout import group_of
from relact.store.reading import Store
from relact.store.seal import ATTRIBUTE as CHECKSUMS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    import zarr

READERS = 4
PLACE = {"site": object, "layer": int, "neuron": int}  # columns that say which neuron
QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}


def open(path: str | Path) -> xr.DataTree:
    """The whole store as a lazy `xarray.DataTree`; what is captured ends at the last committed block.

    Groups and names are those of docs/format.md: ``tree["scores/mlp.gate"]["average_precision"]`` has
    dimensions (relation, layer, neuron). Nothing is read before it is asked for.

    Raises:
        StoreError: no store there.
    """
    store = open_store(path)
    tree = store.tree()
    missing = store.missing_blocks()
    if missing:
        rows = store.rows_of(missing[0])[0]
        for stream in store.streams:
            node = tree[group_of(stream)]
            node.dataset = node.to_dataset().isel(prompt=slice(rows))
    for node in tree.subtree:  # for `relact verify`; a display shows what people read
        node.attrs.pop(CHECKSUMS, None)
    return tree


def top(
    store: str | Path | Store,
    *,
    relation: str,
    n: int = 20,
    sites: str | Sequence[str] | None = None,
    by: str | None = None,
    statistic: str | None = None,
) -> pd.DataFrame:
    """The ``n`` neurons with the highest score for a relation: site, layer, neuron, every stored statistic.

    They are chosen by ``activation`` (average precision, the default), by ``attribution`` (z), or another
    ``statistic``, among the sites that have it; what a site lacks is NaN.
    Of equal ones those with the larger ``margin`` come first where that statistic is stored; what is still
    equal goes by a hash of its place, as in `masks.select`, never by the order of the store.

    Raises:
        InputError: no such relation, site or statistic. StoreError: the store has no scores.
    """
    import pandas as pd  # costs more than the answer, which `relact top` prints without

    columns = top_columns(store, relation=relation, n=n, sites=sites, statistic=named(by, statistic))
    return pd.DataFrame(columns)


def top_columns(
    store: str | Path | Store,
    *,
    relation: str,
    n: int,
    statistic: str,
    sites: str | Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """`top` as arrays by column."""
    if n < 1:
        raise InputError(f"the {n} best neurons", where="n", fix="give at least 1")
    opened = open_store(store)
    wanted = site_names.expand(sites) if sites is not None else opened.sites
    if (listed := opened.short_list(relation, n, tuple(wanted), statistic)) is not None:
        return listed
    groups = groups_of(opened, statistic)
    chosen = [site for site in groups if site in wanted]
    if not chosen:
        known = ", ".join(groups)
        raise InputError(
            f"none of the sites {sites} is scored by {statistic}",
            where=opened.path,
            fix=f"choose from {known}",
        )
    return _top_of_scores(opened, groups, chosen, relation, n, statistic)


def groups_of(store: Store, statistic: str) -> dict[str, dict[str, zarr.Array[Any]]]:
    """`scores` of every site that has a statistic; `InputError` lists those that there are."""
    store.scores_record()  # that there are some
    sites = store.scored(statistic)
    if not sites:
        known = ", ".join(store.statistics())
        raise InputError(f"no statistic {statistic!r}", where=store.path, fix=f"choose from {known}")
    return {site: scores(store, site) for site in sites}


def _top_of_scores(
    store: Store,
    groups: Mapping[str, dict[str, zarr.Array[Any]]],
    sites: Sequence[str],
    relation: str,
    n: int,
    statistic: str,
) -> dict[str, np.ndarray]:
    """`top` where the store has no short list of it: every score of the relation is read, of other statistics
    the best neurons' alone are kept.
    """
    every = {name for group in groups.values() for name in statistics(group)}
    names = [name for name in store.statistics() if name in every]
    row = position(relations(groups[sites[0]]), relation, store.path)
    shapes = {site: store.shape(site) for site in sites}
    with ThreadPoolExecutor(READERS) as pool:  # one chunk each: waiting and decompressing overlap
        read = {
            name: [pool.submit(_row, groups[site].get(name), row, shapes[site]) for site in sites]
            for name in names
        }
        flat = {name: np.concatenate([part.result() for part in parts]) for name, parts in read.items()}
    numbering = Numbering(shapes)
    margin = f"{OF_ATTRIBUTIONS if of_attributions(statistic) else ''}{schema.MARGIN}"
    numbers = _ranked(flat[statistic], n, numbering, flat.get(margin))
    columns: dict[str, np.ndarray] = {name: np.zeros(len(numbers), kind) for name, kind in PLACE.items()}
    for site, which, layers, neurons in numbering.places(numbers):
        columns["site"][which] = site
        columns["layer"][which] = np.asarray(store.layers(site))[layers]
        columns["neuron"][which] = neurons
    return columns | {name: values[numbers] for name, values in flat.items()}


def _ranked(values: np.ndarray, n: int, numbering: Numbering, margins: np.ndarray | None) -> np.ndarray:
    """Numbers of the ``n`` best neurons: by value, by margin, by hash."""
    candidates = at_least(values, n)
    keys = [numbering.hashes(candidates, 0), -values[candidates]]
    if margins is not None:
        keys.insert(1, -margins[candidates])
    return candidates[np.lexsort(keys)[:n]]


def at_least(values: np.ndarray, n: int) -> np.ndarray:
    """Positions of the ``n`` highest values and of all that equal the last of them, in order."""
    edge = np.partition(values, -n)[-n] if n < values.size else -np.inf
    return np.flatnonzero(values >= edge)


def best(values: np.ndarray, n: int, ties: np.ndarray) -> np.ndarray:
    """Positions of the ``n`` highest values, best first; of equal ones that with the smaller of ``ties``."""
    candidates = at_least(values, n)
    return candidates[np.lexsort((ties[candidates], -values[candidates]))[:n]]


def neuron(
    store: str | Path | Store, site: str, layer: int, index: int, *, by: str | None = None
) -> pd.DataFrame:
    """One neuron in every relation, best by the first statistic first: each of them, and its distribution.

    The first statistic is the usual one of the quantity (`quantities.named`).

    The distribution (``min p10 p50 p90 max`` of the activation over the relation's identification prompts, or
    of the attribution where `quantity_of` says so) is left out where the store holds neither.

    Raises:
        InputError: the store has no such neuron. StoreError: it has no scores.
    """
    import pandas as pd

    opened = open_store(store)
    site = _check(opened, site, layer, index)
    group = scores(opened, site)
    names = statistics(group)
    place = opened.layout_of(site).place_of(layer)
    table = pd.DataFrame({name: np.asarray(group[name][:, place, index]) for name in names})
    quantity = quantity_of(opened, site, by)
    usual = named(by or quantity)
    first = usual if usual in names else names[0]
    table.insert(0, first, table.pop(first))
    table.insert(0, "relation", relations(group))
    if quantity:
        values = activations(opened, site, layer, index, by=quantity)
        grouped = values.groupby("relation", sort=False)[quantity]
        spread = pd.DataFrame({name: grouped.quantile(at) for name, at in QUANTILES.items()})
        table = table.join(spread, on="relation")
    return table.sort_values(first, ascending=False, kind="stable").reset_index(drop=True)


def activations(
    store: str | Path | Store, site: str, layer: int, index: int, *, by: str | None = None
) -> pd.DataFrame:
    """One neuron's activation, or attribution, on every captured identification prompt.

    Args:
        by: ``activation`` or ``attribution``; by default what the store holds of the site.

    Returns:
        prompt, relation, subject, object, text, and the value in a column named for what it is, in the order
        of the prompts; float32, pooled over the prompt's tokens, attributions in nats.

    Raises:
        InputError: the store has no such neuron. StoreError: it holds no activations, nor attributions.
    """
    opened = open_store(store)
    site = _check(opened, site, layer, index)
    quantity = quantity_of(opened, site, by)
    if quantity is None:
        problem = f"no {by or ACTIVATION}s of {site} in this store"
        raise StoreError(problem, where=opened.path, fix="run `relact capture` first")
    table = opened.prompts(schema.IDENTIFY)[["relation", "subject", "object", "text"]]
    table.insert(0, "prompt", range(len(table)))
    return table.assign(**{quantity: column(opened, _stream(site, quantity), layer, index)})


def column(store: Store, stream: str, layer: int, index: int) -> np.ndarray:
    """One neuron's values of a stream on every identification prompt, float32 [prompt]."""
    place = store.streams[stream].place_of(layer)
    return np.concatenate(store.columns(stream, place, index, index + 1))[:, 0].astype(np.float32)


def extremes(
    store: str | Path | Store, site: str, layer: int, index: int, n: int = 5, *, by: str | None = None
) -> pd.DataFrame:
    """The ``n`` prompts that drive one neuron most and least: ``drive`` says which, then as `activations`.

    Strongest first in both halves; a prompt is in one half only.
    """
    import pandas as pd

    if n < 1:
        raise InputError(f"the {n} prompts that drive it most", where="n", fix="give at least 1")
    table = activations(store, site, layer, index, by=by)
    table = table.sort_values(table.columns[-1], ascending=False, kind="stable")
    most = table.head(n)
    least = table.iloc[len(most) :].tail(n)
    joined = pd.concat([most, least]).reset_index(drop=True)
    joined.insert(0, "drive", ["most"] * len(most) + ["least"] * len(least))
    return joined


def quantity_of(store: Store, site: str, by: str | None = None) -> str | None:
    """What is shown of a site's neurons: the quantity asked for, else activations before attributions; None
    where the store holds no such values.
    """
    if by not in (None, *ARRAYS.values()):
        raise InputError(f"no quantity {by!r}", where="--by", fix=f"choose from {', '.join(ARRAYS.values())}")
    held = [] if store.missing_blocks() else [q for q in ARRAYS.values() if _stream(site, q) in store.streams]
    return next((quantity for quantity in held if by in (None, quantity)), None)


def _stream(site: str, quantity: str) -> str:
    return site if quantity == ACTIVATION else f"{ATTRIBUTIONS}/{site}"


def has_activations(store: Store, site: str | None = None) -> bool:
    """Whether every block of the store is captured, and the activations of a site are in them."""
    return not store.missing_blocks() and (site is None or site in store.layouts)


def scores(store: Store, site: str) -> dict[str, zarr.Array[Any]]:
    """The arrays of ``scores/<site>`` by name; `StoreError` says how to make them."""
    group = f"{schema.SCORES}/{site}"
    if not store.has(group):
        raise StoreError(
            "no scores in this store",
            where=store.path,
            fix=f"run `relact score {quote(str(store.path))}` first",
        )
    return dict(cast("zarr.Group", store.root[group]).arrays())


def relations(group: Mapping[str, zarr.Array[Any]]) -> list[str]:
    """Names along the relation axis of a score group."""
    return [str(name) for name in np.asarray(group["relation"][:])]


def statistics(group: Mapping[str, zarr.Array[Any]]) -> list[str]:
    """The statistics that a score group holds, the usual ones first and in their usual order."""
    names = sorted(name for name, array in group.items() if array.ndim == len(schema.BY_NEURON))
    usual = [name for name in (*schema.STATISTICS, *schema.ATTRIBUTION_STATISTICS) if name in names]
    return usual + [name for name in names if name not in usual]


def position(names: Sequence[str], relation: str, where: object) -> int:
    """The place of ``relation`` among ``names``; `InputError` lists them when it is not there."""
    if relation not in names:
        raise InputError(f"no relation {relation!r}", where=where, fix=f"choose from {', '.join(names)}")
    return list(names).index(relation)


def _check(store: Store, site: str, layer: int, index: int) -> str:
    """The canonical name of a site whose neuron exists."""
    for what, number in (("layer", layer), ("index", index)):
        if not isinstance(number, Integral):
            raise InputError(f"{number!r} is no whole number", where=what, fix="count from 0")
    known = site in site_names.SITES or site in site_names.ALIASES
    canonical, *more = site_names.expand(site) if known else (site,)
    if more or canonical not in store.sites:
        raise InputError(
            f"no site {site!r} in this store", where=store.path, fix=f"use {', '.join(store.sites)}"
        )
    numbers, (n_layers, width) = store.layers(canonical), store.shape(canonical)
    if layer not in numbers:
        counted = numbers == tuple(range(n_layers))
        fix = "count from 0" if counted else f"choose from {', '.join(map(str, numbers))}"
        raise InputError(f"layer {layer} of {n_layers}", where=canonical, fix=fix)
    if not 0 <= index < width:
        raise InputError(f"neuron {index} of {width}", where=canonical, fix="count from 0")
    return canonical


def _row(array: zarr.Array[Any] | None, row: int, shape: tuple[int, int]) -> np.ndarray:
    """One relation of a statistic, flat over [layer, neuron]; NaN where the site lacks the statistic."""
    return (
        np.full(shape[0] * shape[1], np.nan, np.float32) if array is None else np.asarray(array[row]).ravel()
    )

"""Experts: which of them a relation uses, layer by layer.

>>> use_of(open_store("study.zarr")).columns.tolist()  # no rows: this model has no experts
['relation', 'layer', 'expert', 'use', 'others', 'neurons', 'chance']
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis.query import has_activations
from relact.errors import InputError
from relact.packed.store import open_store
from relact.schema import WEIGHT
from relact.scoring import masks
from relact.scoring.selection import Sets
from relact.store.reading import Store

COLUMNS = ["relation", "layer", "expert", "use", "others", "neurons", "chance"]


def expert_use(
    store: str | Path | Store, mask: str | None = None, *, relation: str | None = None, n: int | None = None
) -> pd.DataFrame:
    """How much every relation's prompts use every expert, beside the other relations' prompts.

    Args:
        mask: a stored one, whose neurons are counted per expert; the only one by default.
        relation: of this one alone.
        n: of every relation and layer only so many, those that it uses most beyond the others.

    Returns:
        relation, layer, expert; ``use``, the mean of the router's weight over the relation's identification
        prompts (pooled as the store pools; 0 for a token that is not routed to it), ``others``, that of all
        other relations' prompts, NaN where weights are not captured; ``neurons`` of the mask in the expert
        and ``chance``, how many there would be were they spread evenly, NaN without a mask of such neurons.
        Within a relation and layer the largest ``use`` beyond ``others`` first.

    Raises:
        InputError: the model is no mixture of experts, or neither is there; no such mask or relation.
    """
    opened = open_store(store)
    stored = opened.children(schema.MASKS)
    name = mask or (stored[0] if len(stored) == 1 else None)
    table = use_of(opened, *masks.numbers(opened, name)) if name else use_of(opened)
    if table.empty:
        problem = f"no {WEIGHT} of a mixture of experts, and no mask of its neurons"
        raise InputError(problem, where=opened.path, fix=f"capture {WEIGHT}")
    if relation is not None:
        known = list(dict.fromkeys(table["relation"]))
        if relation not in known:
            fix = f"choose from {', '.join(known)}"
            raise InputError(f"no relation {relation!r}", where=opened.path, fix=fix)
        table = table[table["relation"] == relation]
    if n is not None:
        table = table.groupby(["relation", "layer"], sort=False).head(n)
    return table.reset_index(drop=True)


def use_of(store: Store, relations: Sequence[str] | None = None, sets: Sets | None = None) -> pd.DataFrame:
    """`expert_use` with the neuron sets of the relations; empty where the store knows nothing of experts."""
    shapes = sets.numbering.shapes if sets is not None else {}
    counted = [site for site in shapes if store.experts_of(site)]
    known = WEIGHT in store.layouts and has_activations(store)
    if not known and not counted:
        return pd.DataFrame(columns=COLUMNS)
    names = list(relations) if counted and relations is not None else store.relations()
    n_experts, layers = store.layout_of(WEIGHT).experts, store.layers(WEIGHT)
    shape = len(names), len(layers), n_experts
    use, others = _means(store, names) if known else (np.full(shape, np.nan),) * 2
    neurons = np.full(shape, np.nan)
    if sets is not None and counted:
        units = {site: shapes[site][1] // n_experts for site in counted}
        neurons = np.sum([sets.counts(site, of_one).reshape(shape) for site, of_one in units.items()], axis=0)
    chance = np.broadcast_to(neurons.mean(axis=(1, 2), keepdims=True), shape)
    places = np.meshgrid(names, layers, np.arange(n_experts), indexing="ij")
    values = (*places, use, others, neurons, chance)
    table = pd.DataFrame({name: column.ravel() for name, column in zip(COLUMNS, values, strict=True)})
    rank = pd.Series(names).reset_index().set_index(0)["index"]
    keys = {
        "relation": table["relation"].map(rank),
        "beyond": -(table["use"] - table["others"]).fillna(0.0),
        "neurons": -table["neurons"].fillna(0.0),
    }
    order = np.lexsort([keys["neurons"], keys["beyond"], table["layer"], keys["relation"]])
    return table.iloc[order].reset_index(drop=True)


def _means(store: Store, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Means of the weights over a relation's prompts, and over all others: [relation, layer, expert] each."""
    lay = store.layouts[WEIGHT]
    labels = store.prompts(schema.IDENTIFY)["relation"].to_numpy()
    rows = [np.flatnonzero(labels == name) for name in names]
    sums = np.zeros((len(names), lay.n_layers, lay.width))
    total = np.zeros((lay.n_layers, lay.width))
    for layer in range(lay.n_layers):
        for start in range(0, lay.width, lay.span):
            blocks = store.columns(WEIGHT, layer, start, start + lay.span)
            values = np.concatenate(blocks).astype(np.float64)
            for at, own in enumerate(rows):
                sums[at, layer, start : start + lay.span] = values[own].sum(axis=0)
            total[layer, start : start + lay.span] = values.sum(axis=0)
    count = np.array([len(own) for own in rows])[:, None, None]
    with np.errstate(invalid="ignore", divide="ignore"):  # a relation of a mask may have no prompts
        return sums / count, (total - sums) / (len(labels) - count)

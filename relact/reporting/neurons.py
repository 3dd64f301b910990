"""The neurons that a page lists: the best of every relation, and what drives the first few of them."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis import query
from relact.scoring.selection import Numbering, Scores, row_of
from relact.store.reading import Store

# best neurons of a relation: listed, of every site, with their prompts
LISTED, LISTED_BY_SITE, SHOWN = 300, 60, 10
PROMPTS = 4  # that drive a neuron most, and as many least


def best(store: Store, relations: Sequence[str], scores: Scores) -> pd.DataFrame:
    """The neurons to list: the best of every relation, and of every relation in each site; in the order in
    which equal ones are shown.
    """
    numbering, found = Numbering.of(scores), []
    for at in range(len(relations)):
        values = row_of(scores, at)
        found.append(_first(values, LISTED, numbering, 0))
        for start, stop in itertools.pairwise(numbering.starts.tolist()):
            found.append(_first(values[start:stop], LISTED_BY_SITE, numbering, start))
    numbers = np.unique(np.concatenate(found))
    numbers = numbers[np.argsort(numbering.hashes(numbers, 0), kind="stable")]  # as `query.top` has it
    columns: dict[str, np.ndarray] = {
        name: np.zeros(len(numbers), kind) for name, kind in query.PLACE.items()
    }
    for site, which, layers, neurons in numbering.places(numbers):
        columns["site"][which] = site
        columns["layer"][which] = np.asarray(store.layers(site))[layers]
        columns["neuron"][which] = neurons
    ap = [row_of(scores, at)[numbers].astype(np.float64).round(4) for at in range(len(relations))]
    return pd.concat([pd.DataFrame(columns), pd.DataFrame(dict(zip(relations, ap, strict=True)))], axis=1)


def _first(values: np.ndarray, n: int, numbering: Numbering, start: int) -> np.ndarray:
    """Numbers of the ``n`` best of neurons from ``start`` on; of equal ones those with the smaller hash."""
    numbers = query.at_least(values, n)
    ties = numbering.hashes(numbers + start, 0)
    found: np.ndarray = numbers[np.lexsort((ties, -values[numbers]))[:n]] + start
    return found


def listed(store: Store, relations: Sequence[str]) -> pd.DataFrame:
    """The best neurons of every relation by a package's short list: a neuron has a number in relations that
    list it, NaN in others.
    """
    places = ["site", "layer", "neuron"]
    found = [pd.DataFrame(columns=places)]
    for relation in relations:
        best = store.short_list(relation, LISTED, store.sites, schema.AVERAGE_PRECISION)
        if best is not None:
            columns = {name: best[name] for name in places}
            columns[relation] = best[schema.AVERAGE_PRECISION].astype(np.float64).round(4)
            found.append(pd.DataFrame(columns))
    known = [table.set_index(places) for table in found]
    together = pd.concat(known, axis=1) if len(known) > 1 else known[0]
    return together.reindex(columns=list(relations)).reset_index()


def details_of(
    store: Store, relations: Sequence[str], neurons: pd.DataFrame
) -> tuple[list[dict[str, Any]], dict[int, dict[Hashable, Any]]]:
    """Prompts and distribution of every relation's best few neurons; empty where there are no activations."""
    if not query.has_activations(store):
        return [], {}
    table = store.prompts(schema.IDENTIFY)
    prompts_of = [np.flatnonzero(table["relation"] == name) for name in relations]
    rows = dict.fromkeys(
        row
        for name in relations
        for row in query.best(neurons[name].to_numpy(), SHOWN, np.arange(len(neurons))).tolist()
    )
    details, used = [], set()
    for row in rows:
        site, layer, index = neurons.loc[row, ["site", "layer", "neuron"]]
        values = query.column(store, site, int(layer), int(index))
        order = np.argsort(-values, kind="stable")
        most = order[:PROMPTS].tolist()
        least = order[max(len(most), len(order) - PROMPTS) :].tolist()
        used.update(most + least)
        quantiles = list(query.QUANTILES.values())
        spread = [np.quantile(values[own], quantiles).round(4).tolist() for own in prompts_of]
        drive = {int(at): round(float(values[at]), 4) for at in most + least}
        details.append({"row": row, "most": most, "least": least, "activation": drive, "spread": spread})
    kept = table.loc[sorted(used), ["relation", "subject", "object", "text"]]
    return details, {int(at): row for at, row in zip(kept.index, kept.to_dict("records"), strict=True)}

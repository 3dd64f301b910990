"""Units: the neurons that a page can show alone: what they write, where they act, what they score."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from relact import schema
from relact.analysis.looks import drivers, promoted
from relact.scoring.criteria import of_attributions
from relact.store.reading import Store

DIGITS = 4


def units_of(store: Store, relations: list[str]) -> list[dict[str, Any]]:
    """Every neuron that somebody looked at, once: site, layer, neuron, of (mask, relation, rank of its sets),
    promoted, suppressed, prompts (number, tokens, values, quantity), and its score in every relation.
    """
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for mask in store.children(schema.LOOKS):
        acting = drivers(store, mask)
        statistic = store.mask_record(mask).statistic
        for row in promoted(store, mask).to_dict("records"):
            place = (row["site"], int(row["layer"]), int(row["neuron"]))
            unit = found.setdefault(place, _unit(store, place, row, statistic, relations))
            unit["of"].append([mask, row["relation"], int(row["rank"]) + 1])
            unit["prompts"] = unit["prompts"] or [
                {
                    "prompt": driver.prompt,
                    "tokens": driver.tokens,
                    "values": [round(float(value), DIGITS) for value in driver.values],
                    "quantity": driver.quantity,
                }
                for driver in acting.get(place, [])
            ]
    return list(found.values())


def _unit(
    store: Store, place: tuple[str, int, int], row: dict[Hashable, Any], statistic: str, relations: list[str]
) -> dict[str, Any]:
    site, layer, index = place
    group = f"{schema.SCORES}/{site}"
    scores: dict[str, float] = {}
    if store.has(group):  # a package may be without
        names = [str(name) for name in store.dataset(group)["relation"].values]
        values = np.asarray(store.root[f"{group}/{statistic}"][:, layer, index], float)  # type: ignore[index]
        scores = dict(zip(names, values.round(DIGITS).tolist(), strict=True))
    return {
        "site": site,
        "layer": layer,
        "neuron": index,
        "of": [],
        "promoted": row["promoted"],
        "suppressed": row["suppressed"],
        "prompts": [],
        "statistic": statistic,
        "signed": of_attributions(statistic),
        "scores": [scores.get(name) for name in relations],
    }

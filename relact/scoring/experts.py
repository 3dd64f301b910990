"""Experts: what of a mixture of experts is chosen, and how much every expert is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from relact import schema
from relact import sites as site_names
from relact.errors import InputError
from relact.schema import BY_EXPERT, ROUTER, WEIGHT
from relact.scoring.magnitudes import magnitudes
from relact.scoring.selection import Scores
from relact.store.reading import Store


def neurons_of(sites: Iterable[str]) -> list[str]:
    """Those whose neurons are no whole experts, or all where there are no others."""
    every = list(sites)
    return [site for site in every if site not in (ROUTER, WEIGHT)] or every


def per_expert(
    store: Store, scores: Scores, sites: str | Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Scores of experts: `schema.WEIGHT` -> [relation, layer, expert].

    They are those of the router's weights where these are scored, and nothing else is named in ``sites``;
    else the mean over an expert's neurons.

    Args:
        scores: [relation, layer, neuron] per site.

    Raises:
        InputError: the store's model has no experts, or none of their neurons has scores.
    """
    wanted = site_names.expand(sites) if sites is not None else (WEIGHT,) if WEIGHT in scores else BY_EXPERT
    chosen = [
        np.stack([by_expert(values[at], n) for at in range(len(values))])
        for site, values in scores.items()
        if site in wanted and (n := store.experts_of(site))
    ]
    if not chosen:
        raise InputError(
            "no scores of experts: " + ("choose other sites" if store.has_experts else "the model has none"),
            where=store.path,
            fix=f"capture {WEIGHT} of a mixture of experts, or leave out --unit expert",
        )
    means: np.ndarray = np.mean(np.stack(chosen), axis=0)
    return {WEIGHT: means}


def by_expert(values: np.ndarray, n_experts: int) -> np.ndarray:
    """Means over every expert's neurons: [..., neurons] to [..., experts]."""
    means: np.ndarray = values.reshape(*values.shape[:-1], n_experts, -1).mean(axis=-1)
    return means


def loads_of(store: Store) -> np.ndarray | None:
    """How much every expert is used, float64 [layer, expert]: the mean of its weight over the identification
    prompts, or of its neurons' |activation| where weights are not captured; None where neither is.
    """
    for site in (WEIGHT, *schema.HIDDEN[::-1]):
        if site in store.layouts and (n_experts := store.experts_of(site)):
            return by_expert(magnitudes(store, site), n_experts)
    return None

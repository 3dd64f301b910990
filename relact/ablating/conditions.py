"""Conditions: which neurons are overridden, and with what, while every test prompt is answered again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from relact import schema
from relact.errors import InputError
from relact.schema import INTACT, RANDOM
from relact.scoring import masks
from relact.store.reading import Store

MODES = ("zero", "mean", "resample")  # and every stored statistic of the values, see `replacements`
STATISTICS = (schema.OFF_MEAN, schema.OFF_P50, schema.ON_P50, schema.ON_P90)


@dataclass(frozen=True)
class Condition:
    """A named set of neurons to override; no sites at all is the intact model.

    Attributes:
        off: bool [layer, neuron] per site.
        values: what they are set to, float [layer, neuron] per site; a site that is not there is set to 0.
    """

    name: str
    off: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def entries(self, site: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the overridden neurons of a site in a layer, and their new values."""
        neurons = np.flatnonzero(self.off[site][layer]) if site in self.off else np.empty(0, np.int64)
        values = (
            self.values[site][layer, neurons] if site in self.values else np.zeros(len(neurons), np.float32)
        )
        return neurons, values.astype(np.float32)

    def first_layer(self) -> int | None:
        """The lowest layer with an overridden neuron; None when there is none."""
        layers = [int(np.flatnonzero(off.any(axis=1))[0]) for off in self.off.values() if off.any()]
        return min(layers, default=None)

    def digest(self) -> str:
        """Equal for equal overrides, whatever the name."""
        state = hashlib.blake2b(digest_size=12)
        for site in sorted(site for site, off in self.off.items() if off.any()):
            state.update(f"{site} {self.off[site].shape} ".encode() + np.packbits(self.off[site]).tobytes())
            if site in self.values:
                state.update(self.values[site][self.off[site]].astype(np.float32).tobytes())
        return state.hexdigest()


def of_mask(store: Store, mask: str, *, seeds: Sequence[int], mode: str = "zero") -> list[Condition]:
    """The conditions of one mask: ``intact``, one per relation of the mask, ``random-<seed>`` per seed.

    Args:
        seeds: of the random controls, matched to the mask's counts per site and layer.
        mode: see `replacements`.
    """
    relations, sets = masks.read(store, mask)
    conditions = [Condition(INTACT, {})]
    for at, relation in enumerate(relations):
        off = {site: rows[at] for site, rows in sets.items()}
        conditions.append(Condition(relation, off, replacements(store, mode, tuple(sets), relation)))
    for seed in seeds:
        off = masks.random_matched(sets, seed)
        conditions.append(
            Condition(f"{RANDOM}{seed}", off, replacements(store, mode, tuple(sets), None, seed))
        )
    return conditions


def added(smaller: Sequence[Condition], larger: Sequence[Condition]) -> list[Condition]:
    """What every set of ``larger`` (`intact` and random ones aside) adds to the one
    of that name in ``smaller``, if any.
    """
    before = {condition.name: condition.off for condition in smaller}
    steps = []
    for condition in larger:
        if condition.name != INTACT and not condition.name.startswith(RANDOM):
            former = before.get(condition.name)
            off = {site: mask & ~former[site] if former else mask for site, mask in condition.off.items()}
            steps.append(Condition(condition.name, off, condition.values))
    return steps


def replacements(
    store: Store, mode: str, sites: Sequence[str], relation: str | None, seed: int = 0
) -> dict[str, np.ndarray]:
    """What overridden neurons are set to: float32 [layer, neuron] per site; nothing where that is 0.

    Args:
        mode: ``zero``; ``mean`` over all identification prompts; a stored statistic of the relation:
            ``off_mean`` (the mean over the others' prompts), ``on_p50`` (the median over its own, which
            forces the concept on), ``on_p90``, ``off_p50``;
            ``resample``: the values on one prompt of another relation, drawn by ``seed``.
        relation: whose; None for a random control, which takes a statistic's average over the relations.
    """
    if mode == "zero":
        return {}
    if mode == "mean":
        return {site: _mean(store, site) for site in sites}
    if mode == "resample":
        others = np.flatnonzero(store.prompts(schema.IDENTIFY)["relation"].to_numpy() != relation)
        donor = int(np.random.default_rng([seed, *(relation or "").encode()]).choice(others))
        return {site: _activations(store, site)[donor].values.astype(np.float32) for site in sites}
    values_of = {}
    for site in sites:
        scores = store.dataset(f"{schema.SCORES}/{site}")
        if mode not in STATISTICS or mode not in scores:
            stored = [name for name in STATISTICS if name in scores]
            raise InputError(
                f"unknown mode {mode!r}", where="mode", fix=f"use one of {', '.join((*MODES, *stored))}"
            )
        values = scores[mode]
        values_of[site] = (
            values.mean("relation") if relation is None else values.sel(relation=relation)
        ).values
    return values_of


def _activations(store: Store, site: str) -> xr.DataArray:
    return store.dataset(f"{schema.ACTIVATIONS}/{site}")[schema.ACTIVATION]


def _mean(store: Store, site: str) -> np.ndarray:
    """Mean over all identification prompts, float32 [layer, neuron]; a layer at a time."""
    values = _activations(store, site)
    layers = [
        values.isel(layer=layer).values.mean(axis=0, dtype=np.float64)
        for layer in range(values.sizes["layer"])
    ]
    return np.stack(layers).astype(np.float32)

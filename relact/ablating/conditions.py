"""Conditions: which neurons are overridden, and with what, while every test prompt is answered again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from relact import schema
from relact.errors import InputError
from relact.schema import INTACT, KIND_INTACT, KIND_OWN
from relact.store.reading import Store

SCALE = "scale"  # the mode that multiplies values instead of replacing them
MODES = ("zero", "mean", "resample", SCALE)  # and every stored statistic of the values, see `replacements`
STATISTICS = (schema.OFF_MEAN, schema.OFF_P50, schema.ON_P50, schema.ON_P90)


@dataclass(frozen=True)
class Condition:
    """A named set of neurons to override; no sites at all is the intact model.

    Attributes:
        off: int64 [neurons, 2] per site, the (layer, index) of each in ascending order.
        values: what they are set to, float32 [neurons] per site; a site that is not there is set to 0.
        factor: what their values are multiplied by instead; None where they are set.
        kind: of `schema.KIND`.
        asked: the relation whose prompts are answered under it; None is all prompts.
    """

    name: str
    off: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    kind: str = KIND_OWN
    asked: str | None = None
    factor: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        off: Mapping[str, np.ndarray],
        values: Mapping[str, np.ndarray] | None = None,
        *,
        kind: str = KIND_OWN,
        asked: str | None = None,
        layers: Callable[[str], Sequence[int]] | None = None,
    ) -> Condition:
        """From bool [layer, neuron] per site, and all neurons' values, float [layer, neuron] per site.

        Args:
            layers: gives the numbers along a site's axis of layers, as `Store.layers`; None is from 0.
        """
        places = {site: np.argwhere(chosen) for site, chosen in off.items()}
        new = {
            site: np.asarray(every)[tuple(places[site].T)].astype(np.float32)
            for site, every in (values or {}).items()
        }
        if layers is not None:
            for site, found in places.items():
                found[:, 0] = np.asarray(layers(site), np.int64)[found[:, 0]]
        return cls(name, places, new, kind, asked)

    def scaled(self, factor: float | None) -> Condition:
        """The same neurons, multiplied; None as it is.

        0 is what sets them to 0 (infinities too) and 1 what overrides nothing, with the digests of these.
        """
        if factor is None:
            return self
        if factor == 1:
            return replace(self, off={}, values={})
        return replace(self, values={}, factor=factor or None)

    def entries(self, site: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the overridden neurons of a site in a layer, and their new values or their factors."""
        places = self.off.get(site, np.empty((0, 2), np.int64))
        first, stop = np.searchsorted(places[:, 0], [layer, layer + 1])
        same = np.full(len(places), self.factor or 0.0, np.float32)
        return places[first:stop, 1], self.values.get(site, same)[first:stop]

    def first_layer(self) -> int | None:
        """The lowest layer with an overridden neuron; None when there is none."""
        return min((int(places[0, 0]) for places in self.off.values() if len(places)), default=None)

    def digest(self) -> str:
        """Equal for equal overrides, whatever the name."""
        state = hashlib.blake2b(digest_size=12)
        for site in sorted(site for site, places in self.off.items() if len(places)):
            state.update(f"{site} ".encode() + self.off[site].astype("<i8").tobytes())
            if site in self.values:
                state.update(self.values[site].astype("<f4").tobytes())
        if self.factor is not None:
            state.update(f"times {self.factor!r}".encode())
        return state.hexdigest()


INTACT_MODEL = Condition(INTACT, {}, kind=KIND_INTACT)


class Replacements:
    """What overridden neurons are set to, by relation; see `replacements`. What several ask is read once.

    Attributes:
        factor: of the mode `SCALE`, see `Condition.scaled`.
        measure: for the mode ``mean``: gives the means of the sites that it is asked for, of which the store
            holds no activations.
    """

    def __init__(
        self,
        store: Store,
        mode: str,
        sites: Sequence[str],
        factor: float | None = None,
        measure: Callable[[tuple[str, ...]], dict[str, np.ndarray]] | None = None,
    ) -> None:
        _require_replaceable(sites, mode)
        self.store, self.mode, self.sites, self.factor = store, mode, tuple(sites), factor
        self._known: dict[str | None, dict[str, np.ndarray]] = {}
        missing = tuple(site for site in sites if site not in store.layouts)
        if mode == "mean" and missing and measure:
            held = [site for site in sites if site not in missing]
            self._known[None] = measure(missing) | replacements(store, mode, held, None)

    def __call__(self, relation: str | None, seed: int = 0) -> dict[str, np.ndarray]:
        """float32 [layer, neuron] per site; ``seed`` draws what is resampled."""
        if self.mode == "resample":  # every draw is another
            return replacements(self.store, self.mode, self.sites, relation, seed)
        key = None if self.mode == "mean" else relation
        if key not in self._known:
            self._known[key] = replacements(self.store, self.mode, self.sites, relation)
        return self._known[key]


def _require_replaceable(sites: Sequence[str], mode: str) -> None:
    """Refuse what would change nothing, or need experts that did not run."""
    if schema.ROUTER in sites:
        fix = f"switch experts off at {schema.WEIGHT}: `relact select --unit expert`"
        raise InputError("is read, nothing follows from it", where=schema.ROUTER, fix=fix)
    if schema.WEIGHT in sites and mode not in ("zero", SCALE):
        raise InputError(f"weights cannot be set to {mode}", where="mode", fix=f"use zero or {SCALE}")


def of_sets(
    relations: Sequence[str], sets: Mapping[str, np.ndarray], values: Replacements
) -> list[Condition]:
    """``intact``, then one condition per relation.

    Args:
        sets: bool [relation, layer, neuron] per site.
    """
    own = [
        Condition.of(
            relation,
            {site: rows[at] for site, rows in sets.items()},
            values(relation),
            layers=values.store.layers,
        ).scaled(values.factor)
        for at, relation in enumerate(relations)
    ]
    return [INTACT_MODEL, *own]


def added(smaller: Sequence[Condition], larger: Sequence[Condition]) -> list[Condition]:
    """What every own set of ``larger`` adds to the one of that name in ``smaller``, if any."""
    before = {condition.name: condition for condition in smaller if condition.kind == KIND_OWN}
    return [
        _without(condition, before[condition.name].off if before else {})
        for condition in larger
        if condition.kind == KIND_OWN
    ]


def _without(condition: Condition, former: Mapping[str, np.ndarray]) -> Condition:
    """The condition, asked on its own relation's prompts only, without what is off in ``former``."""
    new = {
        site: ~np.isin(_keys(places), _keys(former[site])) if site in former else np.ones(len(places), bool)
        for site, places in condition.off.items()
    }
    return replace(
        condition,
        off={site: places[new[site]] for site, places in condition.off.items()},
        values={site: values[new[site]] for site, values in condition.values.items()},
        asked=condition.name,
    )


def _keys(places: np.ndarray) -> np.ndarray:
    """One number for every (layer, index)."""
    keys: np.ndarray = (places[:, 0] << 32) | places[:, 1]
    return keys


def asked_on(conditions: Sequence[Condition], relation_of: np.ndarray) -> np.ndarray:
    """bool [condition, prompt]: which prompts are answered under which condition."""
    return np.array(
        [
            np.ones(len(relation_of), bool) if condition.asked is None else relation_of == condition.asked
            for condition in conditions
        ],
        bool,
    ).reshape(len(conditions), len(relation_of))


def replacements(
    store: Store, mode: str, sites: Sequence[str], relation: str | None, seed: int = 0
) -> dict[str, np.ndarray]:
    """What overridden neurons are set to: float32 [layer, neuron] per site; nothing where that is 0.

    Args:
        mode: ``zero``; ``scale``, where nothing is set; ``mean`` over all identification prompts; a stored
            statistic of the relation:
            ``off_mean`` (the mean over the others' prompts), ``on_p50`` (the median over its own, which
            forces the concept on), ``on_p90``, ``off_p50``;
            ``resample``: the values on one prompt of another relation, drawn by ``seed``.
        relation: whose; None where there is none: a statistic's average over the relations.
    """
    if mode in ("zero", SCALE):
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
        if mode in STATISTICS and mode not in scores:
            fix = f"capture `--sites {site}` too, beside the attributions: their sets are set to activations"
            raise InputError(f"{mode} of {site} is not stored", where="mode", fix=fix)
        if mode not in STATISTICS:
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

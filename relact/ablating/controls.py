"""Random controls: for each prompt a set that is matched to the set of the prompt's own relation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relact.ablating.conditions import Condition, Replacements
from relact.schema import KIND_RANDOM, RANDOM
from relact.scoring import controls
from relact.scoring.experts import loads_of
from relact.scoring.magnitudes import magnitudes, super_unit_masks
from relact.store.reading import Store


@dataclass(frozen=True)
class Drawing:
    """How random sets are drawn for one mask.

    Attributes:
        relations, sets: the mask, bool [relation, layer, neuron] per site.
        control: ``matched`` (as many neurons per site and layer, of experts that are used as much),
            ``magnitude`` (and of like activations) or
            ``uniform`` (as many as the mask has, anywhere: the published control).
        counted: what the mask counts, see `schema.MaskRecord`.
    """

    store: Store
    relations: Sequence[str]
    sets: Mapping[str, np.ndarray]
    control: str
    counted: str

    def conditions(
        self, seeds: Sequence[int], tested: Sequence[str], values: Replacements
    ) -> Iterator[Condition]:
        """Conditions ``random-<seed>``, one for the prompts of each ``tested`` relation."""
        for seed in seeds:
            for relation in [None] if self.control == "uniform" else tested:
                yield Condition.of(
                    f"{RANDOM}{seed}",
                    self.draw(seed, relation),
                    values(relation if relation in self.relations else None, seed),
                    kind=KIND_RANDOM,
                    asked=relation,
                    layers=self.store.layers,
                ).scaled(values.factor)

    def draw(self, seed: int, relation: str | None) -> Mapping[str, np.ndarray]:
        """bool [layer, neuron] per site; of no relation's own set: matched to the average set."""
        if self.control == "uniform":
            return controls.random_uniform(self.sets, seed)
        if relation is None or relation not in self.relations:
            return controls.random_average(self.sets, seed, self.without, self.counted)
        own = {site: rows[list(self.relations).index(relation)] for site, rows in self.sets.items()}
        if self.control == "magnitude":
            how = (seed, relation, self.without, self.counted)
            return controls.random_like_magnitude(own, self.sizes, *how)
        if self.loads is not None:
            return controls.random_like_load(own, self.loads, seed, relation, self.without, self.counted)
        return controls.random_matched(own, seed, relation, self.without, self.counted)

    @cached_property
    def without(self) -> Mapping[str, np.ndarray]:
        """The store's super-units, bool [layer, neuron] per site."""
        return super_unit_masks(self.store, list(self.sets))

    @cached_property
    def loads(self) -> np.ndarray | None:
        """Of every expert, [layer, expert]; None where the sets are of no experts, or nobody knows."""
        of_experts = any(self.store.experts_of(site) for site in self.sets)
        return loads_of(self.store) if of_experts else None

    @cached_property
    def sizes(self) -> Mapping[str, np.ndarray]:
        """Mean |activation|, [layer, neuron] per site."""
        return {site: magnitudes(self.store, site) for site in self.sets}

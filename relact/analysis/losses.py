"""Losses: what every prompt lost under every condition, relation by relation, as arrays for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from relact import schema
from relact.analysis.effects import cells, intact_at, kinds_of, words
from relact.errors import InputError


@dataclass(frozen=True)
class Losses:
    """One ablation, taken apart; conditions are those without intact, relations those that have prompts.

    Attributes:
        groups: masks [condition, relation] ``own``, ``other``, ``random`` (`effects.cells`).
        intact: of every relation, verdicts bool [prompt] of the intact model.
        verdicts: of every relation, bool [condition, prompt].
        nats: of every relation, float [condition, prompt] of log-probability lost, prompts that are finite
            under every condition; None where not stored.
        logits: the same of the logit difference, NaN where there is none; None where not stored.
    """

    conditions: list[str]
    kinds: list[str]
    relations: list[str]
    groups: dict[str, np.ndarray]
    intact: list[np.ndarray]
    verdicts: list[np.ndarray]
    nats: list[np.ndarray] | None
    logits: list[np.ndarray] | None

    def changes(self) -> list[np.ndarray]:
        """Of every relation, int [condition, prompt]: 1 is a right answer lost, -1 one gained."""
        pairs = zip(self.intact, self.verdicts, strict=True)
        return [before.astype(int) - after for before, after in pairs]

    @property
    def n_random(self) -> int:
        """How many random sets every relation was tried under."""
        return self.kinds.count(schema.KIND_RANDOM)

    def diagonal(self, table: np.ndarray) -> np.ndarray:
        """The own cells of a table [condition, relation] as float [relation]; NaN where there is none."""
        own = self.groups["own"]
        return np.where(own.any(axis=0), np.where(own, table, 0).sum(axis=0, dtype=float), np.nan)

    def random(self, table: np.ndarray) -> np.ndarray:
        """The random cells of a table [condition, relation], as [relation, set]."""
        return table[[kind == schema.KIND_RANDOM for kind in self.kinds]].T


def losses(ablation: xr.Dataset) -> Losses:
    """Take one ablation apart.

    Raises:
        InputError: a sweep that is not one k, no intact condition, or no prompts.
    """
    if "k" in ablation.dims:
        raise InputError("evidence of several k at once", where="k", fix="choose one: .sel(k=..)")
    kinds, intact = kinds_of(ablation), intact_at(ablation)
    changed = [at for at, kind in enumerate(kinds) if kind != schema.KIND_INTACT]
    conditions = [str(name) for name in ablation["condition"].values[changed]]
    relation_of = words(ablation[schema.RELATION_OF])
    relations = [name for name in words(ablation["relation"]).tolist() if name in relation_of]
    if not relations:
        raise InputError("an ablation without prompts of its relations", where=schema.RELATION_OF)
    rows = [np.flatnonzero(relation_of == name) for name in relations]
    correct = ablation[schema.CORRECT].transpose("condition", "prompt").values.astype(bool)

    def lost(name: str) -> np.ndarray | None:
        if name not in ablation:
            return None
        values = ablation[name].transpose("condition", "prompt").values.astype(float)
        difference: np.ndarray = values[intact] - values[changed]
        return difference

    nats, logits = lost(schema.LOG_PROBABILITY), lost(schema.LOGIT_DIFFERENCE)
    return Losses(
        conditions=conditions,
        kinds=[kinds[at] for at in changed],
        relations=relations,
        groups=cells(conditions, relations, [kinds[at] for at in changed]),
        intact=[correct[intact, own] for own in rows],
        verdicts=[correct[changed][:, own] for own in rows],
        nats=None if nats is None else [_finite(nats[:, own]) for own in rows],
        logits=None if logits is None else [logits[:, own] for own in rows],
    )


def _finite(values: np.ndarray) -> np.ndarray:
    """The columns of values [condition, prompt] that are finite under every condition."""
    return values[:, np.isfinite(values).all(axis=0)]

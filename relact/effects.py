"""Effects: what an ablation did, read off its accuracies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

INTACT, RANDOM = "intact", "random-"


@dataclass(frozen=True)
class Effects:
    """Mean loss of accuracy against the intact model, in points of 100.

    Attributes:
        own: a relation under its own neurons, averaged over relations.
        other: a relation under another relation's neurons.
        random: a relation under random neurons.
        drops: points, float [condition, relation], conditions without ``intact``.
    """

    own: float
    other: float
    random: float
    drops: xr.DataArray


def effects(ablation: xr.Dataset) -> Effects:
    """Summarise one ``ablations/<name>`` dataset (accuracy [condition, relation])."""
    accuracy = ablation["accuracy"].load() * 100
    drops = (accuracy.sel(condition=INTACT, drop=True) - accuracy).drop_sel(condition=INTACT)
    relations = [name for name in drops["relation"].values if name in drops["condition"].values]
    matrix = drops.sel(condition=relations, relation=relations).values  # [switched off, measured]
    random = [name for name in drops["condition"].values if str(name).startswith(RANDOM)]
    off_diagonal = ~np.eye(len(relations), dtype=bool)
    return Effects(
        own=float(np.diag(matrix).mean()),
        other=float(matrix[off_diagonal].mean()) if len(relations) > 1 else float("nan"),
        random=float(drops.sel(condition=random).mean()) if random else float("nan"),
        drops=drops,
    )

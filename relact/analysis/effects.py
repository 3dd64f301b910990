"""Effects: what an ablation did, read off its accuracies and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import xarray as xr

from relact.schema import ACCURACY, CORRECT, INTACT, RANDOM, RELATION_OF, STEP_CORRECT


@dataclass(frozen=True)
class Effects:
    """Mean loss of accuracy against the intact model, in points of 100.

    Attributes:
        own: a relation under its own neurons, averaged over relations.
        other: a relation under another relation's neurons.
        random: a relation under random neurons.
        drops: points, float [condition, relation], conditions without ``intact``.
        relative: the published measure, drops over the intact accuracy; NaN where that is 0.
    """

    own: float
    other: float
    random: float
    drops: xr.DataArray
    relative: xr.DataArray


def effects(ablation: xr.Dataset) -> Effects:
    """Summarise one ``ablations/<name>`` dataset (accuracy [condition, relation], one k of a sweep)."""
    accuracy = ablation[ACCURACY].load() * 100
    intact = accuracy.sel(condition=INTACT, drop=True)
    drops = -(accuracy - intact).drop_sel(condition=INTACT)  # the dimensions' order stays
    groups = cells([str(x) for x in drops["condition"].values], [str(x) for x in drops["relation"].values])
    means = {
        name: float(drops.values[mask].mean()) if mask.any() else float("nan")
        for name, mask in groups.items()
    }
    return Effects(**means, drops=drops, relative=drops / intact.where(intact > 0))


def cells(conditions: Sequence[str], relations: Sequence[str]) -> dict[str, np.ndarray]:
    """Masks [condition, relation] of the cells by whose neurons are off: ``own``, ``other``, ``random``."""
    names = np.array(conditions)[:, None]
    own = names == np.array(relations)
    random = np.char.startswith(names, RANDOM) & np.ones(own.shape, bool)
    return {"own": own, "other": ~own & ~random & (names != INTACT), "random": random}


def cumulativity(sweep: xr.Dataset) -> pd.DataFrame:
    """Whether larger neuron sets break more because they hold the smaller ones, step by step of k.

    Args:
        sweep: an ablation over several k, with ``step_correct`` [k, prompt]: the verdict when only those
            neurons of a prompt's own relation are overridden that a k adds to the one before it.

    Returns:
        A row per relation and step: relation, k1, k2, total (test prompts right at k1 and wrong at k2),
        affected (of those, wrong as well when only the added neurons are overridden), cumulativity =
        1 - affected / total, NaN where total is 0. Then two rows per step: ``macro`` averages the relations,
        ``micro`` pools their prompts.
    """
    relation_of = np.array([str(name) for name in sweep[RELATION_OF].values])
    relations = [str(name) for name in sweep["relation"].values if name in sweep["condition"].values]
    ks = [int(k) for k in sweep["k"].values]
    correct = {name: sweep[CORRECT].sel(condition=name).values for name in relations}  # each [k, prompt]
    added = sweep[STEP_CORRECT].values
    rows = []
    for step, (k1, k2) in enumerate(pairwise(ks), 1):
        for name in relations:
            broken = correct[name][step - 1] & ~correct[name][step] & (relation_of == name)
            rows.append((name, k1, k2, int(broken.sum()), int((broken & ~added[step]).sum())))
    table = pd.DataFrame(rows, columns=["relation", "k1", "k2", "total", "affected"])
    table["cumulativity"] = 1 - table["affected"] / table["total"].where(table["total"] > 0)
    steps = table.groupby(["k1", "k2"], sort=False)
    sums = steps[["total", "affected"]].sum().reset_index()
    macro = sums.assign(relation="macro", cumulativity=steps["cumulativity"].mean().to_numpy())
    micro = sums.assign(
        relation="micro", cumulativity=1 - sums["affected"] / sums["total"].where(sums["total"] > 0)
    )
    return pd.concat([table, macro, micro])[list(table.columns)].reset_index(drop=True)

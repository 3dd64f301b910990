"""Effects: what an ablation did, read off its accuracies, verdicts and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.analysis.asked import require_ablation
from relact.errors import InputError
from relact.schema import ACCURACY, CORRECT, LOG_PROBABILITY, RELATION_OF, STEP_CORRECT

ALL = "all"  # of `of_part`: every prompt


@dataclass(frozen=True)
class Effects:
    """Mean loss against the intact model: points of 100 of accuracy, nats of log-probability.

    Every relation weighs the same, however many conditions it was tried under.

    Attributes:
        own: points a relation loses under its own neurons, averaged over relations.
        other: under another relation's neurons. random: under random neurons.
        log_own, log_other, log_random: the same in nats of the answer's log-probability; NaN where that is
            not stored.
        drops: points, float [condition, relation], conditions without ``intact``.
        relative: the published measure, drops over the intact accuracy; NaN where that is 0.
        log_drops: nats, float [condition, relation]; None where log-probabilities are not stored.
    """

    own: float
    other: float
    random: float
    log_own: float
    log_other: float
    log_random: float
    drops: xr.DataArray
    relative: xr.DataArray
    log_drops: xr.DataArray | None


@overload
def effects(ablation: xr.Dataset, split: None = None) -> Effects: ...
@overload
def effects(ablation: xr.Dataset, split: Sequence[str] | np.ndarray) -> dict[str, Effects]: ...
def effects(
    ablation: xr.Dataset, split: Sequence[str] | np.ndarray | None = None
) -> Effects | dict[str, Effects]:
    """Summarise one ``ablations/<name>`` dataset (accuracy [condition, relation], one k of a sweep).

    Args:
        split: a label for every prompt, see `split_of`; then a summary of the prompts of every label.

    Raises:
        InputError: there is no intact condition; or not a label for every prompt.
    """
    require_ablation(ablation)
    if split is None:
        return _summary(ablation)
    labels = np.asarray(split, str)
    if len(labels) != ablation.sizes["prompt"]:
        problem = f"{len(labels)} labels of {ablation.sizes['prompt']} prompts"
        raise InputError(problem, where="split", fix="give one for every prompt, as `relact.split_of` does")
    found = dict.fromkeys(labels.tolist())
    return {label: _summary(of_prompts(ablation, labels == label)) for label in found}


def _summary(ablation: xr.Dataset) -> Effects:
    kinds = kinds_of(ablation)
    changed = [at for at, kind in enumerate(kinds) if kind != schema.KIND_INTACT]
    accuracy = ablation[ACCURACY].load() * 100
    intact = accuracy.isel(condition=intact_at(ablation), drop=True)
    drops = -(accuracy - intact).isel(condition=changed)  # the dimensions' order stays
    conditions, relations = (words(drops[dim]).tolist() for dim in ("condition", "relation"))
    groups = cells(conditions, relations, [kinds[at] for at in changed])
    means = {name: averaged(drops.values, mask) for name, mask in groups.items()}
    log_drops = _log_drops(ablation, changed) if LOG_PROBABILITY in ablation else None
    logs = {
        f"log_{name}": averaged(log_drops.values, mask) if log_drops is not None else float("nan")
        for name, mask in groups.items()
    }
    relative = drops / intact.where(intact > 0)
    return Effects(**means, **logs, drops=drops, relative=relative, log_drops=log_drops)


def of_part(ablation: xr.Dataset, part: str) -> xr.Dataset:
    """An ablation on its prompts of one part, ``dev`` (to choose on) or ``test`` (to show); ``all`` as it is.

    Accuracy [.., condition, relation] is computed anew from ``correct``; relations without prompts in the
    part are left out, their conditions stay. Results that do not say it have test prompts only.

    Raises:
        InputError: no prompt is of that part.
    """
    require_ablation(ablation)
    if part == ALL:
        return ablation
    stored = ablation[schema.PART].values if schema.PART in ablation else None
    parts = [schema.TEST] * ablation.sizes["prompt"] if stored is None else [str(name) for name in stored]
    rows = np.array([name == part for name in parts], bool)
    if not rows.any():
        there = ", ".join([*sorted(set(parts)), ALL])
        raise InputError(f"no prompt of {part!r} in this ablation", where="part", fix=f"choose of {there}")
    return of_prompts(ablation, rows)


def of_prompts(ablation: xr.Dataset, rows: np.ndarray) -> xr.Dataset:
    """An ablation on some of its prompts, bool [prompt]: as `of_part`, for any choice of them."""
    chosen = ablation.isel(prompt=np.flatnonzero(rows))
    relation_of = words(chosen[RELATION_OF])
    relations = [name for name in words(ablation["relation"]) if (relation_of == name).any()]
    chosen = chosen.sel(relation=relations)
    right = chosen[CORRECT].transpose(..., "prompt").values
    accuracy = np.stack([right[..., relation_of == name].mean(axis=-1) for name in relations], axis=-1)
    stored_accuracy = chosen[ACCURACY]
    chosen[ACCURACY] = (stored_accuracy.dims, accuracy.astype(stored_accuracy.dtype), stored_accuracy.attrs)
    return chosen


def kinds_of(ablation: xr.Dataset) -> list[str]:
    """The kind of every condition: what is stored, and for results that do not say it, by their names."""
    if schema.KIND in ablation:
        return [str(kind) for kind in ablation[schema.KIND].values]
    return schema.kinds_of_names([str(name) for name in ablation["condition"].values])


def words(array: xr.DataArray) -> np.ndarray:
    """One-dimensional text, however it is stored, as NumPy compares it."""
    return np.array([str(word) for word in array.values], str)


def intact_at(ablation: xr.Dataset) -> int:
    """The position of the intact condition; `InputError` where there is none."""
    kinds = kinds_of(ablation)
    if schema.KIND_INTACT not in kinds:
        raise InputError("an ablation without the intact condition", where="condition", fix="ablate anew")
    return kinds.index(schema.KIND_INTACT)


def cells(conditions: Sequence[str], relations: Sequence[str], kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Masks [condition, relation] of the cells by whose neurons are off: ``own``, ``other``, ``random``."""
    same = np.array(conditions, str)[:, None] == np.array(relations, str)
    kind = np.array(kinds, str)[:, None]
    chosen = (kind == schema.KIND_OWN) & np.ones(same.shape, bool)
    random = (kind == schema.KIND_RANDOM) & np.ones(same.shape, bool)
    return {"own": chosen & same, "other": chosen & ~same, "random": random}


def averaged(values: np.ndarray, mask: np.ndarray) -> float:
    """The mean over relations of their mean over the masked conditions [condition, relation]; NaN of none."""
    means = of_relations(values, mask)
    known = means[~np.isnan(means)]
    return float(known.mean()) if known.size else float("nan")


def of_relations(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Every relation's mean over its masked conditions, of [condition, relation]; NaN where there is none."""
    counted = mask & ~np.isnan(values)
    counts = counted.sum(axis=0)
    sums = np.where(counted, values, 0).sum(axis=0, dtype=float)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _log_drops(ablation: xr.Dataset, changed: Sequence[int]) -> xr.DataArray:
    """Mean nats lost, [condition, relation], over the prompts that are finite under every condition."""
    values = ablation[LOG_PROBABILITY].transpose("condition", "prompt").values.astype(float)
    finite = np.isfinite(values).all(axis=0)
    losses = values[intact_at(ablation)] - values[list(changed)]
    relation_of = words(ablation[RELATION_OF])
    drops = np.full((len(changed), ablation.sizes["relation"]), np.nan)
    for at, name in enumerate(words(ablation["relation"])):
        if (rows := finite & (relation_of == name)).any():
            drops[:, at] = losses[:, rows].mean(axis=1)
    coords = {
        "condition": ablation["condition"].values[list(changed)],
        "relation": ablation["relation"].values,
    }
    return xr.DataArray(drops, coords=coords, dims=("condition", "relation"))


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

    Raises:
        InputError: not a sweep.
    """
    require_ablation(sweep)
    if STEP_CORRECT not in sweep or "k" not in sweep.dims:
        raise InputError("cumulativity of an ablation of one k", where="k", fix="ablate with several k")
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
    return _with_means(table)


def _with_means(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of relations, then every step's ``macro`` and ``micro``."""
    steps = table.groupby(["k1", "k2"], sort=False)
    sums = steps[["total", "affected"]].sum().reset_index()
    macro = sums.assign(relation="macro", cumulativity=steps["cumulativity"].mean().to_numpy())
    micro = sums.assign(
        relation="micro", cumulativity=1 - sums["affected"] / sums["total"].where(sums["total"] > 0)
    )
    return pd.concat([table, macro, micro])[list(table.columns)].reset_index(drop=True)

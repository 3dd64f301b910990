"""Stability: neurons and their function, found twice from two halves of the identification prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact.analysis.effects import cells, effects, kinds_of, of_relations
from relact.models.loading import LoadedModel
from relact.progress import Progress, in_notebooks
from relact.schema import AVERAGE_PRECISION, KIND_INTACT
from relact.scoring.stability import Halves, halves_of, write_half
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store

HALVES = ("first", "second")
GROUPS = ("own", "other", "random")


def stability(
    store: str | Path | Store,
    *,
    k: int,
    statistic: str = AVERAGE_PRECISION,
    splits: int = 3,
    seed: int = 0,
    negatives: int | None = None,
    workers: int | None = None,
    ablate: bool = False,
    seeds: Sequence[int] = tuple(range(3)),
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """Split every relation's identification prompts in random halves and choose its top k from each: are they
    the same units, and do they do the same?

    Args:
        k: neurons per relation. statistic: any that can be scored, such as ``attribution_z``.
        splits: how often. seed: of the splits. negatives, workers: as in `score`.
        ablate: switch off both halves' sets on the store's test prompts; sets and results are stored as
            ``<statistic>-half-<k>-<split><a or b>``, and not made again.
        seeds, model, device: of these ablations, as in `ablate`.

    Returns:
        A row per split and relation: split, relation, shared (share of k that both halves choose; gate and up
        of a hidden unit are one), others (the same with the other half of every other relation, on average),
        chance (of random sets). With ``ablate`` also own_first, own_second, other_..., random_... (mean drop
        in points on the relation's test prompts) and the same with log_ (nats of the answer's first token).

    Raises:
        InputError: a relation with one prompt, no split, or a k or statistic that cannot be.
    """
    opened = local.writable(store)
    if ablate:
        local.recover(opened)
    found = halves_of(
        opened,
        k=k,
        statistic=statistic,
        splits=splits,
        seed=seed,
        negatives=negatives,
        workers=workers,
        progress=progress,
    )
    rows = []
    for split, halves in enumerate(found):
        table = _overlap(halves).assign(split=split)
        if ablate:
            names = [_name(statistic, k, split, letter, seed) for letter in "ab"]
            for half, name in enumerate(names):
                write_half(opened, halves, half, statistic, name, negatives, seed)
            table = table.join(
                _drops(opened, names, seeds, model, device, trust_remote_code, progress), on="relation"
            )
        rows.append(table)
    joined = pd.concat(rows, ignore_index=True)
    return joined[["split", *joined.columns.drop("split")]]


def _name(statistic: str, k: int, split: int, letter: str, seed: int) -> str:
    named = f"{statistic}-half-{k}-{split}{letter}"
    return f"{named}-seed-{seed}" if seed else named


def _overlap(halves: Halves) -> pd.DataFrame:
    """relation, shared, others, chance."""
    shared = halves.shared
    n = len(shared)
    others = (shared.sum(axis=1) - shared.diagonal()) / (n - 1) if n > 1 else np.full(n, np.nan)
    columns = {"relation": halves.relations, "shared": shared.diagonal(), "others": others}
    return pd.DataFrame({**columns, "chance": halves.chance})


def _drops(
    store: LocalStore,
    names: Sequence[str],
    seeds: Sequence[int],
    model: str | LoadedModel | None,
    device: str,
    trust_remote_code: bool,
    progress: Progress,
) -> pd.DataFrame:
    """What both halves' masks cost every relation, halves beside each other."""
    from relact.ablating.ablate import ablate_with  # needs torch, which overlaps do without
    from relact.ablating.options import AblateOptions

    options = AblateOptions(seeds=tuple(seeds))
    tables = [
        _of_relations(
            ablate_with(
                options,
                store,
                mask=name,
                model=model,
                name=name,
                device=device,
                trust_remote_code=trust_remote_code,
                progress=progress,
            ).load()
        ).add_suffix(f"_{half}")
        for name, half in zip(names, HALVES, strict=True)
    ]
    joined = pd.concat(tables, axis=1)
    return joined[[f"{log}{group}_{half}" for log in ("", "log_") for group in GROUPS for half in HALVES]]


def _of_relations(ablation: xr.Dataset) -> pd.DataFrame:
    """Mean drops of every relation under own, other and random neurons, by relation."""
    summary = effects(ablation)
    kinds = [kind for kind in kinds_of(ablation) if kind != KIND_INTACT]
    conditions, relations = (list(map(str, summary.drops[name].values)) for name in ("condition", "relation"))
    columns = {}
    for log, drops in (("", summary.drops), ("log_", summary.log_drops)):
        for group, mask in cells(conditions, relations, kinds).items():
            missing = np.full(len(relations), np.nan)
            columns[f"{log}{group}"] = missing if drops is None else of_relations(drops.values, mask)
    return pd.DataFrame(columns, index=pd.Index(relations, name="relation"))

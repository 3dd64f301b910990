"""Leaderboard: which criterion finds the neurons that matter, from the ablations that a store holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis.effects import of_part
from relact.analysis.evidence import evidence
from relact.packed.store import open_store
from relact.store.reading import Store

if TYPE_CHECKING:
    import xarray as xr

GROUPS = ("own", "other", "random", "own_minus_other", "own_minus_random")
RESAMPLES = 2000  # of every interval: a board has many
EFFECTS = [name for group in GROUPS for name in (group, f"{group}_low", f"{group}_high")]
COLUMNS = [
    "criterion",
    "k",
    "ablation",
    "prompts",
    *EFFECTS,
    *(f"log_{name}" for name in EFFECTS),
    "separate",
    "separate_log",
    "relations",
    "area",
    "area_log",
    "cost",
]
COSTS = {"activation": "1 forward", "attribution": "1 forward and backward"}  # per identification prompt


def leaderboard_of(store: str | Path | Store, *, part: str = schema.DEV) -> pd.DataFrame:
    """Criteria x k, as far as they are ablated: what a relation's own neurons cost it, beside others' and
    random ones.

    Args:
        part: the test prompts that count: ``dev``, to choose on, or ``test``, to show. An ablation of all
            test prompts counts with those of this part.

    Returns:
        A row per criterion and k, by criterion. own, other, random, own_minus_other, own_minus_random: mean
        drop in points, with _low and _high, its 95 % interval over relations and prompts; the same with log_,
        in nats of the answer's first token; separate, separate_log: how many of the ``relations`` lose
        significantly more than by chance and by random sets; area, area_log: mean of own_minus_other over the
        logarithm of k, of all k of the criterion; cost: what a criterion needs of the model per prompt.

    Raises:
        StoreError: no store there.
    """
    opened = open_store(store)
    rows = {}
    for entry in _entries(opened):
        if entry.part in ("all", part):
            found = evidence(of_part(entry.ablation.load(), part), resamples=RESAMPLES)
            key = entry.mask.statistic, entry.mask.k
            if key not in rows or entry.part == part:  # one of this part alone has more seeds, as a rule
                rows[key] = _row(entry, found)
    board = pd.DataFrame(rows.values(), columns=COLUMNS).sort_values(["criterion", "k"])
    for column, source in (("area", "own_minus_other"), ("area_log", "log_own_minus_other")):
        areas = {name: _area(of, source) for name, of in board.groupby("criterion")}
        board[column] = board["criterion"].map(areas).astype(float)
    return board.reset_index(drop=True)


def chosen(board: pd.DataFrame) -> pd.DataFrame:
    """Of every criterion the row with the largest effect of its own: accuracy first, then log-probability.

    The effect is what own neurons cost more than the worse of others' and random ones.
    """
    margin = board[["own_minus_other", "own_minus_random"]].min(axis=1)
    log_margin = board[["log_own_minus_other", "log_own_minus_random"]].min(axis=1)
    order = board.assign(margin=margin, log_margin=log_margin).sort_values(
        ["margin", "log_margin"], ascending=False, kind="stable"
    )
    best = order.drop_duplicates("criterion").drop(columns=["margin", "log_margin"])
    return best.reset_index(drop=True)


@dataclass(frozen=True)
class _Entry:
    """An ablation of one k."""

    name: str
    mask: schema.MaskRecord
    part: str
    ablation: xr.Dataset


def _entries(store: Store) -> Iterator[_Entry]:
    """Ablations that compare: of top neurons, set to zero at all tokens, on the store's own prompts."""
    own = store.manifest.prompts_digest(schema.TEST)
    for name in store.children(schema.ABLATIONS):
        record = store.ablation_record(name)
        alike = record.mode == "zero" and record.tokens == "all" and record.prompts == own
        if not alike or any(mask.kind != "top" or mask.fdr or mask.of for mask in record.masks):
            continue
        dataset = store.dataset(f"{schema.ABLATIONS}/{name}")
        for mask in record.masks:
            part = dataset.sel(k=mask.k) if "k" in dataset.dims else dataset
            yield _Entry(name, mask, record.part, part)


def _row(entry: _Entry, found: xr.Dataset) -> dict[str, object]:
    row: dict[str, object] = {
        "criterion": entry.mask.statistic,
        "k": entry.mask.k,
        "ablation": entry.name,
        "prompts": int(found.attrs["n_prompts"]),
        "relations": int(found.attrs["n_relations"]),
        "separate": int(found["separates"].sum()),
        "cost": COSTS["attribution" if entry.mask.statistic.startswith("attribution") else "activation"],
    }
    groups = [str(name) for name in found["group"].values]
    for prefix, variable in (("", "mean_"), ("log_", "mean_log_")):
        there = f"{variable}drop" in found
        for group in GROUPS:
            for suffix, statistic in (("", "drop"), ("_low", "low"), ("_high", "high")):
                values = found[f"{variable}{statistic}"] if there and group in groups else None
                value = np.nan if values is None else float(values.sel(group=group))
                row[f"{prefix}{group}{suffix}"] = value
    row["separate_log"] = int(found["separates_log"].sum()) if "separates_log" in found else None
    return row


def _area(rows: pd.DataFrame, column: str) -> float:
    """The mean of a column over the logarithm of k, between the smallest and the largest."""
    values, logs = rows[column].to_numpy(float), np.log(rows["k"].to_numpy(float))
    if len(rows) == 1:
        return float(values[0])
    return float(np.trapezoid(values, logs) / (logs[-1] - logs[0]))

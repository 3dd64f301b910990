"""Leaderboard: which criterion finds the neurons that matter, from the ablations that a store holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis.effects import of_part
from relact.analysis.evidence import evidence
from relact.errors import IdentityError, InputError
from relact.packed.store import open_store
from relact.plan import passes
from relact.store.reading import Store

if TYPE_CHECKING:
    import xarray as xr

GROUPS = ("own", "other", "random", "own_minus_other", "own_minus_random")
EFFECTS = [name for group in GROUPS for name in (group, f"{group}_low", f"{group}_high")]
COLUMNS = [
    "criterion",
    "k",
    "store",
    "ablation",
    "prompts",
    *EFFECTS,
    "size_other",
    "size_random",
    *(f"log_{name}" for name in EFFECTS),
    "separate",
    "separate_log",
    "relations",
    "area",
    "area_log",
    "cost",
]
USUAL = {"direct": "last", "increase": "last"}  # what a method pools where it is not the sum
Place = str | Path | Store


def leaderboard_of(store: Place | Sequence[Place], *, part: str = schema.DEV) -> pd.DataFrame:
    """Criteria x k, as far as they are ablated: what a relation's own neurons cost it, beside others' and
    random ones.

    Args:
        store: several are one board, where they have the same model and test prompts; criteria are then told
            apart as `called` says.
        part: the test prompts that count: ``dev``, to choose on, or ``test``, to show. An ablation of all
            test prompts counts with those of this part.

    Returns:
        A row per criterion and k, by criterion. own, other, random, own_minus_other, own_minus_random: mean
        drop in points, with _low and _high, its 95 % interval over relations and prompts; the same with log_,
        in nats of the answer's first token; size_other, size_random: points either way, mean over cells,
        where losses and gains do not cancel; separate, separate_log: how many of the ``relations`` lose
        significantly more than by chance and by random sets; area, area_log: mean of own_minus_other over the
        logarithm of k, of all k of the criterion; cost: passes that a criterion needs of every identification
        prompt.

    Raises:
        StoreError: no store there. IdentityError, InputError: stores that do not go together.
    """
    stores = [open_store(place) for place in ([store] if isinstance(store, Place) else store)]
    require_alike(stores)
    rows: dict[tuple[str, int], dict[str, object]] = {}
    for opened in stores:
        before = {criterion for criterion, _ in rows}  # the first store of a criterion has it
        for entry in _entries(opened):
            key = called(opened, entry.mask.statistic, stores[0]), entry.mask.k
            if entry.part not in ("all", part) or key[0] in before:
                continue
            if key not in rows or entry.part == part:  # one of this part alone has more seeds, as a rule
                found = evidence(of_part(entry.ablation.load(), part))
                rows[key] = {"criterion": key[0], **_row(opened, entry, found)}
    board = pd.DataFrame(rows.values(), columns=COLUMNS).sort_values(["criterion", "k"])
    for column, source in (("area", "own_minus_other"), ("area_log", "log_own_minus_other")):
        areas = {name: _area(of, source) for name, of in board.groupby("criterion")}
        board[column] = board["criterion"].map(areas).astype(float)
    return board.reset_index(drop=True)


def called(store: Store, statistic: str, first: Store) -> str:
    """What a statistic is called on a board: with how attributions were made, or how activations were
    captured where that is not as in the ``first`` store.
    """
    capture, other = store.manifest.capture, first.manifest.capture
    if statistic.startswith(schema.OF_ATTRIBUTIONS):
        return f"{statistic} ({method_of(capture.attribution)})" if capture.attribution else statistic
    if (capture.pooled, capture.sites, capture.dtype) == (other.pooled, other.sites, other.dtype):
        return statistic
    return f"{statistic} ({capture.pooled} of {', '.join(capture.sites)}, {capture.dtype})"


def method_of(record: schema.AttributionRecord) -> str:
    """How attributions were made: the method, its steps, and what is not usual for it."""
    parts = [record.method]
    if record.steps is not None:
        parts.append(f"{record.steps} steps" + (" by layer" if record.path == "layer" else ""))
    if record.pool != USUAL.get(record.method, "sum"):
        parts.append(record.pool)
    if record.target != "answer":
        parts.append(record.target)
    return ", ".join(parts)


def require_alike(stores: Sequence[Store]) -> None:
    """Stores of one model and the same test prompts, each attributed in its own way.

    Raises:
        IdentityError: another model or other test prompts than the first has.
        InputError: no store, or one way twice.
    """
    if not stores:
        raise InputError("no store", where="STORE", fix="name at least one")
    first, methods = stores[0].manifest, dict[str, Store]()
    for store in stores:
        ours = store.manifest
        for what, mine, its in (
            ("weights", ours.model.fingerprint, first.model.fingerprint),
            ("test prompts", ours.prompts_digest(schema.TEST), first.prompts_digest(schema.TEST)),
        ):
            if mine != its:
                fix = "compare stores of one model, captured from one table of prompts"
                raise IdentityError(f"{what} not those of {stores[0].path}", where=store.path, fix=fix)
        if ours.capture.attribution:
            method = method_of(ours.capture.attribution)
            if method in methods:
                raise InputError(
                    f"attributed as {methods[method].path} is: {method}",
                    where=store.path,
                    fix="leave one out",
                )
            methods[method] = store


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


def cost_of(store: Store, statistic: str) -> str:
    """Passes of every identification prompt through the model."""
    record = store.manifest.capture.attribution
    attributed = record is not None and statistic.startswith(schema.OF_ATTRIBUTIONS)
    n_layers = max(lay.n_layers for lay in store.streams.values())
    forward, backward = passes(record if attributed else None, n_layers)
    parts = [f"{forward} forward", *([f"{backward} backward"] if backward else [])]
    if attributed and record and record.method == "increase":
        parts.append("all words per neuron")
    return ", ".join(parts)


def _row(store: Store, entry: _Entry, found: xr.Dataset) -> dict[str, object]:
    row: dict[str, object] = {
        "k": entry.mask.k,
        "store": str(store.path),
        "ablation": entry.name,
        "prompts": int(found.attrs["n_prompts"]),
        "relations": int(found.attrs["n_relations"]),
        "separate": int(found["separates"].sum()),
        "cost": cost_of(store, entry.mask.statistic),
    }
    groups = [str(name) for name in found["group"].values]
    for prefix, variable in (("", "mean_"), ("log_", "mean_log_")):
        there = f"{variable}drop" in found
        for group in GROUPS:
            for suffix, statistic in (("", "drop"), ("_low", "low"), ("_high", "high")):
                values = found[f"{variable}{statistic}"] if there and group in groups else None
                value = np.nan if values is None else float(values.sel(group=group))
                row[f"{prefix}{group}{suffix}"] = value
    for group in ("other", "random"):
        row[f"size_{group}"] = float(found["mean_size"].sel(group=group)) if group in groups else np.nan
    row["separate_log"] = int(found["separates_log"].sum()) if "separates_log" in found else None
    return row


def _area(rows: pd.DataFrame, column: str) -> float:
    """The mean of a column over the logarithm of k, between the smallest and the largest."""
    values, logs = rows[column].to_numpy(float), np.log(rows["k"].to_numpy(float))
    if len(rows) == 1:
        return float(values[0])
    return float(np.trapezoid(values, logs) / (logs[-1] - logs[0]))

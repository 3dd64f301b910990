"""Splits: what an ablation cost, on some of its prompts and on the others.

>>> sorted(effect_table("study.zarr", "top-200", split="answers")["split"].unique())
['seen', 'unseen']
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.analysis.asked import ablation_of, prompts_of
from relact.analysis.effects import of_prompts
from relact.analysis.evidence import evidence
from relact.errors import InputError
from relact.packed.store import open_store
from relact.relations.facts import plain
from relact.store.reading import Store

ANSWERS, LANGUAGE, TEMPLATE = "answers", "language", "template"
SPLITS = (ANSWERS, LANGUAGE, TEMPLATE)
SEEN, UNSEEN = "seen", "unseen"
WHOLE = "all"  # label of a table that is not split
BOUNDS = ("drop", "low", "high")


def effect_table(
    store: str | Path | Store, ablation: str | Sequence[str] | None = None, *, split: str | None = None
) -> pd.DataFrame:
    """Mean drops under own, other and random neurons with their intervals, of whole ablations or split ones.

    Args:
        ablation: names of stored ones; all by default. split: see `split_of`.

    Returns:
        A row per ablation, k, label of the split and group (``own``, ``other``, ``random``,
        ``own_minus_other``, ``own_minus_random``, as far as tried): ablation, k, split (`WHOLE` without one),
        match (the rule for a right answer), prompts, relations, group, drop, low, high (points of accuracy),
        size (points either way, mean over cells, so that losses and gains do not cancel; NaN of differences),
        log_drop, log_low, log_high (nats of the answer's first token; NaN where that is not stored).
        Intervals of 95 % resample relations and prompts (`evidence`); relations without prompts of a label
        are not in its mean.

    Raises:
        InputError: no such ablation or split, or prompts that do not say it.
    """
    opened = open_store(store)
    names = opened.children(schema.ABLATIONS) if ablation is None else ablation
    rows: list[dict[str, object]] = []
    for name in [names] if isinstance(names, str) else names:
        result = ablation_of(opened, name)
        match = str(result.attrs["match"])
        labels = np.full(result.sizes["prompt"], WHOLE)
        if split is not None:
            labels = split_of(opened, name, split)
        for k, part in _each_k(result):
            for label in dict.fromkeys(labels.tolist()):
                found = evidence(of_prompts(part, labels == label))
                about = {"ablation": name, "k": k, "split": label, "match": match}
                rows += [{**about, **row} for row in _rows(found)]
    columns = ["ablation", "k", "split", "match", "prompts", "relations", "group", *BOUNDS, "size"]
    return pd.DataFrame(rows, columns=[*columns, *(f"log_{bound}" for bound in BOUNDS)])


def split_of(store: str | Path | Store, ablation: str, by: str) -> np.ndarray:
    """A label for every prompt of a stored ablation: what `effects` splits by.

    Args:
        by: ``answers``: ``seen`` where the first accepted answer was the answer of an identification prompt
            of the relation, ``unseen`` where it was not, texts compared as `facts.plain` has them; or the
            prompt's ``language`` or ``template``.

    Returns:
        str [prompt].

    Raises:
        InputError: no such ablation or split, or prompts that do not say it.
    """
    if by not in SPLITS:
        raise InputError(f"unknown split {by!r}", where="split", fix=f"use {', '.join(SPLITS)}")
    opened = open_store(store)
    table = prompts_of(opened, ablation, ablation_of(opened, ablation))
    if by == ANSWERS:
        known = opened.prompts(schema.IDENTIFY)
        seen = set(zip(known["relation"], map(plain, known["object"]), strict=True))
        pairs = zip(table["relation"], table[schema.ANSWERS], strict=True)
        return np.array(
            [SEEN if answers and (name, plain(answers[0])) in seen else UNSEEN for name, answers in pairs]
        )
    if by not in table:
        problem = f"{ablation!r} does not say the {by} of its prompts"
        raise InputError(problem, where=opened.path, fix="ablate them again, under another name")
    return table[by].astype(str).to_numpy(str)


def _each_k(result: xr.Dataset) -> Iterator[tuple[int, xr.Dataset]]:
    if "k" not in result.dims:
        yield int(result.attrs["k"]), result
        return
    for k in result["k"].values.tolist():
        yield int(k), result.sel(k=k, drop=True)


def _rows(found: xr.Dataset) -> Iterator[dict[str, object]]:
    """A row per group of `evidence`."""
    sizes = {"prompts": found.attrs["n_prompts"], "relations": found.attrs["n_relations"]}
    for at, group in enumerate(found["group"].values.tolist()):
        row: dict[str, object] = {**sizes, "group": group, "size": float(found["mean_size"][at])}
        for log in ("", "log_"):
            for bound in BOUNDS:
                name = f"mean_{log}{bound}"
                row[f"{log}{bound}"] = float(found[name][at]) if name in found else float("nan")
        yield row

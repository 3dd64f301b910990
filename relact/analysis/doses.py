"""Dose-response: what the stored ablations of one mask cost, by the factor its neurons were multiplied by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from relact import schema
from relact.analysis.effects import effects
from relact.errors import InputError
from relact.packed.store import open_store
from relact.schema import AblationRecord
from relact.store.reading import Store

FACTORS = {"zero": 0.0}  # modes that are a factor by another name
EFFECTS = ("own", "other", "random", "log_own", "log_other", "log_random")


def dose_response(
    store: str | Path | Store, mask: str | None = None, *, like: str | None = None
) -> pd.DataFrame:
    """What neurons cost by the factor that their values were multiplied by, over the stored factors.

    Args:
        mask: a name; not asked for where ``like`` is given.
        like: an ablation; those count that differ from it in mode, factor and random sets alone. By default
            the first scaled one of the mask on the store's own test prompts.

    Returns:
        A row per stored factor, ascending, the mode ``zero`` as 0: factor, ablation, own, other, random (mean
        drop in points), log_own, log_other, log_random (in nats of the answer's first token).

    Raises:
        InputError: no such mask or ablation, or nothing that is scaled.
    """
    opened = open_store(store)
    records = {name: opened.ablation_record(name) for name in opened.children(schema.ABLATIONS)}
    if like is None:
        like = _scaled(opened, mask, records)
    settings = _settings(records[opened.named(schema.ABLATIONS, like)])
    rows = [
        _row(opened, name, record)
        for name, record in records.items()
        if _settings(record) == settings and (record.scale is not None or record.mode in FACTORS)
    ]
    table = pd.DataFrame(rows, columns=["factor", "ablation", *EFFECTS])
    return table.sort_values(["factor", "ablation"], ignore_index=True)


def _scaled(store: Store, mask: str | None, records: Mapping[str, AblationRecord]) -> str:
    """The first ablation of a mask that is scaled."""
    chosen, own = (
        store.mask_record(store.named(schema.MASKS, mask)),
        store.manifest.prompts_digest(schema.TEST),
    )
    for name, record in records.items():
        if record.mask == chosen and record.scale is not None and record.prompts == own:
            return name
    fix = f"run `relact ablate STORE --mask {mask} --scale 0.5,1.5,2`"
    raise InputError(f"no scaled ablation of {mask!r}", where=store.path, fix=fix)


def _settings(record: AblationRecord) -> tuple[object, ...]:
    """What results must have in common to be points of one curve."""
    return record.mask, record.prompts, record.part, record.tokens, record.match, record.rule, record.control


def _row(store: Store, name: str, record: AblationRecord) -> dict[str, object]:
    summary = effects(store.dataset(f"{schema.ABLATIONS}/{name}").load())
    factor = FACTORS[record.mode] if record.scale is None else record.scale
    return {"factor": factor, "ablation": name, **{each: getattr(summary, each) for each in EFFECTS}}

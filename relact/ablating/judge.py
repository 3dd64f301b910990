"""Judge: the verdicts of a stored ablation made again from its texts, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from relact import schema
from relact.ablating import result
from relact.ablating.options import PUBLISHED
from relact.errors import InputError
from relact.relations.verdict import RULE_VERSION, RULES, decide
from relact.store import local
from relact.store.reading import Store


def judge(
    store: str | Path | Store, ablation: str | Sequence[str] | None = None, *, match: str | None = None
) -> pd.DataFrame:
    """Judge the stored texts of ablations again, by today's rule for a right answer, and write the verdicts.

    Args:
        ablation: names; all by default.
        match: another rule than the recorded one, see `verdict.decide`.

    Returns:
        A row per ablation: ablation, match, texts, undecided (texts that end before their verdict), changed
        (verdicts on the others that are not the stored ones), written. Where some are undecided nothing is
        written: `ablate` with the same settings reads them on.

    Raises:
        InputError: no such ablation or rule.
    """
    opened = local.writable(store)
    local.recover(opened)
    asked = [ablation] if ablation is None or isinstance(ablation, str) else list(ablation)
    there = opened.children(schema.ABLATIONS)
    names = there if there and ablation is None else [opened.named(schema.ABLATIONS, name) for name in asked]
    if match is not None and match not in RULES:
        raise InputError(f"unknown rule {match!r}", where="match", fix=f"use one of {', '.join(RULES)}")
    columns = ["ablation", "match", "texts", "undecided", "changed", "written"]
    return pd.DataFrame([_judge(opened, name, match) for name in names], columns=columns)


def _judge(store: local.LocalStore, name: str, match: str | None) -> tuple[str, str, int, int, int, bool]:
    """A row of what `judge` returns."""
    record = store.ablation_record(name)
    stored = store.dataset(f"{schema.ABLATIONS}/{name}").load()
    answers = _answers_of(store, record, name)
    rule = match or record.match
    former = result.read(record, stored, answers)
    undecided = _undecided(former, rule)
    again = result.under_rule(former, rule, RULE_VERSION)
    before = stored[schema.CORRECT].values.reshape(former.generated.shape)
    after = np.stack([result.judged(texts, answers, rule) for texts in again.generated])
    changed = (before != after) & ~undecided
    written = not undecided.any() and (again.record != record or bool(changed.any()))
    if written:
        again.write(store, name)
    return name, rule, before.size, int(undecided.sum()), int(changed.sum()), written


def _undecided(former: result.Result, rule: str) -> np.ndarray:
    """bool [k, condition, prompt]: texts that end before the verdict by ``rule`` is decided."""
    read_on = former.record.rule == RULE_VERSION and former.record.match != PUBLISHED
    if read_on:  # until the verdict of every rule is decided, but for that which reads two tokens
        return np.full(former.generated.shape, rule == PUBLISHED)
    if rule == PUBLISHED:
        return np.zeros(former.generated.shape, bool)
    accepted = former.answers
    rows = former.generated.reshape(-1, former.generated.shape[-1])
    open_ = [[decide(str(text), accepted[at], rule) is None for at, text in enumerate(row)] for row in rows]
    return np.array(open_, bool).reshape(former.generated.shape)


def _answers_of(store: Store, record: schema.AblationRecord, name: str) -> list[list[str]]:
    """Accepted answers of an ablation's prompts."""
    stored = store.dataset(f"{schema.ABLATIONS}/{name}")
    numbers = stored["prompt"].values.tolist()
    if schema.ANSWERS in stored:
        return [[str(text) for text in row if text] for row in stored[schema.ANSWERS].values]
    if record.part == schema.IDENTIFY:
        objects = store.prompts(schema.IDENTIFY)["object"]
        return [[objects[number]] for number in numbers]
    if record.prompts != store.manifest.prompts_digest(schema.TEST):
        raise InputError(
            f"{name} asked other prompts than the store's, and their answers are not stored",
            where=store.path,
            fix="ablate them again",
        )
    answers = store.prompts(schema.TEST)[schema.ANSWERS]
    return [answers[number] for number in numbers]

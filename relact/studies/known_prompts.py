"""Known: keep the identification prompts that a model answers, as the published method does per model."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pandas as pd

from relact.ablating import forecast as ablating
from relact.ablating.answers import Exam, generate
from relact.ablating.conditions import INTACT_MODEL
from relact.ablating.journal import Journal
from relact.ablating.options import PUBLISHED, AblateOptions
from relact.ablating.result import judged
from relact.caches import cache_folder
from relact.errors import InputError
from relact.models.loading import LoadedModel, encode, load
from relact.plan import Plan
from relact.progress import Progress, in_notebooks
from relact.relations.verdict import RULE_VERSION
from relact.schema import ANSWERS, IDENTIFY, digest

STAGE = "known"  # its name in plans and progress
LEAST = 2  # prompts of a relation that a model has to know


def known(
    prompts: pd.DataFrame,
    model: str | LoadedModel,
    *,
    match: str = "prefix",
    per_relation: int | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    strict: bool = False,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """The prompt table with only those identification prompts that the model answers correctly; test prompts
    stay. What was answered is kept in the cache: a run that was interrupted goes on where it stopped.

    Args:
        model: what `models.loading.load` accepts, or an already loaded model.
        match: the rule for "correct", see `verdict.decide`.
        per_relation: keep at most so many per relation, the first ones.
        strict: refuse where the model knows fewer than two prompts of a relation. Otherwise that is dropped,
            and ``attrs["dropped"]`` of the table says why.

    Raises:
        InputError: no relation has two prompts that the model answers.
    """
    loaded = load(model, device=device, trust_remote_code=trust_remote_code)
    identify = prompts[prompts["split"] == IDENTIFY]
    right = identify[
        judged(_replies(loaded, identify, match, progress), identify[ANSWERS].tolist(), match)[0]
    ]
    asked = identify.groupby("relation", sort=False).size()
    counts = right.groupby("relation", sort=False).size().reindex(asked.index, fill_value=0)
    unknown = {
        str(name): f"{loaded.id} answers {count} of its {asked[name]} identification prompts"
        for name, count in counts.items()
        if count < LEAST
    }
    if unknown and (strict or len(unknown) == len(counts)):
        name, problem = next(iter(unknown.items()))
        raise InputError(problem, where=f"relation {name}", fix="drop it, or give more --shots")
    if per_relation is not None:
        right = right.groupby("relation", sort=False).head(per_relation)
    keep = np.isin(prompts.index, right.index) | (prompts["split"] != IDENTIFY)
    frame = prompts[keep & ~prompts["relation"].isin(unknown)].reset_index(drop=True)
    notes = {name: f"{counts[name]} of {asked[name]} known by {loaded.id}" for name in counts.index}
    frame.attrs["notes"] = {
        name: "; ".join(filter(None, (note, notes.get(name))))
        for name, note in prompts.attrs.get("notes", notes).items()
    }
    frame.attrs["dropped"] = {**prompts.attrs.get("dropped", {}), **unknown}
    return frame


def forecast(prompts: pd.DataFrame, model: LoadedModel, *, batch_tokens: int) -> Plan:
    """What `known` would need; what it writes is in the cache."""
    asked = prompts[prompts["split"] == IDENTIFY]
    options = AblateOptions(batch_tokens=batch_tokens)
    plan = ablating.forecast_of(options, model, ablating.Matrix(asked, [], 0, {}, 0))
    return replace(plan, what=STAGE, files=1, bytes=len(asked) * ablating.ANSWER)


def _replies(loaded: LoadedModel, identify: pd.DataFrame, match: str, progress: Progress) -> np.ndarray:
    """What the model says to every prompt: [1, prompt]."""
    tokens = encode(loaded, identify["text"].tolist())
    exam = Exam(tokens, identify[ANSWERS].tolist(), published=match == PUBLISHED)
    asked = list(zip(identify["text"], identify[ANSWERS], strict=True))
    rows = [{"text": text, "answers": list(answers)} for text, answers in asked]
    words = loaded.fingerprint, loaded.tokenizer_fingerprint, digest(rows), match, str(RULE_VERSION)
    name = blake2b("\0".join(words).encode(), digest_size=16).hexdigest()
    path = cache_folder() / "known" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)

    def told(stage: str, done: int, total: int, unit: str) -> None:
        progress(STAGE, done, total, unit)

    journal = Journal(path, name)
    return generate(loaded, exam, [INTACT_MODEL], journal=journal, progress=told).texts

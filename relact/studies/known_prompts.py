"""Known: keep the identification prompts that a model answers, as the published method does per model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from relact.ablating.answers import Exam, generate
from relact.ablating.conditions import INTACT_MODEL
from relact.ablating.options import PUBLISHED
from relact.ablating.result import judged
from relact.errors import InputError
from relact.models.loading import LoadedModel, encode, load
from relact.progress import Progress, silent
from relact.schema import ANSWERS, IDENTIFY


def known(
    prompts: pd.DataFrame,
    model: str | LoadedModel,
    *,
    match: str = "prefix",
    per_relation: int | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> pd.DataFrame:
    """The prompt table with only those identification prompts that the model answers correctly;
    test prompts stay.

    Args:
        model: what `models.loading.load` accepts, or an already loaded model.
        match: the rule for "correct", see `verdict.decide`.
        per_relation: keep at most so many per relation, the first ones.

    Raises:
        InputError: a relation with fewer than two prompts that the model answers.
    """
    loaded = load(model, device=device)
    identify = prompts[prompts["split"] == IDENTIFY]
    tokens = encode(loaded, identify["text"].tolist())
    answers = identify[ANSWERS].tolist()
    exam = Exam(tokens, answers, published=match == PUBLISHED)
    texts = generate(loaded, exam, [INTACT_MODEL], progress=progress, stage="known").texts
    right = identify[judged(texts, answers, match)[0]]
    counts = right.groupby("relation", sort=False).size().reindex(identify["relation"].unique(), fill_value=0)
    for relation, count in counts.items():
        if count < 2:
            problem = (
                f"answers {count} of its {(identify['relation'] == relation).sum()} identification prompts"
            )
            raise InputError(
                f"{loaded.id} {problem}", where=f"relation {relation}", fix="drop it, or give more --shots"
            )
    if per_relation is not None:
        right = right.groupby("relation", sort=False).head(per_relation)
    keep = np.isin(prompts.index, right.index) | (prompts["split"] != IDENTIFY)
    frame = prompts[keep].reset_index(drop=True)
    asked = identify.groupby("relation", sort=False).size()
    notes = {name: f"{counts[name]} of {asked[name]} known by {loaded.id}" for name in counts.index}
    frame.attrs["notes"] = {
        name: "; ".join(filter(None, (note, notes.get(name))))
        for name, note in prompts.attrs.get("notes", notes).items()
    }
    return frame

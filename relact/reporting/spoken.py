"""Spoken: what a model said to test prompts, as it is, without a relation's neurons, without random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis.effects import kinds_of
from relact.schema import KIND_INTACT, KIND_RANDOM

if TYPE_CHECKING:
    import xarray as xr

EXAMPLES = 3  # of every relation
LONGEST = 90  # characters of a prompt's last line


def said_of(prompts: Callable[[str], pd.DataFrame], dataset: xr.Dataset) -> list[dict[str, Any]]:
    """A few test prompts of every relation of one matrix, those first that its own neurons break alone.

    Args:
        prompts: the store's own of a split, as `Store.prompts` gives them.

    Returns:
        Rows of relation, text (the prompt's last line), answer, intact, own, random (what was said) and right
        (whether, of the three); random is None where there is no random set.
    """
    if schema.GENERATED not in dataset:
        return []
    names = [str(name) for name in dataset["condition"].values]
    kinds = kinds_of(dataset)
    relation_of = np.array([str(name) for name in dataset[schema.RELATION_OF].values])
    intact = kinds.index(KIND_INTACT)
    random = kinds.index(KIND_RANDOM) if KIND_RANDOM in kinds else None
    correct = dataset[schema.CORRECT].values
    lines, answers = _asked(prompts, dataset)
    rows = []
    for relation in dict.fromkeys(relation_of.tolist()):
        if relation not in names:
            continue
        conditions = [intact, names.index(relation), random]
        for at in _telling(np.flatnonzero(relation_of == relation), correct, conditions):
            said = [
                None if row is None else str(dataset[schema.GENERATED].values[row, at]) for row in conditions
            ]
            right = [None if row is None else bool(correct[row, at]) for row in conditions]
            texts = dict(zip(("intact", "own", "random"), said, strict=True))
            rows.append(
                {"relation": relation, "text": lines[at], "answer": answers[at], **texts, "right": right}
            )
    return rows


def _telling(places: np.ndarray, correct: np.ndarray, conditions: Sequence[int | None]) -> list[int]:
    """The prompts that show most: right as it is, wrong without own neurons, right without random ones."""
    intact, own, random = (None if row is None else correct[row, places] for row in conditions)
    worth = 4.0 * intact + 2.0 * ~own + (0.0 if random is None else 1.0 * random)  # type: ignore[operator]
    return [int(place) for place in places[np.argsort(-worth, kind="stable")[:EXAMPLES]]]


def _asked(prompts: Callable[[str], pd.DataFrame], dataset: xr.Dataset) -> tuple[list[str], list[str]]:
    """The last line of every prompt of a matrix, and its answer."""
    if "text" in dataset:  # prompts that are not the store's own
        texts, answers = ([str(value) for value in dataset[name].values] for name in ("text", "object"))
    else:
        part = set(dataset[schema.PART].values.tolist()) if schema.PART in dataset else set()
        split = schema.IDENTIFY if part == {schema.IDENTIFY} else schema.TEST
        table: pd.DataFrame = prompts(split).loc[dataset["prompt"].values]
        texts, answers = table["text"].tolist(), table["object"].tolist()
    lines = [text.strip().splitlines()[-1][-LONGEST:] if text.strip() else "" for text in texts]
    return lines, answers

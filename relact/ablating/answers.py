"""What a model says to every prompt under every condition, and which of it is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relact.ablating.conditions import Condition
from relact.ablating.decode import decode
from relact.ablating.journal import Journal
from relact.ablating.options import AblateOptions
from relact.models.loading import LoadedModel
from relact.progress import Progress, silent
from relact.relations.verdict import is_correct


def judge(generated: np.ndarray, answers: Sequence[Sequence[str]], match: str) -> np.ndarray:
    """bool [condition, prompt]: whether each generated text answers its prompt."""
    rows = [
        [is_correct(text, own, match) for text, own in zip(row, answers, strict=True)] for row in generated
    ]
    return np.array(rows, bool)


def generate(
    loaded: LoadedModel,
    tokens: Sequence[Sequence[int]],
    answers: Sequence[Sequence[str]],
    conditions: Sequence[Condition],
    *,
    wanted: np.ndarray | None = None,
    journal: Journal | None = None,
    last: bool = False,
    batch_tokens: int = AblateOptions.batch_tokens,
    progress: Progress = silent,
) -> np.ndarray:
    """Greedy continuation of every prompt under every condition, up to the token that decides:
    str [condition, prompt].

    Args:
        tokens: of every prompt. answers: accepted ones of every prompt.
        wanted: bool [condition, prompt]; None is everything. What is not wanted may be None in the result.
        journal: holds what is already known, and is told what is found; equal conditions run once.
        last, batch_tokens: see `decode.decode`.
    """
    digests = [condition.digest() for condition in conditions]
    places = list({digest: at for at, digest in reversed(list(enumerate(digests)))}.values())[::-1]
    distinct = [conditions[at] for at in places]
    texts = np.full((len(distinct), len(tokens)), None, object)
    if journal:
        for row, known in zip(texts, journal.known([digests[at] for at in places], len(tokens)), strict=True):
            row[list(known)] = list(known.values())
    row_of = {digests[at]: row for row, at in enumerate(places)}
    rows = [row_of[digest] for digest in digests]
    todo = np.zeros(texts.shape, bool)
    for place, own in zip(
        rows, np.ones((len(rows), len(tokens)), bool) if wanted is None else wanted, strict=True
    ):
        todo[place] |= own
    total = int(todo.sum())
    todo &= texts == np.array(None)
    left = todo.copy()

    def is_open(prompt: int, text: str) -> bool:
        """Nothing said yet, or an answer so far: whatever the rule,
        a second token may still change the verdict.
        """
        return not text.strip(" \n\ufffd") or is_correct(text, answers[prompt], "prefix")

    def finished(part: Sequence[int], asked: Sequence[int], found: list[list[str]]) -> None:
        for at, own in zip(part, found, strict=True):
            texts[at, list(asked)] = own
            left[at, list(asked)] = False
        if journal:
            pairs = zip(part, found, strict=True)
            journal.write({digests[places[at]]: dict(zip(asked, own, strict=True)) for at, own in pairs})
        progress("ablate", total - int(left.sum()), total, "answers")

    decode(
        loaded, tokens, distinct, finished, is_open=is_open, last=last, todo=todo, batch_tokens=batch_tokens
    )
    return texts[rows]

"""What a model says to every prompt under every condition, and which of it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    verdicts = [
        [is_correct(text, accepted, match) for text, accepted in zip(texts, answers, strict=True)]
        for texts in generated
    ]
    return np.array(verdicts, bool)


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
    """Greedy continuations up to the token that decides, of every prompt under every condition.

    Args:
        tokens: of every prompt. answers: accepted ones of every prompt.
        wanted: bool [condition, prompt]; None is everything.
        journal: holds what is already known, and is told what is found; equal conditions run once.
        last, batch_tokens: see `decode.decode`.

    Returns:
        str [condition, prompt]; what is not wanted may be None.
    """
    if wanted is None:
        wanted = np.ones((len(conditions), len(tokens)), bool)
    sheet = _Sheet.of(conditions, wanted, journal)
    total, left = int(sheet.wanted.sum()), sheet.missing()

    def is_open(prompt: int, text: str) -> bool:
        """Nothing said yet, or an answer so far: a second token may still change the verdict, by any rule."""
        return not text.strip(" \n\ufffd") or is_correct(text, answers[prompt], "prefix")

    def finished(rows: Sequence[int], prompts: Sequence[int], texts: list[list[str]]) -> None:
        sheet.fill(rows, prompts, texts, journal)
        left[np.ix_(rows, prompts)] = False
        progress("ablate", total - int(left.sum()), total, "answers")

    decode(
        loaded,
        tokens,
        sheet.conditions,
        finished,
        is_open=is_open,
        last=last,
        todo=sheet.missing(),
        batch_tokens=batch_tokens,
    )
    return sheet.texts[sheet.row_of]


@dataclass(frozen=True)
class _Sheet:
    """Answers to be filled in: a row for every condition that differs from the others.

    Attributes:
        conditions, digests: of every row.
        row_of: of every condition that was asked for, its row.
        wanted: bool [row, prompt]. texts: str or None [row, prompt].
    """

    conditions: list[Condition]
    digests: list[str]
    row_of: list[int]
    wanted: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, conditions: Sequence[Condition], wanted: np.ndarray, journal: Journal | None) -> _Sheet:
        """With what the journal knows."""
        digests = [condition.digest() for condition in conditions]
        first_of = {digest: at for at, digest in reversed(list(enumerate(digests)))}
        distinct = list(first_of)[::-1]  # in the order in which they are asked for last
        row_of = [distinct.index(digest) for digest in digests]
        by_row = np.zeros((len(distinct), wanted.shape[1]), bool)
        np.logical_or.at(by_row, row_of, wanted)
        texts = np.full(by_row.shape, None, object)
        if journal:
            for row, known in zip(texts, journal.known(distinct, by_row.shape[1]), strict=True):
                row[list(known)] = list(known.values())
        return cls([conditions[first_of[digest]] for digest in distinct], distinct, row_of, by_row, texts)

    def missing(self) -> np.ndarray:
        """bool [row, prompt]: what is wanted and not there yet."""
        return self.wanted & (self.texts == np.array(None))

    def fill(
        self, rows: Sequence[int], prompts: Sequence[int], texts: list[list[str]], journal: Journal | None
    ) -> None:
        """Enter texts [rows][prompts], here and in the journal."""
        for row, said in zip(rows, texts, strict=True):
            self.texts[row, list(prompts)] = said
        if journal:
            by_row = zip(rows, texts, strict=True)
            journal.write({self.digests[row]: dict(zip(prompts, said, strict=True)) for row, said in by_row})

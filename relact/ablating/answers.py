"""What a model says to every prompt under every condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from relact.ablating.conditions import Condition
from relact.ablating.decode import Questions, Replies, decode
from relact.ablating.journal import Entry, Journal
from relact.ablating.options import PUBLISHED, AblateOptions
from relact.models.loading import LoadedModel
from relact.progress import LOG, Progress, in_notebooks
from relact.relations.verdict import decide, is_open, most_tokens

PAPER_TOKENS = 2  # greedy, as the published method


@dataclass(frozen=True)
class Exam:
    """Test prompts as a model is asked them.

    Attributes:
        tokens: ids of every prompt. answers: accepted ones of every prompt.
        targets, distractors: see `decode.Questions`; none by default.
        published: two tokens are all that is read; otherwise a reply is read on until its verdict is decided
            by every other rule.
    """

    tokens: Sequence[Sequence[int]]
    answers: Sequence[Sequence[str]]
    targets: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    distractors: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    published: bool = False

    def questions(self) -> Questions:
        """With when to stop."""
        nothing = np.full(len(self.tokens), -1)
        targets, distractors = (ids if len(ids) else nothing for ids in (self.targets, self.distractors))
        undecided = self._published() if self.published else self._whole()
        return Questions(self.tokens, targets, distractors, undecided)

    def _published(self) -> Callable[[int, str, int], bool]:
        def undecided(prompt: int, text: str, n_tokens: int) -> bool:
            return n_tokens < PAPER_TOKENS and decide(text, self.answers[prompt], PUBLISHED) is None

        return undecided

    def _whole(self) -> Callable[[int, str, int], bool]:
        most = [most_tokens(answers) for answers in self.answers]

        def undecided(prompt: int, text: str, n_tokens: int) -> bool:
            return n_tokens < most[prompt] and is_open(text, self.answers[prompt])

        return undecided


def generate(
    loaded: LoadedModel,
    exam: Exam,
    conditions: Sequence[Condition],
    *,
    wanted: np.ndarray | None = None,
    journal: Journal | None = None,
    last: bool = False,
    batch_tokens: int = AblateOptions.batch_tokens,
    progress: Progress = in_notebooks,
) -> Replies:
    """Greedy replies up to the token that decides, of every prompt under every condition.

    Args:
        wanted: bool [condition, prompt]; None is everything.
        journal: holds what is already known, and is told what is found; equal conditions run once.
        last, batch_tokens: see `decode.decode`.

    Returns:
        All [condition, prompt]; a text that is not wanted may be None, its numbers NaN.
    """
    if wanted is None:
        wanted = np.ones((len(conditions), len(exam.tokens)), bool)
    sheet = _Sheet.of(conditions, wanted, journal)
    total, left = int(sheet.wanted.sum()), sheet.missing()
    known = total - int(left.sum())
    if known and known < total:
        LOG.warning("resuming: %s of %s answers are known", f"{known:,}", f"{total:,}")
    progress("ablate", known, total, "answers")

    def finished(rows: Sequence[int], prompts: Sequence[int], replies: Replies) -> None:
        sheet.fill(rows, prompts, replies, journal)
        left[np.ix_(rows, prompts)] = False
        progress("ablate", total - int(left.sum()), total, "answers")

    decode(
        loaded,
        exam.questions(),
        sheet.conditions,
        finished,
        last=last,
        wanted=sheet.wanted,
        todo=sheet.missing(),
        batch_tokens=batch_tokens,
    )
    return Replies(*(x[sheet.row_of] for x in (sheet.texts, *sheet.numbers)))


@dataclass(frozen=True)
class _Sheet:
    """Replies to be filled in: a row for every condition that differs from the others.

    Attributes:
        conditions, digests: of every row.
        row_of: of every condition that was asked for, its row.
        wanted: bool [row, prompt]. texts: str or None [row, prompt].
        numbers: log-probability and logit difference, float32 [2, row, prompt].
    """

    conditions: list[Condition]
    digests: list[str]
    row_of: list[int]
    wanted: np.ndarray
    texts: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, conditions: Sequence[Condition], wanted: np.ndarray, journal: Journal | None) -> _Sheet:
        """With what the journal knows."""
        digests = [condition.digest() for condition in conditions]
        first_of = {digest: at for at, digest in reversed(list(enumerate(digests)))}
        distinct = list(first_of)[::-1]  # in the order in which they are asked for last
        row_of = [distinct.index(digest) for digest in digests]
        by_row = np.zeros((len(distinct), wanted.shape[1]), bool)
        np.logical_or.at(by_row, row_of, wanted)
        sheet = cls(
            [conditions[first_of[digest]] for digest in distinct],
            distinct,
            row_of,
            by_row,
            np.full(by_row.shape, None, object),
            np.full((2, *by_row.shape), np.nan, np.float32),
        )
        if journal:
            for row, known in enumerate(journal.known(distinct, by_row.shape[1])):
                for prompt, (text, *numbers) in known.items():
                    sheet.texts[row, prompt] = text
                    sheet.numbers[:, row, prompt] = numbers
        return sheet

    def missing(self) -> np.ndarray:
        """bool [row, prompt]: what is wanted and not there yet."""
        return self.wanted & (self.texts == np.array(None))

    def fill(
        self, rows: Sequence[int], prompts: Sequence[int], replies: Replies, journal: Journal | None
    ) -> None:
        """Enter the replies [rows, prompts], here and in the journal."""
        there = np.ix_(rows, prompts)
        self.texts[there] = replies.texts
        for numbers, found in zip(
            self.numbers, (replies.log_probability, replies.logit_difference), strict=True
        ):
            numbers[there] = found
        if journal:
            journal.write({self.digests[row]: self._entries(row, prompts) for row in rows})

    def _entries(self, row: int, prompts: Sequence[int]) -> dict[int, Entry]:
        certain, difference = self.numbers[:, row].astype(float)
        texts = self.texts[row]
        return {at: (str(texts[at]), float(certain[at]), float(difference[at])) for at in prompts}

"""Greedy answers of every prompt under every condition, with as little work as the verdict needs.

One forward pass holds a batch row per condition, and in it one sequence with many prompts (of one prefix
group) side by side (`packs`). What follows the first token is decoded only where the verdict is still open.

Models whose attention does not allow packs (ALiBi, for one; trial passes find out) get a row per condition
and prompt (`apart`), and those that the self-check finds to compute something else after a cache read
everything anew for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from relact.ablating.apart import Anew, Apart
from relact.ablating.conditions import Condition
from relact.ablating.options import AblateOptions
from relact.ablating.overrides import Chunk
from relact.ablating.packs import Full, Pack, packs, window_of
from relact.errors import ModelError
from relact.models.batches import PrefixGroup, Ways, groups_of, prefix_groups, same_length
from relact.models.loading import LoadedModel
from relact.models.selfcheck import Shortcuts
from relact.sites import places

CONDITIONS = 48  # of one forward pass
SHORT_PREFIX = 2  # tokens; conditions multiply what a shared prefix saves, so even this pays
TRIAL = (3, 5, 4)  # tokens of the prefix and of the two prompts on which packs are tried
TRIED = 4  # conditions of a trial, or less


@dataclass(frozen=True)
class Questions:
    """What is asked of a model.

    Attributes:
        tokens: ids of every prompt.
        targets, distractors: token ids whose log-probabilities count, per prompt; -1 where there is none.
        is_open: whether the verdict on a prompt still depends on what follows, given the text so far and its
            number of tokens.
    """

    tokens: Sequence[Sequence[int]]
    targets: np.ndarray
    distractors: np.ndarray
    is_open: Callable[[int, str, int], bool]


@dataclass(frozen=True)
class Replies:
    """What was said to some prompts under some conditions, all [condition, prompt].

    Attributes:
        texts: str. log_probability: of each prompt's target as its first token, in nats.
        logit_difference: of target and distractor. Both float32, NaN where there is none.
    """

    texts: np.ndarray
    log_probability: np.ndarray
    logit_difference: np.ndarray


Finished = Callable[[Sequence[int], Sequence[int], Replies], None]


class Batch(Protocol):
    """Prompts that run together under all conditions of a chunk."""

    logits: Tensor  # [rows, prompts, words] of what follows every prompt, or every one that was read on

    def more(self, said: Sequence[Sequence[list[int]]], open_: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next greedy token of every row's ``open_`` prompts, after what was ``said`` [row][prompt]."""


def decode(
    loaded: LoadedModel,
    questions: Questions,
    conditions: Sequence[Condition],
    finished: Finished,
    *,
    last: bool = False,
    wanted: np.ndarray | None = None,
    todo: np.ndarray | None = None,
    batch_tokens: int = AblateOptions.batch_tokens,
) -> None:
    """Greedy continuation of every prompt under every condition, in pieces.

    Args:
        finished: called for every piece with its condition numbers, its prompt numbers and the replies.
        last: override only at a prompt's last token and what follows it, instead of at every token.
        wanted: bool [condition, prompt], what is asked at all; None is everything. Pieces follow from it
            alone, so that a run that goes on computes what an uninterrupted one does.
        todo: bool [condition, prompt], what of it is still to be done; None is all of it.
        batch_tokens: tokens of all conditions in one forward pass.
    """
    tokens = questions.tokens
    wanted = np.ones((len(conditions), len(tokens)), bool) if wanted is None else wanted
    todo = wanted if todo is None else todo
    order = sorted(range(len(conditions)), key=lambda at: (conditions[at].first_layer() or 0, at))
    anew = not loaded.shortcuts.stepped or (last and _computes_again(loaded, conditions))
    packable = False if anew else None
    with torch.inference_mode():
        for group in _groups(tokens, wanted, loaded.shortcuts):
            asked = [at for at in order if wanted[at, group.rows[0]]]
            for start in range(0, len(asked), CONDITIONS):
                part = asked[start : start + CONDITIONS]
                if not todo[np.ix_(part, group.rows)].any():
                    continue
                if packable is None:
                    together = [conditions[at] for at in part[:: 1 + len(part) // TRIED]]
                    packable = _can_pack(loaded, together, tokens[group.rows[0]])
                work = _Work(loaded, questions, conditions, group.prefix, last, packable, anew)
                for rows, packed in _cut(loaded, tokens, group, 1 + len(part), batch_tokens, packable):
                    left = tuple(at for at in part if todo[at, rows].any())
                    for prompts, replies in work.replies(left, rows, packed):
                        finished(left, prompts, replies)


def passes_of(
    tokens: Sequence[Sequence[int]], n_conditions: int, batch_tokens: int = AblateOptions.batch_tokens
) -> tuple[list[tuple[int, int, int]], int, int]:
    """What `decode` would run at most, for plans.

    Returns:
        passes as (rows, prefix tokens, own tokens), the tokens of all of them, and the most (row, prompt)
        pairs in one.
    """
    passes: list[tuple[int, int, int]] = []
    work, most = 0, 1
    for group in _groups(tokens, np.ones((1, len(tokens)), bool), Shortcuts()):
        prefix = len(group.prefix)
        lengths = [len(tokens[row]) - prefix for row in group.rows]
        for start in range(0, max(1, n_conditions), CONDITIONS):
            rows = 1 + min(CONDITIONS, n_conditions - start)
            size = min(sum(lengths), batch_tokens // rows + max(lengths))
            passes += [(rows, 0, prefix)] if prefix else []
            passes.append((rows, prefix, size))
            most = max(most, rows * -(-size // min(lengths)))
            work += rows * (prefix + sum(lengths) + len(lengths))  # and a second token
    return passes, work, most


def _groups(
    tokens: Sequence[Sequence[int]], wanted: np.ndarray, shortcuts: Shortcuts
) -> Iterator[PrefixGroup]:
    """Prefix groups of prompts that are asked under the same conditions, ``wanted`` [condition, prompt].

    Prompts that share no long prefix are grouped again by the little they share.
    """
    sharing = _shares(shortcuts)
    for group in groups_of(tokens, Ways(whole=not sharing, switch=shortcuts.switch)):
        inner = [group]
        if not group.prefix and sharing and shortcuts.switch is None:
            again = prefix_groups([tokens[row] for row in group.rows], floor=SHORT_PREFIX)
            inner = [PrefixGroup(part.prefix, tuple(group.rows[row] for row in part.rows)) for part in again]
        for part in inner:
            alike: dict[bytes, list[int]] = {}
            for row in part.rows:
                alike.setdefault(wanted[:, row].tobytes(), []).append(row)
            yield from (PrefixGroup(part.prefix, tuple(rows)) for rows in alike.values())


def _cut(
    loaded: LoadedModel,
    tokens: Sequence[Sequence[int]],
    group: PrefixGroup,
    n_rows: int,
    batch_tokens: int,
    packable: bool,
) -> Iterator[tuple[list[int], bool]]:
    """Batches of a group's prompts, and whether each is a pack."""
    prefix = len(group.prefix)
    lengths = [len(row) - prefix for row in tokens]
    budget = max(1, batch_tokens // n_rows)
    room = window_of(loaded.model.config) - prefix - 1
    fits = [row for row in group.rows if packable and 2 * lengths[row] < room]
    for pack in packs(fits, lengths, min(budget, room // 2)):
        yield pack, True
    apart = sorted(set(group.rows) - set(fits))
    most = max(1, budget // max((lengths[row] for row in apart), default=1))
    for batch in same_length(apart, lengths, most):
        yield batch, False


class _Work:
    """The pieces of one prefix group: chunks of conditions are made once, as long as the same ones run."""

    def __init__(
        self,
        loaded: LoadedModel,
        questions: Questions,
        conditions: Sequence[Condition],
        prefix: Sequence[int],
        last: bool,
        packable: bool,
        anew: bool,
    ) -> None:
        self.loaded, self.questions, self.conditions = loaded, questions, conditions
        self.kind = Anew if anew else Apart
        self.prefix, self.last, self.packable = prefix, last, packable
        self.part: tuple[int, ...] = ()
        self.chunk: Chunk | None = None
        self.ends = _end_tokens(loaded)

    def replies(
        self, part: tuple[int, ...], rows: Sequence[int], packed: bool
    ) -> Iterator[tuple[Sequence[int], Replies]]:
        """(prompts, replies) of the prompts ``rows`` under the conditions ``part``; nothing under none."""
        if not part:
            return
        if self.chunk is None or part != self.part:
            together = [self.conditions[at] for at in part]
            self.chunk = Chunk(self.loaded, together, self.prefix, last=self.last, joining=self.packable)
            self.part = part
        tokens = self.questions.tokens
        if packed:
            try:
                yield rows, self._read(self.chunk, Pack(self.chunk, tokens, rows), rows)
                return
            except Full:  # answers too long for a window that all prompts of the pack share
                pass
        lengths = [len(row) for row in tokens]
        for alike in same_length(rows, lengths, len(rows)):
            yield alike, self._read(self.chunk, self.kind(self.chunk, tokens, alike), alike)

    def _read(self, chunk: Chunk, batch: Batch, prompts: Sequence[int]) -> Replies:
        """Read on until every verdict is decided; then the replies under the chunk's conditions."""
        said = [[[token] for token in row] for row in batch.logits.argmax(dim=-1).tolist()]
        rows, asked = list(prompts), self.questions
        graded = _graded(batch.logits, asked.targets[rows], asked.distractors[rows])
        texts = [_texts(self.loaded, row) for row in said]
        wanted = set(chunk.row_of)
        open_ = [list(range(len(prompts))) if row in wanted else [] for row in range(len(said))]
        while any(open_ := [self._open(prompts, *row) for row in zip(said, texts, open_, strict=True)]):
            self._require_one_rotation(prompts, said)
            for row, new in enumerate(batch.more(said, open_)):
                for at, token in zip(open_[row], new, strict=True):
                    said[row][at].append(token)
                for at, text in zip(open_[row], self._texts_of(said[row], open_[row]), strict=True):
                    texts[row][at] = text
        return Replies(np.array(texts, object)[chunk.row_of], *(x[chunk.row_of] for x in graded))

    def _require_one_rotation(self, prompts: Sequence[int], said: Sequence[Sequence[list[int]]]) -> None:
        """`ModelError` where the next token would not be the one that the whole text gives."""
        switch, tokens = self.loaded.shortcuts.switch, self.questions.tokens
        for at, prompt in enumerate(prompts):
            most = len(tokens[prompt]) + max(len(row[at]) for row in said)
            if switch and len(tokens[prompt]) <= switch < most:
                raise ModelError(
                    f"the answer to a prompt of {len(tokens[prompt])} tokens crosses position {switch}, from "
                    "which on the model rotates every token otherwise",
                    where=self.loaded.id,
                    fix="shorten the prompt, or make it longer than that",
                )

    def _texts_of(self, said: Sequence[list[int]], chosen: Sequence[int]) -> list[str]:
        return _texts(self.loaded, [said[at] for at in chosen]) if chosen else []

    def _open(
        self, prompts: Sequence[int], said: Sequence[list[int]], texts: Sequence[str], before: Sequence[int]
    ) -> list[int]:
        """Those of the prompts that were open ``before`` whose verdict still is."""
        is_open = self.questions.is_open
        return [
            at
            for at in before
            if said[at][-1] not in self.ends and is_open(prompts[at], texts[at], len(said[at]))
        ]


def _computes_again(loaded: LoadedModel, conditions: Sequence[Condition]) -> bool:
    """Whether conditions override what is computed again, of all tokens so far, when answers are read on."""
    found = places(loaded.model.config)
    overridden = {site for condition in conditions for site in condition.off}
    return any(tap.again for site in overridden for tap in found[site].taps.values())


def _graded(logits: Tensor, targets: np.ndarray, distractors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of the targets and logit difference to the distractors, float32 [rows, prompts]."""
    if (targets < 0).all():
        nothing = np.full(logits.shape[:2], np.nan, np.float32)
        return nothing, nothing
    logits = logits.float()

    def of(ids: np.ndarray) -> Tensor:
        chosen = torch.from_numpy(ids).to(logits.device).clamp(min=0).expand(len(logits), -1)
        values = logits.gather(2, chosen[..., None])[..., 0]
        return values.masked_fill(torch.from_numpy(ids < 0).to(logits.device), float("nan"))

    target = of(targets)
    certain = target - logits.logsumexp(dim=-1)
    return certain.cpu().numpy(), (target - of(distractors)).cpu().numpy()


def _texts(loaded: LoadedModel, ids: list[list[int]]) -> list[str]:
    texts: list[str] = loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def _end_tokens(loaded: LoadedModel) -> set[int]:
    """Ids that end a generation, as transformers' ``generate`` would use them."""
    config = getattr(loaded.model, "generation_config", None)
    ends = config.eos_token_id if config is not None else None
    if ends is None:
        return set()
    return {ends} if isinstance(ends, int) else set(ends)


def _can_pack(loaded: LoadedModel, conditions: Sequence[Condition], like: Sequence[int]) -> bool:
    """Whether the model computes the same for prompts in a pack as for prompts apart, by trying a small one:
    two prompts after a prefix, where one may be shared, and a token that follows each.

    Args:
        like: tokens of some prompt, of which the trial's are made.
    """
    n_prefix = TRIAL[0] if _shares(loaded.shortcuts) else 0
    few = (list(like) * (1 + sum(TRIAL) // len(like)))[: sum(TRIAL)]
    prefix, rest = few[:n_prefix], few[TRIAL[0] :]
    tokens = [[*prefix, *rest[: TRIAL[1]]], [*prefix, *rest[TRIAL[1] :]]]
    plain = Chunk(loaded, conditions, prefix, last=False, joining=False)
    expected = [_two_steps(Apart(plain, tokens, [row]), 1, few[0]) for row in range(2)]
    try:
        chunk = Chunk(loaded, conditions, prefix, last=False, joining=True)
        found = _two_steps(Pack(chunk, tokens, range(2)), 2, few[0])
    # no position_ids, a batch that may not grow, another form of mask
    except (TypeError, ValueError, RuntimeError, AttributeError, Full):
        return False
    wanted = torch.cat(expected, dim=1)
    tolerance = torch.finfo(found.dtype).eps ** 0.5 * (wanted.max() - wanted.min())
    return bool((found - wanted).abs().max() <= tolerance)


def _two_steps(batch: Batch, n_prompts: int, token: int) -> Tensor:
    """Logits [rows, prompts, 2, words] of what follows every prompt, and of what follows a token after it."""
    first, n_rows = batch.logits, len(batch.logits)
    batch.more([[[token]] * n_prompts] * n_rows, [range(n_prompts)] * n_rows)
    return torch.stack([first, batch.logits], dim=2)


def _shares(shortcuts: Shortcuts) -> bool:
    """Whether prompts may share a prefix, and go on from it."""
    return shortcuts.split and shortcuts.stepped

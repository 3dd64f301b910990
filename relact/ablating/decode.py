"""Two greedy tokens for every prompt under every condition, with as little work as the verdict needs.

One forward pass holds a batch row per condition, and in it one sequence with many prompts (of one prefix
group) side by side: each sees the shared prefix and itself. So there are few large matrix products, nothing
is padded, and the prefix's keys and values are never copied per prompt. The first row is the intact model; a
condition joins the batch at its lowest overridden layer, up to which it equals that row. A second token is
decoded only where the first leaves the verdict open.

Models whose attention does not allow this (ALiBi, for one; a trial pass finds out) get a row per condition
and prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relact.ablating.conditions import Condition
from relact.ablating.options import AblateOptions
from relact.ablating.overrides import Chunk, fitted
from relact.models.batches import PrefixGroup, prefix_groups, same_length
from relact.models.forward import advance, repeat_cache
from relact.models.loading import LoadedModel
from relact.sites import text_config

CONDITIONS = 48  # of one forward pass
SHORT_PREFIX = 2  # tokens; conditions multiply what a shared prefix saves, so even this pays
NEW_TOKENS = 2  # greedy, as the published method

Finished = Callable[[Sequence[int], Sequence[int], list[list[str]]], None]


def decode(
    loaded: LoadedModel,
    tokens: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    finished: Finished,
    *,
    is_open: Callable[[int, str], bool] = lambda prompt, text: True,
    last: bool = False,
    todo: np.ndarray | None = None,
    batch_tokens: int = AblateOptions.batch_tokens,
) -> None:
    """Greedy continuation of every prompt under every condition, in pieces.

    Args:
        tokens: token ids of every prompt.
        finished: called for every piece with its condition numbers, its prompt numbers and texts
            [condition][prompt].
        is_open: whether the verdict on a prompt still depends on a second token, given the text of the first.
        last: override only at a prompt's last token and what follows it, instead of at every token.
        todo: bool [condition, prompt], what is still to be done; None is everything.
        batch_tokens: tokens of all conditions in one forward pass.
    """
    wanted = np.ones((len(conditions), len(tokens)), bool) if todo is None else todo
    order = sorted(range(len(conditions)), key=lambda at: (conditions[at].first_layer() or 0, at))
    packable: bool | None = None
    with torch.inference_mode():
        for group in _groups(tokens):
            active = [at for at in order if wanted[at, list(group.rows)].any()]
            for start in range(0, len(active), CONDITIONS):
                part = active[start : start + CONDITIONS]
                together = [conditions[at] for at in part]
                if packable is None:
                    packable = _can_pack(loaded, together, tokens, group, batch_tokens)
                chunk = Chunk(loaded, together, group.prefix, last=last, joining=packable)
                for rows, packed in _cut(chunk, tokens, group.rows, batch_tokens, packable):
                    answer = _answer_packed if packed else _answer_apart
                    finished(part, rows, answer(chunk, tokens, rows, is_open))


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
    for group in _groups(tokens):
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


def _groups(tokens: Sequence[Sequence[int]]) -> Iterator[PrefixGroup]:
    """Prefix groups; prompts that share no long prefix are grouped again by the little they share."""
    for group in prefix_groups(tokens):
        if group.prefix:
            yield group
            continue
        for inner in prefix_groups([tokens[row] for row in group.rows], floor=SHORT_PREFIX):
            yield PrefixGroup(inner.prefix, tuple(group.rows[row] for row in inner.rows))


# --- many prompts in one row
# -------------------------------------------------------------------------------------------


def _cut(
    chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int], batch_tokens: int, packable: bool
) -> Iterator[tuple[list[int], bool]]:
    """Batches of prompts, and whether each is a pack."""
    prefix = len(chunk.prefix)
    lengths = [len(row) - prefix for row in tokens]
    budget = max(1, batch_tokens // chunk.n_rows)
    room = _window(chunk.model.config) - prefix - 1
    fits = [row for row in rows if packable and 2 * lengths[row] < room]
    for pack in _packs(fits, lengths, min(budget, room // 2)):
        yield pack, True
    apart = sorted(set(rows) - set(fits))
    for batch in same_length(
        apart, lengths, max(1, budget // max((lengths[row] for row in apart), default=1))
    ):
        yield batch, False


def _packs(rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Rows in order of length, in packs of about equal size with about ``most`` tokens or less."""
    if not rows:
        return []
    total = sum(lengths[row] for row in rows)
    share = total / -(-total // most)
    packs: list[list[int]] = [[]]
    size = 0
    for row in sorted(rows, key=lambda row: (lengths[row], row)):
        if packs[-1] and size + lengths[row] / 2 > share * len(packs):
            packs.append([])
        packs[-1].append(row)
        size += lengths[row]
    return packs


def _window(config: Any) -> int:
    """Tokens that every layer can look back on."""
    text = text_config(config)
    return getattr(text, "sliding_window", None) or getattr(text, "window_size", None) or 1 << 30


class _Pack:
    """The first pass over a pack: ``logits`` [rows, prompts, words] of what follows each prompt,
    and the grown cache.
    """

    def __init__(self, chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        self.chunk, self.n_prefix = chunk, len(chunk.prefix)
        tails = [tokens[row][self.n_prefix :] for row in rows]
        lengths = torch.tensor([len(ids) for ids in tails])
        self.ends = lengths.cumsum(0) - 1
        self.n_tokens = torch.tensor([len(tokens[row]) for row in rows])
        self.owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)  # of every token, its prompt
        at = torch.arange(len(self.owner))
        place = at - (self.ends - lengths + 1)[self.owner] + self.n_prefix
        sees = (self.owner[:, None] == self.owner) & (at[:, None] >= at)
        sees = torch.cat([torch.ones(len(at), self.n_prefix, dtype=torch.bool), sees], dim=1)
        cache = None if chunk.cache is None else fitted(chunk.cache, chunk.rows_at)
        ends = self.ends.to(chunk.device)
        with chunk.overridden(joining=True, ends=ends if chunk.last else None):
            output, self.cache = self._forward(
                torch.tensor([[*chain.from_iterable(tails)]]), place[None], sees[None], ends, cache
            )
        self.logits: Tensor = output.logits

    def second(self, ids: Tensor, prompts: Tensor) -> Tensor:
        """Logits [rows, slots, words] after one more token ``ids`` [rows,
        slots] of the prompts in those slots.
        """
        owner = torch.cat([torch.full((self.n_prefix,), -1), self.owner])
        sees = (owner[None, None] == prompts[..., None]) | (owner[None, None] < 0)
        itself = torch.eye(prompts.shape[1], dtype=torch.bool).expand(len(prompts), -1, -1)
        cache = fitted(self.cache, lambda layer: self.chunk.n_rows)
        with self.chunk.overridden(joining=False):
            keep = torch.arange(prompts.shape[1], device=self.chunk.device)
            output, _ = self._forward(
                ids, self.n_tokens[prompts], torch.cat([sees, itself], dim=-1), keep, cache
            )
        return output.logits

    def _forward(self, ids: Tensor, places: Tensor, sees: Tensor, keep: Tensor, cache: Any) -> Any:
        device, dtype = self.chunk.device, self.chunk.model.dtype
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
        return advance(
            self.chunk.model,
            ids.to(device),
            cache=cache,
            attention_mask=mask[:, None].to(device),
            position_ids=places.to(device),
            logits_to_keep=keep,
        )


def _answer_packed(
    chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int], is_open: Callable[[int, str], bool]
) -> list[list[str]]:
    pack = _Pack(chunk, tokens, rows)
    first = pack.logits.argmax(dim=-1).cpu()  # [rows, prompts]
    texts, going_on = _judge(chunk, first, rows, is_open)
    slots = max(map(len, going_on))
    if slots:
        padded = [[*undecided, *[0] * (slots - len(undecided))] for undecided in going_on]
        prompts = torch.tensor(padded)  # [rows, slots]
        second = pack.second(first.gather(1, prompts), prompts).argmax(dim=-1).cpu()
        for row, undecided in enumerate(going_on):
            slotted = enumerate(undecided)
            pairs = [[int(first[row, prompt]), int(second[row, slot])] for slot, prompt in slotted]
            for prompt, text in zip(undecided, _texts(chunk.loaded, pairs), strict=True):
                texts[row][prompt] = text
    return [texts[row] for row in chunk.row_of]


def _judge(
    chunk: Chunk, first: Tensor, rows: Sequence[int], is_open: Callable[[int, str], bool]
) -> tuple[list[list[str]], list[list[int]]]:
    """Texts [row][prompt] of the first tokens, and for every row the prompts whose verdict needs a second
    one.
    """
    ends = _end_tokens(chunk.loaded)
    texts = [_texts(chunk.loaded, [[token] for token in row]) for row in first.tolist()]
    wanted = set(chunk.row_of)
    going_on = [
        [at for at, token in enumerate(tokens) if token not in ends and is_open(rows[at], texts[row][at])]
        if row in wanted
        else []
        for row, tokens in enumerate(first.tolist())
    ]
    return texts, going_on


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


def _can_pack(
    loaded: LoadedModel,
    conditions: Sequence[Condition],
    tokens: Sequence[Sequence[int]],
    group: PrefixGroup,
    batch_tokens: int,
) -> bool:
    """Whether the model computes the same for prompts in a pack as for prompts apart,
    by trying the first pack.
    """
    try:
        chunk = Chunk(loaded, conditions, group.prefix, last=False, joining=True)
        pack, packed = next(_cut(chunk, tokens, group.rows, batch_tokens, True))
        if not packed:
            return True
        packed_logits = _Pack(chunk, tokens, pack).logits[:, -1]
    # no position_ids, a batch that may not grow, another form of mask
    except (TypeError, ValueError, RuntimeError):
        return False
    plain = Chunk(loaded, conditions, group.prefix, last=False, joining=False)
    expected = _first_apart(plain, tokens, pack[-1:])[0][:, 0]
    tolerance = torch.finfo(packed_logits.dtype).eps ** 0.5 * (expected.max() - expected.min())
    return bool((packed_logits - expected).abs().max() <= tolerance)


# --- a row for every prompt
# --------------------------------------------------------------------------------------------


def _first_apart(chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> tuple[Tensor, Any]:
    """Logits [rows, prompts, words] after prompts of equal length, and the cache with rows x prompts rows."""
    # [prompts, tokens]
    ids = torch.tensor([tokens[row][len(chunk.prefix) :] for row in rows], device=chunk.device)
    cache = chunk.cache
    if cache is not None:
        cache = repeat_cache(fitted(cache, lambda layer: chunk.n_rows), len(rows))
    ends = torch.arange(1, len(rows) + 1, device=chunk.device) * ids.shape[1] - 1
    with chunk.overridden(joining=False, ends=ends if chunk.last else None):
        output, cache = advance(chunk.model, ids.repeat(chunk.n_rows, 1), cache=cache, logits_to_keep=1)
    return output.logits[:, -1].unflatten(0, (chunk.n_rows, len(rows))), cache


def _answer_apart(
    chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int], is_open: Callable[[int, str], bool]
) -> list[list[str]]:
    logits, cache = _first_apart(chunk, tokens, rows)
    first = logits.argmax(dim=-1)
    texts, going_on = _judge(chunk, first, rows, is_open)
    if any(going_on):
        with chunk.overridden(joining=False):
            output, _ = advance(chunk.model, first.reshape(-1, 1), cache=cache, logits_to_keep=1)
        second = output.logits[:, -1].argmax(dim=-1).reshape(first.shape)
        for row, undecided in enumerate(going_on):
            pairs = [[int(first[row, prompt]), int(second[row, prompt])] for prompt in undecided]
            for prompt, text in zip(undecided, _texts(chunk.loaded, pairs), strict=True):
                texts[row][prompt] = text
    return [texts[row] for row in chunk.row_of]

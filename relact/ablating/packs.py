"""Many prompts in one row: each sees the shared prefix and itself.

So there are few large matrix products, nothing is padded, and the prefix's keys and values are never copied
per prompt. The first row is the intact model; a condition joins the batch at its lowest overridden layer, up
to which it equals that row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from relact.ablating.overrides import Chunk, fitted
from relact.models.forward import advance
from relact.sites import text_config

NOBODY, EVERYBODY = -2, -1  # owners of places in memory: padding, the shared prefix


class Full(Exception):
    """The answers of a pack are too long for what its model can look back on."""


def packs(rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Rows in order of length, in packs of about equal size with about ``most`` tokens or less."""
    if not rows:
        return []
    total = sum(lengths[row] for row in rows)
    share = total / -(-total // most)
    found: list[list[int]] = [[]]
    size = 0
    for row in sorted(rows, key=lambda row: (lengths[row], row)):
        if found[-1] and size + lengths[row] / 2 > share * len(found):
            found.append([])
        found[-1].append(row)
        size += lengths[row]
    return found


def window_of(config: Any) -> int:
    """Tokens that every layer can look back on."""
    text = text_config(config)
    return getattr(text, "sliding_window", None) or getattr(text, "window_size", None) or 1 << 30


class Pack:
    """Passes over a pack: ``logits`` [rows, prompts, words] of what follows each prompt, or each open one,
    and the grown cache.
    """

    def __init__(self, chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        self.chunk, n_prefix = chunk, len(chunk.prefix)
        self.room = window_of(chunk.model.config)
        tails = [tokens[row][n_prefix:] for row in rows]
        lengths = torch.tensor([len(ids) for ids in tails])
        ends = lengths.cumsum(0) - 1
        self.n_tokens = torch.tensor([len(tokens[row]) for row in rows])
        owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)  # of every token, its prompt
        at = torch.arange(len(owner))
        place = at - (ends - lengths + 1)[owner] + n_prefix
        sees = (owner[:, None] == owner) & (at[:, None] >= at)
        sees = torch.cat([torch.ones(len(at), n_prefix, dtype=torch.bool), sees], dim=1)
        owners = torch.cat([torch.full((n_prefix,), EVERYBODY), owner])
        self.owners = owners.expand(chunk.n_rows, -1)  # [rows, places in memory]
        cache = None if chunk.cache is None else fitted(chunk.cache, chunk.rows_at)
        keep = ends.to(chunk.device)
        with chunk.overridden(joining=True, ends=keep if chunk.last else None):
            output, self.cache = self._forward(
                torch.tensor([[*chain.from_iterable(tails)]]), place[None], sees[None], keep, cache
            )
        self.logits: Tensor = output.logits

    def more(self, said: Sequence[Sequence[list[int]]], open_: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next greedy token of every row's ``open_`` prompts, after what was ``said`` [row][prompt].

        Raises:
            Full: there is no room for it.
        """
        slots = max(map(len, open_))
        if self.owners.shape[1] + slots >= self.room:
            raise Full
        lacking = [slots - len(prompts) for prompts in open_]
        owner = torch.tensor(  # [rows, slots]
            [[*prompts, *[NOBODY] * lack] for prompts, lack in zip(open_, lacking, strict=True)]
        )
        last = [[said[row][at][-1] for at in prompts] for row, prompts in enumerate(open_)]
        ids = torch.tensor([[*new, *[0] * lack] for new, lack in zip(last, lacking, strict=True)])
        count = [[len(said[row][at]) - 1 for at in prompts] for row, prompts in enumerate(open_)]
        after = torch.tensor([[*new, *[0] * lack] for new, lack in zip(count, lacking, strict=True)])
        self.owners = torch.cat([self.owners, owner], dim=1)
        sees = (self.owners[:, None] == owner[..., None]) | (self.owners[:, None] == EVERYBODY)
        cache = fitted(self.cache, lambda layer: self.chunk.n_rows)
        keep = torch.arange(slots, device=self.chunk.device)
        with self.chunk.overridden(joining=False):
            places = self.n_tokens[owner.clamp(min=0)] + after
            output, self.cache = self._forward(ids, places, sees, keep, cache)
        self.logits = output.logits
        best = self.logits.argmax(dim=-1).tolist()
        return [row[: len(prompts)] for row, prompts in zip(best, open_, strict=True)]

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

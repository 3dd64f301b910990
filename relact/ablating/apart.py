"""A row for every condition and prompt, for models that cannot take packs: from a cache, or read anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relact.ablating.overrides import Chunk, fitted
from relact.models.forward import advance, rows_of_cache


class Apart:
    """Prompts of equal length, each in a row of its own under every condition:
    ``logits`` [rows, prompts, words] of what follows them, and the cache with rows x prompts rows.
    """

    def __init__(self, chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        self.chunk, n_rows = chunk, chunk.n_rows
        # [prompts, tokens]
        ids = torch.tensor([tokens[row][len(chunk.prefix) :] for row in rows], device=chunk.device)
        cache: Any = chunk.cache
        if cache is not None:
            if chunk.joined:
                cache = fitted(cache, lambda layer: n_rows)
            alone = not chunk.joined and not chunk.apart
            known = torch.zeros(n_rows, dtype=torch.long) if alone else torch.arange(n_rows)
            cache = rows_of_cache(cache, known.repeat_interleave(len(rows)))
        ends = torch.arange(1, len(rows) + 1, device=chunk.device) * ids.shape[1] - 1
        with chunk.overridden(joining=False, ends=ends if chunk.last else None):
            output, self.cache = advance(chunk.model, ids.repeat(n_rows, 1), cache=cache, logits_to_keep=1)
        self.logits: Tensor = output.logits[:, -1].unflatten(0, (n_rows, len(rows)))

    def more(self, said: Sequence[Sequence[list[int]]], open_: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next greedy token of every row's ``open_`` prompts, after what was ``said`` [row][prompt].

        All prompts run on: what a closed one gets is not looked at.
        """
        ids = torch.tensor([[tokens[-1] for tokens in row] for row in said], device=self.chunk.device)
        with self.chunk.overridden(joining=False):
            output, self.cache = advance(
                self.chunk.model, ids.reshape(-1, 1), cache=self.cache, logits_to_keep=1
            )
        self.logits = output.logits[:, -1].unflatten(0, ids.shape)
        return _best(self.logits, open_)


class Anew:
    """As `Apart`, of models that compute something else after a cache: each token is read with all before it.

    Each has the whole of its prompt, whatever other prompts it shares a beginning with.
    """

    def __init__(self, chunk: Chunk, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        self.chunk = chunk
        self.ids = torch.tensor([tokens[row] for row in rows], device=chunk.device)  # [prompts, tokens]
        self.logits = self._read(self.ids.expand(chunk.n_rows, -1, -1))

    def more(self, said: Sequence[Sequence[list[int]]], open_: Sequence[Sequence[int]]) -> list[list[int]]:
        """The next greedy token of every row's ``open_`` prompts, after what was ``said`` [row][prompt].

        What a closed one says is filled up, and not looked at.
        """
        longest = max(len(tokens) for row in said for tokens in row)
        filled = [[[*tokens, *[0] * (longest - len(tokens))] for tokens in row] for row in said]
        new = torch.tensor(filled, device=self.ids.device)  # [rows, prompts, new tokens]
        self.logits = self._read(torch.cat([self.ids.expand(len(said), -1, -1), new], dim=-1))
        return _best(self.logits, open_)

    def _read(self, ids: Tensor) -> Tensor:
        """[rows, prompts, words] of what follows ids [rows, prompts, tokens]."""
        _, prompts, length = ids.shape
        last = torch.arange(self.ids.shape[1] - 1, length, device=ids.device)  # and what was said
        ends = (torch.arange(prompts, device=ids.device)[:, None] * length + last).flatten()
        with self.chunk.overridden(joining=False, ends=ends if self.chunk.last else None):
            output = self.chunk.model(input_ids=ids.flatten(0, 1), use_cache=False, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1].unflatten(0, ids.shape[:2])
        return logits


def _best(logits: Tensor, open_: Sequence[Sequence[int]]) -> list[list[int]]:
    """The likeliest token of every row's ``open_`` prompts, of logits [rows, prompts, words]."""
    best = logits.argmax(dim=-1).tolist()
    return [[row[at] for at in prompts] for row, prompts in zip(best, open_, strict=True)]

"""Pooling over a prompt's real tokens, in three steps so that a shared prefix is pooled once.

``start`` reduces [batch, tokens, width] to an unfinished pool [batch, width]; ``join`` adds a prefix's pool
[1, width] to those of its continuations; ``finish`` divides by the number of tokens where the pool is an
average. Sums run in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_WIDENS = hasattr(torch.ops.aten.bmm, "dtype")  # products of halves as float32, since PyTorch 2.8


@dataclass(frozen=True)
class Pool:
    """One way of pooling; ``mask`` is bool [batch, tokens], ``lengths`` [batch, 1] counts the prefix too."""

    start: Callable[[Tensor, Tensor], Tensor]
    join: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]


def pools(name: str) -> Pool:
    """The pool called ``mean``, ``max``, ``last`` or ``positive``."""
    return POOLS[name]


def total(values: Tensor, mask: Tensor) -> Tensor:
    """[batch, width]: the sum over the tokens of a mask, of values in float32 at least."""
    return torch.bmm(mask[:, None, :].to(values.dtype), values)[:, 0]


def _sum(values: Tensor, mask: Tensor) -> Tensor:
    if values.is_cuda and values.element_size() == 2 and _WIDENS:  # added in float32, without a copy in it
        return torch.bmm(mask[:, None, :].to(values.dtype), values, out_dtype=torch.float32)[:, 0]
    return total(values.float(), mask)


def _largest(values: Tensor, mask: Tensor) -> Tensor:
    return values.float().masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)


def _last(values: Tensor, mask: Tensor) -> Tensor:
    rows = torch.arange(len(values), device=values.device)
    return values[rows, mask.sum(dim=1) - 1].float()


def _positive(values: Tensor, mask: Tensor) -> Tensor:
    return _sum((values > 0).float(), mask)


def _add(prefix: Tensor, partial: Tensor) -> Tensor:
    return prefix + partial


def _divide(partial: Tensor, lengths: Tensor) -> Tensor:
    return partial / lengths


def _whole(partial: Tensor, lengths: Tensor) -> Tensor:
    return partial


POOLS = {
    "mean": Pool(_sum, _add, _divide),
    "max": Pool(_largest, torch.maximum, _whole),
    "last": Pool(_last, lambda prefix, partial: partial, _whole),
    "positive": Pool(_positive, _add, _divide),
}

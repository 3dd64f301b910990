"""Pooling over a prompt's real tokens, in three steps so that a shared prefix is pooled once.

``start`` reduces [batch, tokens, width] to an unfinished pool [batch, width]; ``join`` adds a prefix's pool
[1, width] to those of its continuations; ``finish`` divides by the number of tokens where the pool is an
average. Sums run in float32 at least. Values of experts' units (`Routed`) are pooled as what they stand for:
0 at every token that is not routed to a unit's expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from relact.models.routed import Routed

_WIDENS = hasattr(torch.ops.aten.bmm, "dtype")  # products of halves as float32, since PyTorch 2.8


@dataclass(frozen=True)
class Pool:
    """One way of pooling; ``mask`` is bool [batch, tokens], ``lengths`` [batch, 1] counts the prefix too."""

    start: Callable[[Tensor | Routed, Tensor], Tensor]
    join: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]


def pools(name: str) -> Pool:
    """The pool called ``mean``, ``max``, ``last`` or ``positive``."""
    return POOLS[name]


def total(values: Tensor | Routed, mask: Tensor) -> Tensor:
    """[batch, width]: the sum over the tokens of a mask, of values in float32 at least."""
    if isinstance(values, Routed):
        return values.total(mask)
    return torch.bmm(mask[:, None, :].to(values.dtype), values)[:, 0]


def _sum(values: Tensor | Routed, mask: Tensor) -> Tensor:
    if isinstance(values, Routed):
        return values.total(mask)
    if values.is_cuda and values.element_size() == 2 and _WIDENS:  # added in float32, without a copy in it
        return torch.bmm(mask[:, None, :].to(values.dtype), values, out_dtype=torch.float32)[:, 0]
    return total(values.float(), mask)


def _largest(values: Tensor | Routed, mask: Tensor) -> Tensor:
    if isinstance(values, Routed):
        return values.largest(mask)
    return values.float().masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)


def _last(values: Tensor | Routed, mask: Tensor) -> Tensor:
    if isinstance(values, Routed):
        return values.last(mask)
    rows = torch.arange(len(values), device=values.device)
    return values[rows, mask.sum(dim=1) - 1].float()


def _positive(values: Tensor | Routed, mask: Tensor) -> Tensor:
    if isinstance(values, Routed):
        return values.positive(mask)
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

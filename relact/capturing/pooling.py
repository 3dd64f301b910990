"""Pooling over a prompt's real tokens, in three steps so that a shared prefix is pooled once.

``start`` reduces [batch, tokens, width] to an unfinished pool [batch, width]; ``join`` adds a prefix's pool
[1, width] to those of its continuations; ``finish`` divides by the number of tokens where the pool is an
average. Sums run in float32 at least. Values of experts' units (`Routed`) are pooled as what they stand for:
0 at every token that is not routed to a unit's expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from relact.models.routed import Routed, last_of

_WIDENS = hasattr(torch.ops.aten.bmm, "dtype")  # products of halves as float32, since PyTorch 2.8


class Start(Protocol):
    """Values [batch, tokens, width] to an unfinished pool."""

    def __call__(self, values: Tensor | Routed, mask: Tensor, shortest: int = 0) -> Tensor: ...


@dataclass(frozen=True)
class Pool:
    """One way of pooling; ``mask`` is bool [batch, tokens], ``lengths`` [batch, 1] counts the prefix too.

    ``start`` also takes how many tokens every prompt has at least, where that is known on the host.
    """

    start: Start
    join: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor, Tensor], Tensor]


def pools(name: str) -> Pool:
    """The pool called ``mean``, ``max``, ``last`` or ``positive``."""
    return POOLS[name]


def counted(mask: Tensor, skipped: int) -> Tensor:
    """bool [batch, tokens]: a mask without the first tokens of every row."""
    if not skipped:
        return mask
    rest = mask.clone()
    rest[:, :skipped] = False
    return rest


def total(values: Tensor | Routed, mask: Tensor) -> Tensor:
    """[batch, width]: the sum over the tokens of a mask, of values in float32 at least."""
    if isinstance(values, Routed):
        return values.total(mask)
    return torch.bmm(mask[:, None, :].to(values.dtype), values)[:, 0]


def _sum(values: Tensor, mask: Tensor, shortest: int = 0) -> Tensor:
    if not (values.is_cuda and values.element_size() == 2 and _WIDENS):
        return total(values.float(), mask)
    # added in float32 without a copy in it: what all have as fast as memory is read, what is padded half so
    rest = values.shape[1] - shortest
    whole = values[:, :shortest].sum(dim=1, dtype=torch.float32) if shortest else None
    if whole is not None and not rest:
        return whole
    weights = mask[:, None, shortest:].to(values.dtype)
    padded = torch.bmm(weights, values[:, shortest:], out_dtype=torch.float32)[:, 0]
    return padded if whole is None else whole + padded


def _largest(values: Tensor, mask: Tensor, shortest: int = 0) -> Tensor:
    return values.float().masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)


def _last(values: Tensor, mask: Tensor, shortest: int = 0) -> Tensor:
    rows = torch.arange(len(values), device=values.device)
    return values[rows, last_of(mask)].float()


def _positive(values: Tensor, mask: Tensor, shortest: int = 0) -> Tensor:
    return _sum((values > 0).float(), mask, shortest)


def _add(prefix: Tensor, partial: Tensor) -> Tensor:
    return prefix + partial


def _divide(partial: Tensor, lengths: Tensor) -> Tensor:
    return partial / lengths


def _whole(partial: Tensor, lengths: Tensor) -> Tensor:
    return partial


def _either(
    dense: Callable[[Tensor, Tensor, int], Tensor], routed: Callable[[Routed, Tensor], Tensor]
) -> Start:
    """The start of a pool, of values of every token or of those that are routed."""

    def start(values: Tensor | Routed, mask: Tensor, shortest: int = 0) -> Tensor:
        return routed(values, mask) if isinstance(values, Routed) else dense(values, mask, shortest)

    return start


POOLS = {
    "mean": Pool(_either(_sum, Routed.total), _add, _divide),
    "max": Pool(_either(_largest, Routed.largest), torch.maximum, _whole),
    "last": Pool(_either(_last, Routed.last), lambda prefix, partial: partial, _whole),
    "positive": Pool(_either(_positive, Routed.positive), _add, _divide),
}

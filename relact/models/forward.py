"""What every forward pass of ours needs: padded batches, and a prefix's cache for many continuations."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids [batch, tokens] (padding is token 0, masked out) and the mask of real tokens, bool."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return sent(ids, device), sent(torch.arange(longest)[None, :] < lengths[:, None], device)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` of the host on a device; what is running there is not waited for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def advance(
    model: nn.Module, ids: Tensor, *, cache: Any = None, mask: Tensor | None = None, **options: Any
) -> Any:
    """Run ``model`` on ``ids`` [batch, tokens] after what ``cache`` holds; returns (output, grown cache).

    Args:
        mask: bool [batch, cached + new tokens] of real tokens; None when nothing is padded.
    """
    name = _cache_name(type(model))
    if mask is not None:
        options["attention_mask"] = mask.long()
    output = model(input_ids=ids, use_cache=True, **{name: cache}, **options)
    return output, getattr(output, name)


def rows_of_cache(cache: Any, rows: Tensor) -> Any:
    """A copy of a transformers cache, of whatever kinds its layers are, with the given of its batch rows.

    Args:
        rows: int64 [rows of the copy].
    """
    copied = copy.deepcopy(cache)
    copied.reorder_cache(rows)
    return copied


def _cache_name(kind: type[nn.Module]) -> str:
    """transformers renamed ``past_key_values`` to ``cache``, of the argument and of the output alike."""
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"

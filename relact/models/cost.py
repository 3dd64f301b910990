"""Forecast: the memory of a capture's forward passes, and how long the whole will take, from its real batches."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from relact.models import loading
from relact import plan
from relact.arrivals import copies
from relact.models.batches import by_length, prefix_groups
from relact.sites import text_config

Pass = tuple[int, int, int]  # rows, prefix tokens, own tokens of the longest row
WRITE_RATE = 300 * 10**6  # bytes per second that a plain disk takes; slower than that the model waits


def passes(tokens: Sequence[Sequence[int]], segments: Iterable[tuple[int, int]], budget: int) -> Iterator[Pass]:
    """Every forward pass of a capture, in order; segments are row ranges that are batched together."""
    for first, last in segments:
        part = tokens[first:last]
        for group in prefix_groups(part):
            prefix = len(group.prefix)
            if prefix:
                yield 1, 0, prefix
            own = [len(row) - prefix for row in part]
            for rows in by_length(group.rows, own, budget):
                yield len(rows), prefix, own[rows[0]]


def held_bytes(loaded: loading.LoadedModel, todo: Iterable[Pass], row_bytes: int = 0) -> int:
    """Upper bound of a capturing process without its block buffers: libraries, model, the largest forward pass.

    Args:
        row_bytes: of a pass that stay in memory after it, for each of its rows: pooled values on their way into a block.
    """
    todo = list(todo)
    config = text_config(loaded.model.config)
    hidden = int(config.hidden_size)
    widest = max(loaded.widths.values())
    heads = int(getattr(config, "num_attention_heads", 1))
    kv = loaded.widths.get("attn.k", hidden)
    largest = max((plan.forward_bytes(hidden, widest, kv, loaded.n_layers, heads, one) for one in todo), default=0)
    here = largest if loaded.device.type == "cpu" else 0  # elsewhere it is the device's memory
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters() if p.device.type == "cpu")
    arriving = copies(loaded.device) * max((rows for rows, _, _ in todo), default=0) * row_bytes
    return max(peak(), plan.LIBRARIES + weights) + here + arriving


def seconds(loaded: loading.LoadedModel, todo: Sequence[Pass], stored: int) -> float:
    """Time of all passes, from timing a middling one (twice, the second counts), or of the writing if that is longer."""
    if not todo:
        return 0.0
    rows, _, own = sorted(todo, key=lambda one: one[0] * one[2])[len(todo) // 2]
    ids = torch.ones((rows, own), dtype=torch.long, device=loaded.device)
    taken = 0.0
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            output: Any = loaded.model.base_model(input_ids=ids, use_cache=False)
            float(output[0].sum())  # waits for the device
            taken = time.perf_counter() - start
    work = sum(one[0] * one[2] for one in todo)
    return max(taken * work / (rows * own), stored / WRITE_RATE)


def peak() -> int:
    """Highest resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

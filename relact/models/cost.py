"""What forward passes need: bytes in memory, from shapes alone, and time, from trying one."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from relact.models import throughput
from relact.models.batches import Pass
from relact.models.loading import LoadedModel
from relact.sites import Place, places, text_config

LIBRARIES = 700 * 2**20  # a process with torch, transformers and zarr, without a model
SLACK = 1.25  # on what a forward pass allocates: alignment, fragments
POOLS = 3  # copies of all experts' neurons, per prompt, while they are pooled
BACKWARD = 1.3  # forward passes that a backward pass takes
WRITE_RATE = 300 * 10**6  # bytes per second that a plain disk takes; slower than that the model waits


def forward_bytes(hidden: int, intermediate: int, kv: int, n_layers: int, heads: int, batch: Pass) -> int:
    """Upper bound of what one forward pass allocates in float32.

    Args:
        hidden, intermediate, kv: widths of the model's states, MLP, keys and values.
    """
    rows, prefix, longest = batch
    states = rows * longest * (8 * hidden + 6 * intermediate)  # residual, norms, projections, pooled copies
    # repeated, grown, and the copy between
    cache = 3 * 2 * n_layers * kv * rows * (prefix + longest) if prefix else 0
    scores = 3 * rows * heads * longest * (prefix + longest)  # where attention is not fused, and its mask
    return int(4 * SLACK * (states + cache + scores))


def graph_bytes(hidden: int, intermediate: int, attributed: int, n_layers: int, batch: Pass) -> int:
    """Upper bound of what a forward pass keeps for the backward one in float32, and of what that gives.

    Args:
        hidden, intermediate: widths of the model's states and MLP. attributed: of all sites with gradients.
    """
    rows, _, longest = batch
    of_token = 8 * hidden + 5 * intermediate + 2 * attributed  # residuals, q k v o, MLP; values and gradients
    return int(4 * SLACK * n_layers * rows * longest * of_token)


def held_bytes(loaded: LoadedModel, passes: Iterable[Pass], attributed: Sequence[str] = ()) -> int:
    """Upper bound of a process that runs these passes: libraries, model, the largest pass.

    Args:
        attributed: sites that a backward pass goes to after each of them.
    """
    config = text_config(loaded.model.config)
    hidden = int(config.hidden_size)
    found = places(loaded.model.config)
    widest = max(_inner(place, hidden) for place in found.values())
    pooled = max((place.width for place in found.values() if place.experts), default=0)
    heads = int(getattr(config, "num_attention_heads", 1))
    kv = loaded.widths.get("attn.k", hidden)
    wide = sum(found[site].per_token for site in attributed)

    def size(batch: Pass) -> int:
        graph = graph_bytes(hidden, widest, wide, loaded.n_layers, batch) if wide else 0
        pools = 4 * POOLS * batch[0] * pooled
        return forward_bytes(hidden, widest, kv, loaded.n_layers, heads, batch) + graph + pools

    # elsewhere it is the device's memory
    largest = max(map(size, passes), default=0) if loaded.device.type == "cpu" else 0
    return max(peak(), LIBRARIES + loaded.host_bytes) + largest


def _inner(place: Place, hidden: int) -> int:
    """Numbers per token that a site stands for; experts also hold a token's state once for each of them."""
    return place.per_token + (place.chosen * hidden if place.experts else 0)


def readout_bytes(loaded: LoadedModel, rows: int) -> int:
    """Upper bound of what reading single neurons off the residual stream holds for a batch of ``rows``: its
    states in all layers, logits, and the head in float32.
    """
    config = text_config(loaded.model.config)
    hidden, words = int(config.hidden_size), int(config.vocab_size)
    states = rows * loaded.n_layers * (2 * hidden + loaded.widths["mlp.hidden"])
    return int(4 * SLACK * (states + 4 * rows * words + words * hidden))


def seconds(
    loaded: LoadedModel, passes: Sequence[Pass], stored: int, times: tuple[int, int] = (1, 0)
) -> float:
    """Time of all passes, or of writing ``stored`` bytes meanwhile if that is longer.

    A middling forward pass is timed, twice: the second counts; ``times``: how often the model runs forward
    and backward over each. Without weights it is what captures measured on the device (`throughput`), NaN
    where none has.
    """
    if not passes:
        return 0.0
    if loaded.is_outline:
        rate = throughput.rate_of(loaded) or math.nan
        return max(work_of(passes, times) * throughput.per_token(loaded) / rate, stored / WRITE_RATE)
    rows, _, longest = sorted(passes, key=lambda batch: batch[0] * batch[2])[len(passes) // 2]
    ids = torch.ones((rows, longest), dtype=torch.long, device=loaded.device)
    taken = 0.0
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            output: Any = loaded.model.base_model(input_ids=ids, use_cache=False)
            float(output[0].sum())  # waits for the device
            taken = time.perf_counter() - start
    return max(taken * work_of(passes, times) / (rows * longest), stored / WRITE_RATE)


def work_of(passes: Iterable[Pass], times: tuple[int, int] = (1, 0)) -> float:
    """Tokens that run forward, paddings among them; those that run backward counted as `BACKWARD` of them."""
    return sum(rows * longest for rows, _, longest in passes) * (times[0] + BACKWARD * times[1])


def peak() -> int:
    """Highest resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

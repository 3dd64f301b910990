"""The passes of a capture: a shared prefix once, then its continuations, pooled into a block.

Which prompts run together is decided in `batches`, how they are pooled in `pooling`, when their values arrive
in `transfer`. Where gradients are asked for, `attributing` runs the batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from relact import schema
from relact.capturing.attributing import attribute_batch
from relact.capturing.objectives import Objective
from relact.capturing.pooling import Pool, counted, pools
from relact.capturing.sizing import together, ways
from relact.capturing.transfer import Arrivals, Taker, ahead
from relact.errors import ModelError
from relact.models import hooks
from relact.models.batches import schedule
from relact.models.forward import advance, pad, rows_of_cache, sent
from relact.models.loading import LoadedModel
from relact.models.routed import Routed


def capture_rows(
    loaded: LoadedModel,
    tokens: Sequence[Sequence[int]],
    buffer: Taker,
    settings: schema.CaptureRecord,
    at: int = 0,
    objective: Objective | None = None,
) -> Iterator[int]:
    """Run prompts that are batched together and fill ``buffer`` from row ``at`` on; yields rows per batch.

    Args:
        objective: of these prompts, where ``settings`` asks for attributions.
    """
    lengths = [len(row) for row in tokens]
    underway: deque[Future[int]] = deque()
    prefix = _Prefix((), None, {})

    def run(rows: Sequence[int]) -> None:
        places, asked = [at + row for row in rows], settings.attribution
        if asked and objective:
            prompts = [tokens[row] for row in rows]
            arrivals = attribute_batch(loaded, prompts, places, settings, asked, objective[rows])
        else:
            continuations = [tokens[row][len(prefix.tokens) :] for row in rows]
            arrivals = _run_batch(loaded, continuations, places, prefix, settings)
        arrivals.depart()
        underway.append(hand.submit(arrivals.put, buffer))

    attributed = settings.attribution is not None
    with ThreadPoolExecutor(1) as hand, torch.inference_mode(not attributed):
        for batch in schedule(tokens, together(loaded, settings), ways(loaded, settings)):
            if batch.prefix != prefix.tokens:
                prefix = _Prefix.run(loaded, batch.prefix, settings)
            _in_halves(run, batch.rows, loaded.device, lengths)
            while len(underway) > ahead(loaded.device):
                yield underway.popleft().result()
    for there in underway:
        yield there.result()


@dataclass
class _Prefix:
    """A prefix after its forward pass: keys and values, and each site's unfinished pool."""

    tokens: tuple[int, ...]
    cache: Any
    partial: dict[tuple[str, int], torch.Tensor]  # (site, layer) -> [1, width]

    @classmethod
    def run(cls, loaded: LoadedModel, tokens: tuple[int, ...], settings: schema.CaptureRecord) -> _Prefix:
        if not tokens:
            return cls((), None, {})
        pool = pools(settings.pool)
        partial: dict[tuple[str, int], torch.Tensor] = {}
        ids = torch.tensor([tokens], device=loaded.device)
        mask = counted(torch.ones_like(ids, dtype=torch.bool), settings.n_skipped)

        def keep(site: str, layer: int, values: torch.Tensor | Routed) -> None:
            partial[site, layer] = pool.start(values, mask.to(values.device))

        with hooks.visit(loaded.model, settings.sites, keep):
            _, cache = advance(loaded.model.base_model, ids)
        return cls(tokens, cache, partial)


def _in_halves(
    run: Callable[[Sequence[int]], None], rows: Sequence[int], device: torch.device, lengths: Sequence[int]
) -> None:
    """``run(rows)``, in halves when the device's memory does not hold it; ``lengths`` are rows' tokens."""
    try:
        return run(rows)
    except torch.OutOfMemoryError as error:
        if len(rows) == 1:
            raise ModelError(
                f"one prompt of {lengths[rows[0]]} tokens does not fit into its memory",
                where=f"device {device}",
                fix="capture with --device cpu, a smaller --model-dtype, or shorter prompts",
            ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(rows) // 2
    for part in (rows[:half], rows[half:]):
        _in_halves(run, part, device, lengths)


def _run_batch(
    loaded: LoadedModel,
    continuations: Sequence[Sequence[int]],
    rows: Sequence[int],
    prefix: _Prefix,
    settings: schema.CaptureRecord,
) -> Arrivals:
    """One forward pass over what follows a prefix, padded on the right; ``rows`` are theirs in the block."""
    ids, mask = pad(continuations, loaded.device)  # [batch, tokens]
    pool: Pool = pools(settings.pool)
    stored = torch.float16 if settings.dtype == "float16" else torch.float32
    skipped = 0 if prefix.tokens else settings.n_skipped  # of these tokens
    pooled = counted(mask, skipped)
    whole = [[len(prefix.tokens) + len(tokens) - settings.n_skipped] for tokens in continuations]
    lengths = sent(torch.tensor(whole), loaded.device)  # [batch, 1]
    arrivals = Arrivals(np.asarray(rows))

    shortest = 0 if skipped else min(map(len, continuations))

    def finish(partial: torch.Tensor) -> torch.Tensor:
        return pool.finish(partial, lengths.to(partial.device)).to(stored)

    def keep(site: str, layer: int, values: torch.Tensor | Routed) -> None:
        if isinstance(values, torch.Tensor):
            values = values[:, -ids.shape[1] :]  # latent attention computes the prefix's keys again
        # a layer has its own device where a model is spread over several
        partial = pool.start(values, pooled.to(values.device), shortest)
        if prefix.tokens:
            partial = pool.join(prefix.partial[site, layer], partial)
        arrivals.send(site, layer, partial, finish)

    with hooks.visit(loaded.model, settings.sites, keep):
        if prefix.tokens:
            cached = torch.ones(len(ids), len(prefix.tokens), dtype=mask.dtype, device=mask.device)
            full = torch.cat([cached, mask], dim=1)
            cache = rows_of_cache(prefix.cache, torch.zeros(len(ids), dtype=torch.long))
            advance(loaded.model.base_model, ids, cache=cache, mask=full)
        else:
            loaded.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return arrivals

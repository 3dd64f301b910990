"""Attribution: a value times the gradient of the prompt's objective, pooled over tokens.

To first order that is what the objective loses when the neuron is 0 at the pooled tokens. Whole prompts are
run, padded on the right: what a shared prefix contributes depends on what follows it. Activations that are
captured too come from the same forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch

from relact import schema
from relact.capturing.objectives import Objective
from relact.capturing.pooling import pools, total
from relact.capturing.transfer import Arrivals
from relact.models import gradients, hooks
from relact.models.forward import pad, sent
from relact.models.loading import LoadedModel


def attribute_batch(
    loaded: LoadedModel,
    tokens: Sequence[Sequence[int]],
    rows: Sequence[int],
    settings: schema.CaptureRecord,
    record: schema.AttributionRecord,
    objective: Objective,
) -> Arrivals:
    """One forward and one backward pass over whole prompts; ``rows`` are theirs in the block."""
    ids, mask = pad(tokens, loaded.device)  # [batch, tokens]
    lengths = mask.sum(dim=1)
    arrivals = Arrivals(np.asarray(rows))
    targets, others, starts = (
        None if each is None else sent(torch.from_numpy(each), loaded.device)
        for each in (objective.targets, objective.others, objective.starts)
    )
    with ExitStack() as stack:
        if settings.sites:
            stack.enter_context(hooks.visit(loaded.model, settings.sites, _keep(arrivals, mask, settings)))
        trace = stack.enter_context(gradients.traced(loaded.model, record.sites, lengths - 1))
        output = loaded.model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        loss = gradients.log_probability(output.logits[:, 0], targets, others).sum()
    counted = _counted(mask, lengths, record.pool, starts)
    for site, layer, values in gradients.products(trace, loss):
        pooled = total(values, counted.to(values.device))
        arrivals.send(f"{schema.ATTRIBUTIONS}/{site}", layer, pooled)
    return arrivals


def _keep(arrivals: Arrivals, mask: torch.Tensor, settings: schema.CaptureRecord) -> hooks.Callback:
    """Sends pooled activations on their way."""
    pool, stored = pools(settings.pool), getattr(torch, settings.dtype)

    def keep(site: str, layer: int, values: torch.Tensor) -> None:
        with torch.no_grad():
            real = mask.to(values.device)  # of this layer, where a model is spread over several
            pooled = pool.finish(pool.start(values, real), real.sum(dim=1, keepdim=True))
            arrivals.send(site, layer, pooled.to(stored))

    return keep


def _counted(mask: torch.Tensor, lengths: torch.Tensor, pool: str, starts: torch.Tensor) -> torch.Tensor:
    """bool [batch, tokens]: those that are pooled."""
    # starts are 0 but for the pool ``own``
    first = lengths - 1 if pool == "last" else starts
    places = torch.arange(mask.shape[1], device=mask.device)
    return mask & (places[None, :] >= first[:, None])

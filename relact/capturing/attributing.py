"""Attribution: what of a prompt's objective is owed to every neuron, pooled over tokens.

By default a value times its gradient: to first order what the objective loses when the neuron is 0 at the
pooled tokens. Other methods are in `integrating` (backward passes along a path) and `writing` (forward
alone). Whole prompts are run, padded on the right: what a shared prefix contributes depends on what follows
it. Activations that are captured too come from the same forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from relact import schema
from relact.capturing.integrating import integrated
from relact.capturing.objectives import Objective
from relact.capturing.pooling import counted, pools, total
from relact.capturing.transfer import Arrivals
from relact.capturing.writing import METHODS
from relact.models import gradients, hooks, readout
from relact.models.forward import pad, sent
from relact.models.loading import LoadedModel
from relact.models.routed import Routed, like, tensor_of


def attribute_batch(
    loaded: LoadedModel,
    tokens: Sequence[Sequence[int]],
    rows: Sequence[int],
    settings: schema.CaptureRecord,
    record: schema.AttributionRecord,
    objective: Objective,
) -> Arrivals:
    """The passes over whole prompts that a method takes; ``rows`` are theirs in the block."""
    ids, mask = pad(tokens, loaded.device)  # [batch, tokens]
    batch = _Batch(loaded, ids, mask, settings, record, objective, Arrivals(np.asarray(rows)))
    if record.method in METHODS:
        batch.read()
    elif record.method == schema.INTEGRATED:
        batch.integrate()
    else:
        batch.differentiate()
    return batch.arrivals


@dataclass(frozen=True)
class _Batch:
    """Prompts that are run together, ids and mask [batch, tokens], and where their values go."""

    loaded: LoadedModel
    ids: torch.Tensor
    mask: torch.Tensor
    settings: schema.CaptureRecord
    record: schema.AttributionRecord
    objective: Objective
    arrivals: Arrivals

    def differentiate(self) -> None:
        """One forward and one backward pass."""
        with ExitStack() as stack:
            self._keep_activations(stack)
            trace = stack.enter_context(gradients.traced(self.loaded.model, self.record.sites, self._ends))
            loss = gradients.log_probability(self._logits(), *self._words()).sum()
        for site, layer, values in gradients.products(trace, loss):
            self._send(site, layer, values)

    def integrate(self) -> None:
        """One forward pass for the values, then a forward and a backward one at every point of the path."""
        intact: dict[tuple[str, int], torch.Tensor | Routed] = {}

        def keep(site: str, layer: int, values: torch.Tensor | Routed) -> None:
            intact[site, layer] = like(values, tensor_of(values).clone())

        with ExitStack() as stack, torch.no_grad():
            self._keep_activations(stack)
            stack.enter_context(hooks.visit(self.loaded.model, self.record.sites, keep))
            self.loaded.model.base_model(**self._inputs)
        inputs, counted = (self.ids, self.mask), self._counted()
        for site, layer, values in integrated(
            self.loaded, inputs, intact, counted, self.record, self.objective
        ):
            self._send(site, layer, values)

    def read(self) -> None:
        """One forward pass, whose states at the last token are read off layer by layer."""
        model, found = self.loaded.model, list[readout.Residual]()
        reader = readout.Readout.of(model)
        with torch.no_grad():
            with ExitStack() as stack:
                self._keep_activations(stack)
                stack.enter_context(gradients.last_logits(model, self._ends))
                stack.enter_context(torch.no_grad())
                stack.enter_context(readout.residuals(model, self._ends, found))
                logits = self._logits()
            readout.require_logits(model, reader, found[-1], logits)
            words = self._words(reader.head.device)
            for layer, residual in enumerate(found):
                values = METHODS[self.record.method](reader, residual, found[-1], *words)
                self.arrivals.send(f"{schema.ATTRIBUTIONS}/{self.record.sites[0]}", layer, values)

    def _words(self, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Targets and what they are contrasted with, int64 [batch], on the device where the model begins."""
        targets, others = self.objective.words()
        to = device or self.loaded.device
        return sent(targets, to), None if others is None else sent(others, to)

    @property
    def _inputs(self) -> dict[str, object]:
        return {"input_ids": self.ids, "attention_mask": self.mask.long(), "use_cache": False}

    @property
    def _ends(self) -> torch.Tensor:
        """int64 [batch]: the last real token of every row."""
        return self.mask.sum(dim=1) - 1

    def _logits(self) -> torch.Tensor:
        """[batch, words], where logits are those of the last tokens alone."""
        logits: torch.Tensor = self.loaded.model(**self._inputs).logits[:, 0]
        return logits

    def _keep_activations(self, stack: ExitStack) -> None:
        """Inside the stack pooled activations are sent on their way."""
        if self.settings.sites:
            keep = _keep(self.arrivals, self.mask, self.settings)
            stack.enter_context(hooks.visit(self.loaded.model, self.settings.sites, keep))

    def _send(self, site: str, layer: int, values: torch.Tensor | Routed) -> None:
        """Pool attributions [batch, tokens, width] over the tokens that count, and send them."""
        pooled = total(values, self._counted().to(values.device))
        self.arrivals.send(f"{schema.ATTRIBUTIONS}/{site}", layer, pooled)

    def _counted(self) -> torch.Tensor:
        """bool [batch, tokens]: those that are pooled."""
        first = sent(torch.from_numpy(self.objective.starts), self.mask.device)  # 0 for most pools
        if self.record.pool == "last":
            first = self._ends
        places = torch.arange(self.mask.shape[1], device=self.mask.device)
        return self.mask & (places[None, :] >= first[:, None])


def _keep(arrivals: Arrivals, mask: torch.Tensor, settings: schema.CaptureRecord) -> hooks.Callback:
    """Sends pooled activations on their way."""
    pool, stored = pools(settings.pool), getattr(torch, settings.dtype)
    mask = counted(mask, settings.n_skipped)

    def finish(partial: torch.Tensor) -> torch.Tensor:
        return pool.finish(partial, mask.to(partial.device).sum(dim=1, keepdim=True)).to(stored)

    def keep(site: str, layer: int, values: torch.Tensor | Routed) -> None:
        with torch.no_grad():  # a layer has its own device where a model is spread over several
            arrivals.send(site, layer, pool.start(values, mask.to(values.device)), finish)

    return keep

"""Looking: one text, every token: what neurons are there, and what of the next token is owed to them.

The same forward and backward pass as in `attributing`, without pooling: attributions of a prompt's tokens add
up to the one that a store holds of it (its pool ``sum``), activations average to it (``mean``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from relact.models import gradients, hooks
from relact.models.forward import pad
from relact.models.loading import LoadedModel
from relact.models.routed import Routed, whole


@dataclass(frozen=True)
class Target:
    """Whose log-probability is attributed: a token, the likeliest where it is None, less ``other``'s."""

    token: int | None = None
    other: int | None = None


@dataclass(frozen=True)
class Tokens:
    """What happens at every token of a text.

    Attributes:
        activation, attribution: float32 [token, layer, neuron] per site.
        target: the token that is attributed.
        log_probability: of it, in nats; where another one is taken off, the difference of both logits.
        layers: of every site, the model's own numbers of the layers.
    """

    activation: dict[str, np.ndarray]
    attribution: dict[str, np.ndarray]
    target: int
    log_probability: float
    layers: dict[str, list[int]]


def by_token(
    loaded: LoadedModel, ids: Sequence[int], sites: Sequence[str], target: Target, *, backward: bool = True
) -> Tokens:
    """A forward and a backward pass over the token ids of a text; without ``backward`` no attributions."""
    rows, mask = pad([ids], loaded.device)
    found: dict[str, dict[int, np.ndarray]] = {site: {} for site in sites}
    owed: dict[str, dict[int, np.ndarray]] = {site: {} for site in sites if backward}

    def keep(site: str, layer: int, values: torch.Tensor | Routed) -> None:
        found[site][layer] = whole(values)[0].detach().float().cpu().numpy().copy()

    ends, trace = mask.sum(dim=1) - 1, None
    with ExitStack() as stack:
        stack.enter_context(hooks.visit(loaded.model, sites, keep))
        if backward:
            trace = stack.enter_context(gradients.traced(loaded.model, sites, ends))
        else:
            stack.enter_context(gradients.last_logits(loaded.model, ends))
            stack.enter_context(torch.no_grad())
        logits = loaded.model(input_ids=rows, attention_mask=mask.long(), use_cache=False).logits[:, 0]
        token = int(logits.argmax()) if target.token is None else target.token
        other = None if target.other is None else torch.tensor([target.other])
        loss = gradients.log_probability(logits, torch.tensor([token]), other)
    if trace is not None:
        for site, layer, values in gradients.products(trace, loss.sum()):
            owed[site][layer] = whole(values)[0].float().cpu().numpy()
    layers = {site: sorted(of) for site, of in found.items()}
    return Tokens(_stacked(found), _stacked(owed), token, float(loss.detach()), layers)


def _stacked(parts: dict[str, dict[int, np.ndarray]]) -> dict[str, np.ndarray]:
    """[token, layer, neuron] per site."""
    return {site: np.stack([of[layer] for layer in sorted(of)], axis=1) for site, of in parts.items()}


def pieces(loaded: LoadedModel, text: str, ids: Sequence[int], *, special_tokens: bool = True) -> list[str]:
    """The text of every token, in order: they join to ``text``, but for special tokens, which are named."""
    tokenizer = loaded.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        return [str(tokenizer.decode([token])) for token in ids]
    spans = tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True)["offset_mapping"]
    parts, before = [], 0
    for token, (_, stop) in zip(ids, spans[: len(ids)], strict=True):  # an appended end is taken off
        special = token in tokenizer.all_special_ids and stop <= before
        parts.append(
            str(tokenizer.convert_ids_to_tokens(token)) if special else text[before : max(before, stop)]
        )
        before = max(before, stop)
    return parts

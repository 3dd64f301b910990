"""Gradients of a log-probability at sites: one forward pass, one backward pass to the tensors of the sites.

Parameters stay frozen: the gradient begins at the input embeddings. Logits are computed at each row's last
real token alone, by the model's own head (its scaling and soft caps are part of the log-probability).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from relact.errors import ModelError
from relact.models import hooks
from relact.models.routed import Routed, like, tensor_of


@contextmanager
def traced(model: nn.Module, sites: Sequence[str], ends: Tensor) -> Iterator[hooks.Trace]:
    """Inside the block a forward pass keeps what gradients need, and its logits are [batch, 1, words].

    Not inside `torch.inference_mode`, nor are the model's inputs made there.

    Args:
        ends: int64 [batch], each row's last real token.
    """
    embedding = _module(model, "get_input_embeddings")

    def begin(_: nn.Module, __: Any, states: Tensor) -> Tensor:
        return states.detach().requires_grad_()

    handle = embedding.register_forward_hook(begin)
    try:
        with last_logits(model, ends), hooks.trace(model, sites) as trace:
            yield trace
    finally:
        handle.remove()


@contextmanager
def last_logits(model: nn.Module, ends: Tensor) -> Iterator[None]:
    """Inside the block logits are [batch, 1, words], of each row's last real token ``ends``, int64 [batch];
    gradients are taken, but none of parameters.
    """
    head = _module(model, "get_output_embeddings")
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def last(_: nn.Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = torch.arange(len(ends), device=states[0].device)
        return (states[0][rows, ends.to(states[0].device)][:, None], *states[1:])

    handle = head.register_forward_pre_hook(last)
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def log_probability(logits: Tensor, targets: Tensor, others: Tensor | None = None) -> Tensor:
    """[batch]: of the token ``targets``, less that of ``others`` where they are given; in float32 at least.

    Args:
        logits: [batch, words]. targets, others: int64 [batch].
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    targets = targets.to(logits.device)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    if others is None:
        return chosen - logits.logsumexp(dim=1)
    return chosen - logits.gather(1, others.to(logits.device)[:, None])[:, 0]


def gradients_of(total: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of ``total``, with respect to each tensor; `ModelError` where some kernel lets none through."""
    try:
        found: tuple[Tensor, ...] = torch.autograd.grad(total, tensors)
    except RuntimeError as error:
        if "used in the graph" not in str(error) and "require grad" not in str(error):
            raise
        raise ModelError(
            "gradients do not come through its layers, as with some quantised weights",
            where="attribution",
            fix="attribute a checkpoint that is not quantised, or capture activations alone",
        ) from error
    return found


def products(trace: hooks.Trace, total: Tensor) -> Iterator[tuple[str, int, Tensor | Routed]]:
    """(site, layer, value times gradient of ``total``), [batch, tokens, width] in float32 at least."""
    gradients = gradients_of(total, trace.tensors)
    for site, layer, values, of_values in trace.columns(gradients):
        value, gradient = tensor_of(values).detach(), tensor_of(of_values)
        wide = torch.promote_types(value.dtype, torch.float32)
        yield site, layer, like(values, value.to(wide) * gradient.to(wide))


def _module(model: nn.Module, getter: str) -> nn.Module:
    """The embedding of the input or the head; `ModelError` for a model that has none."""
    found = getattr(model, getter, lambda: None)()
    if not isinstance(found, nn.Module):
        raise ModelError(
            f"its {getter} gives no module",
            where=type(model).__name__,
            fix="attribute a causal language model, loaded with relact.models.load",
        )
    return found

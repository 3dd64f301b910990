"""Integrated gradients: the mean gradient along a straight line from 0 to a value, times the value.

Sundararajan et al. 2017, arXiv 1703.01365. The line is cut into equal steps, and the gradient taken in the
middle of each. What is pooled is what is scaled, the values of other tokens are as the model computes them:

- path ``site``: the values of one site in all layers together are the point that moves, each a variable of
  its own: an early layer's change does not reach the later ones, which are where they are set. The sum over
  them all approaches L(intact) - L(all of them 0) as steps grow.
- path ``layer``: those of one layer alone; the later layers respond. With the pool ``last`` that is the
  knowledge attribution of Dai et al. 2022, arXiv 2104.08696.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from relact import schema
from relact.capturing.objectives import Objective
from relact.models import gradients, hooks
from relact.models.loading import LoadedModel
from relact.models.routed import Routed, instead, like, tensor_of

Values = Mapping[int, Tensor | Routed]  # by layer, [batch, tokens, width]


def integrated(
    loaded: LoadedModel,
    inputs: tuple[Tensor, Tensor],
    intact: Mapping[tuple[str, int], Tensor | Routed],
    counted: Tensor,
    record: schema.AttributionRecord,
    objective: Objective,
) -> Iterator[tuple[str, int, Tensor | Routed]]:
    """(site, layer, attributions) of every site, [batch, tokens, width] and 0 where a token is not counted.

    Args:
        inputs: ids and mask, [batch, tokens].
        intact: the site's values in every layer, as the prompts have them.
        counted: bool [batch, tokens], the tokens on the path.
    """
    for site in record.sites:
        values = {layer: tensor for (name, layer), tensor in intact.items() if name == site}
        together = [values] if record.path == "site" else [{layer: one} for layer, one in values.items()]
        for moved in together:
            means = _mean_gradients(loaded, inputs, site, moved, counted, record.steps or 1, objective)
            for layer, gradient in means.items():
                value = tensor_of(moved[layer]).to(gradient.dtype)
                yield site, layer, like(moved[layer], value * gradient)


def _mean_gradients(
    loaded: LoadedModel,
    inputs: tuple[Tensor, Tensor],
    site: str,
    moved: Values,
    counted: Tensor,
    steps: int,
    objective: Objective,
) -> dict[int, Tensor]:
    """By layer the mean over the steps of the gradient at the values ``moved``, in float32 at least."""
    sums: dict[int, Tensor] = {}
    for step in range(steps):
        points = _gradients_at(loaded, inputs, site, moved, counted, (step + 0.5) / steps, objective)
        for layer, gradient in points.items():
            wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / steps
            sums[layer] = sums[layer] + wide if layer in sums else wide
    return sums


def _gradients_at(
    loaded: LoadedModel,
    inputs: tuple[Tensor, Tensor],
    site: str,
    moved: Values,
    counted: Tensor,
    share: float,
    objective: Objective,
) -> dict[int, Tensor]:
    """By layer the gradient of the objectives where the counted values are a ``share`` of what they are."""
    (ids, mask), leaves = inputs, dict[int, Tensor]()

    def place(_: str, layer: int, values: Tensor | Routed) -> Tensor | Routed:
        leaves[layer] = (share * tensor_of(moved[layer])).requires_grad_()
        return instead(values, like(moved[layer], leaves[layer]), counted)

    with (
        gradients.last_logits(loaded.model, mask.sum(dim=1) - 1),
        hooks.visit(loaded.model, [site], place, layers=list(moved)),
    ):
        output = loaded.model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        total = gradients.log_probability(output.logits[:, 0], *objective.words()).sum()
    layers: Sequence[int] = list(leaves)
    found = gradients.gradients_of(total, [leaves[layer] for layer in layers])
    return dict(zip(layers, found, strict=True))

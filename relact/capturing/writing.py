"""Attribution by what a neuron writes: its column of down_proj times its value, at the prompt's last token.

Forward passes alone. A neuron's value h_i times its column v_i is added to the residual stream, which the
final norm and the head make logits of (`models.readout`):

- ``direct``: how much of the target's logit is h_i v_i, the norm's scale being what it was. The logit is
  taken beside the mean of all words' (a shift of all logits changes no probability), or beside the
  distractor's. Source: direct logit attribution, Elhage et al. 2021, A Mathematical Framework for Transformer
  Circuits.
- ``increase``: log p(target | x + h_i v_i) - log p(target | x), each read off by the final norm and the head
  as if it were the last state; x is the residual state that the layer's MLP adds to: the layer's input plus
  attention's output. Source: log probability increase, Yu and Ananiadou 2024, arXiv 2312.12141, whose code
  scales both by the last layer's norm, where here each has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from relact.models.loading import LoadedModel
from relact.models.readout import Readout, Residual

TILE = 2**18  # logits at a time, what a core's cache holds
RATE = 7e8  # logits that become a sum of exponentials in a second, on one core
PRODUCTS = 1e11  # additions and multiplications of a matrix product in a second, on one core

Written = Callable[[Readout, Residual, Residual, Tensor, Tensor | None], Tensor]


def direct(
    readout: Readout, layer: Residual, last: Residual, targets: Tensor, others: Tensor | None
) -> Tensor:
    """[batch, neurons] of one layer.

    Args:
        last: of the last layer, whose output is what the norm scales.
        targets, others: int64 [batch].
    """
    head = readout.head
    beside = head.mean(dim=0, dtype=readout.gain.dtype) if others is None else head[others]
    directions = readout.gain * (head[targets].to(readout.gain.dtype) - beside)  # [batch, width]
    if readout.centred:  # what the norm takes off a column it takes off the direction as well
        directions = directions - directions.mean(dim=1, keepdim=True)
    directions = directions / readout.scale(readout.centre(last.after))[:, None]
    columns = layer.columns.to(directions.device, directions.dtype)
    return layer.hidden.to(directions.device) * (directions @ columns.T)


def increase(
    readout: Readout, layer: Residual, last: Residual, targets: Tensor, others: Tensor | None
) -> Tensor:
    """[batch, neurons] of one layer; exact over all words: of a distractor, too, less what it gains."""
    states, columns = readout.centre(layer.before), readout.centre(layer.columns)
    hidden = layer.hidden.to(states.device, states.dtype)
    width = states.shape[1]
    # mean square of x + h v, from those of x and v and their product
    products, squares = states @ columns.T / width, columns.square().mean(dim=1)
    grown = readout.scale(states).square()[:, None] + 2 * hidden * products + hidden.square() * squares
    scales = grown.clamp_min(readout.eps).sqrt()  # [batch, neurons]

    def gained(words: Tensor) -> Tensor:
        """[batch, neurons]: by how much the logit of a word grows, the word of each prompt."""
        rows = readout.gain * readout.head[words].to(states.dtype)  # [batch, width]
        own, shift = (rows * states).sum(dim=1)[:, None], readout.shift[words][:, None]
        return (own + hidden * (rows @ columns.T)) / scales + shift

    if others is not None:
        base = readout.logits(layer.before)
        before = base.gather(1, targets[:, None]) - base.gather(1, others[:, None])
        return gained(targets) - gained(others) - before
    base = readout.logits(layer.before).log_softmax(dim=1).gather(1, targets[:, None])
    return gained(targets) - _normalisers(readout, states, columns, hidden, scales) - base


def _normalisers(readout: Readout, states: Tensor, columns: Tensor, hidden: Tensor, scales: Tensor) -> Tensor:
    """[batch, neurons]: log of the sum over all words of exp((W g (x + h v)) / scale + shift).

    Words are taken a tile at a time; what a tile's words get from every column is the same for all prompts.
    """
    found = torch.full_like(hidden, -torch.inf)
    step = max(1, TILE // hidden.shape[1])
    stretched = (readout.gain * columns).T.contiguous()  # [width, neurons]
    tile = torch.empty(
        min(step, len(readout.head)), hidden.shape[1], dtype=states.dtype, device=states.device
    )
    for first in range(0, len(readout.head), step):
        rows = readout.head[first : first + step].to(states.dtype)  # [words, width]
        of_columns = rows @ stretched  # [words, neurons]
        of_states = rows @ (readout.gain * states).T  # [words, batch]
        shift = readout.shift[first : first + step, None]
        logits = tile[: len(rows)]
        for row in range(len(hidden)):
            torch.addcmul(of_states[:, row, None], of_columns, hidden[row], out=logits)
            logits.div_(scales[row]).add_(shift)
            found[row] = torch.logaddexp(found[row], logits.logsumexp(dim=0))
    return found


def reading_seconds(loaded: LoadedModel, prompts: int, batches: int) -> float:
    """Estimate of what ``increase`` takes beside the forward passes: of each batch what all columns give all
    words, of each prompt their exponentials.
    """
    words, width = loaded.model.get_output_embeddings().weight.shape
    pairs = words * loaded.widths["mlp.hidden"] * loaded.n_layers
    return float(pairs * (prompts / RATE + batches * 2 * width / PRODUCTS))


METHODS: Mapping[str, Written] = {"direct": direct, "increase": increase}

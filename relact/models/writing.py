"""What neurons write: the tokens that a direction in the residual stream promotes and suppresses.

A hidden unit writes its column of the MLP's last projection, a neuron of `mlp.down` or `attn.o` one
coordinate. Read off alone, by ``head @ (gain * direction)`` with the final norm's gain: logits per unit of
activation, but for what the norm divides by, which is the same for all tokens. Where a layer has a norm after
its MLP or attention, the direction is multiplied by that one's gain first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from relact.models import hooks
from relact.models.experts import columns_of
from relact.models.loading import LoadedModel
from relact.models.placing import held
from relact.models.readout import Readout, norm_gain, refused
from relact.schema import HIDDEN
from relact.sites import places, widths

# norms between a part of a layer and the residual stream: site -> names, where the layer has the first one
AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
AFTER_ATTENTION = {
    "post_feedforward_layernorm": "post_attention_layernorm",
    "post_mlp_layernorm": "post_self_attn_layernorm",
}
TOGETHER = 64  # neurons whose logits are in memory at once
WRITING = (*HIDDEN, "mlp.down", "attn.o")  # others only read


@dataclass(frozen=True)
class Written:
    """Of some neurons: token ids and their logits, int64 and float32 [neuron, rank], strongest first."""

    promoted: Tensor
    promoted_by: Tensor
    suppressed: Tensor
    suppressed_by: Tensor


def written(loaded: LoadedModel, site: str, layer: int, neurons: Sequence[int], n: int = 10) -> Written:
    """The ``n`` tokens that each of some neurons of a site promotes most, and suppresses most.

    Raises:
        ModelError: a norm or a head that cannot be read.
    """
    readout = Readout.of(loaded.model)
    parts = []
    for start in range(0, len(neurons), TOGETHER):
        some = directions(loaded.model, site, layer, neurons[start : start + TOGETHER])
        logits = logits_of(readout, some)
        up, down = logits.topk(n, dim=1), logits.topk(n, dim=1, largest=False)
        parts.append((up.indices, up.values, down.indices, down.values))
    return Written(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def logits_of(readout: Readout, some: Tensor) -> Tensor:
    """[neuron, words] of directions [neuron, width], before the norm's scale."""
    stretched = readout.gain * readout.centre(some)
    return stretched @ readout.head.to(stretched.dtype).T


def directions(model: nn.Module, site: str, layer: int, neurons: Sequence[int]) -> Tensor:
    """[neuron, width] in float32 at least: what each adds to the residual stream per unit of activation."""
    block = hooks.find_layers(model)[1][layer]
    wanted = torch.as_tensor(list(neurons))
    if site in HIDDEN:
        columns = _columns(model, block, layer, wanted)
    else:
        columns = torch.eye(widths(model.config)[site])[wanted]
    wide = columns.to(torch.promote_types(columns.dtype, torch.float32))
    norm = _norm_after(block, site)
    return wide if norm is None else wide * norm_gain(model, norm).to(wide.device, wide.dtype)


def _columns(model: nn.Module, block: nn.Module, layer: int, neurons: Tensor) -> Tensor:
    """[neuron, width] of hidden units: their columns of the MLP's last projection, or of their experts'."""
    place = places(model.config)["mlp.hidden"]
    down = block.get_submodule(place.taps[layer].module)
    if place.experts:
        return columns_of(down, neurons).detach()
    weight = getattr(down, "weight", None)
    if (
        not isinstance(down, nn.Linear | Conv1D)
        or not isinstance(weight, Tensor)
        or not weight.is_floating_point()
    ):
        raise refused(model, f"the MLP of layer {layer} writes through {type(down).__name__}")
    weight = held(down, "weight")
    neurons = neurons.to(weight.device)
    return weight.detach()[neurons] if isinstance(down, Conv1D) else weight.detach().T[neurons]


def _norm_after(block: nn.Module, site: str) -> nn.Module | None:
    """The norm between a site's part of the layer and the residual stream, if there is one."""
    for name in AFTER_MLP:
        if hasattr(block, name):
            found = getattr(block, AFTER_ATTENTION[name] if site == "attn.o" else name, None)
            return found if isinstance(found, nn.Module) else None
    return None


def word(loaded: LoadedModel, token: int) -> str:
    """A token as it is shown: with its leading blank, and nothing that a terminal would obey."""
    text = str(loaded.tokenizer.decode([token], clean_up_tokenization_spaces=False))
    raw = str(loaded.tokenizer.convert_ids_to_tokens(token))
    if raw[:1] in ("\u2581", "\u0120") and not text[:1].isspace():
        text = f" {text}"
    if not text:  # models have words that their tokenizers lack
        return f"[{token}]"
    return text if text.isprintable() else repr(text)[1:-1]

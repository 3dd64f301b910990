"""Readout: a model's final norm and head as plain numbers, so that what single neurons write can be read.

A residual state x [width] becomes logits [words] by ``head @ (gain * centre(x) / scale(x)) + shift``, where
the scale is the root of the mean square of the centred state, and a layer's state after its MLP is the one
before it plus ``hidden @ columns``. Both are checked against the model's own tensors, so that a family that
does otherwise (a norm after the MLP, a scaled branch, capped logits) is refused and never read wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from relact.errors import ModelError
from relact.models import hooks
from relact.models.placing import held
from relact.sites import Tap, places, text_config

NORMS = ("norm", "ln_f", "norm_f", "final_layer_norm", "final_layernorm")  # after the last layer
SHARE = 0.01  # of what is compared: a difference larger than this is not rounding
ROUNDINGS = 8  # of the model's dtype, of the tensors that are added
OTHERWISE = "choose another --attribution-method: gradient and integrated take every family"


@dataclass(frozen=True)
class Readout:
    """The final norm and the head, in float32 at least but for ``head``, which is the model's own.

    Attributes:
        centred: whether the norm takes the mean off first. eps: what it adds to the mean square.
        gain: [width]. head: [words, width]. shift: [words].
    """

    centred: bool
    eps: float
    gain: Tensor
    head: Tensor
    shift: Tensor

    @classmethod
    def of(cls, model: nn.Module) -> Readout:
        """Of a causal language model; `ModelError` for one whose norm or head is of another kind."""
        owner, _ = hooks.find_layers(model)
        head = model.get_output_embeddings()
        norm = next((part for name in NORMS if (part := getattr(owner, name, None)) is not None), None)
        width = _width(model)
        if not isinstance(norm, nn.Module) or not isinstance(head, nn.Linear) or head.in_features != width:
            raise refused(model, "its final norm or its head is not of a kind that can be read")
        centred, eps, gain, offset = _norm(model, norm)
        wide = gain.dtype
        weight = held(head, "weight").detach()
        shift = torch.zeros(len(weight), dtype=wide, device=weight.device)
        if head.bias is not None:
            shift = shift + held(head, "bias").detach().to(wide)
        if offset is not None:
            shift = shift + weight.to(wide) @ offset.to(weight.device)
        return cls(centred, eps, gain.to(weight.device), weight, shift)

    def centre(self, states: Tensor) -> Tensor:
        """States [..., width] as the norm takes them, on the head's device, in float32 at least."""
        wide = states.to(self.gain.device, self.gain.dtype)
        return wide - wide.mean(dim=-1, keepdim=True) if self.centred else wide

    def scale(self, centred: Tensor) -> Tensor:
        """[...]: what the norm divides by."""
        return (centred.square().mean(dim=-1) + self.eps).sqrt()

    def logits(self, states: Tensor) -> Tensor:
        """[batch, words] of states [batch, width]."""
        centred = self.centre(states)
        normed = self.gain * centred / self.scale(centred)[:, None]
        return normed @ self.head.to(normed.dtype).T + self.shift


@dataclass
class Residual:
    """One layer's tensors at every row's last real token, [batch, width] each, ``hidden`` [batch, neurons].

    Attributes:
        before: the residual state before the MLP's part is added: the layer's input plus attention's.
        after: the layer's output.
        columns: [neurons, width], what each hidden neuron writes.
    """

    before: Tensor
    after: Tensor
    hidden: Tensor
    columns: Tensor


@contextmanager
def residuals(model: nn.Module, ends: Tensor, found: list[Residual]) -> Iterator[None]:
    """A forward pass inside the block fills ``found``, one per layer; what they say of the model is checked
    when the block ends.

    Args:
        ends: int64 [batch], each row's last real token.
    """
    _, blocks = hooks.find_layers(model)
    seen: dict[tuple[str, int], Tensor] = {}
    taps = _every_layer(model, len(blocks))

    def last(name: str, layer: int, values: Tensor) -> None:
        rows = torch.arange(len(ends), device=values.device)
        seen[name, layer] = values.detach()[rows, ends.to(values.device)]

    def entered(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        last("in", layer, args[0] if args else kwargs["hidden_states"])

    def left(layer: int, output: Any) -> None:
        last("out", layer, output if isinstance(output, Tensor) else output[0])

    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            before = block.register_forward_pre_hook(
                lambda _, args, kwargs, layer=layer: entered(layer, args, kwargs), with_kwargs=True
            )
            after = block.register_forward_hook(lambda _, __, output, layer=layer: left(layer, output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(hooks.visit(model, ("attn.o", "mlp.hidden"), last))
        yield
    for layer, block in enumerate(blocks):
        found.append(_residual(model, layer, block.get_submodule(taps[layer].module), seen))


def _every_layer(model: nn.Module, n_layers: int) -> Mapping[int, Tap]:
    """Where ``mlp.hidden`` is; `ModelError` where a layer has not both an attention and an MLP of its own."""
    found = places(model.config)
    for site in ("attn.o", "mlp.hidden"):
        if site not in found or len(found[site].taps) != n_layers:
            raise refused(model, f"not every layer has {site}")
    if found["mlp.hidden"].experts:
        raise refused(model, "its MLPs are mixtures of experts")
    return found["mlp.hidden"].taps


def require_readable(model: nn.Module, device: torch.device) -> None:
    """`ModelError` for a model whose layers, norm and head do not add up as `Readout` says."""
    ids, found = torch.tensor([[1, 2, 3]], device=device), list[Residual]()
    with torch.no_grad(), residuals(model, torch.tensor([2], device=device), found):
        logits = model(input_ids=ids, use_cache=False).logits[:, -1]
    require_logits(model, Readout.of(model), found[-1], logits)


def require_logits(model: nn.Module, readout: Readout, last: Residual, logits: Tensor) -> None:
    """`ModelError` unless the model's own logits [batch, words] are those read off its last layer."""
    if not _same(readout.logits(last.after), logits, (logits,)):
        raise refused(model, "its logits are not its head's alone")


def _residual(model: nn.Module, layer: int, down: nn.Module, seen: dict[tuple[str, int], Tensor]) -> Residual:
    """A layer's, checked: its output is its input, attention's part and the MLP's."""
    weight = getattr(down, "weight", None)
    if not isinstance(down, nn.Linear | Conv1D) or not isinstance(weight, Tensor):
        raise refused(model, f"the MLP of layer {layer} writes through {type(down).__name__}")
    if not weight.is_floating_point():
        raise refused(model, f"the MLP of layer {layer} has packed weights")
    weight = held(down, "weight")
    values = {name: seen[name, layer] for name in ("in", "attn.o", "mlp.hidden", "out")}
    wide = torch.promote_types(weight.dtype, torch.float32)
    taken = {name: value.to(weight.device, wide) for name, value in values.items()}
    columns = weight.detach() if isinstance(down, Conv1D) else weight.detach().T
    written = taken["attn.o"] + taken["mlp.hidden"] @ columns.to(wide)
    if isinstance(down.bias, Tensor):
        written = written + held(down, "bias").detach().to(wide)
    if not _same(taken["out"] - taken["in"], written, (values["in"], values["out"])):
        raise refused(
            model, f"layer {layer} does not add its MLP's output as it is, a norm or factor between"
        )
    return Residual(taken["in"] + taken["attn.o"], taken["out"], taken["mlp.hidden"], columns)


def _norm(model: nn.Module, norm: nn.Module) -> tuple[bool, float, Tensor, Tensor | None]:
    """(centred, eps, gain, bias) of a norm: of all kinds the one that does what the module does."""
    weight, offset = (
        held(norm, name) if isinstance(getattr(norm, name, None), Tensor) else None
        for name in ("weight", "bias")
    )
    eps = next((getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), 1e-5)
    width, like = _width(model), _first(model) if weight is None else weight
    wide = torch.promote_types(like.dtype, torch.float32)
    tried = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    with torch.no_grad():
        expected = norm(tried + 0.5).to(wide)  # not centred by itself
    own = torch.ones(width, dtype=wide, device=like.device) if weight is None else weight.detach().to(wide)
    bias = None if offset is None else offset.detach().to(wide)
    best = None
    for centred in (False, True):
        for gain in (own, 1 + own):  # Gemma's and Nemotron's weights are what is added to 1
            read = Readout(centred, float(eps), gain, own[:0], own[:0])
            states = read.centre(tried + 0.5)
            normed = gain * states / read.scale(states)[:, None] + (0 if bias is None else bias)
            apart = float((normed - expected).norm())
            if _same(normed, expected, (tried,)) and (best is None or apart < best[0]):
                best = apart, (centred, float(eps), gain, bias)
    if best is None:
        raise refused(model, f"its final norm is a {type(norm).__name__}, which cannot be read")
    return best[1]


def _width(model: nn.Module) -> int:
    """Of the residual stream."""
    return int(text_config(model.config).hidden_size)


def _first(model: nn.Module) -> Tensor:
    return next(parameter for parameter in model.parameters() if not parameter.is_meta)


def _same(found: Tensor, expected: Tensor, added: Sequence[Tensor]) -> bool:
    """Equal but for rounding: of what is compared, and of the tensors that the model added in its dtype."""
    size = max(float(torch.finfo(value.dtype).eps * value.float().norm()) for value in added)
    apart = (found - expected.to(found.device, found.dtype)).norm()
    return bool(apart <= SHARE * expected.float().norm() + ROUNDINGS * size)


def norm_gain(model: nn.Module, norm: nn.Module) -> Tensor:
    """[width]: what a norm of the residual stream's width multiplies by."""
    return _norm(model, norm)[2]


def refused(model: nn.Module, problem: str) -> ModelError:
    """The error for a model of another kind."""
    return ModelError(problem, where=type(model).__name__, fix=OTHERWISE)

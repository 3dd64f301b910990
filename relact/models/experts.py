"""Experts: what a mixture of experts computes between its two products, read and replaced while it runs.

>>> from transformers import AutoConfig, AutoModel
>>> shape = {"hidden_size": 64, "intermediate_size": 16, "num_hidden_layers": 1, "num_experts": 8}
>>> model = AutoModel.from_config(AutoConfig.for_model("olmoe", **shape))
>>> def show(module, site, values):  # values at the tokens that are routed
...     print(site, values.n_experts, "experts of", values.units, "units")
>>> with tapped([part for part in model.modules() if is_experts(part)], {"mlp.hidden"}, show):
...     output = model(model.dummy_inputs["input_ids"])
mlp.hidden 8 experts of 16 units

transformers keeps all experts of a layer in one module, which computes through a registered function. Inside
the block that is ours: the same sort, the same grouped products and the module's own gate function as its
``grouped_mm``, so that logits stay what they are to the bit, and a call between the products. Leaving the
block undoes it, after an exception too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import moe

from relact.errors import ModelError
from relact.models.placing import held
from relact.models.routed import Added, Routed

NAME = "relact"  # of our function in the registry
PLAIN = "grouped_mm"  # whose numbers it has
WEIGHT, GATE, UP, ACT, HIDDEN = "moe.weight", "mlp.gate", "mlp.up", "mlp.act", "mlp.hidden"
BETWEEN = (WEIGHT, GATE, UP, ACT, HIDDEN)  # in the order in which they are computed

# (module, site, values) -> what to go on with, or None: a Tensor [tokens, experts] of WEIGHT, else `Routed`
Serve = Callable[[nn.Module, str, Any], Any]


@dataclass(frozen=True)
class _Visitor:
    sites: frozenset[str]
    serve: Serve
    batch: Callable[[], int]


_VISITORS: dict[nn.Module, list[_Visitor]] = {}  # of every module that is tapped now


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds all experts of a layer and computes through transformers' registry."""
    return all(
        hasattr(module, name) for name in ("has_gate", "is_transposed", "is_concatenated", "down_proj")
    )


@contextmanager
def tapped(
    modules: Sequence[nn.Module],
    sites: Collection[str],
    serve: Serve,
    batch: Callable[[], int] = lambda: 1,
) -> Iterator[None]:
    """``serve`` the sites of every module each time it runs inside the block; several may be open at once.

    Args:
        sites: of `BETWEEN`. batch: gives the rows of the batch that runs.

    Raises:
        ModelError: a module that computes otherwise.
    """
    visitor = _Visitor(frozenset(sites), serve, batch)
    for module in modules:
        _require_plain(module)
    configs = {id(module.config): module.config for module in modules}
    before = {key: config._experts_implementation_internal for key, config in configs.items()}
    moe.ALL_EXPERTS_FUNCTIONS[NAME] = _forward
    try:
        for module in modules:
            _VISITORS.setdefault(module, []).append(visitor)
        for config in configs.values():  # not through its setter, which goes down to other parts of the model
            config._experts_implementation_internal = NAME
        yield
    finally:
        for key, config in configs.items():
            config._experts_implementation_internal = before[key]
        for module in modules:
            _leave(module, visitor)
        if not _VISITORS:
            del moe.ALL_EXPERTS_FUNCTIONS[NAME]


def _leave(module: nn.Module, visitor: _Visitor) -> None:
    left = [other for other in _VISITORS.get(module, []) if other is not visitor]
    if left:
        _VISITORS[module] = left
    else:
        _VISITORS.pop(module, None)


def _require_plain(module: nn.Module) -> None:
    """What would be read is what the module computes."""
    name, config = type(module).__name__, getattr(module, "config", None)
    used = getattr(config, "_experts_implementation", None)
    if not is_experts(module) or not hasattr(moe, "_grouped_linear"):
        raise ModelError(
            "its experts are not as transformers keeps them since 5.17",
            where=name,
            fix="install a later transformers, or read other sites: attn, moe.router",
        )
    if used not in (PLAIN, NAME):
        raise ModelError(
            f"experts run as {used}, which cannot be read",
            where=name,
            fix=f"load the model with experts_implementation={PLAIN!r}",
        )
    if getattr(module, "_is_expert_parallel", False):
        raise ModelError("experts are spread over processes", where=name, fix="load it in one process")
    if getattr(module, "has_post_expert_norm", False):  # a name that transformers 5.17 does not have
        raise ModelError(
            "a norm follows every expert, so no neuron writes by itself",
            where=name,
            fix="read moe.router, attn and residual sites of this family",
        )


def _forward(module: nn.Module, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """In the registry: as transformers' ``grouped_mm`` computes, with the visitors of the module between."""
    visitors = _VISITORS.get(module)
    if not visitors:  # shares its configuration with one that is tapped
        return moe.grouped_mm_experts_forward(module, states, index, weights)
    run = _Run(module, visitors, states, index)
    sorted_weights = run.weighted(weights)
    return run.output(run.hidden(sorted_weights), sorted_weights)


class _Run:
    """One pass through one layer's experts: rows are (token, expert) pairs, sorted by expert."""

    def __init__(
        self, module: nn.Module, visitors: Sequence[_Visitor], states: Tensor, index: Tensor
    ) -> None:
        self.module: Any = module
        self.visitors, self.states, self.index = visitors, states, index
        self.n_experts, self.k = int(self.module.num_experts), int(index.size(-1))
        # not a stable sort: ties are where grouped_mm has them
        self.experts, self.order = torch.sort(index.reshape(-1))
        self.tokens = self.order // self.k
        self.offsets = _offsets(self.experts, self.n_experts)

    def weighted(self, weights: Tensor) -> Tensor:
        """[rows]: the router's weights, as they are or replaced."""
        for visitor in self.visitors:
            if WEIGHT in visitor.sites:
                whole = weights.new_zeros(len(weights), self.n_experts).scatter(1, self.index, weights)
                new = visitor.serve(self.module, WEIGHT, whole)
                if new is not None:
                    weights = self._kept(new, whole, weights)
        return weights.reshape(-1)[self.order]

    def _kept(self, new: Tensor, whole: Tensor, weights: Tensor) -> Tensor:
        """Replaced weights of the chosen experts; those of others are 0 and stay so."""
        chosen = torch.zeros_like(whole, dtype=torch.bool).scatter(1, self.index, True)
        if bool((new.detach()[~chosen] != 0).any()):
            raise ModelError(
                "an expert that is not chosen cannot be given a weight",
                where=WEIGHT,
                fix="set weights to 0 or scale them",
            )
        return new.gather(1, self.index).to(weights.dtype)

    def hidden(self, weights: Tensor) -> Routed:
        """What goes into the second product, with the router's weight as a factor."""
        module = self.module
        pre = self._product(self.states[self.tokens], "gate_up_proj" if module.has_gate else "up_proj")
        pre = self._shown_pre(pre)
        act = self._served(ACT, self._routed(activated(module, pre))) if self._wanted(ACT) else None
        if act is not None:
            hidden = act.raw * _factor(module, pre) if module.has_gate else act.raw
        else:
            hidden = module._apply_gate(pre) if module.has_gate else module.act_fn(pre)
        whole = self._routed(hidden, weights)
        return self._served(HIDDEN, whole) or whole

    def output(self, hidden: Routed, weights: Tensor) -> Tensor:
        """[tokens, width]: what the experts write, summed over those of a token."""
        if hidden.weight is None:
            return self._output_of_values(hidden, weights)
        out = self._product(hidden.raw, "down_proj") * weights.unsqueeze(-1)
        final = self._summed(out)
        for added in hidden.added:
            final = final + self._written(added, final)
        return final.to(self.states.dtype)

    def _summed(self, out: Tensor) -> Tensor:
        """[tokens, width] of rows."""
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(len(self.order), device=self.order.device)
        return out[back].view(len(self.states), self.k, out.size(-1)).sum(dim=1)

    def _output_of_values(self, hidden: Routed, weights: Tensor) -> Tensor:
        """[tokens, width]: of values that have the router's weight already, of experts of their own."""
        module = self.module
        offsets = _offsets(hidden.experts, self.n_experts)
        out = moe._grouped_linear(
            hidden.raw, module.down_proj, offsets, bias=None, is_transposed=module.is_transposed
        )
        final: Tensor = out.new_zeros(len(self.states), out.size(-1)).index_add(0, hidden.tokens, out)
        if module.has_bias:
            final = final + self._summed(module.down_proj_bias[self.experts] * weights.unsqueeze(-1))
        return final.to(self.states.dtype)

    def _shown_pre(self, pre: Tensor) -> Tensor:
        """The first product after its sites were shown."""
        parts = list(split(self.module, pre))
        names = (GATE, UP) if self.module.has_gate else (UP,)
        changed = False
        for at, name in enumerate(names):
            new = self._served(name, self._routed(parts[at])) if self._wanted(name) else None
            if new is not None:
                parts[at], changed = new.raw, True
        return _join(self.module, parts) if changed else pre

    def _wanted(self, site: str) -> bool:
        return any(site in visitor.sites for visitor in self.visitors)

    def _routed(self, raw: Tensor, weight: Tensor | None = None) -> Routed:
        return Routed(raw, self.experts, self.tokens, (1, len(self.states)), self.n_experts, weight)

    def _served(self, site: str, values: Routed) -> Routed | None:
        """The values after all visitors; None where nobody replaced them."""
        given = values
        for visitor in self.visitors:
            if site in visitor.sites:
                batch = visitor.batch()
                values = replace(values, shape=(batch, len(self.states) // batch))
                values = visitor.serve(self.module, site, values) or values
        return None if values.raw is given.raw and not values.added else values

    def _product(self, rows: Tensor, name: str) -> Tensor:
        module = self.module
        biases = getattr(module, f"{name}_bias")[self.experts] if module.has_bias else None
        weight, transposed = getattr(module, name), module.is_transposed
        out: Tensor = moe._grouped_linear(rows, weight, self.offsets, bias=biases, is_transposed=transposed)
        return out

    def _written(self, added: Added, final: Tensor) -> Tensor:
        """[tokens, width]: of values that all tokens have."""
        columns = columns_of(self.module, added.neurons)
        wide = columns.to(torch.promote_types(final.dtype, torch.float32)) * added.values[:, None]
        sums = wide.new_zeros(added.groups, final.shape[-1]).index_add(0, added.rows, wide).to(final.dtype)
        spread = final.new_zeros(added.groups, len(final) // added.groups, final.shape[-1])
        at = slice(None) if added.places is None else added.places
        spread[:, at] = sums[:, None]
        return spread.view_as(final)


def columns_of(module: Any, neurons: Tensor) -> Tensor:
    """[n, width]: what each of some neurons of all experts writes per unit of ``mlp.hidden``."""
    weight = held(module, "down_proj")
    down = weight if module.is_transposed else weight.transpose(1, 2)
    neurons = neurons.to(down.device)
    return down[neurons // down.shape[1], neurons % down.shape[1]]


def _offsets(experts: Tensor, n_experts: int) -> Tensor:
    """int32 [experts]: one past the last row of each, of rows sorted by expert, as transformers has it."""
    counted = experts.float() if experts.device.type in ("cpu", "mps") else experts.int()
    per_expert = torch.histc(counted, bins=n_experts, min=0, max=n_experts - 1)
    return torch.cumsum(per_expert, dim=0, dtype=torch.int32)


def split(module: Any, pre: Tensor) -> tuple[Tensor, ...]:
    """(gate, up) of the first product, or (up,) of experts without a gate."""
    if not module.has_gate:
        return (pre,)
    if module.is_concatenated:
        return tuple(pre.chunk(2, dim=-1))
    return pre[..., ::2], pre[..., 1::2]


def _join(module: Any, parts: Sequence[Tensor]) -> Tensor:
    """Undo `split`."""
    if len(parts) == 1:
        return parts[0]
    if module.is_concatenated:
        return torch.cat(list(parts), dim=-1)
    return torch.stack(list(parts), dim=-1).flatten(-2)


def activated(module: Any, pre: Tensor) -> Tensor:
    """[rows, units]: the non-linearity's output: the gate function where ``up`` is what changes nothing.

    Raises:
        ModelError: the module's gate function is no product of one of gate and one of up.
    """
    if not module.has_gate:
        act: Tensor = module.act_fn(pre)
        return act
    gate, up = split(module, pre)
    if _is_default(module):
        act = module.act_fn(gate)
        return act
    require_product(module)
    return _gated(module, gate, torch.full_like(up, _neutral(module, pre)))


def require_product(module: Any) -> None:
    """`ModelError` unless the gate function is f(gate) x g(up)."""
    if not module.has_gate or _is_default(module):
        return
    like = module.down_proj.new_empty(0, dtype=torch.float32)
    ladder = torch.linspace(-3, 3, 7, device=like.device)
    gate, up = torch.meshgrid(ladder, ladder, indexing="ij")
    values = _gated(module, gate, up)  # [gates, ups], of rank one
    left, right = values[:, -1:] * values[-1:, :], values * values[-1, -1]
    if not torch.allclose(left, right, rtol=1e-3, atol=1e-4):
        raise ModelError(
            "the gate function of its experts is no product",
            where=type(module).__name__,
            fix="choose mlp.gate, mlp.up or mlp.hidden",
        )


def _is_default(module: Any) -> bool:
    return type(module)._apply_gate is moe._default_apply_gate


def _gated(module: Any, gate: Tensor, up: Tensor) -> Tensor:
    """The module's own gate function of two tensors [rows, units]."""
    out: Tensor = module._apply_gate(_join(module, (gate, up)))
    return out


def _neutral(module: Any, like: Tensor) -> float:
    """The value of up that the gate's part is not changed by: 0 where up + 1 is what counts, else 1."""
    one = like.new_ones(1, 1)
    return 1.0 if bool((_gated(module, one, torch.zeros_like(one)) == 0).all()) else 0.0


def _factor(module: Any, pre: Tensor) -> Tensor:
    """[rows, units]: what the gate's part is multiplied by."""
    _, up = split(module, pre)
    if _is_default(module):
        return up
    one = torch.ones_like(up)
    return _gated(module, one, up) / _gated(module, one, torch.full_like(up, _neutral(module, pre)))

"""Read or replace activations at sites while a model runs: one context manager for capture and for ablation.

>>> from transformers import AutoConfig, AutoModel
>>> model = AutoModel.from_config(AutoConfig.for_model("llama", hidden_size=64, num_hidden_layers=2))
>>> def show(site, layer, values):  # values [batch, tokens, width]
...     print(site, layer, list(values.shape))
>>> with visit(model, ["attn.q"], show):
...     output = model(model.dummy_inputs["input_ids"])
attn.q 0 [3, 5, 64]
attn.q 1 [3, 5, 64]

Leaving the block removes every hook, after an exception too, and the model computes what it did before, to
the bit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from relact.errors import ModelError
from relact.models import experts
from relact.models.placing import entrance
from relact.models.routed import Routed, like, tensor_of
from relact.sites import EXPERTS, INPUT, Part, Tap, family, part, places, resolve

Callback = Callable[[str, int, Any], Tensor | Routed | None]  # a Tensor, or `Routed` at units of experts


Values: TypeAlias = Tensor | Routed


@dataclass
class Visit:
    """What ``visit`` yields: ``forwards`` counts the decoder's completed forward passes inside the block."""

    forwards: int = 0
    batch: int = 1
    fired: Counter[tuple[str, int]] = field(default_factory=Counter)


@dataclass
class Trace:
    """What ``trace`` yields: ``tensors`` are those of the sites in the graph of the last forward pass."""

    state: Visit
    tensors: list[Tensor] = field(default_factory=list)
    _kept: list[tuple[Tensor | Routed, Sequence[_Spot]]] = field(default_factory=list)

    def keep(self, value: Tensor | Routed, spots: Sequence[_Spot]) -> None:
        """Take one of the model's tensors."""
        tensor = value.raw if isinstance(value, Routed) else value
        if not tensor.requires_grad:
            places = ", ".join(f"{spot.site} in layer {spot.layer}" for spot in spots)
            fix = "choose another site, or a checkpoint that is not quantised"
            raise ModelError("has no gradient", where=places, fix=fix)
        self.tensors.append(tensor)
        self._kept.append((value, spots))

    def columns(self, others: Sequence[Tensor]) -> Iterator[tuple[str, int, Values, Values]]:
        """(site, layer, its columns of the tensor, and of the one of ``others`` that belongs to that)."""
        for tensor, other, (value, spots) in zip(self.tensors, others, self._kept, strict=True):
            for spot in spots:
                first, second = (
                    _columns(_unflat(like(value, each), self.state), spot.part) for each in (tensor, other)
                )
                yield spot.site, spot.layer, first, second


@dataclass(frozen=True)
class _Spot:
    """A site in one layer: its columns in the module's tensor and how wide the configuration says it is."""

    site: str
    layer: int
    part: Part | None
    width: int


@contextmanager
def visit(
    model: nn.Module, sites: str | Sequence[str], callback: Callback, *, layers: Iterable[int] | None = None
) -> Iterator[Visit]:
    """Call ``callback(site, layer, tensor)`` at every site each time the decoder runs inside the block.

    The tensor has shape [batch, tokens, width] and is the model's own memory: read it during the call, keep a
    copy. Returning None leaves the value alone; returning a tensor of that shape replaces it (cast to its
    dtype and moved to its device), for the rest of the forward. Where a projection is fused the callback sees
    its site's columns only, and a replacement goes into a copy of the fused tensor. Sites that experts
    compute inside their module (`models.experts`) give `Routed` values, and take such as replacement.

    Args:
        model: a causal language model of a family in ``sites.FAMILIES``, or its base model (decoder without
            head).
        sites: names or aliases, see ``sites.expand``; aliases leave out what the family lacks.
        layers: layer numbers; None is all of them.

    Raises:
        ModelError: unknown family, site or layer; a compiled model; a module that is not where the table
            says; a width other than the configuration's; a replacement of another shape; after a decoder
            forward, a hook that did not fire exactly once in it (shared or rerouted modules), naming site,
            layer and count.
    """
    state = Visit()
    with _serving(model, sites, layers, state, lambda spots, value: _serve(value, spots, callback, state)):
        yield state


@contextmanager
def trace(model: nn.Module, sites: str | Sequence[str]) -> Iterator[Trace]:
    """Keep the tensors of every site, as the model goes on with them: what gradients can be asked of.

    A site's own columns are a view that nothing is computed from, so gradients are those of the whole tensor;
    `Trace.columns` tells whose columns are whose. Errors are those of `visit`.
    """
    kept, found = Trace(Visit()), places(model.config)

    def keep(spots: Sequence[_Spot], value: Values) -> Values | None:
        for spot in spots:
            kept.state.fired[spot.site, spot.layer] += 1
            _require_width(_columns(_unflat(value, kept.state), spot.part), spot)
        kept.keep(value, spots)
        if isinstance(value, Routed):  # a view, or what the model goes on with: it goes on with this
            return replace(value, raw=value.raw.clone())
        # an output may be overwritten: Falcon adds the attention's to the MLP's, OLMo clips queries in place
        side = found[spots[0].site].taps[spots[0].layer].side
        return None if side == INPUT else value.clone()

    with _serving(model, sites, None, kept.state, keep):
        yield kept


@contextmanager
def _serving(
    model: nn.Module,
    sites: str | Sequence[str],
    layers: Iterable[int] | None,
    state: Visit,
    serve: Callable[[Sequence[_Spot], Any], Values | None],
) -> Iterator[None]:
    """``serve`` every tensor of the sites with its spots each time the decoder runs inside the block."""
    owner, blocks = find_layers(model)
    plan = _plan(model.config, resolve(model.config, sites), _layer_numbers(model, layers, len(blocks)))
    mixtures: dict[nn.Module, dict[str, _Spot]] = {}
    with ExitStack() as stack:
        path = family(model.config).layers
        for (layer, tap), spots in plan.items():
            module = _child(blocks[layer], tap.module, f"{path}.{layer}")
            if tap.side == EXPERTS:
                mixtures[module] = {spot.site: spot for spot in spots}
            else:
                _attach(stack, module, tap, partial(serve, spots))
        if mixtures:
            stack.enter_context(_tapped(mixtures, serve, state))
        expected = [(spot.site, spot.layer) for spots in plan.values() for spot in spots]
        _count_forwards(stack, owner, expected, state)
        yield


def require_sites(model: nn.Module) -> None:
    """`ModelError` unless every site of the model is read once in a forward pass, as wide as its row says."""
    ids = torch.ones((1, 4), dtype=torch.long, device=entrance(model))
    with torch.inference_mode(), visit(model, list(places(model.config)), lambda *_: None):
        model(input_ids=ids, use_cache=False)


def find_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module whose forward runs the decoder layers, and its list of them.

    Raises:
        ModelError: it is not there.
    """
    path = family(getattr(model, "config", None)).layers.split(".")
    for start in range(len(path)):  # a base model lacks the leading names of the path
        names = path[start:]
        try:
            owner = model.get_submodule(".".join(names[:-1]))
            blocks = getattr(owner, names[-1])
        except AttributeError:
            continue
        if isinstance(blocks, nn.ModuleList):
            _require_uncompiled(model, owner, *blocks)
            return owner, blocks
    raise ModelError(
        f"no list of decoder layers at {'.'.join(path)}",
        where=type(model).__name__,
        fix="load it with relact.models.load, or correct the family's row in relact/sites/families.py",
    )


def _require_uncompiled(*modules: nn.Module) -> None:
    """Compiled code does not see hooks registered after it was traced, the counting ones included."""
    for module in modules:
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise ModelError(
                "is compiled, hooks would be skipped",
                where=type(module).__name__,
                fix="give the model before torch.compile",
            )


def _layer_numbers(model: nn.Module, layers: Iterable[int] | None, available: int) -> list[int]:
    chosen = list(range(available)) if layers is None else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < available]
    if outside:
        raise ModelError(
            f"no layer {outside[0]}", where=type(model).__name__, fix=f"choose from 0 to {available - 1}"
        )
    return chosen


def _plan(config: Any, sites: Sequence[str], layers: Sequence[int]) -> dict[tuple[int, Tap], list[_Spot]]:
    """Group the sites by the tensor they are read from: one hook, and at most one copy, per tensor."""
    found = places(config)
    # reading a configuration is slow: not per layer
    parts = {
        (site, tap): part(config, site, tap, found)
        for site in sites
        for tap in set(found[site].taps.values())
    }
    plan: dict[tuple[int, Tap], list[_Spot]] = defaultdict(list)
    for layer in layers:
        for site in sites:
            tap = found[site].taps.get(layer)
            if tap is not None:
                plan[layer, tap].append(_Spot(site, layer, parts[site, tap], found[site].width))
    return plan


def _child(block: nn.Module, path: str, where: str) -> nn.Module:
    try:
        return block.get_submodule(path)
    except AttributeError:
        raise ModelError(
            f"no module {path}",
            where=where,
            fix="correct the family's row in relact/sites/families.py, see docs/models.md",
        ) from None


def _attach(stack: ExitStack, module: nn.Module, tap: Tap, serve: Callable[[Tensor], Tensor | None]) -> None:
    if tap.side == INPUT:

        def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            new = serve(args[0])
            return None if new is None else (new, *args[1:])

        handle = module.register_forward_pre_hook(before)
    else:

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            if not isinstance(output, tuple):
                return serve(output)
            at = tap.item or 0
            new = serve(output[at])
            return None if new is None else (*output[:at], new, *output[at + 1 :])

        handle = module.register_forward_hook(after)
    stack.callback(handle.remove)


def _tapped(
    mixtures: Mapping[nn.Module, Mapping[str, _Spot]],
    serve: Callable[[Sequence[_Spot], Any], Values | None],
    state: Visit,
) -> AbstractContextManager[None]:
    """``serve`` what the experts of every module compute inside it, each site by itself."""

    def shown(module: nn.Module, site: str, values: Values) -> Values | None:
        spot = mixtures[module].get(site)
        return None if spot is None else serve([spot], values)

    sites = {site for spots in mixtures.values() for site in spots}
    return experts.tapped(list(mixtures), sites, shown, lambda: state.batch)


def _unflat(value: Any, state: Visit) -> Any:
    """[batch, tokens, width]: OPT and mixtures of experts run their MLPs on [batch x tokens, width]."""
    if isinstance(value, Routed):
        return value
    if value.dim() == 4:  # latent attention keeps a place for heads, of which there is one
        return value[:, 0]
    return value.unflatten(0, (state.batch, -1)) if value.dim() == 2 else value


def _serve(value: Any, spots: Sequence[_Spot], callback: Callback, state: Visit) -> Values | None:
    """Show every spot of one tensor to the callback; the tensor to go on with if something was replaced."""
    if isinstance(value, Routed):
        return _serve_routed(value, spots[0], callback, state)
    full: Tensor = _unflat(value, state)
    replaced = False
    for spot in spots:
        state.fired[spot.site, spot.layer] += 1
        columns = _columns(full, spot.part)
        _require_width(columns, spot)
        new = callback(spot.site, spot.layer, columns)
        if new is not None:
            tensor = tensor_of(new)
            _require_shape(tensor, columns, spot)
            new = tensor.to(device=value.device, dtype=value.dtype)
            full = _with_columns(full, new, spot.part, copied=replaced)
            replaced = True
    if not replaced:
        return None
    return full.reshape(value.shape)


def _serve_routed(value: Routed, spot: _Spot, callback: Callback, state: Visit) -> Routed | None:
    """Show units of experts to the callback."""
    state.fired[spot.site, spot.layer] += 1
    _require_width(value, spot)
    new = callback(spot.site, spot.layer, value)
    if new is not None and not isinstance(new, Routed):
        raise ModelError(
            "replaced by a tensor, not by values at the tokens that are routed",
            where=f"{spot.site} in layer {spot.layer}",
            fix="return what its own methods give, such as `set`, or None",
        )
    return new


def _columns(full: Any, part: Part | None) -> Any:
    """A site's columns of [batch, tokens, width]."""
    if part is None:
        return full
    if part.groups == 1:
        return full[..., part.start : part.stop]
    # copies: columns interleave
    return full.unflatten(-1, (part.groups, -1))[..., part.start : part.stop].flatten(-2)


def _with_columns(full: Tensor, new: Tensor, part: Part | None, *, copied: bool) -> Tensor:
    """``full`` with a site's columns replaced, in a copy unless it is one already."""
    if part is None:
        return new
    full = full if copied else full.clone()
    grouped = full.view(*full.shape[:-1], part.groups, -1)  # [batch, tokens, groups, part]
    grouped[..., part.start : part.stop] = new.unflatten(-1, (part.groups, -1))
    return full


def _require_width(columns: Values, spot: _Spot) -> None:
    width = columns.width if isinstance(columns, Routed) else columns.shape[-1]
    if width != spot.width:
        raise ModelError(
            f"width {width} where the configuration says {spot.width}",
            where=f"{spot.site} in layer {spot.layer}",
            fix="correct the family's row in relact/sites/families.py",
        )


def _require_shape(new: Tensor, columns: Tensor, spot: _Spot) -> None:
    if new.shape != columns.shape:
        raise ModelError(
            f"replacement of shape {list(new.shape)} for {list(columns.shape)}",
            where=f"{spot.site} in layer {spot.layer}",
            fix="return a tensor of the same shape or None",
        )


def _count_forwards(
    stack: ExitStack, owner: nn.Module, expected: list[tuple[str, int]], state: Visit
) -> None:
    """Before each decoder forward forget the counts and note the batch size; after it each must be one."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state.fired.clear()
        inputs = [kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args]
        state.batch = next((value.shape[0] for value in inputs if isinstance(value, Tensor)), 1)

    def after(_: nn.Module, __: tuple[Any, ...], ___: Any) -> None:
        for site, layer in expected:
            if state.fired[site, layer] != 1:
                raise ModelError(
                    f"hook fired {state.fired[site, layer]} times in one forward pass",
                    where=f"{site} in layer {layer}",
                    fix="run the model with its own modules in place",
                )
        state.forwards += 1

    stack.callback(owner.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(owner.register_forward_hook(after).remove)

"""What layers are made of, as most families write it: each function gives a `Group`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relact.sites import rules
from relact.sites.taps import EXPERTS, INPUT, OUTPUT, Group, Layers, Tap, every_layer


def gated(
    under: str = "mlp",
    *,
    gate: str = "gate_proj",
    act: str | None = "act_fn",
    up: str = "up_proj",
    down: str = "down_proj",
    group: str = "mlp",
    inner: str | Callable[[Any], int] = "intermediate_size",
    layers: Layers = every_layer,
) -> Group:
    """An MLP whose non-linearity is applied to a gate; ``act`` is None where no module computes it."""
    taps = _mlp(group, under, up, act, down) | {f"{group}.gate": Tap(f"{under}.{gate}")}
    return Group(taps, rules.mlp_widths(group, inner), layers)


def gate_up(
    under: str = "mlp",
    *,
    both: str = "gate_up_proj",
    act: str | None = "activation_fn",
    down: str = "down_proj",
    group: str = "mlp",
    inner: str | Callable[[Any], int] = "intermediate_size",
    layers: Layers = every_layer,
) -> Group:
    """An MLP that computes gate and up in one projection."""
    sites = (f"{group}.gate", f"{group}.up")
    taps = _mlp(group, under, both, act, down)
    taps |= {site: Tap(f"{under}.{both}", OUTPUT, sites) for site in sites}
    return Group(taps, rules.mlp_widths(group, inner), layers)


def plain(
    up: str = "mlp.up_proj",
    act: str | None = "mlp.act_fn",
    down: str = "mlp.down_proj",
    *,
    group: str = "mlp",
    inner: str | Callable[[Any], int] = "intermediate_size",
    layers: Layers = every_layer,
) -> Group:
    """An MLP without a gate; full paths."""
    return Group(_mlp(group, "", up, act, down), rules.mlp_widths(group, inner), layers)


def experts(
    under: str = "mlp",
    *,
    router: str = "gate",
    module: str = "experts",
    ungated: bool = False,
    layers: Layers = rules.routed,
) -> Group:
    """A mixture: what its experts compute inside their module, their sum, the router's logits."""
    path = _join(under, module)
    parts = ("act", "up", "hidden") if ungated else ("gate", "act", "up", "hidden")
    taps = {f"mlp.{part}": Tap(path, EXPERTS) for part in parts}
    taps |= {"mlp.down": Tap(path), "moe.weight": Tap(path, EXPERTS)}
    taps["moe.router"] = Tap(_join(under, router), item=0)
    return Group(taps, rules.expert_widths, layers)


def attention(
    under: str = "self_attn",
    out: str = "o_proj",
    *,
    gate: str | None = None,
    parts: str = "qkvo",
    group: str = "attn",
    kv: Callable[[Any], int] = rules.kv_heads,
    size: Callable[[Any], int] = rules.head_size,
    layers: Layers = every_layer,
) -> Group:
    """Attention whose queries, keys and values have projections of their own; ``gate`` is one more."""
    taps = {f"{group}.{part}": Tap(f"{under}.{part}_proj") for part in parts if part != "o"}
    if "o" in parts:
        taps[f"{group}.o"] = Tap(f"{under}.{out}")
    if gate:
        taps[f"{group}.gate"] = Tap(f"{under}.{gate}")
    return Group(taps, rules.attention_widths(group, kv, size), layers)


def fused(
    qkv: str,
    out: str,
    *,
    per: str = "",
    order: str = "qkv",
    kv: Callable[[Any], int] = rules.kv_heads,
    size: Callable[[Any], int] = rules.head_size,
    layers: Layers = every_layer,
) -> Group:
    """Attention that computes queries, keys and values in one projection; full paths."""
    sites = tuple(f"attn.{part}" for part in order)
    taps = {site: Tap(qkv, OUTPUT, sites, per) for site in sites} | {"attn.o": Tap(out)}
    return Group(taps, rules.attention_widths("attn", kv, size), layers)


def gated_queries(layers: Layers = every_layer) -> Group:
    """Attention whose query projection gives every head its query, then a gate for its output."""
    sites = ("attn.q", "attn.gate")
    taps = {site: Tap("self_attn.q_proj", OUTPUT, sites, "head") for site in sites}
    taps |= {f"attn.{part}": Tap(f"self_attn.{part}_proj") for part in "kvo"}
    return Group(taps, rules.attention_widths(), layers)


def latent(layers: Layers = every_layer) -> tuple[Group, Group]:
    """Attention through latent vectors; queries have one too where the configuration gives them a rank."""
    sites = ("attn.k", "attn.v")
    shared = {site: Tap("self_attn.kv_b_proj", OUTPUT, sites, "head", again=True) for site in sites}
    shared["attn.o"] = Tap("self_attn.o_proj")
    ranked = rules.where(lambda config: getattr(config, "q_lora_rank", None))

    def with_queries(name: str, which: Layers) -> Group:
        taps = {"attn.q": Tap(f"self_attn.{name}"), **shared}
        return Group(taps, rules.latent_widths, rules.both(layers, which))

    return with_queries("q_b_proj", ranked), with_queries("q_proj", rules.without(ranked))


def mixer(
    group: str,
    taps: Mapping[str, Tap],
    out: str,
    widths: Callable[[Any], Mapping[str, int]],
    layers: Layers = every_layer,
) -> Group:
    """What mixes tokens otherwise than attention: its projections, what the last one takes, what it gives."""
    last = {f"{group}.hidden": Tap(out, INPUT), f"{group}.out": Tap(out)}
    return Group({**taps, **last}, widths, layers)


def state_space(
    under: str = "mamba",
    widths: Callable[[Any], Mapping[str, int]] = rules.mamba2_widths,
    layers: Layers = every_layer,
) -> Group:
    """A state space between two projections."""
    return mixer("ssm", {"ssm.in": Tap(f"{under}.in_proj")}, f"{under}.out_proj", widths, layers)


def _mlp(group: str, under: str, up: str, act: str | None, down: str) -> dict[str, Tap]:
    last = _join(under, down)
    taps = {
        f"{group}.up": Tap(_join(under, up)),
        f"{group}.hidden": Tap(last, INPUT),
        f"{group}.down": Tap(last),
    }
    return taps if act is None else {**taps, f"{group}.act": Tap(_join(under, act))}


def _join(under: str, name: str) -> str:
    return f"{under}.{name}" if under else name

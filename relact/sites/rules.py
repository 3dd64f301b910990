"""Rules: what a configuration says of its layers, in which of them something is and how wide it is there.

A rule takes the configuration of the text model (`relact.sites.text_config`). Integers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relact.sites.taps import Layers, Widths, every_layer

EXPERT_KEYS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
CHOSEN_KEYS = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k")
_SHARED_WIDTHS = (
    "shared_expert_intermediate_size",
    "shared_experts_intermediate_size",
    "shared_intermediate_size",
    "moe_shared_expert_intermediate_size",
)
_SHARED_COUNTS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
SHARED = (*_SHARED_COUNTS, *_SHARED_WIDTHS)  # 0 or absent where no MLP stands beside the experts


def first_of(config: Any, names: Sequence[str], otherwise: Any = None) -> Any:
    """The first of some attributes that is there and not None."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if value is not None), otherwise)


# --- layers


def of_kind(*kinds: str) -> Layers:
    """Layers of these kinds, by ``layer_types`` or ``layers_block_type``."""

    def rule(config: Any) -> Sequence[int]:
        return [at for at, kind in enumerate(kinds_of(config)) if kind in kinds]

    return rule


def other_than(*kinds: str) -> Layers:
    """Layers of all kinds but these."""

    def rule(config: Any) -> Sequence[int]:
        return [at for at, kind in enumerate(kinds_of(config)) if kind not in kinds]

    return rule


def kinds_of(config: Any) -> Sequence[str]:
    """The kind of every layer; empty texts where the configuration knows of none."""
    listed = first_of(config, ("layer_types", "layers_block_type"))
    return [str(kind) for kind in listed] if listed else [""] * int(config.num_hidden_layers)


def both(*rules: Layers) -> Layers:
    """Layers that are in all of them."""

    def rule(config: Any) -> Sequence[int]:
        chosen = set(rules[0](config)).intersection(*(each(config) for each in rules[1:]))
        return sorted(chosen)

    return rule


def without(rule: Layers) -> Layers:
    """The layers that a rule leaves out."""

    def complement(config: Any) -> Sequence[int]:
        return sorted(set(every_layer(config)) - set(rule(config)))

    return complement


def where(condition: Callable[[Any], Any]) -> Layers:
    """All layers of a configuration that meets a condition, no layer of others."""

    def rule(config: Any) -> Sequence[int]:
        return every_layer(config) if condition(config) else ()

    return rule


def n_experts(config: Any) -> int:
    """Routed experts of every layer that has some."""
    if getattr(config, "is_moe", True) is False:
        return 0
    return int(first_of(config, EXPERT_KEYS, 0))


def n_chosen(config: Any) -> int:
    """Experts that a token is routed to; all where the configuration does not say."""
    return min(n_experts(config), int(first_of(config, CHOSEN_KEYS, n_experts(config))))


def routed(config: Any) -> Sequence[int]:
    """Layers with experts: as listed, after dense ones, at every so many, or all."""
    layers = every_layer(config)
    if not n_experts(config):
        return ()
    if listed := getattr(config, "mlp_layer_types", None):
        return [at for at, kind in enumerate(listed) if kind != "dense"]
    if (offset := getattr(config, "expert_layer_offset", None)) is not None:
        return [at for at in layers if at % config.expert_layer_period == offset]
    if (first := getattr(config, "moe_layer_start_index", None)) is not None:
        last, step = config.moe_layer_end_index, config.moe_layer_interval
        return [at for at in layers if (at + 1) % step == 0 and first <= at <= last]
    dense = first_of(config, ("first_k_dense_replace", "num_dense_layers"), 0)
    step, apart = getattr(config, "decoder_sparse_step", None) or 1, getattr(config, "mlp_only_layers", None)
    return [at for at in layers if at >= dense and (at + 1) % step == 0 and at not in (apart or ())]


def kv_owners(config: Any) -> Sequence[int]:
    """Layers that compute keys and values; the last ones may use those of earlier layers."""
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    return range(int(config.num_hidden_layers) - int(shared))


# --- widths


def inner_of(config: Any, name: str = "intermediate_size") -> int:
    """Neurons of an MLP: ``name`` in the configuration; absent, None or "" means 4 x hidden."""
    value = (getattr(config, name, None) if name else None) or 4 * config.hidden_size
    return int(value[0] if isinstance(value, list | tuple) else value)


def mlp_widths(group: str = "mlp", inner: str | Callable[[Any], int] = "intermediate_size") -> Widths:
    """Of the sites of an MLP."""

    def rule(config: Any) -> Mapping[str, int]:
        neurons = inner(config) if callable(inner) else inner_of(config, inner)
        parts = dict.fromkeys(("gate", "act", "up", "hidden"), int(neurons)) | {
            "down": int(config.hidden_size)
        }
        return {f"{group}.{part}": width for part, width in parts.items()}

    return rule


def unit_width(config: Any) -> int:
    """Neurons of one expert."""
    return int(first_of(config, ("moe_intermediate_size", "intermediate_size")))


def shared_width(config: Any) -> int:
    """Neurons of the MLP that all tokens pass beside their experts."""
    count = first_of(config, _SHARED_COUNTS, 1)
    return int(first_of(config, _SHARED_WIDTHS) or count * unit_width(config))


def expert_widths(config: Any) -> Mapping[str, int]:
    """Of the sites of experts: all their neurons together, expert by expert; one per expert of the router."""
    experts = n_experts(config)
    return dict(mlp_widths(inner=lambda c: experts * unit_width(c))(config)) | {
        "moe.router": experts,
        "moe.weight": experts,
    }


def head_size(config: Any) -> int:
    """Numbers per head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def kv_heads(config: Any) -> int:
    """Heads of keys and values."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def attention_widths(
    group: str = "attn",
    kv: Callable[[Any], int] = kv_heads,
    size: Callable[[Any], int] = head_size,
) -> Widths:
    """Of the sites of attention."""

    def rule(config: Any) -> Mapping[str, int]:
        heads, per_head = int(config.num_attention_heads), size(config)
        widths = dict.fromkeys(("q", "gate"), heads * per_head)
        widths |= dict.fromkeys(("k", "v"), kv(config) * per_head) | {"o": int(config.hidden_size)}
        return {f"{group}.{part}": width for part, width in widths.items()}

    return rule


def own_value_widths(group: str, times: int) -> Widths:
    """Of keys and values whose heads differ in size, ``times`` as many as the configuration says."""

    def rule(config: Any) -> Mapping[str, int]:
        heads = times * kv_heads(config)
        return {f"{group}.k": heads * head_size(config), f"{group}.v": heads * int(config.v_head_dim)}

    return rule


def latent_widths(config: Any) -> Mapping[str, int]:
    """Of attention through latent vectors: keys are those parts that are each head's own."""
    heads, own, turned = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
    return {
        "attn.q": heads * (own + turned),
        "attn.k": heads * own,
        "attn.v": heads * config.v_head_dim,
        "attn.o": int(config.hidden_size),
    }


def delta_widths(config: Any) -> Mapping[str, int]:
    """Of linear attention by the delta rule."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    return {
        "lin.q": keys,
        "lin.k": keys,
        **dict.fromkeys(("lin.v", "lin.z", "lin.hidden"), values),
        "lin.out": int(config.hidden_size),
    }


def even_widths(heads: Sequence[str], size: Sequence[str]) -> Widths:
    """Of linear attention whose queries, keys and values are as wide.

    Args:
        heads, size: names, one of which says how many heads, and how large they are.
    """

    def rule(config: Any) -> Mapping[str, int]:
        per_head = first_of(config, size) or head_size(config)
        inner = int(first_of(config, heads)) * int(per_head)
        parts = dict.fromkeys(("q", "k", "v", "z", "hidden"), inner) | {"out": int(config.hidden_size)}
        return {f"lin.{part}": width for part, width in parts.items()}

    return rule


def _expanded(config: Any) -> int:
    """Inner width of a state space."""
    return int(first_of(config, ("mamba_expand", "expand"), 2) * config.hidden_size)


def mamba_widths(config: Any) -> Mapping[str, int]:
    """Of the first kind of state space: what is convolved, and its gate."""
    inner = _expanded(config) if hasattr(config, "mamba_expand") else int(config.intermediate_size)
    return {"ssm.in": 2 * inner, "ssm.hidden": inner, "ssm.out": int(config.hidden_size)}


def mamba2_widths(config: Any) -> Mapping[str, int]:
    """Of the second kind: gate, what is convolved, B and C of every group, a step per head."""
    heads = int(first_of(config, ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")))
    groups = int(first_of(config, ("mamba_n_groups", "mamba_ngroups", "n_groups")))
    state = int(first_of(config, ("mamba_d_state", "ssm_state_size", "state_size")))
    inner = int(getattr(config, "mamba_d_ssm", None) or _expanded(config))
    if hasattr(config, "mamba_num_heads"):
        inner = heads * int(config.mamba_head_dim)
    hidden = int(config.hidden_size)
    return {"ssm.in": 2 * inner + 2 * groups * state + heads, "ssm.hidden": inner, "ssm.out": hidden}


def recurrent_widths(config: Any) -> Mapping[str, int]:
    """Of a gated linear recurrence."""
    inner = int(config.lru_width or config.hidden_size)
    return {"ssm.in": inner, "ssm.hidden": inner, "ssm.out": int(config.hidden_size)}


def conv_widths(config: Any) -> Mapping[str, int]:
    """Of a gated short convolution: two gates and what is convolved."""
    hidden = int(config.hidden_size)
    return {"conv.in": 3 * hidden, "conv.hidden": hidden, "conv.out": hidden}

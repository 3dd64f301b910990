"""Rows of families whose layers are of several kinds, without experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relact.sites import rules
from relact.sites.groups import (
    attention,
    gated,
    gated_queries,
    mixer,
    state_space,
)
from relact.sites.mixers import CONVOLUTION, DELTA, DELTA_SPLIT, FULL, LINEAR
from relact.sites.taps import Family, Group, Layers, Tap

_LAYERS = "model.layers"


def _of_layers(which: Layers, name: str) -> Callable[[Any], int]:
    """A size that a configuration may give every layer, of the first of some layers."""

    def rule(config: Any) -> int:
        of_layer = getattr(config, "per_layer_config", None)
        return int(getattr(of_layer[which(config)[0]] if of_layer else config, name))

    return rule


def _gemma4_wide(config: Any) -> Sequence[int]:
    """Layers whose MLP is twice as wide: those that use the keys and values of earlier ones."""
    double = getattr(config, "use_double_wide_mlp", False)
    return rules.without(rules.kv_owners)(config) if double else ()


_NEAR, _FAR = rules.other_than("full_attention"), rules.of_kind("full_attention")


def _attention(parts: str, group: str, layers: Layers) -> Group:
    """Some of the sites of attention in near or in far layers."""
    which = _FAR if group == "global" else _NEAR
    kv, size = _of_layers(which, "num_key_value_heads"), _of_layers(which, "head_dim")
    return attention(parts=parts, group=group, kv=kv, size=size, layers=layers)


_SEPARATE = rules.where(lambda config: not getattr(config, "attention_k_eq_v", False))
_GEMMA4 = (
    gated(layers=rules.without(_gemma4_wide)),
    gated(group="wide", inner=lambda config: 2 * config.intermediate_size, layers=_gemma4_wide),
    _attention("qo", "attn", _NEAR),
    _attention("kv", "attn", rules.both(_NEAR, rules.kv_owners)),
    _attention("qo", "global", _FAR),
    _attention("k", "global", rules.both(_FAR, rules.kv_owners)),
    _attention("v", "global", rules.both(_FAR, rules.kv_owners, _SEPARATE)),
)

HYBRIDS: tuple[Family, ...] = (
    Family(
        ("gemma3n_text",),
        _LAYERS,
        (gated(), attention(parts="qo"), attention(parts="kv", layers=rules.kv_owners)),
    ),
    Family(("gemma4_text",), _LAYERS, _GEMMA4),
    Family(
        ("lfm3",),
        _LAYERS,
        (
            gated("feed_forward", gate="w1", act=None, up="w3", down="w2"),
            attention(layers=FULL),
            CONVOLUTION,
        ),
    ),
    Family(
        ("zamba2",),
        _LAYERS,
        (
            state_space("mamba", layers=LINEAR),
            state_space("mamba_decoder.mamba", layers=rules.of_kind("hybrid")),
        ),
    ),
    Family(
        ("zamba",),
        _LAYERS,
        (
            state_space("mamba", rules.mamba_widths, LINEAR),
            state_space("mamba_decoder.mamba", rules.mamba_widths, rules.of_kind("hybrid")),
        ),
    ),
    Family(
        ("recurrent_gemma",),
        _LAYERS,
        (
            gated("mlp_block", inner=lambda config: config.intermediate_size // 2),
            attention("temporal_block", layers=FULL),
            mixer(
                "ssm",
                {"ssm.in": Tap("temporal_block.linear_x")},
                "temporal_block.linear_out",
                rules.recurrent_widths,
                rules.of_kind("recurrent"),
            ),
        ),
    ),
    Family(("qwen3_5_text",), _LAYERS, (gated(), gated_queries(FULL), DELTA)),
    Family(("olmo_hybrid",), _LAYERS, (gated(), attention(layers=FULL), DELTA_SPLIT)),
    Family(
        ("lfm2",),
        _LAYERS,
        (
            gated("feed_forward", gate="w1", act=None, up="w3", down="w2"),
            attention(out="out_proj", layers=FULL),
            CONVOLUTION,
        ),
    ),
    Family(
        ("falcon_h1",),
        _LAYERS,
        (gated("feed_forward"), attention(), state_space()),
    ),
    Family(
        ("bamba",),
        _LAYERS,
        (gated("feed_forward"), attention(layers=FULL), state_space(layers=LINEAR)),
    ),
    Family(("mamba", "falcon_mamba"), "backbone.layers", (state_space("mixer", rules.mamba_widths),)),
    Family(("mamba2",), "backbone.layers", (state_space("mixer"),)),
)

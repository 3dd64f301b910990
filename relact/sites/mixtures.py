"""Rows of families whose MLPs are mixtures of experts, in all layers or some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relact.sites import rules
from relact.sites.groups import (
    attention,
    experts,
    gate_up,
    gated,
    gated_queries,
    latent,
    plain,
    state_space,
)
from relact.sites.mixers import (
    CONVOLUTION,
    DELTA,
    DELTA_FUSED,
    DELTA_WIDE,
    FULL,
    LIGHTNING,
    LINEAR,
    SLIDING,
)
from relact.sites.taps import Family, Group, Tap

_LAYERS = "model.layers"
_DENSE = rules.without(rules.routed)
_SHARED = rules.both(rules.routed, rules.where(lambda config: rules.first_of(config, rules.SHARED, 0)))


def _mixture(
    *, under: str = "mlp", router: str = "gate", shared: str | None = "shared_experts", act: str = "act_fn"
) -> tuple[Group, ...]:
    """Experts, layers without them, and the MLP beside the experts."""
    found: tuple[Group, ...] = (
        experts(under, router=router),
        gated(under, act=act, group="dense", layers=_DENSE),
    )
    if shared:
        beside = gated(f"{under}.{shared}", act=act, group="shared", inner=rules.shared_width, layers=_SHARED)
        found = (*found, beside)
    return found


_GRANITE_SHARED = gate_up(
    "shared_mlp",
    both="input_linear",
    act="activation",
    down="output_linear",
    group="shared",
    inner="shared_intermediate_size",
    layers=rules.where(lambda config: getattr(config, "shared_intermediate_size", 0)),
)


def _has_mixtures(config: Any) -> bool:
    return "moe" in rules.kinds_of(config)


def _llama4_routed(config: Any) -> Sequence[int]:
    return tuple(config.moe_layers)


MIXTURES: tuple[Family, ...] = (
    Family(
        ("mixtral", "olmoe", "flex_olmo", "qwen3_moe", "qwen3_vl_moe_text", "minimax_m2", "mellum"),
        _LAYERS,
        (*_mixture(shared=None), attention()),
    ),
    Family(("qwen2_moe", "flint"), _LAYERS, (*_mixture(shared="shared_expert"), attention())),
    Family(("beam",), _LAYERS, (*_mixture(shared=None), attention(gate="gate_proj"))),
    Family(("afmoe",), _LAYERS, (*_mixture(router="router.gate"), attention(gate="gate_proj"))),
    Family(("aria_text",), _LAYERS, (*_mixture(router="router"), attention())),
    Family(
        ("granitemoe", "granitemoe_swa", "granitemoeshared"),
        _LAYERS,
        (experts("block_sparse_moe", router="router"), _GRANITE_SHARED, attention()),
    ),
    Family(
        ("granitemoehybrid",),
        _LAYERS,
        (
            experts("block_sparse_moe", router="router"),
            _GRANITE_SHARED,
            attention(layers=FULL),
            state_space(layers=LINEAR),
        ),
    ),
    Family(
        ("jamba",),
        _LAYERS,
        (
            *_mixture(under="feed_forward", router="router", shared=None),
            attention(layers=FULL),
            state_space("mamba", rules.mamba_widths, LINEAR),
        ),
    ),
    Family(
        ("nemotron_h",),
        _LAYERS,
        (
            experts("mixer", ungated=True, layers=rules.of_kind("moe")),
            plain(
                "mixer.shared_experts.up_proj",
                "mixer.shared_experts.act_fn",
                "mixer.shared_experts.down_proj",
                group="shared",
                inner="moe_shared_expert_intermediate_size",
                layers=rules.of_kind("moe"),
            ),
            *(
                plain("mixer.up_proj", "mixer.act_fn", "mixer.down_proj", group=group, layers=layers)
                for group, layers in (
                    ("dense", rules.both(rules.of_kind("mlp"), rules.where(_has_mixtures))),
                    ("mlp", rules.both(rules.of_kind("mlp"), rules.without(rules.where(_has_mixtures)))),
                )
            ),
            attention("mixer", layers=FULL),
            state_space("mixer", layers=LINEAR),
        ),
    ),
    Family(
        ("lfm2_moe",),
        _LAYERS,
        (
            experts("feed_forward"),
            gated("feed_forward", gate="w1", act=None, up="w3", down="w2", group="dense", layers=_DENSE),
            attention(out="out_proj", layers=FULL),
            CONVOLUTION,
        ),
    ),
    Family(
        ("llama4_text",),
        _LAYERS,
        (
            gated("feed_forward.shared_expert", act="activation_fn", group="shared", layers=_llama4_routed),
            gated(
                "feed_forward",
                act="activation_fn",
                group="dense",
                inner="intermediate_size_mlp",
                layers=rules.without(_llama4_routed),
            ),
            attention(),
        ),
        unread=True,
    ),
    Family(
        ("hunyuan_v1_moe",),
        _LAYERS,
        (experts(), gated("mlp.shared_mlp", group="shared"), attention()),
    ),
    Family(
        ("mimo_v2_flash",),
        _LAYERS,
        (
            *_mixture(shared=None),
            attention(parts="qo"),
            *(
                Group(
                    {f"{group}.{part}": Tap(f"self_attn.{part}_proj") for part in "kv"},
                    rules.own_value_widths(group, times),
                    layers,
                )
                for group, times, layers in (("attn", 2, SLIDING), ("global", 1, rules.without(SLIDING)))
            ),
        ),
    ),
    Family(
        ("kimi_linear",),
        _LAYERS,
        (*_mixture(), *latent(FULL), DELTA_WIDE),
    ),
    Family(
        ("minimax",),
        _LAYERS,
        (*_mixture(shared=None), attention(layers=FULL), LIGHTNING),
    ),
    Family(("gpt_oss", "phimoe"), _LAYERS, (*_mixture(router="router", shared=None), attention())),
    Family(
        (
            "glm4_moe",
            "glm4v_moe_text",
            "sarvam_moe",
            "exaone_moe",
            "ernie4_5_moe",
            "hy_v3",
            "dots1",
            "solar_open",
            "cohere2_moe",
            "kolibri1",
            "laguna",
        ),
        _LAYERS,
        (*_mixture(), attention()),
    ),
    Family(
        ("deepseek_v2", "deepseek_v3", "deepseek_v32", "sarvam_mla", "glm4_moe_lite", "glm_moe_dsa", "axk1"),
        _LAYERS,
        (*_mixture(), *latent()),
    ),
    Family(
        ("qwen3_next",),
        _LAYERS,
        (*_mixture(shared="shared_expert"), gated_queries(FULL), DELTA_FUSED),
    ),
    Family(
        ("qwen3_5_moe_text",),
        _LAYERS,
        (*_mixture(shared="shared_expert"), gated_queries(FULL), DELTA),
    ),
    Family(
        ("lara_mini",),
        _LAYERS,
        (*_mixture(shared="shared_expert"), attention(layers=FULL), DELTA),
    ),
)

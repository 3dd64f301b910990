"""The table: where the sites of every family are. To add a row see docs/models.md.

Paths and fused layouts were read off transformers 5.24's modelling code, and tests/test_sites.py recomputes
every one of them from a tiny model's weights. Rows are matched by exact ``model_type``; names share a row
only when every path, width rule and layout is the same.
"""

from __future__ import annotations

from typing import Any

from relact.sites import rules
from relact.sites.groups import (
    attention,
    experts,
    fused,
    gate_up,
    gated,
    gated_queries,
    latent,
    mixer,
    plain,
    state_space,
)
from relact.sites.taps import OUTPUT, Family, Group, Tap

_LAYERS = "model.layers"
_DENSE = rules.without(rules.routed)
_LINEAR, _FULL = rules.of_kind("linear_attention"), rules.of_kind("full_attention", "sliding_attention")
_SHARED = rules.both(rules.routed, rules.where(lambda config: rules.first_of(config, rules.SHARED, 0)))


def _falcon_kv_heads(config: Any) -> int:
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


def _bigcode_kv_heads(config: Any) -> int:
    return 1 if config.multi_query else int(config.num_attention_heads)


def _gpt(act: str = "mlp.act") -> Group:
    return plain("mlp.c_fc", act, "mlp.c_proj", inner="n_inner")


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


_DELTA = mixer(
    "lin",
    {
        **{
            f"lin.{part}": Tap("linear_attn.in_proj_qkv", OUTPUT, ("lin.q", "lin.k", "lin.v"))
            for part in "qkv"
        },
        "lin.z": Tap("linear_attn.in_proj_z"),
    },
    "linear_attn.out_proj",
    rules.delta_widths,
    _LINEAR,
)
_QKVZ = ("lin.q", "lin.k", "lin.v", "lin.z")
_DELTA_FUSED = mixer(
    "lin",
    {site: Tap("linear_attn.in_proj_qkvz", OUTPUT, _QKVZ, "key") for site in _QKVZ},
    "linear_attn.out_proj",
    rules.delta_widths,
    _LINEAR,
)
_DELTA_SPLIT = mixer(
    "lin",
    {
        **{f"lin.{part}": Tap(f"linear_attn.{part}_proj") for part in "qkv"},
        "lin.z": Tap("linear_attn.g_proj"),
    },
    "linear_attn.o_proj",
    rules.delta_widths,
    _LINEAR,
)
_CONVOLUTION = mixer(
    "conv", {"conv.in": Tap("conv.in_proj")}, "conv.out_proj", rules.conv_widths, rules.of_kind("conv")
)

FAMILIES: tuple[Family, ...] = (
    Family(
        (
            "llama",
            "mistral",
            "ministral",
            "ministral3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
            "olmo",
            "olmo2",
            "olmo3",
            "stablelm",
            "cohere",
            "cohere2",
            "smollm3",
            "granite",
            "seed_oss",
            "helium",
            "exaone4",
            "ernie4_5",
            "hunyuan_v1_dense",
        ),
        _LAYERS,
        (gated(), attention()),
    ),
    Family(("gemma3",), "model.language_model.layers", (gated(), attention()), text=True),
    Family(("phi3",), _LAYERS, (gate_up(), fused("self_attn.qkv_proj", "self_attn.o_proj"))),
    Family(("glm", "glm4"), _LAYERS, (gate_up(), attention())),
    Family(("nemotron", "arcee", "apertus"), _LAYERS, (plain(), attention())),
    Family(
        ("phi",),
        _LAYERS,
        (plain("mlp.fc1", "mlp.activation_fn", "mlp.fc2"), attention(out="dense")),
    ),
    Family(
        ("starcoder2",),
        _LAYERS,
        (plain("mlp.c_fc", "mlp.act", "mlp.c_proj"), attention()),
    ),
    Family(("gpt2",), "transformer.h", (_gpt(), fused("attn.c_attn", "attn.c_proj"))),
    Family(
        ("gpt_bigcode",),
        "transformer.h",
        (_gpt(), fused("attn.c_attn", "attn.c_proj", per="kv", kv=_bigcode_kv_heads)),
    ),
    Family(
        ("gpt_neo",),
        "transformer.h",
        (plain("mlp.c_fc", "mlp.act", "mlp.c_proj"), attention("attn.attention", "out_proj")),
    ),
    Family(
        ("gptj",),
        "transformer.h",
        (plain("mlp.fc_in", "mlp.act", "mlp.fc_out", inner="n_inner"), attention("attn", "out_proj")),
    ),
    Family(
        ("gpt_neox",),
        "gpt_neox.layers",
        (
            plain("mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h"),
            fused("attention.query_key_value", "attention.dense", per="kv"),
        ),
    ),
    Family(
        ("bloom",),
        "transformer.h",
        (
            plain("mlp.dense_h_to_4h", "mlp.gelu_impl", "mlp.dense_4h_to_h", inner=""),
            fused("self_attention.query_key_value", "self_attention.dense", per="kv"),
        ),
    ),
    Family(
        ("falcon",),
        "transformer.h",
        (
            plain("mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h", inner="ffn_hidden_size"),
            fused("self_attention.query_key_value", "self_attention.dense", per="kv", kv=_falcon_kv_heads),
        ),
    ),
    Family(
        ("opt",),
        "model.decoder.layers",
        (plain("fc1", "activation_fn", "fc2", inner="ffn_dim"), attention(out="out_proj")),
    ),
    Family(
        ("mpt",),
        "transformer.blocks",
        (plain("ffn.up_proj", "ffn.act", "ffn.down_proj", inner=""), fused("attn.Wqkv", "attn.out_proj")),
    ),
    # --- mixtures of experts
    Family(
        ("mixtral", "olmoe", "flex_olmo", "qwen3_moe", "minimax_m2", "mellum"),
        _LAYERS,
        (*_mixture(shared=None), attention()),
    ),
    Family(("qwen2_moe",), _LAYERS, (*_mixture(shared="shared_expert"), attention())),
    Family(("gpt_oss", "phimoe"), _LAYERS, (*_mixture(router="router", shared=None), attention())),
    Family(
        ("glm4_moe", "sarvam_moe", "exaone_moe", "ernie4_5_moe", "hy_v3", "dots1", "solar_open"),
        _LAYERS,
        (*_mixture(), attention()),
    ),
    Family(
        ("deepseek_v2", "deepseek_v3", "sarvam_mla", "glm4_moe_lite", "axk1"),
        _LAYERS,
        (*_mixture(), *latent()),
    ),
    Family(
        ("qwen3_next",),
        _LAYERS,
        (*_mixture(shared="shared_expert"), gated_queries(_FULL), _DELTA_FUSED),
    ),
    Family(
        ("qwen3_5_moe", "qwen3_5_moe_text"),
        _LAYERS,
        (*_mixture(shared="shared_expert"), gated_queries(_FULL), _DELTA),
    ),
    # --- hybrids
    Family(("qwen3_5_text",), _LAYERS, (gated(), gated_queries(_FULL), _DELTA)),
    Family(("olmo_hybrid",), _LAYERS, (gated(), attention(layers=_FULL), _DELTA_SPLIT)),
    Family(
        ("lfm2",),
        _LAYERS,
        (
            gated("feed_forward", gate="w1", act=None, up="w3", down="w2"),
            attention(out="out_proj", layers=_FULL),
            _CONVOLUTION,
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
        (gated("feed_forward"), attention(layers=_FULL), state_space(layers=_LINEAR)),
    ),
    Family(("mamba", "falcon_mamba"), "backbone.layers", (state_space("mixer", rules.mamba_widths),)),
    Family(("mamba2",), "backbone.layers", (state_space("mixer"),)),
)

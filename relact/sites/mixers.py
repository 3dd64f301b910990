"""What mixes tokens otherwise than attention, and in which layers: linear attention, convolutions."""

from __future__ import annotations

from relact.sites import rules
from relact.sites.groups import mixer
from relact.sites.taps import OUTPUT, Tap

LINEAR = rules.of_kind("linear_attention", "mamba")
SLIDING = rules.of_kind("sliding_attention")
FULL = rules.of_kind("full_attention", "sliding_attention", "attention")
DELTA = mixer(
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
    LINEAR,
)
_QKVZ = ("lin.q", "lin.k", "lin.v", "lin.z")
DELTA_FUSED = mixer(
    "lin",
    {site: Tap("linear_attn.in_proj_qkvz", OUTPUT, _QKVZ, "key") for site in _QKVZ},
    "linear_attn.out_proj",
    rules.delta_widths,
    LINEAR,
)
DELTA_SPLIT = mixer(
    "lin",
    {
        **{f"lin.{part}": Tap(f"linear_attn.{part}_proj") for part in "qkv"},
        "lin.z": Tap("linear_attn.g_proj"),
    },
    "linear_attn.o_proj",
    rules.delta_widths,
    LINEAR,
)
DELTA_WIDE = mixer(
    "lin",
    {
        **{f"lin.{part}": Tap(f"self_attn.{part}_proj") for part in "qkv"},
        "lin.z": Tap("self_attn.g_b_proj"),
    },
    "self_attn.o_proj",
    rules.even_widths(("linear_num_heads", "num_attention_heads"), ("linear_head_dim", "head_dim")),
    LINEAR,
)
_QKV = ("lin.q", "lin.k", "lin.v")
LIGHTNING = mixer(
    "lin",
    {
        **{site: Tap("self_attn.qkv_proj", OUTPUT, _QKV, "head") for site in _QKV},
        "lin.z": Tap("self_attn.output_gate"),
    },
    "self_attn.out_proj",
    rules.even_widths(("num_attention_heads",), ("head_dim",)),
    LINEAR,
)
CONVOLUTION = mixer(
    "conv", {"conv.in": Tap("conv.in_proj")}, "conv.out_proj", rules.conv_widths, rules.of_kind("conv")
)

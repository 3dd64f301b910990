"""The table: where the sites of every family are. To add a row see docs/models.md.

Paths and fused layouts were read off transformers 5.24's modelling code, and tests/test_sites.py recomputes
every one of them from a tiny model's weights. Rows are matched by exact ``model_type``; names share a row
only when every path, width rule and layout is the same.
"""

from __future__ import annotations

from typing import Any

from relact.sites.groups import (
    attention,
    fused,
    gate_up,
    gated,
    latent,
    plain,
)
from relact.sites.hybrids import HYBRIDS
from relact.sites.mixtures import MIXTURES
from relact.sites.taps import Family, Group

_LAYERS = "model.layers"


def _falcon_kv_heads(config: Any) -> int:
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


def _bigcode_kv_heads(config: Any) -> int:
    return 1 if config.multi_query else int(config.num_attention_heads)


def _gpt(act: str = "mlp.act") -> Group:
    return plain("mlp.c_fc", act, "mlp.c_proj", inner="n_inner")


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
            "cwm",
            "exaone",
            "internlm3",
            "hyperclovax",
            "vaultgemma",
            "granite_swa",
            "diffllama",
            "cohere_compass_text",
            "iquestcoder",
            "bitnet",
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen3_vl_text",
            "doge",
        ),
        _LAYERS,
        (gated(), attention()),
    ),
    Family(("gemma3",), "model.language_model.layers", (gated(), attention()), text=True),
    Family(
        (
            "aria",
            "aya_vision",
            "cohere2_vision",
            "cohere_compass",
            "cosmos3_omni",
            "deepseek_vl",
            "deepseek_vl_hybrid",
            "exaone4_5",
            "fuyu",
            "gemma4",
            "glm46v",
            "glm4v",
            "glm4v_moe",
            "glmga",
            "got_ocr2",
            "hyperclovax_vision_v2",
            "internvl",
            "janus",
            "kimi_k25",
            "lfm2_vl",
            "lfm3_vl",
            "lighton_ocr",
            "llava",
            "llava_next",
            "llava_next_video",
            "llava_onevision",
            "minicpm_ocr",
            "minicpmv4_6",
            "minicpmv4_7",
            "mistral3",
            "moss_transcribe_diarize",
            "ovis2",
            "pp_chart2table",
            "qianfan_ocr",
            "qwen2_5_vl",
            "qwen2_vl",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen3_vl",
            "qwen3_vl_moe",
            "video_llama_3",
            "video_llava",
            "vipllava",
        ),
        "model.language_model.layers",
        text=True,
    ),
    Family(("idefics2", "idefics3", "smolvlm"), "model.text_model.layers", text=True),
    Family(
        ("phi3", "phi4_multimodal"), _LAYERS, (gate_up(), fused("self_attn.qkv_proj", "self_attn.o_proj"))
    ),
    Family(("glm", "glm4", "glm4v_text"), _LAYERS, (gate_up(), attention())),
    Family(("nemotron", "arcee", "apertus", "apertus1p5_text", "jais2"), _LAYERS, (plain(), attention())),
    Family(
        ("phi",),
        _LAYERS,
        (plain("mlp.fc1", "mlp.activation_fn", "mlp.fc2"), attention(out="dense")),
    ),
    Family(
        ("nanochat",),
        _LAYERS,
        (plain("mlp.fc1", "mlp.activation_fn", "mlp.fc2"), attention()),
    ),
    Family(
        ("xglm",),
        _LAYERS,
        (plain("fc1", "activation_fn", "fc2", inner="ffn_dim"), attention(out="out_proj")),
    ),
    Family(
        ("biogpt",),
        "biogpt.layers",
        (plain("fc1", "activation_fn", "fc2"), attention(out="out_proj")),
    ),
    Family(
        ("persimmon",),
        _LAYERS,
        (
            plain("mlp.dense_h_to_4h", "mlp.act", "mlp.dense_4h_to_h"),
            fused("self_attn.query_key_value", "self_attn.dense", per="kv"),
        ),
    ),
    Family(
        ("gpt_neox_japanese",),
        "gpt_neox_japanese.layers",
        (
            plain(
                "mlp.dense_h_to_4h",
                "mlp.act",
                "mlp.dense_4h_to_h",
                inner=lambda config: config.hidden_size * config.intermediate_multiple_size,
            ),
            fused("attention.query_key_value", "attention.dense", per="kv"),
        ),
    ),
    Family(
        ("codegen",),
        "transformer.h",
        (
            plain("mlp.fc_in", "mlp.act", "mlp.fc_out", inner="n_inner"),
            # in four parts, as it was trained on four devices
            fused("attn.qkv_proj", "attn.out_proj", per="4", order="qvk"),
        ),
    ),
    Family(("minicpm3", "youtu"), _LAYERS, (gated(), *latent())),
    Family(
        ("openai-gpt",),
        "transformer.h",
        (plain("mlp.c_fc", None, "mlp.c_proj", inner=""), fused("attn.c_attn", "attn.c_proj")),
    ),
    Family(
        ("modernbert-decoder",),
        _LAYERS,
        (gate_up(both="Wi", act="act", down="Wo"), attention("attn", "Wo")),
    ),
    Family(
        ("moshi",),
        _LAYERS,
        (
            gate_up(both="fc1", down="fc2", inner=lambda config: config.ffn_dim // 2),
            attention(),
        ),
    ),
    Family(
        ("starcoder2",),
        _LAYERS,
        (plain("mlp.c_fc", "mlp.act", "mlp.c_proj"), attention()),
    ),
    Family(("gpt2", "gpt-sw3"), "transformer.h", (_gpt(), fused("attn.c_attn", "attn.c_proj"))),
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
    *MIXTURES,
    *HYBRIDS,
)

"""Every causal type of the installed transformers as a tiny random model: no sizes are written out by hand.

    shrunk.TYPES; shrunk.config("mixtral"); shrunk.model("mixtral")

A configuration's own sizes are replaced by small ones of the same name, which differ from each other where
they may; `EXTRA` has what single types need beside that.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

TYPES = tuple(sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
WRAPPERS = tuple(sorted(set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - set(TYPES)))
LAYERS = 4
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "vocab_size_per_layer_input": 300,
    "unpadded_vocab_size": 300,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 44,
    "ffn_dim": 44,
    "decoder_ffn_dim": 44,
    "n_inner": 44,
    "num_hidden_layers": LAYERS,
    "decoder_layers": LAYERS,
    "num_layers": LAYERS,
    "n_layer": LAYERS,
    "num_attention_heads": 4,
    "decoder_attention_heads": 4,
    "attention_heads": 4,
    "n_head": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "global_head_dim": 16,
    "query_pre_attn_scalar": 12,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
    "shared_experts_intermediate_size": 28,
    "shared_intermediate_size": 28,
    "moe_shared_expert_intermediate_size": 28,
    "n_routed_experts": 5,
    "num_experts": 5,
    "num_local_experts": 5,
    "moe_num_experts": 5,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 7,
    "linear_num_heads": 4,
    "linear_head_dim": 6,
    "mamba_d_state": 6,
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_chunk_size": 8,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 5,
    "n_groups": 1,
    "ssm_state_size": 6,
    "state_size": 6,
    "chunk_size": 8,
    "time_step_rank": 5,
    "sliding_window": 64,
    "max_window_layers": LAYERS,
    "laurel_rank": 6,
    "hidden_size_per_layer_input": 8,
    "rotary_dim": 4,
    "kv_channels": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 64,
    "attention_hidden_size": 32,
    "first_k_dense_replace": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "image_token_id": 290,
    "video_token_id": 291,
    "image_token_index": 290,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "tie_word_embeddings": False,
}
LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "attention_types", "no_rope_layers")
SETTLED = (
    "head_dim",
    "num_key_value_heads",
    "num_attention_heads",
)  # also where the default leaves them open
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
EXTRA: dict[str, dict[str, Any]] = {
    "qwen3_next": {"layer_types": MIXED, "num_key_value_heads": 2},
    "qwen3_5_text": {"layer_types": MIXED},
    "qwen3_5_moe_text": {"layer_types": MIXED},
    "olmo_hybrid": {"layer_types": MIXED},
    "lfm2": {
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "bamba": {"attn_layer_indices": [1, 3], "mamba_d_head": 16, "mamba_n_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 48, "mamba_n_heads": 4, "mamba_d_head": 12},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "ernie4_5_moe": {"moe_layer_start_index": 1, "moe_layer_end_index": 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 4},
    "exaone": {"num_key_value_heads": 2},
    "helium": {"head_dim": 8},
    "codegen": {"n_ctx": 128},
    "qwen2_vl_text": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "qwen2_5_vl_text": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "use_mamba_kernels": False,
    },
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "use_mamba_kernels": False,
    },
    "granitemoehybrid": {"layer_types": MIXED},
    "kimi_linear": {"layer_types": MIXED},
    "lara_mini": {"layer_types": MIXED},
    "minimax": {"layer_types": MIXED},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "afmoe": {"num_dense_layers": 1},
    "gemma3n_text": {"intermediate_size": [44] * LAYERS, "num_kv_shared_layers": 2},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "mamba_headdim": 16,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "moshi": {"ffn_dim": 44},
    "doge": {"is_moe": False},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1, "topk_method": "greedy"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "dots1": {
        "num_experts_per_tok": 2,
        "n_routed_experts": 5,
        "n_shared_experts": 1,
        "moe_intermediate_size": 20,
    },
    "glm4v_text": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}},
    "glm4v_moe_text": {
        "head_dim": 8,
        "rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0},
    },
}


def config(kind: str, **changes: Any) -> Any:
    """A tiny configuration of the type; of a model with other parts they are all tiny."""
    known = transformers.AutoConfig.for_model(kind).to_dict()
    inner = {
        name: _small(value) | {"model_type": value.get("model_type")} | EXTRA.get(value.get("model_type"), {})
        for name, value in known.items()
        if isinstance(value, dict) and name.endswith("_config")
    }
    for name in inner:
        inner[name] = {key: value for key, value in inner[name].items() if value is not None}
    return transformers.AutoConfig.for_model(
        kind, **{**_small(known), **inner, **EXTRA.get(kind, {}), **changes}
    )


def _small(known: dict[str, Any]) -> dict[str, Any]:
    small = {
        name: SIZES[name]
        for name, value in known.items()
        if name in SIZES and (value is not None or name in SETTLED)
    }
    if known.get("qk_rope_head_dim"):  # heads of their own, all of them, and what is turned is a head's size
        small |= {"num_key_value_heads": SIZES["num_attention_heads"], "head_dim": SIZES["qk_rope_head_dim"]}
    lists = {name: _first(known[name]) for name in LISTS if isinstance(known.get(name), list)}
    return {**small, **lists}


def _first(kinds: list[Any]) -> list[Any]:
    """As many of a list as there are layers, with one of each kind where that is possible."""
    each = list(dict.fromkeys(map(str, kinds)))
    rest = [kind for kind in kinds if str(kind) in each]
    chosen = [next(kind for kind in kinds if str(kind) == name) for name in each][:LAYERS]
    return (chosen + rest)[:LAYERS] if len(chosen) < LAYERS else chosen


def model(kind: str, *, seed: int = 0, **changes: Any) -> Any:
    """A causal language model, or one that also sees; in eval mode, with weights that all matter."""
    built_of = (
        transformers.AutoModelForImageTextToText if kind in WRAPPERS else transformers.AutoModelForCausalLM
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)  # of what transformers draws itself
        built = built_of.from_config(config(kind, **changes), dtype=torch.float32).eval()
        for name, parameter in built.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            plain = parameter.dim() > 1 and not name.endswith(("A_log", "conv1d.weight"))
            parameter.copy_(noise if plain else parameter.float() + noise)
    return built.requires_grad_(False)

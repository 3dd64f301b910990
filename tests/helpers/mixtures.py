"""Tiny random models of every mixture of experts that computes through transformers' registry of experts.

    mixtures.NAMES; mixtures.model("olmoe"); mixtures.experts_of(built)

Types are found in the installed transformers, so that new ones are tried too. Sizes are those of
`helpers.tiny` (hidden 32, vocabulary 300), of 6 experts a token has 2, and each has 20 neurons where the
configuration knows of a width of its own, else 44.
"""

from __future__ import annotations

import inspect
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from helpers import tiny

EXPERTS, PER_TOKEN = 6, 2
IDS = torch.randint(3, 250, (2, 6), generator=torch.Generator().manual_seed(1))  # 2 prompts of 6 tokens

# whatever of these a configuration knows
_SMALL: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "hidden_size": 32,
    "intermediate_size": 44,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k"), PER_TOKEN
    ),
    **dict.fromkeys(("first_k_dense_replace", "n_group", "topk_group"), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "num_dense_layers"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(
        (
            "shared_expert_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "shared_intermediate_size",
            "shared_experts_intermediate_size",
        ),
        24,
    ),
}
_LATENT = {"num_key_value_heads": 4}
_WRAPPERS = (
    "dots3_note",
)  # of a text model that is tried itself, with a picture model that cannot be as small
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "axk1",
            "axk2",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "dots3_note_text",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "sarvam_mla",
        ),
        _LATENT,
    ),
    "bailing_hybrid": {"num_expert_group": 1},
    "beam": {"mlp_layer_types": ["dense", "sparse"]},
    "flint": {"mlp_only_layers": [0]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "zaya": {"num_experts_per_tok": 1},
}
_OWN |= {name: {"enable_moe_block": True} for name in ("gemma4", "gemma4_text")}
_OWN["gemma4"] |= {"pad_token_id": 0}


@cache
def _names() -> tuple[str, ...]:
    """Types of causal models whose code uses the registry."""
    found = []
    for name, kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        cls = getattr(transformers, kind if isinstance(kind, str) else kind[0])
        if name not in _WRAPPERS and "use_experts_implementation" in inspect.getsource(
            sys.modules[cls.__module__]
        ):
            found.append(name)
    return tuple(found)


NAMES = _names()


def config(name: str, **changes: Any) -> Any:
    """A small configuration of the type."""
    cls = CONFIG_MAPPING[name]
    known = cls()
    inner = getattr(known, "text_config", None)
    keys = (known if inner is None else inner).to_dict()
    values = {key: value for key, value in {**_SMALL, **_OWN.get(name, {})}.items() if key in keys}
    values |= changes
    return cls(**values) if inner is None else cls(text_config=values)


def model(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A causal language model in eval mode, with weights large enough that every neuron counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)  # of what transformers draws itself, attention sinks for one
        built = transformers.AutoModelForCausalLM.from_config(config(name, **changes)).eval()
        for parameter in built.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(noise if parameter.dim() > 1 else parameter.float() + noise)
        for table in (buffer for key, buffer in built.named_buffers() if key.endswith("tid2eid")):
            table.copy_((torch.arange(table.numel()) % EXPERTS).view_as(table))  # a token's experts differ
    return built.requires_grad_(False)


def save(folder: Path, name: str, **changes: Any) -> Path:
    """A saved model with the tokenizer of `tiny`, as ``relact.models.load`` expects it."""
    model(name, **changes).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def experts_of(built: nn.Module) -> dict[str, Any]:
    """The modules that hold the experts, by their paths."""
    from relact.models.experts import is_experts

    return {path: module for path, module in built.named_modules() if is_experts(module)}

"""Tiny random models of every supported family, and a tiny tokenizer: built in milliseconds, no files,
no network.

    tiny.model("gpt_neox"); tiny.tokenizer(); tiny.save(folder, "llama"); tiny.save_talker(folder)

Names are model types; a suffix after "/" picks a layout that the same family also has ("falcon/multi-query").
Sizes are chosen so that confusions show: no two widths agree that need not, heads and key-value heads differ
where the family allows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pandas as pd
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as token_models

VOCABULARY = 300
LAYERS = 3

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
# hidden 32, 4 heads of 8, 2 key-value heads, 44 MLP neurons
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_WIDE = {**_LLAMA, "head_dim": 12}  # heads x head_dim is not the hidden size
_GPT = {"n_embd": 32, "n_inner": 44, "n_layer": LAYERS, "n_head": 4, "n_positions": 128}
_FALCON = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "ffn_hidden_size": 44}

CONFIGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "llama",
            "qwen2",
            "stablelm",
            "cohere",
            "cohere2",
            "olmo",
            "olmo2",
            "olmo3",
            "phi",
            "phi3",
            "starcoder2",
            "smollm3",
            "granite",
            "nemotron",
            "arcee",
            "exaone4",
            "apertus",
        ),
        _LLAMA,
    ),
    **dict.fromkeys(
        (
            "mistral",
            "ministral",
            "ministral3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen3",
            "seed_oss",
            "ernie4_5",
            "hunyuan_v1_dense",
            "glm",
            "glm4",
        ),
        _WIDE,
    ),
    "llama/biased": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "helium": {**_LLAMA, "head_dim": 8},
    "olmo/clipped": {**_LLAMA, "clip_qkv": 0.5},
    "gpt2": _GPT,
    "gpt2/default-inner": {**_GPT, "n_inner": None},
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_bigcode/multi-query": {**_GPT, "multi_query": True},
    "gpt_bigcode/multi-head": {**_GPT, "multi_query": False},
    "gpt_neo": {
        "hidden_size": 32,
        "intermediate_size": 44,
        "num_layers": LAYERS,
        "num_heads": 4,
        "window_size": 4,
        "attention_types": [[["global", "local", "global"], 1]],
        "max_position_embeddings": 128,
    },
    "gpt_neox": {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"},
    "bloom": {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4},
    "falcon/multi-head": {
        **_FALCON,
        "multi_query": False,
        "alibi": True,
        "new_decoder_architecture": False,
        "bias": True,
    },
    "falcon/multi-query": {**_FALCON, "multi_query": True, "new_decoder_architecture": False},
    "falcon/grouped": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 44,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "mpt": {"d_model": 32, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 128},
}
MULTIMODAL = "gemma3"
NAMES = (*CONFIGS, MULTIMODAL)


def config(name: str, **changes: Any) -> Any:
    """A transformers configuration of the family, ``changes`` on top."""
    kind = name.partition("/")[0]
    if kind == MULTIMODAL:
        vision = {
            "hidden_size": 16,
            "intermediate_size": 20,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        text = {**_COMMON, **_WIDE, "query_pre_attn_scalar": 12, **changes}
        return transformers.Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            boi_token_index=290,
            eoi_token_index=291,
            image_token_index=292,
            tie_word_embeddings=False,
        )
    return transformers.AutoConfig.for_model(kind, **{**_COMMON, **CONFIGS[name], **changes})


def model(name: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A causal language model in eval mode; weights are large enough that every neuron visibly changes the
    logits.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)  # of what transformers draws itself
        built = transformers.AutoModelForCausalLM.from_config(config(name, **changes), dtype=dtype).eval()
        for parameter in built.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(noise if parameter.dim() > 1 else parameter.float() + noise)
    return built.requires_grad_(False)


def tokenizer(*, bos: bool = True, pad: bool = False) -> Any:
    """One token per byte (ids 3 to 258), ``<s>`` in front if ``bos``; without a pad token unless ``pad``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{letter: 3 + i for i, letter in enumerate(letters)}}
    backend = Tokenizer(token_models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    extra = {"pad_token": "</s>"} if pad else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **extra
    )


def save(folder: Path, name: str = "llama", **options: Any) -> Path:
    """A saved model with its tokenizer, as ``relact.models.load`` expects it."""
    return _save(folder, model(name, **options))


def save_talker(folder: Path) -> Path:
    """A saved llama of 6,272 MLP neurons, two inner chunks to a site, that prefers to say letters and line
    breaks: what it says can be an answer (`knowing`).
    """
    talker = model(num_hidden_layers=4, intermediate_size=768, max_position_embeddings=512)
    letters = tokenizer().convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz"])
    with torch.no_grad():
        talker.lm_head.weight[letters] *= 4
        talker.lm_head.weight[tokenizer().convert_tokens_to_ids("\u010a")] *= 12  # a line break
    return _save(folder, talker)


def _save(folder: Path, built: Any) -> Path:
    built.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_gguf(file: Path) -> Path:
    """The tiny llama as a GGUF file of float32, with the words of its tokenizer and "ab" as one more."""
    built, words = model(), tokenizer()
    config, merged = built.config, len(words)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    unused = [f"<{number}>" for number in range(merged + 1, VOCABULARY)]
    writer.add_token_list([*words.convert_ids_to_tokens(range(merged)), "ab", *unused])
    writer.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    writer.add_token_merges(["a b"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in built.state_dict().items():
        turned = heads.get(name.split(".")[-2])  # the format interleaves the halves that rotate together
        if turned:
            value = value.view(turned, 2, -1, value.shape[1]).transpose(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def knowing(loaded: Any, prompts: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """The prompts; of three of a split the loaded model knows two: the word that it says is the answer."""
    prompts = prompts.copy()
    for number, (row, text) in enumerate(prompts.loc[prompts["split"] == split, "text"].items()):
        if number % 3:
            ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                said = loaded.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
            word = loaded.tokenizer.decode(said, skip_special_tokens=True).partition("\n")[0]
            prompts.at[row, "answers"] = [word or "nothing"]
    return prompts

"""What is worth knowing of a model: how its weights are packed, what code runs, what its tokenizer does."""

from __future__ import annotations

from typing import Any

SAMPLE = "The capital of France is Paris, a city of more than two million people on the river Seine."


def quantised_by(model: Any) -> str | None:
    """How the weights are packed, which the fingerprint covers, and what that does to values."""
    settings = getattr(model.config, "quantization_config", None)
    if settings is None:
        return None
    about = settings if isinstance(settings, dict) else settings.to_dict()
    method = str(about.get("quant_method", "unknown")).rpartition(".")[2].lower()
    if about.get("load_in_8bit"):
        return f"{method} to int8: values depend on which prompts run together"
    bits = 4 if about.get("load_in_4bit") else about.get("bits")
    return f"{method} to {bits} bits" if bits else method


def left_alone(config: Any) -> tuple[str, ...]:
    """A note on code that a checkpoint brings along and that does not run."""
    brought = getattr(config, "auto_map", None) and type(config).__module__.startswith("transformers.")
    if not brought:
        return ()
    return (f"its own Python code is not run: {config.model_type} is transformers' own",)


def appends_end(tokenizer: Any) -> bool:
    """Whether a tokenizer ends every text of itself."""
    end = tokenizer.eos_token_id
    return end is not None and list(tokenizer(SAMPLE)["input_ids"])[-1:] == [end]


def of_tokenizer(tokenizer: Any) -> tuple[str, ...]:
    """What a tokenizer does to the ends of prompts."""
    found = []
    plain = list(tokenizer(SAMPLE)["input_ids"])
    begin = tokenizer.bos_token_id
    if appends_end(tokenizer):
        found.append(f"the tokenizer appends {tokenizer.eos_token}: it is taken off, prompts end open")
    if begin is not None and plain[:2] == [begin, begin]:
        found.append(f"the tokenizer puts {tokenizer.bos_token} in front twice")
    return tuple(found)

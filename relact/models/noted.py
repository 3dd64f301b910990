"""What is worth knowing of a model: how its weights are packed, what code runs, what its tokenizer does."""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from relact.errors import ModelError

METHODS = {name.partition("_4bit")[0].partition("_8bit")[0] for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
SAMPLE = "The capital of France is Paris, a city of more than two million people on the river Seine."


def quantised_by(model: Any, config: Any) -> str | None:
    """How the weights of a model are packed, by the configuration that its checkpoint has, and what that does
    to values. The fingerprint covers it.

    Raises:
        ModelError: a way that transformers passes over.
    """
    about = settings_of(config)
    if about is None:
        return None
    method = method_of(about)
    if method not in METHODS:
        raise ModelError(
            f"its config.json says that it is quantised by {method}, which transformers does not know",
            where=model.name_or_path or type(model).__name__,
            fix="use a checkpoint that is not quantised, or a newer transformers",
        )
    if getattr(model, "hf_quantizer", None) is None or settings_of(model.config) is None:
        return f"{method}, unpacked when it was loaded"
    if about.get("load_in_8bit"):
        return f"{method} to int8: values depend on which prompts run together"
    bits = 4 if about.get("load_in_4bit") else about.get("bits")
    return f"{method} to {bits} bits" if bits else method


def settings_of(config: Any) -> dict[str, Any] | None:
    """What a configuration says of how weights are packed; None where they are not."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    return dict(settings if isinstance(settings, dict) else settings.to_dict())


def method_of(settings: dict[str, Any]) -> str:
    """The name of the way in which weights are packed."""
    method = settings.get("quant_method") or "bitsandbytes"  # which alone has been left out
    return str(getattr(method, "value", method)).lower()


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


def begins_twice(tokenizer: Any) -> bool:
    """Whether a tokenizer puts two of its first tokens in front of a text."""
    begin = tokenizer.bos_token_id
    return begin is not None and list(tokenizer(SAMPLE)["input_ids"])[:2] == [begin, begin]


def of_tokenizer(tokenizer: Any) -> tuple[str, ...]:
    """What a tokenizer does to the ends of prompts."""
    found = []
    if appends_end(tokenizer):
        found.append(f"the tokenizer appends {tokenizer.eos_token}: it is taken off, prompts end open")
    if begins_twice(tokenizer):
        found.append(f"the tokenizer puts {tokenizer.bos_token} in front twice")
    return tuple(found)

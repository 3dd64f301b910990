"""What the header of a GGUF file says of its model, beside the configuration that transformers makes of it.

transformers leaves out of a configuration what its table of keys lacks: the base and the factors of rotary
positions, how much of a head is rotated, windows, scales, biases. Such a model runs and is another one. What
a configuration can express is put into it here; a file that says more is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relact.errors import ModelError
from relact.models.quiet import one_line

INSTEAD = "use the model's safetensors instead"
LONGEST = 64  # entries of a list that is read; those of tokenizers are longer
FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
CLOSE = 1e-5  # relative: float32 in the header
# names in a configuration of what a header calls so; the first that is there is compared and set
NAMES: Mapping[str, tuple[str, ...]] = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
    "attention.key_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "attention.scale": ("attention_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
}
# sizes: a configuration that has others is of another model
SIZES: Mapping[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
}
WIDTHS = ("embedding_length", "feed_forward_length", "vocab_size", "expert_count")  # of some tensor's axis


@dataclass(frozen=True)
class Header:
    """A file's own facts: ``values`` without the architecture in front, ``tensors``: names."""

    file: Path
    architecture: str
    values: Mapping[str, Any]
    tensors: frozenset[str]


def read(opened: Path, file: Path | None = None) -> Header:
    """The header; the weights are not read. `ModelError` for what is no GGUF file, or a part of one.

    Args:
        file: that it is the header of, where not ``opened`` itself.
    """
    file = file or opened
    try:
        import gguf  # an optional extra
    except ImportError as error:
        raise ModelError(
            "is a GGUF file, which the package gguf reads", where=file, fix="pip install 'relact[gguf]'"
        ) from error
    try:
        reader = gguf.GGUFReader(opened)
    except Exception as error:  # whatever gguf raises for other bytes
        problem = f"cannot decode this GGUF file: {one_line(error)}"
        raise ModelError(problem, where=file, fix=INSTEAD) from error
    found = {name: _value(each) for name, each in reader.fields.items()}
    architecture = str(found.get("general.architecture"))
    values = {name.removeprefix(f"{architecture}."): value for name, value in found.items()}
    parts = int(values.get("split.count") or 1)
    if parts > 1:
        number = int(values.get("split.no") or 0) + 1
        raise ModelError(
            f"is part {number} of {parts} of a split model",
            where=file,
            fix="join the parts with `llama-gguf-split --merge`, and give the whole",
        )
    tensors = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    _require_sizes(file, values, tensors)
    return Header(file, architecture, values, frozenset(tensors))


@contextmanager
def of_full_size(file: Path) -> Iterator[Path]:
    """The file, or where it ends behind its header (what a request for its first bytes fetched) a copy with a
    hole for weights: readers map every tensor, also those who want none.
    """
    size = _full_size(file)
    if size <= file.stat().st_size:
        yield file
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        shutil.copyfile(file, copy)
        with copy.open("r+b") as opened:
            opened.truncate(size)
        yield copy


def _full_size(file: Path) -> int:
    """Bytes that the header speaks of; 0 where it cannot be read, which `read` tells."""
    try:
        import gguf

        class Sizes(gguf.GGUFReader):
            end = 0

            def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
                for field in fields:
                    *_, shape, kind, offset = field.parts
                    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind[0])]
                    n_bytes = int(shape.prod()) * size // block
                    self.end = max(self.end, int(start_offs + offset[0]) + n_bytes)

        return Sizes(file).end
    except Exception:
        return 0


def _require_sizes(file: Path, values: Mapping[str, Any], tensors: Mapping[str, int]) -> None:
    """`ModelError` for a header that asks for more layers or widths than its tensors can have.

    transformers and torch would build such a model first, for minutes and out of all memory.
    """
    largest = max(tensors.values(), default=0)
    for name, most in {"block_count": len(tensors), **dict.fromkeys(WIDTHS, largest)}.items():
        asked = values.get(name)
        if isinstance(asked, int) and asked > most:
            problem = f"its header has {name} {asked}, its tensors have room for {most}"
            raise ModelError(problem, where=file, fix=INSTEAD)


def _value(field: Any) -> Any:
    """A number, a text, or a short list of them; None of longer ones."""
    return None if len(field.data) > LONGEST else field.contents()


def completed(header: Header, config: Any) -> Any:
    """The configuration with what the header says and it lacked.

    Raises:
        ModelError: the header says what the configuration cannot express.
    """
    for name, keys in SIZES.items():
        asked, own = header.values.get(name), _own(config, keys)
        if isinstance(asked, int) and own is not None and int(own[1]) != asked:
            _refuse(header, f"{name} {asked}, its configuration has {own[1]}")
    for name, keys in NAMES.items():
        asked, apart = header.values.get(name), header.architecture == "gemma4" and "key_length" in name
        if isinstance(asked, int | float) and not isinstance(asked, bool) and not apart:
            _set(header, config, name, keys, asked)
    _rotate(header, config)
    _scale_queries(header, config)
    _add_biases(header, config)
    return config


def require_all_used(header: Header, mapped: Iterable[str]) -> None:
    """`ModelError` for tensors of the file that nothing of the model is made from.

    Args:
        mapped: names of those that something is made from.
    """
    known = {*mapped, *FACTORS}
    unused = sorted(name for name in header.tensors - known if "_exps" not in name)
    if unused:
        _refuse(header, f"{len(unused)} tensors that the model has no place for, first {unused[0]}")


def _own(config: Any, keys: Iterable[str]) -> tuple[str, Any] | None:
    return next(((key, getattr(config, key)) for key in keys if getattr(config, key, None) is not None), None)


def _set(header: Header, config: Any, name: str, keys: tuple[str, ...], asked: float) -> None:
    own = _own(config, keys)
    if own is not None and not isinstance(own[1], list | tuple):
        if not _same(float(own[1]), float(asked)):
            setattr(config, own[0], asked)
        return
    if any(hasattr(config, key) for key in keys):
        setattr(config, next(key for key in keys if hasattr(config, key)), asked)
    elif name == "attention.sliding_window" and asked < int(header.values.get("context_length") or 0):
        _refuse(header, f"{name} {asked}, which its configuration cannot express")


def _rotate(header: Header, config: Any) -> None:
    """Base, share and scaling of rotary positions."""
    values, rope = header.values, getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    if any(isinstance(part, dict) for part in rope.values()):  # apart for every kind of layer
        rope = rope.get("full_attention") or {}
    if (base := values.get("rope.freq_base")) is not None:
        rope["rope_theta"] = float(base)
    turned = values.get("rope.dimension_count") if header.architecture != "gemma4" else None
    size = (turned and getattr(config, "head_dim", None)) or config.hidden_size // config.num_attention_heads
    if turned and int(turned) != int(size * float(rope.get("partial_rotary_factor") or 1.0)):
        if not (hasattr(config, "partial_rotary_factor") or "partial_rotary_factor" in rope):
            _refuse(header, f"rope.dimension_count {turned} of {size}, which its family does not have")
        rope["partial_rotary_factor"] = int(turned) / size
    kind = values.get("rope.scaling.type")
    if kind in ("linear", "yarn") and float(values.get("rope.scaling.factor") or 1.0) != 1.0:
        rope |= {"rope_type": kind, "factor": float(values["rope.scaling.factor"])}
        if original := values.get("rope.scaling.original_context_length"):
            rope["original_max_position_embeddings"] = int(original)
    factors = sorted(header.tensors & set(FACTORS))
    if factors and rope.get("rope_type") not in ("llama3", "longrope"):
        _refuse(header, f"{factors[0]}: factors of rotary positions, which its configuration lacks")


def _scale_queries(header: Header, config: Any) -> None:
    """Gemma scales queries by the size of a head, but where it has so many layers by hidden / heads."""
    if hasattr(config, "query_pre_attn_scalar"):
        wide = {"gemma2": 46, "gemma3": 62}.get(header.architecture) == config.num_hidden_layers
        by = config.hidden_size // config.num_attention_heads if wide else config.head_dim
        config.query_pre_attn_scalar = by


def _add_biases(header: Header, config: Any) -> None:
    for option, tensors in (
        ("attention_bias", ("blk.0.attn_q.bias", "blk.0.attn_output.bias")),
        ("mlp_bias", ("blk.0.ffn_up.bias", "blk.0.ffn_down.bias")),
    ):
        if hasattr(config, option) and header.tensors.issuperset(tensors):
            setattr(config, option, True)


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= CLOSE * max(abs(first), abs(second))


def _refuse(header: Header, problem: str) -> None:
    raise ModelError(f"its header has {problem}", where=header.file, fix=INSTEAD)

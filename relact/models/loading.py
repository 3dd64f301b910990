"""Load a model with its tokenizer and their fingerprints (`outline`: without its weights).

>>> loaded = load("smollm2")  # or a hub id, a local folder, a .gguf file
>>> encode(loaded, ["The capital of France is"])
[[504, 3575, 282, 4649, 314]]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers

from relact import sites
from relact.errors import InputError, ModelError, RelactError
from relact.models import fingerprint as fingerprints
from relact.models import gguf, hooks, noted, selfcheck
from relact.models.checkpoints import Checkpoint, locate
from relact.models.placing import entrance, placed
from relact.models.quiet import one_line, quiet
from relact.models.selfcheck import Shortcuts
from relact.progress import LOG

FILES = "check its files"
_OF_LAYER = re.compile(r"(^|\.)(layers|h|blocks|block|layer)\.\d+\.")
_BUFFER = re.compile(r"(rotary|inv_freq|masked_bias|attn\.bias|attention\.bias)")  # made anew by every model
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


@dataclass
class LoadedModel:
    """A causal language model ready to be read, in eval mode, without gradients, and what identifies it."""

    model: Any
    tokenizer: Any
    id: str
    revision: str | None
    fingerprint: str
    tokenizer_fingerprint: str
    dtype: str
    family: str
    notes: tuple[str, ...] = field(default=())  # choices made for the user; `load` tells them to `LOG`
    code: str | None = None  # fingerprint of the checkpoint's own Python code, where that is what runs
    quantised: str | None = None  # how its weights are packed
    shortcuts: Shortcuts = field(default_factory=Shortcuts)  # those that its self-check allows

    @property
    def device(self) -> torch.device:
        """Where the token ids go."""
        return entrance(self.model)

    @property
    def weight_bytes(self) -> int:
        """All its parameters."""
        return sum(held.numel() * held.element_size() for held in self.model.parameters())

    @property
    def host_bytes(self) -> int:
        """Those of its parameters that are in main memory."""
        held = (each for each in self.model.parameters() if each.device.type == "cpu")
        return sum(each.numel() * each.element_size() for each in held)

    @property
    def is_outline(self) -> bool:
        """Whether it has no weights and can only be planned with (`outline`)."""
        return False

    @property
    def is_guessed(self) -> bool:
        """Whether its tokens are guessed for want of its tokenizer."""
        return False

    @property
    def n_layers(self) -> int:
        return sites.n_layers(self.model.config)

    @property
    def widths(self) -> dict[str, int]:
        """Neurons per layer of every site the family has."""
        return sites.widths(self.model.config)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the layers that have each site."""
        return sites.layers_of(self.model.config)

    @property
    def n_experts(self) -> int:
        """Of every layer that has some; 0 in models without."""
        return max((place.experts for place in sites.places(self.model.config).values()), default=0)

    @property
    def pad_id(self) -> int:
        """A token id to pad with; masked positions never count, so any valid id will do."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    @property
    def max_tokens(self) -> int | None:
        """The longest prompt the model was made for; None where its configuration sets no limit."""
        return max_tokens_of(self.model.config)


def load(
    name: str | LoadedModel,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load ``name`` from safetensors, of a family in ``sites.FAMILIES``; a loaded model is handed back.

    Args:
        dtype: "auto" is the checkpoint's own (float16 becomes float32 on a CPU), else a name in ``DTYPES``.
        device: "auto" is the first CUDA device if there is one, else the CPU; "balanced" spreads a large
            model over all of them, main memory and disk, see `placing.placed`.
        device_map: as transformers takes it, instead of ``device``.
        revision: branch, tag or commit of a hub model; the commit it resolves to is recorded.
        trust_remote_code: run the Python code that a checkpoint brings along. Off unless asked.

    Raises:
        ModelError: nothing there, no network, no safetensors, unknown family, mixture-of-experts, missing
            weights.
        InputError: an unknown dtype or device.
    """
    if isinstance(name, LoadedModel):
        return name
    require_dtype(dtype)
    LOG.info("loading model %s", name)
    target, device_map = placed(device, device_map)
    # refuses a family before its weights are fetched
    config, described = configured(name, revision, trust_remote_code)
    checkpoint = locate(name, revision=described.revision or revision, code=trust_remote_code)
    weight_dtype, notes = dtype_of(dtype, config, target)
    model, unused = _weights(checkpoint, config, weight_dtype, device_map, trust_remote_code)
    model.eval().requires_grad_(False)
    tokenizer = _tokenizer(checkpoint, trust_remote_code)
    loaded = LoadedModel(
        model=model,
        tokenizer=tokenizer,
        id=checkpoint.id,
        revision=checkpoint.revision,
        fingerprint=fingerprints.of_model(model),
        tokenizer_fingerprint=fingerprints.of_tokenizer(tokenizer),
        dtype=str(model.dtype).removeprefix("torch."),
        family=config.model_type,
        notes=(*notes, *unused, *noted.left_alone(config)),
        code=fingerprints.of_code(model),
        quantised=noted.quantised_by(model, config),
    )
    return _checked(loaded)


def require_dtype(dtype: str) -> None:
    """`InputError` for the name of none."""
    if dtype != "auto" and dtype not in DTYPES:
        fix = f"choose from auto, {', '.join(DTYPES)}"
        raise InputError(f"unknown dtype {dtype}", where="dtype", fix=fix)


def _checked(loaded: LoadedModel) -> LoadedModel:
    """The model with the shortcuts that its self-check allows, and notes on the others and its tokenizer,
    all of them told.
    """
    ids = encode(loaded, [noted.SAMPLE])[0]
    with explained(loaded.id):
        if loaded.family not in sites.KNOWN:
            hooks.require_sites(loaded.model)
        shortcuts = selfcheck.of_model(loaded.model, ids, loaded.fingerprint, loaded.max_tokens)
    quantised = (f"quantised by {loaded.quantised}",) if loaded.quantised else ()
    notes = (*loaded.notes, *quantised, *noted.of_tokenizer(loaded.tokenizer), *shortcuts.notes())
    for note in notes:
        LOG.warning("%s: %s", loaded.id, note)
    return replace(loaded, shortcuts=shortcuts, notes=notes)


def encode(loaded: LoadedModel, texts: Sequence[str], *, special_tokens: bool = True) -> list[list[int]]:
    """Token ids of each text, neither padded nor cut; ``special_tokens`` adds the tokenizer's own (BOS).

    Prompts end open: an end token that the tokenizer appends of itself is taken off.

    Raises:
        InputError: a token beyond the model's embedding.
    """
    if not texts:
        return []
    with explained(loaded.id, "its tokenizer fails"):
        rows = loaded.tokenizer(
            list(texts), add_special_tokens=special_tokens, padding=False, truncation=False, verbose=False
        )["input_ids"]
    ids = [list(map(int, row)) for row in rows]
    if special_tokens and noted.appends_end(loaded.tokenizer):
        ids = [row[:-1] for row in ids]
    _require_embedded(loaded, ids)
    return ids


def _require_embedded(loaded: LoadedModel, ids: Sequence[Sequence[int]]) -> None:
    """`InputError` for tokens that the model has no embedding of."""
    if loaded.model is None:
        return
    words = getattr(sites.text_config(loaded.model.config), "vocab_size", None)
    largest = max((token for row in ids for token in row), default=0)
    if words is not None and largest >= words:
        raise InputError(
            f"token {largest} ({loaded.tokenizer.convert_ids_to_tokens(largest)!r}) of its tokenizer, which "
            f"has {len(loaded.tokenizer)}; the model embeds {words}",
            where=loaded.id,
            fix="use the tokenizer that belongs to the model",
        )


def require_positions(loaded: LoadedModel, ids: Sequence[int], where: str, *, more: int = 0) -> None:
    """`InputError` for tokens that, with ``more`` after them, go beyond the model's last position."""
    if loaded.max_tokens and len(ids) + more > loaded.max_tokens:
        after = f" and {more} after them" if more else ""
        problem = f"{len(ids)} tokens{after}, the model takes 1 to {loaded.max_tokens}"
        raise InputError(problem, where=where, fix="shorten it, or ask for less")


def configured(name: str, revision: str | None, code: bool) -> tuple[Any, Checkpoint]:
    checkpoint = locate(name, revision=revision, code=code, weights=False)
    with explained(checkpoint.id):
        if checkpoint.header:
            config = gguf.configuration(checkpoint.header)
        else:
            config = transformers.AutoConfig.from_pretrained(
                checkpoint.described_in, trust_remote_code=code, local_files_only=True
            )
    sites.family(config)
    return config, checkpoint


def _weights(
    checkpoint: Checkpoint, config: Any, dtype: torch.dtype | str, device_map: Any, code: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model, every weight of it from the checkpoint, and a note on weights that it has no place for."""
    packed = noted.settings_of(config)
    fix = "install what that names, load it where it runs, or use a checkpoint that is not quantised"
    with explained(checkpoint.id, fix=fix if packed else FILES):
        model, report = class_of(config).from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with both shapes
        )
    for name, stored, asked in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{name} is {_by(stored)} in the checkpoint, {_by(asked)} by its config.json",
            where=checkpoint.id,
            fix="correct config.json, or fetch the model again",
        )
    lacking = sorted(report["missing_keys"])
    if lacking:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"the checkpoint lacks {len(lacking)} of the model's weights, first {lacking[0]}",
            where=checkpoint.id,
            fix="fetch or convert the model again",
        )
    if checkpoint.adapter and not getattr(model, "peft_config", None):
        raise ModelError("its adapter was not loaded", where=checkpoint.id, fix="load it with a newer peft")
    notes = (f"with the adapter of {checkpoint.folder}",) if checkpoint.adapter else ()
    return model, (*notes, *_superfluous(sorted(report["unexpected_keys"]), checkpoint.id))


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def class_of(config: Any) -> Any:
    """The transformers class that makes the model of a configuration."""
    known = transformers.AutoModelForCausalLM._model_mapping
    sees = type(config) not in known and not getattr(config, "auto_map", None)
    return transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM


def _superfluous(names: Sequence[str], where: str) -> tuple[str, ...]:
    """A note on weights of a checkpoint that the model has no place for; `ModelError` for those of layers:
    what was trained had biases, norms or layers that this one lacks.
    """
    of_layers = [name for name in names if _OF_LAYER.search(name) and not _BUFFER.search(name)]
    if of_layers:
        raise ModelError(
            f"the checkpoint has {len(of_layers)} weights of layers that its config.json does not ask for, "
            f"first {of_layers[0]}",
            where=where,
            fix="correct config.json (biases, number of layers), or fetch the model again",
        )
    others = [name for name in names if not _BUFFER.search(name)]
    return (f"{len(others)} weights are not used, first {others[0]}",) if others else ()


def _tokenizer(checkpoint: Checkpoint, code: bool) -> Any:
    own = (checkpoint.folder / "tokenizer_config.json").is_file()
    folder = checkpoint.folder if own else checkpoint.described_in
    with explained(checkpoint.id, "its tokenizer cannot be loaded"):
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=code, local_files_only=True
        )


@contextmanager
def explained(name: str, what: str = "cannot be loaded", fix: str = FILES) -> Iterator[None]:
    """Run transformers silently; whatever it raises becomes one line that names the model."""
    try:
        with quiet():
            yield
    except RelactError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError, ... : no contract to rely on
        if "trust_remote_code" in str(error):
            raise ModelError(
                "brings Python code of its own, which runs only where that is asked for",
                where=name,
                fix="read its .py files, then add --trust-remote-code (in Python trust_remote_code=True)",
            ) from error
        raise ModelError(f"{what}: {one_line(error)}", where=name, fix=fix) from error


def dtype_of(
    asked: str, config: Any, target: torch.device | None
) -> tuple[torch.dtype | str, tuple[str, ...]]:
    """The dtype to load with, and a note where it is not the checkpoint's."""
    if asked != "auto":
        return DTYPES[asked], ()
    stored = dtype_in(config)
    if stored is torch.float16 and target is not None and target.type == "cpu":
        return torch.float32, ("float16 weights are loaded as float32 on a CPU; dtype='float16' keeps them",)
    return stored or "auto", ()


def dtype_in(config: Any) -> torch.dtype | None:
    text = getattr(config, "text_config", None)
    stored: torch.dtype | None = getattr(config, "dtype", None) or getattr(text, "dtype", None)
    return stored


def max_tokens_of(config: Any) -> int | None:
    """Positions: a limit where they are embedded, what rotary and ALiBi models were trained for."""
    text = sites.text_config(config)
    for key in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(text, key, None)
        if value:
            return int(value)
    return None

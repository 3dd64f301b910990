"""A model without its weights, for plans: its configuration's shapes, its tokenizer where that is at hand.

>>> outline("smollm2").n_layers
30
>>> describe("smollm2").neurons
{'mlp': 109440, 'attn': 46080, 'all': 155520}

A hub id costs its config.json, a GGUF file its header. Where there is no tokenizer, `Guessed` stands in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers

from relact import sites
from relact.errors import ModelError
from relact.models import fingerprint, loading, noted, throughput
from relact.models.checkpoints import Checkpoint
from relact.models.loading import LoadedModel
from relact.models.placing import placed

UNKNOWN = "0" * 32  # in place of a fingerprint, which is of weights
GUESSED = "tokens are counted generously from the letters: the model's tokenizer is not here"
PIECES = re.compile(r" ?[A-Za-z]{1,3}|.", re.DOTALL)


class Guessed:
    """Cuts a text into pieces of at most three letters, more than tokenizers do; equal pieces, equal ids."""

    bos_token_id = eos_token_id = pad_token_id = None

    def __init__(self, words: int) -> None:
        self._words, self._known = words, dict[str, int]()

    def __call__(self, texts: Sequence[str] | str, **_: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": self._ids(texts)}
        return {"input_ids": [self._ids(text) for text in texts]}

    def __len__(self) -> int:
        return self._words

    def _ids(self, text: str) -> list[int]:
        return [
            self._known.setdefault(piece, len(self._known)) % self._words for piece in PIECES.findall(text)
        ]


@dataclass
class Outline(LoadedModel):
    """What `LoadedModel` tells, of parameters on the meta device that are nowhere; it can run nothing.

    Attributes:
        target: where its weights would be.
    """

    target: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        return self.target

    @property
    def host_bytes(self) -> int:
        return self.weight_bytes if self.target.type == "cpu" else 0

    @property
    def is_outline(self) -> bool:
        return True

    @property
    def is_guessed(self) -> bool:
        """Whether its tokens are."""
        return isinstance(self.tokenizer, Guessed)


@dataclass(frozen=True)
class ModelInfo:
    """What a configuration tells.

    Attributes:
        sites: width of each. neurons: the whole count by alias.
        parameters: all weights. weight_bytes: of them in ``dtype``.
        capture_bytes: by alias, of 1,000 prompts in float16.
        tokens_per_second: through the model on this machine; None where no capture has measured it yet.
    """

    id: str
    revision: str | None
    family: str
    dtype: str | None
    n_layers: int
    sites: dict[str, int]
    neurons: dict[str, int]
    max_tokens: int | None
    parameters: int
    weight_bytes: int
    capture_bytes: dict[str, int]
    tokens_per_second: float | None


def describe(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> ModelInfo:
    """Sites, neurons and costs of ``name``; its weights are not loaded, nor fetched from the hub."""
    config, checkpoint = loading.configured(name, revision, trust_remote_code)
    stored = loading.dtype_in(config)
    made = _made(config, checkpoint, stored or torch.float32, Guessed(1), _target("auto"))
    neurons = {alias: sites.count(config, alias) for alias in sites.aliases_of(config)}
    rate = throughput.rate_of(made)
    return ModelInfo(
        id=checkpoint.id,
        revision=checkpoint.revision,
        family=config.model_type,
        dtype=str(stored).removeprefix("torch.") if stored is not None else None,
        n_layers=sites.n_layers(config),
        sites=sites.widths(config),
        neurons=neurons,
        max_tokens=loading.max_tokens_of(config),
        parameters=sum(held.numel() for held in made.model.parameters()),
        weight_bytes=made.weight_bytes,
        capture_bytes={alias: 2 * 1000 * count for alias, count in neurons.items()},
        tokens_per_second=rate and rate / throughput.per_token(made),
    )


def outline(
    name: str | LoadedModel,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """``name`` without its weights; a model that is loaded is handed back.

    Raises:
        ModelError, InputError: as of `loading.load`, but for what only weights can tell.
    """
    if isinstance(name, LoadedModel):
        return name
    loading.require_dtype(dtype)
    target = _target(device)
    config, checkpoint = loading.configured(name, revision, trust_remote_code)
    weights, notes = loading.dtype_of(dtype, config, target)
    kind = torch.float32 if isinstance(weights, str) else weights
    tokenizer = _tokenizer(checkpoint, int(sites.text_config(config).vocab_size), trust_remote_code)
    made = _made(config, checkpoint, kind, tokenizer, target)
    return replace(made, notes=(*notes, *made.notes))


def _target(device: str) -> torch.device:
    """Where the weights would be, or of those spread over several devices the last of them."""
    return placed(device)[0] or torch.device("cpu")


def _made(
    config: Any, checkpoint: Checkpoint, dtype: torch.dtype, tokenizer: Any, target: torch.device
) -> Outline:
    code = bool(getattr(config, "auto_map", None)) and not type(config).__module__.startswith("transformers.")
    with loading.explained(checkpoint.id), torch.device("meta"):
        model = loading.class_of(config).from_config(config, dtype=dtype, trust_remote_code=code)
    known = not isinstance(tokenizer, Guessed)
    return Outline(
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        id=checkpoint.id,
        revision=f"sha256:{'0' * 64}" if checkpoint.header else checkpoint.revision,
        fingerprint=UNKNOWN,
        tokenizer_fingerprint=fingerprint.of_tokenizer(tokenizer) if known else UNKNOWN,
        dtype=str(dtype).removeprefix("torch."),
        family=config.model_type,
        notes=() if known else (GUESSED,),
        code=fingerprint.of_code(model),
        quantised=noted.quantised_by(model, config),
        target=target,
    )


def _tokenizer(checkpoint: Checkpoint, words: int, code: bool) -> Any:
    """The tokenizer in the checkpoint's folder; a guess where there is none, or only in a GGUF header."""
    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if checkpoint.header or not any((checkpoint.folder / name).is_file() for name in files):
        return Guessed(words)
    try:
        with loading.explained(checkpoint.id):
            return transformers.AutoTokenizer.from_pretrained(
                checkpoint.folder, trust_remote_code=code, local_files_only=True
            )
    except ModelError:
        return Guessed(words)

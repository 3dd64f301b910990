"""Short names for what a model and a tokenizer compute: equal only if weights, settings, vocabulary are.

``of_model(model)`` and ``of_tokenizer(tokenizer)`` give 32 hexadecimal digits each.

A checksum (CRC-32C) per tensor, all of them hashed with BLAKE2b: finds accidents and changed checkpoints at
several GB/s; it is no defence against weights forged to collide.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from torch import Tensor, nn
from transformers.dynamic_module_utils import get_relative_import_files

from relact.errors import ModelError

# Say where a configuration came from or how it is run, not what it computes; dtype is told by every tensor.
_VOLATILE = {
    "transformers_version",
    "architectures",
    "_name_or_path",
    "_commit_hash",
    "dtype",
    "torch_dtype",
    "use_cache",
    "_attn_implementation",
    "attn_implementation",
    # of an adapter
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
}


PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_BROUGHT = "transformers_modules."  # where transformers puts a checkpoint's own code


def of_model(model: Any) -> str:
    """Fingerprint of the configuration, of every tensor in ``state_dict``: name, shape, dtype, bytes; and of
    the checkpoint's own code, where that is what runs.
    """
    digest = hashlib.blake2b(digest_size=16)
    if (code := of_code(model)) is not None:
        digest.update(f"code {code}\n".encode())
    digest.update(json.dumps(_stable(model.config.to_diff_dict()), sort_keys=True, default=str).encode())
    for name, adapter in sorted((getattr(model, "peft_config", None) or {}).items()):
        about = json.dumps(_stable(adapter.to_dict()), sort_keys=True, default=_text)
        digest.update(f"{name} {about}".encode())
    known: dict[tuple[int, torch.Size, torch.dtype], int] = {}  # tied weights are read once
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):  # quantisation settings of some layers
            digest.update(f"{name} {value!r}\n".encode())
            continue
        tensor = _offloaded(model, name) if value.is_meta else value
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if value.is_meta or key not in known or type(tensor) not in PLAIN:
            known[key] = _crc32c(tensor)
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype} {known[key]:08x}\n".encode())
    return digest.hexdigest()


def of_code(model: Any) -> str | None:
    """Fingerprint of the Python files that a checkpoint brought along and that compute the model, with those
    they import; None where transformers' own code does.
    """
    names = {type(part).__module__ for part in (model.config, *model.modules())}
    brought = {str(sys.modules[name].__file__) for name in names if name.startswith(_BROUGHT)}
    if not brought:
        return None
    files = {Path(file) for each in brought for file in (each, *get_relative_import_files(each))}
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(files, key=lambda file: file.name):
        text = file.read_bytes()
        digest.update(f"{file.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def of_tokenizer(tokenizer: Any) -> str:
    """Fingerprint of everything that decides token ids: vocabulary, merges, normalisation, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        for state in ("padding", "truncation"):  # left behind by the last call
            rules.pop(state, None)
    else:
        rules = sorted(tokenizer.get_vocab().items())
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    text = json.dumps([type(tokenizer).__name__, special, rules], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _stable(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _stable(value) for key, value in config.items() if key not in _VOLATILE}
    return config


def _text(value: Any) -> Any:
    """What JSON has no form for; of a set its members in order."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _crc32c(tensor: Tensor) -> int:
    if type(tensor) not in PLAIN:  # torchao's, of packed numbers
        parts = getattr(tensor, "__tensor_flatten__", None)
        if parts is None:
            raise ModelError(
                f"holds weights of type {type(tensor).__name__}, which cannot be told apart",
                where="quantised model",
                fix="use a checkpoint that is not quantised, or quantised in another way",
            )
        names, settings = parts()
        inner = [f"{name} {_crc32c(getattr(tensor, name)):08x}" for name in names]
        return int(google_crc32c.value(f"{inner} {settings!r}".encode()))
    return int(google_crc32c.value(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))


def _offloaded(model: nn.Module, name: str) -> Tensor:
    """A tensor that accelerate keeps on disk or in host memory: the module itself holds only its shape."""
    path, _, leaf = name.rpartition(".")
    hook = getattr(model.get_submodule(path), "_hf_hook", None)
    for candidate in _flat(hook):
        weights = getattr(candidate, "weights_map", None)
        if weights is not None:
            tensor: Tensor = weights[leaf]
            return tensor
    raise LookupError(name)


def _flat(hook: Any) -> Iterator[Any]:
    """accelerate nests hooks in a sequence when a module has several."""
    yield from getattr(hook, "hooks", None) or [hook]

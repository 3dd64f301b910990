"""How fast this machine's devices run models, as captures measured it: for plans that load no weights.

A rate is parameters times tokens per second: what a token passes through is every weight but embeddings and
head, of experts those that it is routed to. It holds for any model on the same device in the same dtype
within a factor of about two: small models wait for memory, long prompts for attention. Rates lie in the
cache, a line per device, threads and dtype.
"""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from relact.caches import cache_folder
from relact.models.loading import LoadedModel
from relact.sites import places

LEAST = 2.0  # seconds that a capture must take to tell how fast the device is


def per_token(loaded: LoadedModel) -> float:
    """Parameters that a token passes through on its way to the last layer."""
    base = loaded.model.base_model
    embeddings = {id(parameter) for parameter in base.get_input_embeddings().parameters()}
    found = places(loaded.model.config).values()
    experts, chosen = max(((place.experts, place.chosen) for place in found), default=(0, 0))
    count = 0.0
    for name, parameter in base.named_parameters():
        routed = experts and ".experts." in name
        if id(parameter) not in embeddings:
            count += parameter.numel() * (chosen / experts if routed else 1)
    return count


def rate_of(loaded: LoadedModel) -> float | None:
    """Parameters times tokens per second on the model's device; None where nothing was captured on it."""
    rate = _rates().get(_key(loaded))
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def record(loaded: LoadedModel, tokens: float, seconds: float) -> None:
    """Remember what running ``tokens`` (a backward pass counted as forward ones) took, if it was long enough.

    A cache that cannot be written is left as it is.
    """
    if seconds < LEAST:
        return
    rates = _rates() | {_key(loaded): tokens * per_token(loaded) / seconds}
    with suppress(OSError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        aside.write_text(json.dumps(rates, indent=2) + "\n", encoding="utf-8")
        aside.replace(file)


def _key(loaded: LoadedModel) -> str:
    if loaded.device.type == "cuda":
        return f"{torch.cuda.get_device_name(loaded.device)}, {loaded.dtype}"
    return f"{_processor()}, {torch.get_num_threads()} threads, {loaded.dtype}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file() -> Path:
    return cache_folder() / "throughput.json"


def _rates() -> dict[str, float]:
    try:
        rates = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}

"""Where a model goes: one device, or spread over several, main memory and disk; and where its weights are.

>>> placed("cpu")
(device(type='cpu'), None)
>>> placed("balanced")  # every card, then main memory, then disk
(None, 'balanced')
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relact.errors import InputError
from relact.models.quiet import one_line

SPREAD = ("balanced", "balanced_low_0", "sequential")  # accelerate's ways to fill what is there
MAP = ".json"  # ends the name of a file that says where each module goes


def placed(device: str, device_map: Any = None) -> tuple[torch.device | None, Any]:
    """The one device a model is loaded to, or none and where accelerate puts each module.

    Args:
        device: ``auto``, a name of torch's, one of `SPREAD`, or a file: ``{"model.layers.0": 0, ...}``.
        device_map: as transformers takes it; goes before ``device``.

    Raises:
        InputError: a device that is not there, or no map in the file.
    """
    if device_map is None and device in SPREAD:
        device_map = device
    if device_map is None and device.endswith(MAP):
        device_map = _read(Path(device))
    if device_map is not None:
        return None, device_map
    target = _one(device)
    # straight to a device other than the CPU: quantised models cannot be moved later
    return target, None if target.type == "cpu" else {"": target}


def held(module: nn.Module, name: str) -> Tensor:
    """A module's weight with its values: of one that accelerate keeps in main memory or on disk the module
    itself has only the shape.
    """
    weight: Tensor = getattr(module, name)
    if not weight.is_meta:
        return weight
    found: Tensor = next(
        hook.weights_map[name] for hook in _hooks(module) if getattr(hook, "weights_map", None) is not None
    )
    return found


def entrance(model: Any) -> torch.device:
    """Where the token ids go."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    return next(torch.device(hook.execution_device) for hook in _hooks(model.get_input_embeddings()))


def _hooks(module: nn.Module) -> list[Any]:
    """Accelerate's; it nests them in a sequence when a module has several."""
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", None) or [hook])


def _one(device: str) -> torch.device:
    if device == "auto":
        return torch.device(f"cuda:{_card()}" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        there = f"cuda, {', '.join(SPREAD)}, " if torch.cuda.is_available() else ""
        fix = f"give auto, cpu, {there}or a device map in a {MAP} file"
        raise InputError(f"cannot use {device}: {one_line(error)}", where="device", fix=fix) from error


def _card() -> int:
    """The first; of the processes of one launch each takes that of its number on its machine."""
    number = os.environ.get("LOCAL_RANK") or os.environ.get("RANK") or "0"
    return int(number) % torch.cuda.device_count()  # a job of an array may see its own card alone


def _read(path: Path) -> dict[str, int | str]:
    """A device map: names of modules, each with a card's number, ``cpu`` or ``disk``."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _no_map(path, one_line(error)) from error
    if not isinstance(found, dict) or not all(isinstance(place, int | str) for place in found.values()):
        raise _no_map(path, "it does not name a device for each module")
    return found


def _no_map(path: Path, why: str) -> InputError:
    fix = 'write {"model.embed_tokens": 0, "model.layers.0": 0, "lm_head": "cpu", ...}'
    return InputError(f"is no device map: {why}", where=path, fix=fix)

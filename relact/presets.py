"""Presets: the settings of a published study, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relact.errors import InputError


@dataclass(frozen=True)
class Preset:
    """Options of every step by their own names; prompts are made by ``prompts.preset``."""

    k: int
    capture: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    ablate: Mapping[str, Any] = field(default_factory=dict)
    known: bool = False  # identification prompts are those that the model answers
    match: str = "prefix"


# Liu et al. 2025 (arXiv 2502.17355), as docs/paper.md describes it.
PAPER = Preset(
    k=3000,
    capture={"sites": "mlp", "pool": "mean", "special_tokens": True},
    scores={"negatives": 4},
    ablate={"kind": "top", "sites": None, "mode": "zero", "tokens": "all", "seeds": range(10), "match": "paper",
            "perplexity": True},
    known=True,
    match="paper",
)  # fmt: skip
PRESETS = {"paper": PAPER}


def get(name: str) -> Preset:
    """The preset called ``name``."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}", where="--preset", fix=f"use {', '.join(PRESETS)}")
    return PRESETS[name]

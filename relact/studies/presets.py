"""Recipes: the options of every step of a study, and those of a published one.
Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relact.ablating.options import AblateOptions
from relact.capturing.options import CaptureOptions
from relact.errors import InputError
from relact.relations.options import PromptOptions
from relact.schema import ATTRIBUTION_Z
from relact.scoring.options import ScoreOptions

K = 400  # neurons per relation


@dataclass(frozen=True)
class Recipe:
    """The options of every step.

    Attributes:
        k: neurons per relation to switch off.
        known: identification prompts are those that the model answers.
        published: relations are the published method's, from one folder of LRE JSON.
    """

    k: int = K
    prompts: PromptOptions = field(default_factory=PromptOptions)
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    scores: ScoreOptions = field(default_factory=ScoreOptions)
    ablate: AblateOptions = field(default_factory=AblateOptions)
    known: bool = False
    published: bool = False

    @property
    def criteria(self) -> tuple[str, ...]:
        """Statistics whose top k are switched off: the ablation's, and that of attributions where these are
        captured.
        """
        attributed = [ATTRIBUTION_Z] if self.capture.attribution else []
        return tuple(dict.fromkeys([self.ablate.criterion, *attributed]))


# Liu et al. 2025 (arXiv 2502.17355), as docs/paper.md describes it.
PAPER = Recipe(
    k=3000,
    prompts=PromptOptions(form="paper", test_size=50, keep_leaks=True),
    capture=CaptureOptions(sites="mlp", pool="mean", special_tokens=True),
    scores=ScoreOptions(negatives=4),
    ablate=AblateOptions(
        counted="neuron",
        keep_super_units=True,
        control="uniform",
        match="paper",
        perplexity=True,
        perplexity_of="objects",
    ),
    known=True,
    published=True,
)
PRESETS = {"paper": PAPER}


def get(name: str) -> Recipe:
    """The preset called ``name``."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}", where="--preset", fix=f"use {', '.join(PRESETS)}")
    return PRESETS[name]

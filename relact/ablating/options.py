"""How neurons are switched off: every choice with its default, once. Nothing heavy is imported here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral

from relact import schema
from relact.errors import InputError
from relact.relations.verdict import RULES
from relact.scoring.criteria import named
from relact.scoring.options import SelectOptions

TOKENS = ("all", "last")
CONTROLS = ("matched", "magnitude", "uniform")
PARTS = ("all", schema.DEV, schema.TEST, schema.IDENTIFY)
TEXT, OBJECTS = "text", "objects"  # what perplexity is of
PUBLISHED = "paper"  # the rule for a right answer that reads two tokens and no more


def require_seeds(seeds: object) -> None:
    """`InputError` unless seeds are whole numbers, one by one; none may be given."""
    given = None if isinstance(seeds, str) or not isinstance(seeds, Iterable) else list(seeds)
    if given is None or not all(isinstance(seed, Integral) for seed in given):
        raise InputError(f"{seeds!r:.80} are no seeds", where="seeds", fix="give numbers, such as range(2)")


@dataclass(frozen=True)
class AblateOptions:
    """Choices of `relact.ablate`.

    Attributes:
        kind, sites, by, statistic, counted, keep_super_units, unit: of the masks that a k selects, see
            `masks.select`.
        seeds: one random control per seed.
        control: how a control is drawn. ``matched``: each prompt under a set that has as many neurons in
            every site and layer as the set of the prompt's own relation, of experts that are used as much;
            ``magnitude``: and of like
            activations; ``uniform``: as many as the mask has, from all neurons, as published.
        mode: what overridden neurons are set to, see `conditions.replacements`; or ``scale``: their values
            are multiplied.
        tokens: override at ``all`` tokens, or from the ``last`` token of a prompt on.
        match: the rule for "correct", see `verdict.decide`.
        part: ``all`` test prompts; ``dev``, a third of the subjects, to choose settings on; ``test``, the
            others; or ``identify``: the prompts on which the neurons were chosen, as a labelled exception.
        perplexity: measure that of some text under every condition, too.
        perplexity_of: which: the bundled ``text``; or ``objects``: neutral sentences without a relation that
            end in objects of the test prompts (`perplexity.neutral_sentences`), as published.
        batch_tokens: tokens of all conditions in one forward pass.
        scale: of the mode ``scale``, the factor: 0 does what ``zero`` does, 1 is the intact model.

    Raises:
        InputError: a choice that does not exist; a factor without its mode, or the mode without it.
    """

    kind: str = "top"
    sites: str | Sequence[str] | None = None
    by: str | None = None
    statistic: str | None = None
    counted: str = "unit"
    keep_super_units: bool = False
    seeds: Sequence[int] = tuple(range(10))
    control: str = "matched"
    mode: str = "zero"
    tokens: str = "all"
    match: str = "prefix"
    part: str = "all"
    perplexity: bool = False
    perplexity_of: str = TEXT
    batch_tokens: int = 3072  # of one forward pass: enough for fast matrix products, few enough for memory
    scale: float | None = None
    unit: str = schema.NEURON

    def __post_init__(self) -> None:
        for where, known in (
            ("tokens", TOKENS),
            ("control", CONTROLS),
            ("part", PARTS),
            ("match", RULES),
            ("perplexity_of", (TEXT, OBJECTS)),
        ):
            value = getattr(self, where)
            if value not in known:
                fix = f"use {', '.join(known[:-1])} or {known[-1]}"
                raise InputError(f"unknown choice of {where} {value!r}", where=where, fix=fix)
        require_seeds(self.seeds)
        if (self.mode == "scale") != (self.scale is not None):
            problem = (
                "a factor without mode 'scale'" if self.scale is not None else "mode 'scale' without one"
            )
            raise InputError(problem, where="scale", fix="give both: mode='scale', scale=0.5")
        if self.scale is not None and not math.isfinite(self.scale):
            raise InputError(f"a factor of {self.scale}", where="scale", fix="give a number such as 0.5")

    @property
    def criterion(self) -> str:
        """The stored statistic that ``by`` and ``statistic`` name."""
        return named(self.by, self.statistic)

    def selection(self, k: int) -> SelectOptions:
        """How a mask of ``k`` neurons is selected."""
        return SelectOptions(
            k,
            self.kind,
            sites=self.sites,
            by=self.by,
            statistic=self.statistic,
            counted=self.counted,
            keep_super_units=self.keep_super_units,
            unit=self.unit,
        )


@dataclass(frozen=True)
class PatchOptions:
    """Choices of `relact.patch`.

    Attributes:
        per_relation: test prompts of every relation that are read, at most, drawn by ``seed``.
        identify: identification prompts of every relation whose values are averaged, at most, drawn likewise.
        seeds: one random control per seed, matched to the relation's own set per site and layer.
        tokens: patch ``all`` tokens, with means over a prompt's tokens; or from the ``last`` one of a prompt
            on, with means of last tokens.
        seed: of the prompts and of the answers.
        batch_tokens: tokens of all conditions in one forward pass.

    Raises:
        InputError: a choice that does not exist.
    """

    per_relation: int = 5
    identify: int = 32
    seeds: Sequence[int] = tuple(range(3))
    tokens: str = "all"
    seed: int = 0
    batch_tokens: int = AblateOptions.batch_tokens

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        if self.tokens not in TOKENS:
            raise InputError(
                f"unknown tokens {self.tokens!r}", where="tokens", fix=f"use {' or '.join(TOKENS)}"
            )
        if min(self.per_relation, self.identify) < 1:
            problem = "no prompts of a relation"
            raise InputError(problem, where="per_relation, identify", fix="give at least 1")

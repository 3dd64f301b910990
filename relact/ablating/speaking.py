"""Speaking: free text of a model as it is, under a relation's neurons, and under random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from relact.ablating.conditions import INTACT_MODEL, SCALE, Condition, Replacements
from relact.ablating.controls import Drawing
from relact.ablating.options import CONTROLS, AblateOptions, require_seeds
from relact.ablating.overridden import Neurons, condition_of, mask_of, overriding, places_of
from relact.ablating.subject import Subject, subject_of
from relact.errors import InputError
from relact.models.batches import same_length
from relact.models.loading import LoadedModel, encode, require_positions
from relact.models.quiet import quiet
from relact.progress import Progress, in_notebooks
from relact.schema import KIND_INTACT, KIND_OWN, KIND_RANDOM, RANDOM
from relact.scoring import masks
from relact.store.reading import Store

TOGETHER = 16  # prompts of equal length in one batch
COLUMNS = ["prompt", "text", "condition", "kind", "generated", "n_tokens"]


@dataclass(frozen=True)
class GenerateOptions:
    """Choices of `relact.generate`.

    Attributes:
        max_new_tokens: at most; a text ends before where the model ends it.
        sample: draw from the model's distribution instead of taking the likeliest token; seeded, and the same
            draws under every condition.
        temperature, top_p: of the distribution that is drawn from.
        seed: of the draws. seeds: one random set of neurons per seed.
        control: how random sets are drawn, see `AblateOptions`.
        mode: what neurons are set to, see `conditions.replacements`.
        scale: factors that their values are multiplied by instead, a text each.

    Raises:
        InputError: a choice that does not exist, or choices that do not go together.
    """

    max_new_tokens: int = 64
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    seeds: Sequence[int] = (0,)
    control: str = AblateOptions.control
    mode: str = AblateOptions.mode
    scale: Sequence[float] = ()

    def __post_init__(self) -> None:
        require_seeds(self.seeds)
        if self.scale and self.mode != AblateOptions.mode:
            fix = "leave one of them out"
            raise InputError(f"factors and {self.mode!r}", where="scale, set_to", fix=fix)
        if self.max_new_tokens < 1:
            raise InputError("no token", where="max_new_tokens", fix="give at least 1")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            problem = f"temperature {self.temperature}, top_p {self.top_p}"
            raise InputError(problem, where="sampling", fix="give a temperature above 0, top_p up to 1")
        if self.control not in CONTROLS:
            raise InputError(f"unknown control {self.control!r}", where="control", fix=", ".join(CONTROLS))

    @property
    def arguments(self) -> dict[str, Any]:
        """Of transformers' ``generate``."""
        chosen = {"max_new_tokens": self.max_new_tokens, "do_sample": self.sample}
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return chosen | (drawn if self.sample else {"temperature": None, "top_p": None, "top_k": None})


def generate(
    place: str | Path | Store | LoadedModel,
    texts: str | Sequence[str],
    *,
    mask: str | None = None,
    relation: str | None = None,
    neurons: Neurons | None = None,
    scale: float | Sequence[float] | None = None,
    set_to: str | None = None,
    max_new_tokens: int = GenerateOptions.max_new_tokens,
    sample: bool = GenerateOptions.sample,
    temperature: float = GenerateOptions.temperature,
    top_p: float = GenerateOptions.top_p,
    seed: int = GenerateOptions.seed,
    seeds: Sequence[int] = GenerateOptions.seeds,
    control: str = GenerateOptions.control,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """What a model goes on to say, as it is and with neurons overridden, side by side.

    Args:
        place: a store, whose model speaks, or a model.
        mask: of the store; the only one by default. relation: whose set of it.
        neurons: instead, any neurons, see `overridden`.
        scale: factors that their values are multiplied by; they are switched off by default.
        set_to: instead, what they are set to: mean, resample, or a stored statistic such as on_p90.
        max_new_tokens, sample, temperature, top_p, seed, seeds, control: see `GenerateOptions`.

    Returns:
        A row per prompt and condition: prompt, text, condition (intact, the relation's name with its factor
        where there are several, random-<seed>), kind, generated (the text that follows), n_tokens (new ones).

    Raises:
        InputError: no such mask or relation, choices that do not go together.
    """
    factors = [scale] if isinstance(scale, int | float) else list(scale or ())
    how = (max_new_tokens, sample, temperature, top_p, seed, tuple(seeds), control)
    options = GenerateOptions(*how, set_to or GenerateOptions.mode, tuple(map(float, factors)))
    subject = subject_of(place, model=model, device=device, trust_remote_code=trust_remote_code)
    chosen = conditions_of(subject, mask, relation, neurons, options)
    asked = [texts] if isinstance(texts, str) else list(texts)
    return said(subject, asked, chosen, options, progress)


def conditions_of(
    subject: Subject,
    mask: str | None,
    relation: str | None,
    neurons: Neurons | None,
    options: GenerateOptions,
) -> list[Condition]:
    """``intact``, the chosen neurons by every factor, and random ones where a store has a set to match."""
    if neurons is not None:
        if relation is not None or mask is not None or options.mode != AblateOptions.mode:
            fix = "give either, and values with a mask"
            raise InputError("neurons beside a mask", where="neurons, mask", fix=fix)
        own = [condition_of("neurons", places_of(neurons), None)]
        return [INTACT_MODEL, *_by_factor(own, options)]
    if relation is None and mask is None:
        return [INTACT_MODEL]
    name = subject.mask(mask)
    store = subject.require_store("a mask")
    relations, sets = masks.read(store, name)
    if relation is None:
        fix = f"choose from {', '.join(relations)}"
        raise InputError("no relation is named", where=f"mask {name}", fix=fix)
    mode = SCALE if options.scale else options.mode
    values = Replacements(store, mode, tuple(sets))
    own = [Condition.of(relation, mask_of(store, name, relation), values(relation))]
    drawing = Drawing(store, relations, sets, options.control, store.mask_record(name).counted)
    for seed in options.seeds:
        drawn = drawing.draw(seed, relation)
        own.append(Condition.of(f"{RANDOM}{seed}", drawn, values(relation, seed), kind=KIND_RANDOM))
    return [INTACT_MODEL, *_by_factor(own, options)]


def _by_factor(own: Sequence[Condition], options: GenerateOptions) -> Iterator[Condition]:
    """Conditions once per factor, named by it where there are several."""
    for factor in options.scale or (None,):
        for condition in own:
            name = condition.name if len(options.scale) < 2 else f"{condition.name} x{factor:g}"
            yield replace(condition.scaled(factor), name=name)


def said(
    subject: Subject,
    texts: Sequence[str],
    conditions: Sequence[Condition],
    options: GenerateOptions,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """The table of `generate`."""
    loaded = subject.loaded
    tokens = encode(loaded, texts, special_tokens=subject.special_tokens)
    for number, ids in enumerate(tokens):
        require_positions(loaded, ids, f"text {number}", more=options.max_new_tokens)
    _require_tokens(texts, tokens)
    lengths = [len(row) for row in tokens]
    # what is drawn must not depend on which prompts run together
    batches = same_length(range(len(texts)), lengths, 1 if options.sample else TOGETHER)
    kinds = {KIND_INTACT: 0, KIND_OWN: 1, KIND_RANDOM: 2}
    order = sorted(conditions, key=lambda condition: kinds[condition.kind])
    rows, done = [], 0
    progress("generate", done, len(texts) * len(order), "texts")
    for place, condition in enumerate(order):
        with overriding(loaded.model, condition):
            for batch in batches:
                for at, new in zip(
                    batch, continued(loaded, [tokens[at] for at in batch], options), strict=True
                ):
                    text = loaded.tokenizer.decode(new, skip_special_tokens=True)
                    rows.append((at, place, texts[at], condition.name, condition.kind, text, len(new)))
                done += len(batch)
                progress("generate", done, len(texts) * len(order), "texts")
    table = pd.DataFrame(sorted(rows), columns=["prompt", "place", *COLUMNS[1:]])
    return table[COLUMNS]


def continued(
    loaded: LoadedModel, tokens: Sequence[Sequence[int]], options: GenerateOptions
) -> list[list[int]]:
    """New tokens of prompts of equal length, each up to the end that the model gives it."""
    ids = torch.tensor(list(map(list, tokens)), device=loaded.device)
    with _drawn(options), quiet(), torch.inference_mode():
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=loaded.pad_id,
            **options.arguments,
        )
    ends = _ends(loaded)
    return [_cut(row, ends) for row in output[:, ids.shape[1] :].tolist()]


@contextmanager
def _drawn(options: GenerateOptions) -> Iterator[None]:
    """The caller's random numbers are as they were after the block."""
    with torch.random.fork_rng(enabled=options.sample):
        if options.sample:
            torch.manual_seed(options.seed)
        yield


def _ends(loaded: LoadedModel) -> set[int]:
    config = getattr(loaded.model, "generation_config", None)
    ends = config.eos_token_id if config is not None else None
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def _cut(row: list[int], ends: set[int]) -> list[int]:
    """Up to the first end, and with it: what follows is padding."""
    stop = next((at for at, token in enumerate(row, 1) if token in ends), len(row))
    return row[:stop]


def _require_tokens(texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
    for text, row in zip(texts, tokens, strict=True):
        if not row:
            raise InputError(f"{text!r} has no token", where="text", fix="give some text to go on from")

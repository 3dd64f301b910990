"""Patch: other relations' prompts read with a relation's own neurons set as its own prompts set them.

Whether they suffice: an ablation shows only that they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.ablating import prepare
from relact.ablating.conditions import INTACT_MODEL, Condition
from relact.ablating.controls import Drawing
from relact.ablating.decode import Questions, Replies, decode
from relact.ablating.means import means_over
from relact.ablating.options import PatchOptions
from relact.errors import InputError
from relact.models.loading import LoadedModel, encode
from relact.models.targets import CANDIDATES, NONE, first_tokens
from relact.packed.store import open_store
from relact.progress import Progress, in_notebooks
from relact.scoring import masks
from relact.store.reading import Store

PATCHED = "patched"  # the condition; beside it `schema.INTACT` and `schema.RANDOM`...
POOLED = {"all": "mean", "last": "last"}  # what is averaged over prompts, by the tokens that are patched


def read_patched(
    options: PatchOptions,
    store: str | Path | Store,
    mask: str,
    *,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> xr.Dataset:
    """How likely an answer of every relation is in prompts of the others, as they are and patched.

    A relation's neurons are set to their means over its identification prompts. The answer is an object of
    those, drawn by seed for every prompt, that begins with another token than the prompt's own.

    Returns:
        log_probability: float32 [condition, relation, prompt], nats of the answer's first token; NaN where a
        prompt is the relation's own or no answer differs. Conditions are ``intact``, ``patched`` and
        ``random-<seed>``: as many random neurons set to their means over the same identification prompts.
        answer: str [relation, prompt], "" where there is none; relation_of [prompt].

    Raises:
        InputError: no such mask, or sets of it that are no relations with prompts. IdentityError.
    """
    opened = open_store(store)
    relations, sets = masks.read(opened, opened.named(schema.MASKS, mask))
    strangers = sorted(set(relations) - set(opened.relations()))
    if strangers:
        fix = "patch a mask as `relact select` makes it"
        raise InputError(f"{strangers[0]!r} of mask {mask!r} has no prompts", where=opened.path, fix=fix)
    loaded = prepare.model_of(opened, model, device, trust_remote_code)
    table = _some(prepare.tests_of(opened, None).table, options.per_relation, options.seed)
    job = _Job(opened, loaded, options, table, relations, sets, opened.mask_record(mask).counted)
    return job.read(progress)


def _some(prompts: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """A few prompts of every relation."""
    generator = np.random.default_rng(seed)
    parts = [
        np.sort(generator.permutation(np.asarray(of.index))[:most])
        for _, of in prompts.groupby("relation", sort=False)
    ]
    return prompts.loc[np.concatenate(parts)]


@dataclass(frozen=True)
class _Job:
    """What one patching reads: test prompts ``table``, under sets bool [relation, layer, neuron] per site."""

    store: Store
    loaded: LoadedModel
    options: PatchOptions
    table: pd.DataFrame
    relations: list[str]
    sets: dict[str, np.ndarray]
    counted: str

    def read(self, progress: Progress) -> xr.Dataset:
        """`read_patched`."""
        special_tokens = self.store.manifest.capture.special_tokens
        known = self.store.prompts(schema.IDENTIFY)
        own = known[known["relation"].isin(self.relations)]
        values = means_over(
            self.loaded,
            _some(own, self.options.identify, self.options.seed),
            self.relations,
            tuple(self.sets),
            pool=POOLED[self.options.tokens],
            special_tokens=special_tokens,
            skip_first_token=bool(self.store.manifest.capture.skip_first_token),
            progress=progress,
        )
        tokens = encode(self.loaded, self.table["text"].tolist(), special_tokens=special_tokens)
        names = [schema.INTACT, PATCHED, *(f"{schema.RANDOM}{seed}" for seed in self.options.seeds)]
        found = np.full((len(names), len(self.relations), len(self.table)), np.nan, np.float32)
        said = np.full(found.shape[1:], "", object)
        progress("patch", 0, len(self.relations), "relations")
        for at, relation in enumerate(self.relations):
            objects = list(dict.fromkeys(filter(None, known.loc[known["relation"] == relation, "object"])))
            targets, said[at] = self._answers(relation, objects, at)
            conditions = self._conditions(at, {site: of[at] for site, of in values.items()})
            found[:, at] = self._likely(tokens, targets, conditions)
            progress("patch", at + 1, len(self.relations), "relations")
        return xr.Dataset(
            {
                schema.LOG_PROBABILITY: (("condition", "relation", "prompt"), found),
                "answer": (("relation", "prompt"), said),
                schema.RELATION_OF: ("prompt", self.table["relation"].to_numpy()),
            },
            {"condition": names, "relation": self.relations, "prompt": self.table.index.to_numpy()},
        )

    def _answers(self, relation: str, objects: Sequence[str], at: int) -> tuple[np.ndarray, np.ndarray]:
        """Token and text of an answer of the relation for every prompt of another one, drawn by seed."""
        generator = np.random.default_rng([self.options.seed, at])
        drawn = [generator.permutation(np.array(objects, object)) for _ in range(len(self.table))]
        texts, languages = (self.table[name].tolist() for name in ("text", "language"))
        special = {"special_tokens": self.store.manifest.capture.special_tokens}
        own = first_tokens(self.loaded, texts, self.table["object"].tolist(), languages, **special)
        tokens, said = np.full(len(texts), NONE), np.full(len(texts), "", object)
        foreign = self.table["relation"].to_numpy() != relation
        for place in range(min(CANDIDATES, len(objects))):
            names = np.array([order[place] for order in drawn], object)
            found = first_tokens(self.loaded, texts, names.tolist(), languages, **special)
            new = foreign & (tokens == NONE) & (found != own)
            tokens[new], said[new] = found[new], names[new]
        return tokens, said

    def _conditions(self, at: int, values: dict[str, np.ndarray]) -> list[Condition]:
        """Of one relation; ``values`` [layer, neuron] per site are its own means."""
        drawing = Drawing(self.store, self.relations, self.sets, "matched", self.counted)
        own = {site: rows[at] for site, rows in self.sets.items()}
        layers = self.store.layers
        random = [
            Condition.of(
                f"{schema.RANDOM}{seed}", drawing.draw(seed, self.relations[at]), values, layers=layers
            )
            for seed in self.options.seeds
        ]
        return [INTACT_MODEL, Condition.of(PATCHED, own, values, layers=layers), *random]

    def _likely(
        self, tokens: Sequence[Sequence[int]], targets: np.ndarray, conditions: Sequence[Condition]
    ) -> np.ndarray:
        """Log-probabilities of the targets, float32 [condition, prompt]; NaN where there is none."""
        found = np.full((len(conditions), len(tokens)), np.nan, np.float32)

        def finished(rows: Sequence[int], prompts: Sequence[int], replies: Replies) -> None:
            found[np.ix_(rows, prompts)] = replies.log_probability

        decode(
            self.loaded,
            Questions(tokens, targets, np.full(len(tokens), NONE), _nothing_more),
            conditions,
            finished,
            last=self.options.tokens == "last",
            wanted=np.tile(targets != NONE, (len(conditions), 1)),
            batch_tokens=self.options.batch_tokens,
        )
        return found


def _nothing_more(prompt: int, text: str, n_tokens: int) -> bool:
    """One token is all that is read."""
    return False

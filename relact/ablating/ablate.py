"""Ablate: masks + model -> the verdict on every test prompt under every condition,
written as ``ablations/<name>``.

Texts that the store or the journal of an interrupted run already holds are not generated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.ablating import conditions, prepare
from relact.ablating.answers import generate, judge
from relact.ablating.conditions import Condition
from relact.ablating.journal import Journal
from relact.ablating.options import AblateOptions
from relact.ablating.perplexity import perplexity as measure
from relact.errors import InputError
from relact.models.loading import LoadedModel, encode
from relact.progress import Progress, silent
from relact.scoring.masks import select
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.skeleton import write_coordinates, write_whole


def ablate(
    store: str | Path | Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    kind: str = AblateOptions.kind,
    sites: str | Sequence[str] | None = AblateOptions.sites,
    model: str | LoadedModel | None = None,
    seeds: Sequence[int] = AblateOptions.seeds,
    mode: str = AblateOptions.mode,
    tokens: str = AblateOptions.tokens,
    match: str = AblateOptions.match,
    tests: pd.DataFrame | None = None,
    perplexity: bool = AblateOptions.perplexity,
    name: str | None = None,
    device: str = "auto",
    batch_tokens: int = AblateOptions.batch_tokens,
    progress: Progress = silent,
) -> xr.Dataset:
    """Switch off every relation's neurons in turn and write which test prompts stay correct:
    ``ablations/<name>``.

    Args:
        mask: name of a stored mask; or ``k``, to select the top k first; several k make a sweep, with a
            dimension ``k``.
        kind, sites: of the masks that ``k`` selects, see `masks.select`.
        model: the store's own model by default; another one is refused.
        seeds: one random control per seed, matched to the mask's counts per site and layer.
        mode: what overridden neurons are set to, see `conditions.replacements`.
        tokens: override at ``all`` tokens, or from the ``last`` token of a prompt on.
        match: the rule for "correct", see `verdict.is_correct`.
        tests: a table with other test prompts (another language, paraphrases); the store's own by default.
        perplexity: measure that of the bundled text under every condition, too.
        name: of the result; the mask's name by default, with what is not the default appended.
        batch_tokens: tokens of all conditions in one forward pass.

    Returns:
        correct bool [condition, prompt], generated [condition, prompt] (up to the token that decided),
        relation_of [prompt], accuracy [condition, relation], and perplexity [condition] if asked for; all but
        relation_of with a first dimension k in a sweep, which also has step_correct and step_generated [k,
        prompt]: the answers when only those neurons of a prompt's own relation are overridden that this k
        adds to the one before it.

    Raises:
        IdentityError: the model is not the one the store records. InputError: no such mask, no test prompts.
    """
    options = AblateOptions(kind, sites, seeds, mode, tokens, match, perplexity, batch_tokens)
    return ablate_with(
        options, store, mask=mask, k=k, model=model, tests=tests, name=name, device=device, progress=progress
    )


def ablate_with(
    options: AblateOptions,
    store: str | Path | Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    model: str | LoadedModel | None = None,
    tests: pd.DataFrame | None = None,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> xr.Dataset:
    """`ablate` with options that travel together."""
    opened = local.writable(store)
    local.recover(opened)
    masks = _masks_of(opened, options, mask, k)
    table, digest = prepare.tests_of(opened, tests)
    record = _record_of(opened, options, masks, digest)
    name = name or prepare.name_of(masks, options.mode, options.tokens)
    group = f"{schema.ABLATIONS}/{name}"
    current = opened.has(group) and opened.ablation_record(name) == record
    if current and (not options.perplexity or schema.PERPLEXITY in opened.dataset(group)):
        return opened.dataset(group)
    job = _Job(
        [conditions.of_mask(opened, each, seeds=options.seeds, mode=options.mode) for each in masks],
        table,
        prepare.model_of(opened, model, device),
        opened.manifest.capture.special_tokens,
        options,
    )
    journal = prepare.journal_of(opened, name, f"{job.loaded.fingerprint} {digest} {options.tokens}")
    prepare.recall(opened, journal, digest, options.tokens)
    generated, stepped = job.answers(journal, progress)
    _write(opened, group, record, job, generated, stepped, job.perplexities(progress))
    journal.remove()
    return opened.dataset(group)


def _masks_of(
    store: LocalStore, options: AblateOptions, mask: str | None, k: int | Sequence[int] | None
) -> list[str]:
    """Names of the masks, one per k; selected first where they are not there."""
    if (mask is None) == (k is None):
        raise InputError("name one mask, or k", where="--mask/--k", fix="give exactly one of them")
    if mask is not None:
        return [mask]
    return [select(store, k=size, kind=options.kind, sites=options.sites) for size in prepare.ks_of(k)]


def _record_of(
    store: LocalStore, options: AblateOptions, masks: Sequence[str], digest: str
) -> schema.AblationRecord:
    """What the result will say of itself."""
    records = tuple(store.mask_record(mask) for mask in masks)
    sizes = tuple(record.k for record in records)
    sweep = len(records) > 1
    return schema.AblationRecord(
        k=sizes if sweep else sizes[0],
        mode=options.mode,
        tokens=options.tokens,
        seeds=tuple(options.seeds),
        match=options.match,
        mask=records if sweep else records[0],
        prompts=digest,
    )


@dataclass(frozen=True)
class _Job:
    """The work of one ablation: ``every`` [k][condition] on every test prompt of ``table``."""

    every: list[list[Condition]]
    table: pd.DataFrame
    loaded: LoadedModel
    special_tokens: bool
    options: AblateOptions

    @property
    def sweep(self) -> bool:
        """Whether there are several k."""
        return len(self.every) > 1

    @property
    def relation_of(self) -> np.ndarray:
        """[prompt]."""
        return self.table["relation"].to_numpy()

    def answers(self, journal: Journal, progress: Progress) -> tuple[np.ndarray, np.ndarray | None]:
        """Texts [k, condition, prompt], and in a sweep [k,
        prompt] under what each k adds to a prompt's own relation.
        """
        flat, n_prompts = list(chain.from_iterable(self.every)), len(self.table)
        steps = [conditions.added(*pair) for pair in pairwise([[], *self.every])] if self.sweep else []
        flat_steps = list(chain.from_iterable(steps))
        own = np.array([self.relation_of == step.name for step in flat_steps], bool).reshape(
            len(flat_steps), n_prompts
        )
        texts = generate(
            self.loaded,
            encode(self.loaded, self.table["text"].tolist(), special_tokens=self.special_tokens),
            self.table[schema.ANSWERS].tolist(),
            [*flat, *flat_steps],
            wanted=np.concatenate([np.ones((len(flat), n_prompts), bool), own]),
            journal=journal,
            last=self.options.tokens == "last",
            batch_tokens=self.options.batch_tokens,
            progress=progress,
        )
        generated = texts[: len(flat)].reshape(len(self.every), -1, n_prompts)
        return generated, _of_own(texts[len(flat) :], own, len(steps)) if self.sweep else None

    def perplexities(self, progress: Progress) -> np.ndarray | None:
        """[k, condition], if asked for."""
        if not self.options.perplexity:
            return None
        flat = list(chain.from_iterable(self.every))
        values = measure(self.loaded, flat, special_tokens=self.special_tokens, progress=progress)
        return values.reshape(len(self.every), -1)


def _of_own(texts: np.ndarray, own: np.ndarray, n_steps: int) -> np.ndarray:
    """[k, prompt]: of texts [k x relation, prompt] those under the prompt's ``own`` relation,
    "" where it has none.
    """
    stepped = np.full((n_steps, texts.shape[1]), "", object)
    for row, (answers, chosen) in enumerate(zip(texts, own, strict=True)):
        stepped[row * n_steps // len(texts), chosen] = answers[chosen]
    return stepped


def _write(
    store: LocalStore,
    group: str,
    record: schema.AblationRecord,
    job: _Job,
    generated: np.ndarray,
    stepped: np.ndarray | None,
    perplexities: np.ndarray | None,
) -> None:
    """``generated`` is [k, condition, prompt], ``stepped`` [k, prompt];
    the dimension k is left out when there is one k.
    """
    answers, relation_of = job.table[schema.ANSWERS].tolist(), job.relation_of
    names = list(dict.fromkeys(relation_of))
    correct = np.stack([judge(texts, answers, record.match) for texts in generated])
    accuracy = np.stack([correct[..., relation_of == name].mean(axis=-1) for name in names], axis=-1)
    digests = np.array([[condition.digest() for condition in part] for part in job.every])
    arrays: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        schema.CORRECT: (correct, ("condition", "prompt")),
        schema.GENERATED: (generated, ("condition", "prompt")),
        schema.ACCURACY: (accuracy.astype(np.float32), ("condition", "relation")),
        schema.DIGEST: (digests, ("condition",)),
    }
    if stepped is not None:
        arrays[schema.STEP_GENERATED] = stepped, ("prompt",)
        arrays[schema.STEP_CORRECT] = judge(stepped, answers, record.match), ("prompt",)
    if perplexities is not None:
        arrays[schema.PERPLEXITY] = perplexities, ("condition",)
    attributes = record.to_attributes()
    shown = ("mode", "tokens", "seeds", "match", *(() if job.sweep else ("k",)))  # where xarray shows them
    with store.stage(group, attributes) as built:
        built.attrs.update({key: attributes[key] for key in shown})
        write_coordinates(
            built,
            condition=[condition.name for condition in job.every[0]],
            relation=names,
            prompt=range(len(job.table)),
            **({"k": attributes["k"]} if job.sweep else {}),
        )
        write_whole(built, schema.RELATION_OF, relation_of, ("prompt",))
        for name, (values, dimensions) in arrays.items():
            write_whole(
                built, name, *((values, ("k", *dimensions)) if job.sweep else (values[0], dimensions))
            )

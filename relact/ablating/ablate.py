"""Ablate: masks + model -> the verdict on every test prompt under every condition,
written as ``ablations/<name>``.

Replies that the store or the journal of an interrupted run already holds are not generated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.ablating import conditions, prepare, ranks
from relact.ablating.answers import generate
from relact.ablating.conditions import Condition, Replacements
from relact.ablating.controls import Drawing
from relact.ablating.decode import Replies
from relact.ablating.journal import Journal
from relact.ablating.means import means_of
from relact.ablating.options import AblateOptions
from relact.ablating.perplexity import perplexity as measure
from relact.ablating.perplexity import texts_of
from relact.ablating.prepare import StoreModel, Tests
from relact.ablating.register import register
from relact.ablating.result import Result
from relact.models.loading import LoadedModel
from relact.progress import Progress, in_notebooks
from relact.scoring import masks
from relact.store import local, locks
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.skeleton import padded


def ablate(
    store: str | Path | Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    kind: str = AblateOptions.kind,
    sites: str | Sequence[str] | None = AblateOptions.sites,
    by: str | None = AblateOptions.by,
    statistic: str | None = AblateOptions.statistic,
    counted: str = AblateOptions.counted,
    keep_super_units: bool = AblateOptions.keep_super_units,
    model: str | LoadedModel | None = None,
    seeds: Sequence[int] = AblateOptions.seeds,
    control: str = AblateOptions.control,
    mode: str = AblateOptions.mode,
    tokens: str = AblateOptions.tokens,
    match: str = AblateOptions.match,
    part: str = AblateOptions.part,
    tests: pd.DataFrame | None = None,
    perplexity: bool = AblateOptions.perplexity,
    perplexity_of: str = AblateOptions.perplexity_of,
    name: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    batch_tokens: int = AblateOptions.batch_tokens,
    scale: float | None = AblateOptions.scale,
    unit: str = AblateOptions.unit,
    progress: Progress = in_notebooks,
) -> xr.Dataset:
    """Switch off every relation's neurons in turn and write which test prompts stay correct:
    ``ablations/<name>``.

    Args:
        mask: name of a stored mask; or ``k``, to select the top k first; several k make a sweep, with a
            dimension ``k``.
        model: the store's own model by default; another one is refused.
        tests: a table with other test prompts (another language, paraphrases); the store's own by default.
        name: of the result; the mask's name by default, with what is not the default appended.
        kind, sites, by, statistic, counted, keep_super_units, seeds, control, mode, tokens, match, part,
        perplexity, perplexity_of, batch_tokens, scale, unit: the choices of `AblateOptions`, which says what
        each means.

    Returns:
        correct bool [condition, prompt], generated [condition, prompt] (up to the token that decided),
        log_probability and logit_difference float32 [condition, prompt] (of the answer's first token, in
        nats, and against a distractor), relation_of and part [prompt], kind [condition], accuracy
        [condition, relation], and perplexity [condition] if asked for; all but what is per prompt or
        condition alone with a first dimension k in a sweep, which also has step_correct and step_generated
        [k, prompt]: the answers when only those neurons of a prompt's own relation are overridden that this
        k adds to the one before it.

    Raises:
        IdentityError: the model is not the one the store records. InputError: no such mask, no test prompts.
    """
    chosen = (kind, sites, by, statistic, counted, keep_super_units)
    rest = (match, part, perplexity, perplexity_of, batch_tokens)
    options = AblateOptions(*chosen, seeds, control, mode, tokens, *rest, scale=scale, unit=unit)
    return ablate_with(
        options,
        store,
        mask=mask,
        k=k,
        model=model,
        tests=tests,
        name=name,
        device=device,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )


def ablate_with(
    options: AblateOptions,
    store: str | Path | Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    model: str | LoadedModel | StoreModel | None = None,
    tests: pd.DataFrame | None = None,
    name: str | None = None,
    suffix: Sequence[str] = (),
    device: str = "auto",
    trust_remote_code: bool = False,
    hypotheses: Sequence[str] | None = None,
    progress: Progress = in_notebooks,
) -> xr.Dataset:
    """`ablate` with options that travel together.

    Args:
        suffix: what the default name adds, where ``tests`` are not the store's own.
        hypotheses: register settings and hypotheses before anything is run, see `register`; none given are
            the usual ones.
    """
    opened, crew = local.writable(store), locks.Crew.of_environment()
    if crew.rank == 0:
        local.recover(opened)
    if name:
        prepare.require_name(opened, name)
    asked = prepare.tests_of(opened, tests, options.part)
    loaded = model if isinstance(model, StoreModel) else StoreModel(opened, model, device, trust_remote_code)
    masks_ = prepare.masks_of(opened, options, mask, k, loaded, progress)
    name = name or "-".join([prepare.name_of(masks_, options), *suffix])
    prepare.require_name(opened, name)
    run = _Run(opened, name, masks_, k is not None, asked, loaded, options, hypotheses, crew, progress)
    if crew.size > 1:
        own = replace(crew, launch=f"{crew.launch} {name}")  # several ablations may follow each other
        ranks.together(opened.path, own, run)
    else:
        run.begin()
        if not run.is_there():
            run.finish()
    return opened.dataset(run.group)


@dataclass(frozen=True)
class _Run:
    """An ablation, from what was asked to what is stored."""

    store: LocalStore
    name: str
    masks: list[str]
    selected: bool  # the masks, for a k
    tests: Tests
    model: StoreModel
    options: AblateOptions
    hypotheses: Sequence[str] | None
    crew: locks.Crew
    progress: Progress

    @property
    def group(self) -> str:
        return f"{schema.ABLATIONS}/{self.name}"

    @property
    def record(self) -> schema.AblationRecord:
        """What the result will say of itself."""
        record = prepare.record_of(self.store, self.options, self.masks, self.tests)
        digest = self._registered(record) if self.hypotheses is not None else None
        return replace(record, registration=digest)

    def _registered(self, record: schema.AblationRecord) -> str:
        return register(
            self.store, self.name, self.options, record.masks, self.tests.digest, self.hypotheses or ()
        )

    def begin(self) -> None:
        """Write the registration, if there is to be one."""
        _ = self.record

    def is_there(self) -> bool:
        """Whether the result is stored, of masks that are and, if a k selects them, of the stored scores."""
        return prepare.has_masks(self.store, self.masks, self.selected) and prepare.is_stored(
            self.store, self.name, self.record
        )

    def share(self) -> None:
        """Ask what is this rank's turn."""
        self._job().replies(self._journal(), self.progress, (self.crew.rank, self.crew.size))

    def finish(self) -> None:
        """Ask what no journal knows, and write the result."""
        journal = self._journal()
        prepare.tell_what_goes(self.store, self.name, self.record)
        self._job().result(self.record, journal, self.progress).write(self.store, self.name)
        journal.remove()

    def _journal(self) -> Journal:
        journal = prepare.journal_of(self.store, self.name, self.tests, self.options, self.crew.rank)
        prepare.recall(self.store, journal, self.tests, self.options)
        return journal

    def _job(self) -> _Job:
        return _Job.of(self.store, self.masks, self.tests, self.model.model, self.options)


@dataclass(frozen=True)
class _Job:
    """The work of one ablation: ``every`` [k][condition] on every test prompt; several conditions may share a
    name, each asked on the prompts of one relation.

    Attributes:
        whole: per k one condition of every name, for what is not about a relation (perplexity).
    """

    store: LocalStore
    every: list[list[Condition]]
    whole: list[list[Condition]]
    tests: Tests
    loaded: LoadedModel
    options: AblateOptions

    @classmethod
    def of(
        cls,
        store: LocalStore,
        names: Sequence[str],
        tests: Tests,
        loaded: LoadedModel,
        options: AblateOptions,
    ) -> _Job:
        """With the conditions of the masks ``names``, one per k."""
        every, whole = [], []
        measure = cache(partial(means_of, store, loaded))
        for name in names:
            relations, sets = masks.read(store, name)
            drawing = Drawing(store, relations, sets, options.control, store.mask_record(name).counted)
            values = Replacements(store, options.mode, tuple(sets), options.scale, measure)
            own = conditions.of_sets(relations, sets, values)
            every.append([*own, *drawing.conditions(options.seeds, tests.relations, values)])
            whole.append([*own, *drawing.conditions(options.seeds, [AVERAGE], values)])
        return cls(store, every, whole, tests, loaded, options)

    @property
    def sweep(self) -> bool:
        """Whether there are several k."""
        return len(self.every) > 1

    @cached_property
    def asked(self) -> tuple[list[Condition], np.ndarray]:
        """Conditions of every k, then the steps of a sweep; on which prompts: bool [condition, prompt]."""
        steps = [conditions.added(*pair) for pair in pairwise([[], *self.every])] if self.sweep else []
        flat = [*chain.from_iterable(self.every), *chain.from_iterable(steps)]
        return flat, conditions.asked_on(flat, self.tests.relation_of)

    def replies(self, journal: Journal, progress: Progress, turn: tuple[int, int] = (0, 1)) -> Replies:
        """What is said under all of them, or in one rank's ``turn``; see `answers.generate`."""
        flat, wanted = self.asked
        return generate(
            self.loaded,
            prepare.exam_of(self.store, self.loaded, self.tests, self.options),
            flat,
            wanted=wanted,
            journal=journal,
            last=self.options.tokens == "last",
            batch_tokens=self.options.batch_tokens,
            turn=turn,
            progress=progress,
        )

    def result(self, record: schema.AblationRecord, journal: Journal, progress: Progress) -> Result:
        """Everything that is to be stored."""
        wanted, n_whole = self.asked[1], sum(map(len, self.every))
        replies = self.replies(journal, progress)
        names = list(dict.fromkeys(condition.name for condition in self.every[0]))
        rows = self._rows(names, wanted)
        text, certain, difference = (
            np.take_along_axis(values, rows.reshape(-1, rows.shape[-1]), axis=0).reshape(rows.shape)
            for values in (replies.texts, replies.log_probability, replies.logit_difference)
        )
        kind_of = {condition.name: condition.kind for condition in self.every[0]}
        return Result(
            record,
            names,
            [kind_of[name] for name in names],
            self._prompts(),
            self.tests.answers,
            text,
            {schema.LOG_PROBABILITY: certain, schema.LOGIT_DIFFERENCE: difference},
            self._digests(names),
            _of_own(replies.texts[n_whole:], wanted[n_whole:], len(self.every)) if self.sweep else None,
            self._perplexities(progress),
        )

    def _rows(self, names: Sequence[str], wanted: np.ndarray) -> np.ndarray:
        """int64 [k, condition, prompt]: which of all conditions in a row a prompt was answered under."""
        rows = np.zeros((len(self.every), len(names), wanted.shape[1]), np.int64)
        at = 0
        for of_k, part in zip(rows, self.every, strict=True):
            for condition in part:
                of_k[names.index(condition.name), wanted[at]] = at
                at += 1
        return rows

    def _digests(self, names: Sequence[str]) -> np.ndarray:
        """str [k, condition, relation]."""
        relations = self.tests.relations
        digests = np.empty((len(self.every), len(names), len(relations)), object)
        for of_k, part in zip(digests, self.every, strict=True):
            for condition in part:
                columns = relations.index(condition.asked) if condition.asked else slice(None)
                of_k[names.index(condition.name), columns] = condition.digest()
        return digests

    def _prompts(self) -> dict[str, np.ndarray]:
        """What is stored of every prompt; of foreign ones also what was asked."""
        table = self.tests.table
        found = {
            "prompt": table.index.to_numpy(),
            schema.RELATION_OF: self.tests.relation_of,
            schema.PART: table[schema.PART].to_numpy(),
        }
        if self.tests.foreign:
            names = ("text", "subject", "object", "language", "template")
            found |= {name: table[name].to_numpy() for name in names}
            found[schema.ANSWERS] = padded(self.tests.answers)
        return found

    def _perplexities(self, progress: Progress) -> np.ndarray | None:
        """[k, condition], if asked for."""
        if not self.options.perplexity:
            return None
        flat = list(chain.from_iterable(self.whole))
        texts = texts_of(self.options.perplexity_of, self.tests.table["object"])
        special_tokens = self.store.manifest.capture.special_tokens
        values = measure(self.loaded, flat, texts, special_tokens=special_tokens, progress=progress)
        return values.reshape(len(self.whole), -1)


AVERAGE = ""  # the relation of no prompt: its random set is matched to the average of the relations' sets


def _of_own(texts: np.ndarray, own: np.ndarray, n_steps: int) -> np.ndarray:
    """[k, prompt]: of texts [k x relation, prompt] those under the prompt's ``own`` relation,
    "" where it has none.
    """
    stepped = np.full((n_steps, texts.shape[1]), "", object)
    for row, (answers, chosen) in enumerate(zip(texts, own, strict=True)):
        stepped[row * n_steps // len(texts), chosen] = answers[chosen]
    return stepped

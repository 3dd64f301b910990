"""Run: the whole study, step by step; every step reuses what is already there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact import sites as site_names
from relact.ablating import forecast as ablating
from relact.ablating.ablate import ablate_with
from relact.ablating.options import AblateOptions
from relact.ablating.super_units import ensure_super_units
from relact.analysis.claims import summary
from relact.analysis.compare import in_common, overlap
from relact.analysis.effects import Effects, effects
from relact.analysis.evidence import evidence
from relact.capturing import forecast as capturing
from relact.capturing.capture import capture_with
from relact.capturing.objectives import resolved
from relact.capturing.options import CaptureOptions
from relact.errors import InputError, ModelError
from relact.models.loading import LoadedModel, load
from relact.models.outline import outline
from relact.plan import Plan
from relact.progress import Progress, in_notebooks
from relact.relations.options import PromptOptions, ReadingOptions
from relact.relations.prompts import build, published, warn_of_dropped
from relact.relations.sources import load_all
from relact.relations.table import read, recognised
from relact.scoring import forecast as scoring
from relact.scoring.criteria import meaning, of_attributions
from relact.scoring.masks import name_of, select_with
from relact.scoring.options import ScoreOptions
from relact.scoring.quantities import wanted as wanted_of
from relact.scoring.roles import labels_of, relations_of
from relact.scoring.score import score_with
from relact.store import locks
from relact.store.layout import block_of, layouts, site_of
from relact.store.local import LocalStore
from relact.studies import known_prompts, presets
from relact.studies import looks as looking
from relact.studies.known_prompts import known
from relact.studies.presets import Recipe

if TYPE_CHECKING:
    from relact.relations.facts import Relation

NOTHING_TESTED = "no prompt has an answer to test"
HOW_TO_TEST = 'ask for the labels with --template "{} This is", or give facts with answers'
EMBEDDED = "smollm2"  # the model of a study that names none


@dataclass(frozen=True)
class Study:
    """What `run` made.

    Attributes:
        store: all of it.
        ablations: what breaks without each relation's neurons, by the mask's name: ``top-<k>``, and of a
            study with attributions ``attribution_z-top-<k>`` beside it. Empty where no prompt has an answer
            to test, as with texts that only have labels.
        masks: names of all masks that it chose.
    """

    store: LocalStore
    ablations: Mapping[str, xr.Dataset]
    masks: tuple[str, ...]

    @property
    def ablation(self) -> xr.Dataset:
        """The first of them.

        Raises:
            InputError: there is none.
        """
        if not self.ablations:
            raise InputError(NOTHING_TESTED, where=self.store.path, fix=HOW_TO_TEST)
        return next(iter(self.ablations.values()))

    def effects(self, name: str | None = None) -> Effects:
        """Mean drops in points: a relation's own neurons off, another's, random ones; of the first ablation,
        or the one of a name.
        """
        return effects(self.ablations[name] if name else self.ablation)

    def evidence(self, name: str | None = None) -> xr.Dataset:
        """Intervals and tests for every cell of an ablation."""
        return evidence(self.ablations[name] if name else self.ablation)

    def found(self) -> list[str]:
        """What came out, a line per choice of neurons; of two choices a third line, on what they share."""
        lines = [
            f"{name}, {meaning(self.store.mask_record(name).statistic)}: {summary(self.evidence(name))}"
            for name in self.ablations
        ]
        lines += [
            f"{name}, {meaning(self.store.mask_record(name).statistic)}: {self._shared(name)}"
            for name in self.masks
            if name not in self.ablations
        ]
        if not self.ablations:
            lines.append(f"Nothing was switched off: {NOTHING_TESTED}. To test, {HOW_TO_TEST}")
        if len(self.masks) == 2:
            table = in_common(self.store, *self.masks)
            shared, size, expected = (table[name].mean() for name in ("shared", "other_size", "expected"))
            lines.append(
                f"both choose {shared:.1f} of {size:.0f} hidden units on average (random sets would share "
                f"{expected:.1f})"
            )
        return lines

    def _repr_html_(self) -> str:
        """What was found, and the store, for notebooks."""
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.found())
        return f"<ul>{lines}</ul>{self.store._repr_html_()}"

    def _shared(self, name: str) -> str:
        """What relations share under a mask, in words."""
        table = overlap(self.store, name)
        names, shared = table["relation"].values, table["shared"].values
        size, others = np.diag(shared).max(), shared - np.diag(np.diag(shared) + 1)
        one, other = np.unravel_index(others.argmax(), shared.shape)
        if others[one, other] <= 0:
            return f"{size} neurons of each relation, none of two"
        most, expected = others[one, other], float(table["expected"].values[one, other])
        return (
            f"{size} neurons of each relation; {names[one]} and {names[other]} share {most}, the most "
            f"(random sets would share {expected:.1f})"
        )

    def tree(self) -> xr.DataTree:
        """The store as a lazy `xarray.DataTree`."""
        return self.store.tree()


def run(
    sources: Iterable[str | Path | Relation] | pd.DataFrame,
    *,
    model: str | LoadedModel = EMBEDDED,
    store: str | Path,
    k: int | None = None,
    preset: str | None = None,
    reading: ReadingOptions | None = None,
    prompts: PromptOptions | None = None,
    capture: CaptureOptions | None = None,
    scores: ScoreOptions | None = None,
    ablate: AblateOptions | None = None,
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> Study:
    """Prompts, capture, score, select, ablate, look: from facts to an ablation matrix.

    Args:
        sources: as of `relact.prompts`, or a prompt table.
        model, store, trust_remote_code: as in `capture`.
        k: neurons per relation to switch off; the preset's, or 400.
        preset: a published study's settings (`presets`); options of a step that are given here take the place
            of its own.
        reading: of the sources: columns, templates and labels, as `relations.sources.load` takes them.
        prompts, capture, scores, ablate: options of those steps.

    Raises:
        InputError: this is one process of several of a launch: those divide a capture and an ablation.
    """
    require_alone()
    recipe = recipe_of(preset, k=k, prompts=prompts, capture=capture, scores=scores, ablate=ablate)
    table = table_of(sources, recipe, reading)
    warn_of_dropped(table)
    loaded = load(model, trust_remote_code=trust_remote_code)
    return follow(recipe, loaded, table, store, progress=progress)


def require_alone() -> None:
    """Refuse the processes of a launch, which would all write the same results."""
    size = locks.Crew.of_environment().size
    if size > 1:
        fix = (
            "launch `relact capture`, run `relact score` once, then launch `relact ablate` (docs/cluster.md)"
        )
        raise InputError(f"a whole study is of one process, WORLD_SIZE is {size}", where="run", fix=fix)


def recipe_of(
    preset: str | None = None,
    *,
    k: int | None = None,
    prompts: PromptOptions | None = None,
    capture: CaptureOptions | None = None,
    scores: ScoreOptions | None = None,
    ablate: AblateOptions | None = None,
) -> Recipe:
    """The preset's recipe, or the defaults, with what is given in its place."""
    given = {"prompts": prompts, "capture": capture, "scores": scores, "ablate": ablate}
    recipe = presets.get(preset) if preset else Recipe()
    for step, options in given.items():
        kind = type(getattr(recipe, step))
        if not isinstance(options, kind | None):
            fix = f"give relact.{kind.__name__}(...)"
            raise InputError(f"options of a step are no {type(options).__name__}", where=step, fix=fix)
    return replace(
        recipe,
        k=recipe.k if k is None else k,
        prompts=prompts or recipe.prompts,
        capture=capture or recipe.capture,
        scores=scores or recipe.scores,
        ablate=ablate or recipe.ablate,
    )


def follow(
    recipe: Recipe,
    model: LoadedModel,
    table: pd.DataFrame,
    store: str | Path,
    *,
    progress: Progress = in_notebooks,
) -> Study:
    """The steps after the prompts; what one of them would refuse is refused before the first."""
    table = kept(recipe, model, table, progress)
    require_possible(recipe, model, table, store)
    opened = capture_with(recipe.capture, model, table, store, progress=progress)
    score_with(recipe.scores, opened, progress=progress)
    tested = opened.manifest.n_prompts(schema.TEST) > 0
    if not tested and not recipe.ablate.keep_super_units:
        ensure_super_units(opened, lambda: model, progress)
    ablations, masks = {}, []
    for statistic in recipe.criteria:
        options = replace(recipe.ablate, by=None, statistic=statistic)
        selection = options.selection(recipe.k)
        masks.append(name_of(selection))
        if tested:
            found = ablate_with(options, opened, k=recipe.k, model=model, progress=progress)
            ablations[masks[-1]] = found
        else:
            select_with(selection, opened)
    _look(opened, masks, model, progress)
    return Study(opened, ablations, tuple(masks))


def require_possible(
    recipe: Recipe, model: LoadedModel, table: pd.DataFrame, store: str | Path | None
) -> None:
    """Refuse, before any work, what later steps would refuse after the capture: relations that nothing
    is told from, sites and statistics that no score will be of, a k beyond the neurons. Needs no weights.
    """
    scores, relation_of = recipe.scores, table.loc[table["split"] == schema.IDENTIFY, "relation"]
    names = relation_of.astype(str).tolist()
    known = relations_of(names, scores.relations, store)
    labels_of(names, known, scores.negatives, scores.seed, own_negatives=scores.own_negatives)
    settings = resolved(model, recipe.capture.record(model.model.config))
    scored = wanted_of(settings.streams, scores.statistics)
    for statistic in recipe.criteria:
        options = replace(recipe.ablate, by=None, statistic=statistic)
        having = [each.site for each in scored if statistic in each.names]
        asked = site_names.expand(options.sites) if options.sites is not None else having
        among = [site for site in having if site in asked]
        if not among and options.unit == schema.NEURON:
            problem = f"no site of {options.sites or 'those captured'} will have {statistic}"
            fix = f"use {', '.join(having)}" if having else "add it to the scores' --statistics"
            raise InputError(problem, where="--sites", fix=fix)
        every = model.n_layers * sum(model.widths[site] for site in among)
        if not 1 <= (options.selection(recipe.k).k or 0) <= every:
            fix = "choose from 1 to the number of neurons"
            raise InputError(f"k = {recipe.k} of {every} neurons", where="--k", fix=fix)


def kept(
    recipe: Recipe, model: LoadedModel, table: pd.DataFrame, progress: Progress = in_notebooks
) -> pd.DataFrame:
    """The prompts of a study: all, or those whose answers the model knows; relations may be dropped."""
    if not recipe.known:
        return table
    strict = recipe.prompts.strict
    return known(table, model, match=recipe.ablate.match, strict=strict, progress=progress)


def _look(store: LocalStore, masks: Sequence[str], model: LoadedModel, progress: Progress) -> None:
    """What the neurons of the masks write, where the model's norm and head can be read."""
    for mask in masks:
        try:
            looking.look_at_mask(store, mask, model=model, progress=progress)
        except ModelError as error:
            warnings.warn(f"what neurons write is left out: {error}", stacklevel=2)


def forecast(
    recipe: Recipe,
    model: str | LoadedModel,
    table: pd.DataFrame,
    store: str | Path | None = None,
    *,
    model_dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> list[Plan]:
    """What `follow` with the same arguments would write and need, step by step; of a model that is named, no
    weights are loaded.

    Nothing is written. What a ``store`` holds already is left out of the capture's plan. Where a recipe keeps
    only the prompts that the model answers, that is the first plan, and the others are those of all prompts.
    """
    capture = recipe.capture
    loaded = outline(model, dtype=model_dtype, device=device, trust_remote_code=trust_remote_code)
    tests = table[table["split"] == schema.TEST]
    relation_of = table.loc[table["split"] == schema.IDENTIFY, "relation"].tolist()
    require_possible(recipe, loaded, table, store)
    settings = resolved(loaded, capture.record(loaded.model.config))
    every, special = loaded.widths, {"special_tokens": capture.special_tokens}
    widths = {stream: every[site_of(stream)] for stream in settings.streams}
    rows = capture.block or block_of(len(relation_of))
    shapes = layouts(
        len(relation_of), rows, loaded.n_layers, widths, settings.streams, settings.layers, settings.experts
    )
    relations: Sequence[str] = list(dict.fromkeys(relation_of))
    texts = table.loc[table["split"] == schema.IDENTIFY, "text"].astype(str).tolist()
    matrices = [
        ablating.Matrix(
            tests,
            relations,
            len(recipe.ablate.seeds),
            {wanted.site: every[wanted.site] for wanted in wanted_of(settings.streams, [statistic])},
        )
        for statistic in recipe.criteria
    ]
    return [
        *_known(recipe, loaded, table),
        capturing.forecast(capture, loaded, table, store),
        scoring.forecast_of(recipe.scores, shapes, relation_of),
        *(
            ablating.forecast_of(recipe.ablate, loaded, matrix, **special)
            for matrix in matrices
            if len(tests)
        ),
        *(
            looking.forecast_of(loaded, texts, len(relations), of_attributions(x), **special)
            for x in recipe.criteria
        ),
    ]


def _known(recipe: Recipe, loaded: LoadedModel, table: pd.DataFrame) -> list[Plan]:
    """The plan of asking the model for what it knows, where the recipe does."""
    if not recipe.known:
        return []
    return [known_prompts.forecast(table, loaded, batch_tokens=recipe.ablate.batch_tokens)]


def table_of(
    sources: Iterable[str | Path | Relation] | pd.DataFrame,
    recipe: Recipe,
    reading: ReadingOptions | None = None,
    *,
    skipped: list[str] | None = None,
    chosen: list[str] | None = None,
) -> pd.DataFrame:
    """The prompts of a study: a prompt table's as they are, or those made of the sources' facts.

    Args:
        reading, skipped, chosen: as of `relations.sources.load_all`.

    Raises:
        InputError: a prompt table among other sources, or beside choices of how prompts are made.
    """
    if isinstance(sources, pd.DataFrame):
        return sources
    sources = list(sources)
    tables = [path for path in sources if isinstance(path, str | Path) and recognised(Path(path))]
    if not tables and recipe.published:
        return published(sources, recipe.prompts)
    if not tables:
        return build(load_all(sources, reading, skipped=skipped, chosen=chosen), recipe.prompts)
    if len(sources) > 1:
        fix = "give it alone, or give what it was made of"
        raise InputError("a prompt table is a study's prompts, all of them", where=tables[0], fix=fix)
    made = replace(recipe.prompts, seed=0, strict=False)
    if not recipe.published and (made != PromptOptions() or reading not in (None, ReadingOptions())):
        fix = "make it again with `relact prompts` and these options, or leave them out"
        raise InputError(
            "a prompt table is taken as it is: columns, shots, templates, sizes and language are its own",
            where=tables[0],
            fix=fix,
        )
    return read(tables[0])

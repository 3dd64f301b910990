"""Run: the whole study, step by step; every step reuses what is already there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from relact import schema
from relact.ablating import forecast as ablating
from relact.ablating.ablate import ablate_with
from relact.ablating.options import AblateOptions
from relact.analysis.claims import summary
from relact.analysis.compare import in_common
from relact.analysis.effects import Effects, effects
from relact.analysis.evidence import evidence
from relact.capturing import forecast as capturing
from relact.capturing.capture import capture_with
from relact.capturing.objectives import resolved
from relact.capturing.options import CaptureOptions
from relact.errors import InputError, ModelError
from relact.models.loading import LoadedModel, load
from relact.plan import Plan
from relact.progress import Progress, silent
from relact.relations.options import PromptOptions
from relact.relations.prompts import build, published, warn_of_dropped
from relact.relations.sources import load_all
from relact.relations.table import read, recognised
from relact.scoring import forecast as scoring
from relact.scoring.criteria import meaning, of_attributions
from relact.scoring.masks import name_of
from relact.scoring.options import ScoreOptions
from relact.scoring.quantities import wanted as wanted_of
from relact.scoring.score import score_with
from relact.store.layout import block_of, layouts, site_of
from relact.store.local import LocalStore
from relact.studies import looks as looking
from relact.studies import presets
from relact.studies.known_prompts import known
from relact.studies.presets import Recipe

if TYPE_CHECKING:
    from relact.relations.facts import Relation

EMBEDDED = "smollm2"  # the model of a study that names none


@dataclass(frozen=True)
class Study:
    """What `run` made.

    Attributes:
        store: all of it.
        ablations: what breaks without each relation's neurons, by the mask's name: ``top-<k>``, and of a
            study with attributions ``attribution_z-top-<k>`` beside it.
    """

    store: LocalStore
    ablations: Mapping[str, xr.Dataset]

    @property
    def ablation(self) -> xr.Dataset:
        """The first of them."""
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
        if len(self.ablations) == 2:
            table = in_common(self.store, *self.ablations)
            shared, size, expected = (table[name].mean() for name in ("shared", "other_size", "expected"))
            lines.append(
                f"both choose {shared:.1f} of {size:.0f} hidden units on average (random sets would share "
                f"{expected:.1f}): what tells prompts apart and what carries answers are "
                f"{'mostly different' if shared < size / 2 else 'largely the same'} neurons"
            )
        return lines

    def _repr_html_(self) -> str:
        """What was found, and the store, for notebooks."""
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.found())
        return f"<ul>{lines}</ul>{self.store._repr_html_()}"

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
    prompts: PromptOptions | None = None,
    capture: CaptureOptions | None = None,
    scores: ScoreOptions | None = None,
    ablate: AblateOptions | None = None,
    progress: Progress = silent,
) -> Study:
    """Prompts, capture, score, select, ablate, look: from facts to an ablation matrix.

    Args:
        sources: as of `relact.prompts`, or a prompt table.
        model, store: as in `capture`.
        k: neurons per relation to switch off; the preset's, or 400.
        preset: a published study's settings (`presets`); options of a step that are given here take the place
            of its own.
        prompts, capture, scores, ablate: options of those steps.
    """
    recipe = recipe_of(preset, k=k, prompts=prompts, capture=capture, scores=scores, ablate=ablate)
    table = table_of(sources, recipe)
    warn_of_dropped(table)
    return follow(recipe, load(model), table, store, progress=progress)


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
    recipe = presets.get(preset) if preset else Recipe()
    return replace(
        recipe,
        k=recipe.k if k is None else k,
        prompts=prompts or recipe.prompts,
        capture=capture or recipe.capture,
        scores=scores or recipe.scores,
        ablate=ablate or recipe.ablate,
    )


def follow(
    recipe: Recipe, model: LoadedModel, table: pd.DataFrame, store: str | Path, *, progress: Progress = silent
) -> Study:
    """The steps after the prompts."""
    if recipe.known:
        table = known(table, model, match=recipe.ablate.match, progress=progress)
    opened = capture_with(recipe.capture, model, table, store, progress=progress)
    score_with(recipe.scores, opened, progress=progress)
    ablations = {}
    for statistic in recipe.criteria:
        options = replace(recipe.ablate, by=None, statistic=statistic)
        found = ablate_with(options, opened, k=recipe.k, model=model, progress=progress)
        ablations[name_of(options.selection(recipe.k))] = found
    _look(opened, list(ablations), model, progress)
    return Study(opened, ablations)


def _look(store: LocalStore, masks: Sequence[str], model: LoadedModel, progress: Progress) -> None:
    """What the neurons of the masks write, where the model's norm and head can be read."""
    for mask in masks:
        try:
            looking.look_at_mask(store, mask, model=model, progress=progress)
        except ModelError as error:
            warnings.warn(f"what neurons write is left out: {error}", stacklevel=2)


def forecast(
    recipe: Recipe, model: str | LoadedModel, table: pd.DataFrame, store: str | Path | None = None
) -> list[Plan]:
    """What `follow` with the same arguments would write and need, step by step;
    the model is loaded and timed.

    Nothing is written. What a ``store`` holds already is left out of the capture's plan. Where a recipe keeps
    only the prompts that the model answers, the plans are those of all prompts.
    """
    loaded, capture = load(model), recipe.capture
    tests = table[table["split"] == schema.TEST]
    relation_of = table.loc[table["split"] == schema.IDENTIFY, "relation"].tolist()
    settings = resolved(loaded, capture.record(loaded.model.config))
    every = loaded.widths
    widths = {stream: every[site_of(stream)] for stream in settings.streams}
    rows = capture.block or block_of(len(relation_of))
    shapes = layouts(len(relation_of), rows, loaded.n_layers, widths, settings.streams)
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
        capturing.forecast(capture, loaded, table, store),
        scoring.forecast_of(recipe.scores, shapes, relation_of),
        *(
            ablating.forecast_of(recipe.ablate, loaded, matrix, special_tokens=capture.special_tokens)
            for matrix in matrices
        ),
        *(looking.forecast_of(loaded, texts, len(relations), of_attributions(x)) for x in recipe.criteria),
    ]


def table_of(sources: Iterable[str | Path | Relation] | pd.DataFrame, recipe: Recipe) -> pd.DataFrame:
    """The prompts of a study: a prompt table's as they are, or those made of the sources' facts.

    Raises:
        InputError: a prompt table among other sources, or beside choices of how prompts are made.
    """
    if isinstance(sources, pd.DataFrame):
        return sources
    sources = list(sources)
    tables = [path for path in sources if isinstance(path, str | Path) and recognised(Path(path))]
    if not tables:
        return (
            published(sources, recipe.prompts)
            if recipe.published
            else build(load_all(sources), recipe.prompts)
        )
    if len(sources) > 1:
        fix = "give it alone, or give what it was made of"
        raise InputError("a prompt table is a study's prompts, all of them", where=tables[0], fix=fix)
    made = replace(recipe.prompts, seed=0, strict=False)
    if not recipe.published and made != PromptOptions():
        fix = "make it again with `relact prompts` and these options, or leave them out"
        raise InputError(
            "a prompt table is taken as it is: shots, templates, sizes and language are its own",
            where=tables[0],
            fix=fix,
        )
    return read(tables[0])

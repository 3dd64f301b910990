"""`relact run`: all steps of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from relact.ablating.options import AblateOptions
from relact.capturing.options import CaptureOptions
from relact.cli import terminal
from relact.cli.options import (
    Attribution,
    DryRun,
    Dtype,
    Examples,
    Json,
    Language,
    Match,
    Memory,
    Mode,
    Negatives,
    PerRelation,
    Pool,
    Seed,
    Seeds,
    Shots,
    Sites,
    Strict,
    Templates,
    TestSize,
    Tokens,
)
from relact.cli.printing import show_plans, show_study
from relact.cli.progress import Stages
from relact.relations.options import PromptOptions
from relact.scoring.options import ScoreOptions
from relact.studies.presets import Recipe

SEEDS = len(AblateOptions.seeds)


def run_all(
    store: Annotated[Path, typer.Option(help="folder of the store")],
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="as of `relact prompts`")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="STORE", help="repeat the study that this store or URL records")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="hub id, local folder, GGUF file, gemma3-270m; smollm2 by default")
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="neurons per relation to switch off; 400, or the preset's")
    ] = None,
    shots: Shots = PromptOptions.shots,
    examples: Examples = PromptOptions.examples,
    language: Language = PromptOptions.language,
    templates: Templates = PromptOptions.templates,
    per_relation: PerRelation = None,
    test_size: TestSize = PromptOptions.test_size,
    seed: Seed = PromptOptions.seed,
    strict: Strict = PromptOptions.strict,
    sites: Sites = str(CaptureOptions.sites),
    pool: Pool = CaptureOptions.pool,
    dtype: Dtype = CaptureOptions.dtype,
    attribution: Attribution = CaptureOptions.attribution,
    negatives: Negatives = None,
    memory: Memory = str(ScoreOptions.memory),
    mode: Mode = AblateOptions.mode,
    tokens: Tokens = AblateOptions.tokens,
    seeds: Seeds = SEEDS,
    match: Match = AblateOptions.match,
    perplexity: Annotated[
        bool, typer.Option("--perplexity", help="of a bundled text under every condition")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper: everything as published, from a folder of LRE JSON; only --k and --seed count"
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """All of it: prompts, capture, score, select, ablate. Run it again to resume."""
    if bool(like) == bool(sources):
        raise typer.BadParameter("name SOURCE... or --like STORE, one of them")
    if like:
        if dry_run:
            raise typer.BadParameter("--dry-run takes SOURCE..., not --like STORE", param_hint="--dry-run")
        return _repeat(like, store, model, as_json)
    from relact.models.loading import load
    from relact.studies import run

    if preset:
        if attribution:
            raise typer.BadParameter("a preset is as published", param_hint="--attribution")
        recipe = _refined(run.recipe_of(preset), seed=seed, strict=strict, dtype=dtype, memory=memory)
    else:
        recipe = Recipe(
            prompts=PromptOptions(
                language,
                shots,
                examples,
                templates,
                per_relation=per_relation,
                test_size=test_size,
                seed=seed,
                strict=strict,
            ),
            capture=CaptureOptions(sites, pool, dtype, attribution=attribution),
            scores=ScoreOptions(negatives=negatives, seed=seed, memory=memory),
            ablate=AblateOptions(
                seeds=tuple(range(seeds)), mode=mode, tokens=tokens, match=match, perplexity=perplexity
            ),
        )
    recipe = replace(recipe, k=k or recipe.k)
    loaded = load(model or run.EMBEDDED)
    table = run.table_of(sources or [], recipe)
    for name, why in table.attrs.get("dropped", {}).items():
        terminal.problem(f"relation {name} is dropped: {why}")
    if dry_run:
        return show_plans(run.forecast(recipe, loaded, table, store), as_json)
    with Stages() as progress:
        study = run.follow(recipe, loaded, table, store, progress=progress)
    show_study(study, as_json)


def _refined(recipe: Recipe, *, seed: int, strict: bool, dtype: str, memory: str) -> Recipe:
    """A preset with the options that do not change what it is."""
    return replace(
        recipe,
        prompts=replace(recipe.prompts, seed=seed, strict=strict),
        capture=replace(recipe.capture, dtype=dtype),
        scores=replace(recipe.scores, seed=seed, memory=memory),
    )


def _repeat(like: str, store: Path, model: str | None, as_json: bool) -> None:
    from relact.studies.repeat import repeat

    with Stages() as progress:
        study = repeat(like, store, model=model, progress=progress)
    show_study(study, as_json)

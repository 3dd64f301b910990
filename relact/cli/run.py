"""`relact run`: all steps of a study."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relact.ablating.options import AblateOptions
from relact.capturing.options import CaptureOptions
from relact.cli import terminal
from relact.cli.options import (
    Attribution,
    Block,
    Device,
    DryRun,
    Dtype,
    Examples,
    GroupColumn,
    Json,
    LabelColumn,
    LabelNames,
    Language,
    Limit,
    Match,
    Memory,
    Mode,
    ModelDtype,
    Negatives,
    ObjectColumn,
    OwnNegatives,
    PerRelation,
    Pool,
    Seed,
    Seeds,
    Shots,
    Sites,
    SkipBad,
    SkipFirstToken,
    SpecialTokens,
    Strict,
    SubjectColumn,
    Template,
    TemplateColumn,
    Templates,
    TestSize,
    TextColumn,
    Tokens,
    TrustRemoteCode,
    chosen_of,
    reading_of,
    require_only,
)
from relact.cli.printing import show_plans, show_sources, show_study
from relact.cli.progress import Stages
from relact.relations.options import PromptOptions, ReadingOptions
from relact.scoring.options import ScoreOptions
from relact.studies import presets
from relact.studies.presets import Recipe

if TYPE_CHECKING:
    import pandas as pd

SEEDS = len(AblateOptions.seeds)
COUNT = (
    "k",
    "seed",
    "strict",
    "dtype",
    "memory",
    "block",
    "batch_tokens",
    "model_dtype",
    "device",
    "trust_remote_code",
)
REPEATED = {"like", "store", "model", "device", "trust_remote_code", "dry_run", "as_json"}
AS_PUBLISHED = {"sources", "store", "model", "preset", "dry_run", "as_json", *COUNT}


def run_all(
    context: typer.Context,
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
    label_column: LabelColumn = ReadingOptions.label_column,
    subject_column: SubjectColumn = ReadingOptions.subject_column,
    object_column: ObjectColumn = ReadingOptions.object_column,
    text_column: TextColumn = ReadingOptions.text_column,
    template_column: TemplateColumn = ReadingOptions.template_column,
    group_column: GroupColumn = ReadingOptions.group_column,
    label_names: LabelNames = None,
    own_negatives: OwnNegatives = ReadingOptions.own_negatives,
    template: Template = ReadingOptions.template,
    limit: Limit = ReadingOptions.limit,
    skip_bad: SkipBad = ReadingOptions.skip_bad,
    sites: Sites = str(CaptureOptions.sites),
    pool: Pool = CaptureOptions.pool,
    special_tokens: SpecialTokens = CaptureOptions.special_tokens,
    skip_first_token: SkipFirstToken = CaptureOptions.skip_first_token,
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
            help="paper: everything as published, from a folder of LRE JSON; of the options count --"
            + ", --".join(COUNT).replace("_", "-")
        ),
    ] = None,
    block: Block = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(help="tokens in one forward pass at most: 2048 of a capture, 3072 of an ablation"),
    ] = None,
    model_dtype: ModelDtype = "auto",
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """All of it: prompts, capture, score, select, ablate. Run it again to resume."""
    if bool(like) == bool(sources):
        raise typer.BadParameter("name SOURCE... or --like STORE, one of them")
    if like:
        if dry_run:
            raise typer.BadParameter("--dry-run takes SOURCE..., not --like STORE", param_hint="--dry-run")
        require_only(context, REPEATED, "a study is repeated as it was")
        return _repeat(like, store, model, device, trust_remote_code, as_json)
    from relact.models.loading import load
    from relact.studies import run

    if preset:
        require_only(context, AS_PUBLISHED, "a preset is as published")
    recipe = _recipe(context, preset)
    reading = reading_of(context)
    skipped: list[str] = []
    chosen: list[str] = []
    table = run.table_of(sources or [], recipe, reading, skipped=skipped, chosen=chosen)
    if not as_json:
        show_sources(chosen, skipped)
    _tell_dropped(table)
    asked: dict[str, Any] = {
        "model_dtype": model_dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if dry_run:
        return show_plans(run.forecast(recipe, model or run.EMBEDDED, table, store, **asked), as_json)
    run.require_alone()
    loaded = load(
        model or run.EMBEDDED, dtype=model_dtype, device=device, trust_remote_code=trust_remote_code
    )
    with Stages() as progress:
        if recipe.known:
            table, before = run.kept(recipe, loaded, table, progress), table.attrs.get("dropped", {})
            _tell_dropped(table, before)
            recipe = replace(recipe, known=False)
        study = run.follow(recipe, loaded, table, store, progress=progress)
    show_study(study, as_json)


def _tell_dropped(table: pd.DataFrame, told: Collection[str] = ()) -> None:
    """A line for every relation that is dropped, but for those that are told already."""
    for name, why in table.attrs.get("dropped", {}).items():
        if name not in told:
            terminal.problem(f"relation {name} is dropped: {why}")


def _recipe(context: typer.Context, preset: str | None) -> Recipe:
    """The options as they are given; of a preset those that do not change what it is.

    ``--device`` is where the model runs, not where scores are computed.
    """
    given = context.params
    run = {name: given[name] for name in ("dtype", "block")}
    tokens = {"batch_tokens": given["batch_tokens"]} if given["batch_tokens"] else {}
    if preset:
        recipe, dealt = presets.get(preset), {name: given[name] for name in ("seed", "strict")}
        recipe = replace(
            recipe,
            prompts=replace(recipe.prompts, **dealt),
            capture=replace(recipe.capture, **run, **tokens),
            scores=replace(recipe.scores, seed=given["seed"], memory=given["memory"]),
            ablate=replace(recipe.ablate, **tokens),
        )
    else:
        captured = {
            name: given[name]
            for name in ("sites", "pool", "attribution", "special_tokens", "skip_first_token")
        }
        asked = {name: given[name] for name in ("mode", "tokens", "match", "perplexity")}
        recipe = Recipe(
            prompts=chosen_of(PromptOptions, context),
            capture=CaptureOptions(**captured, **run, **tokens),
            scores=replace(
                chosen_of(ScoreOptions, context), device=ScoreOptions.device
            ),  # --device is the model's
            ablate=AblateOptions(seeds=tuple(range(given["seeds"])), **asked, **tokens),
        )
    return replace(recipe, k=given["k"] or recipe.k)


def _repeat(
    like: str, store: Path, model: str | None, device: str, trust_remote_code: bool, as_json: bool
) -> None:
    from relact.studies.repeat import repeat

    with Stages() as progress:
        study = repeat(
            like, store, model=model, device=device, trust_remote_code=trust_remote_code, progress=progress
        )
    show_study(study, as_json)

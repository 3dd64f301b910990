"""`relact ablate`: what breaks without each relation's neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relact.ablating.options import AblateOptions
from relact.cli.options import (
    Device,
    DryRun,
    Json,
    Kind,
    MaskSites,
    Match,
    Mode,
    Seed,
    Seeds,
    StorePath,
    TestSize,
    Tokens,
)
from relact.cli.printing import numbers, show_ablation, show_plans
from relact.cli.progress import Stages
from relact.relations.options import PromptOptions

SEEDS = len(AblateOptions.seeds)


def ablate(
    store: StorePath,
    mask: Annotated[str | None, typer.Option(help="name of a stored mask")] = None,
    k: Annotated[str | None, typer.Option("--k", help="select the top k first; 10,50,200 sweeps")] = None,
    kind: Kind = AblateOptions.kind,
    sites: MaskSites = None,
    mode: Mode = AblateOptions.mode,
    tokens: Tokens = AblateOptions.tokens,
    model: Annotated[str | None, typer.Option(help="where the store's model is now, if it moved")] = None,
    seeds: Seeds = SEEDS,
    match: Match = AblateOptions.match,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompts", help="test prompts of this table instead")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="ask the same facts in de, fr, es, zh, ja instead")
    ] = None,
    paraphrase: Annotated[
        bool, typer.Option("--paraphrase", help="ask with the other templates instead")
    ] = False,
    shots: Annotated[int, typer.Option(help="of those prompts: as in the store's")] = 0,
    test_size: TestSize = PromptOptions.test_size,
    seed: Seed = PromptOptions.seed,
    perplexity: Annotated[
        bool, typer.Option("--perplexity", help="of a bundled text under every condition")
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="paper: k, mode, tokens, rule and controls as published")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the result; by default what was done")] = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch off each relation's neurons and see which test prompts stay correct."""
    from relact.relations.table import read
    from relact.studies import presets

    sizes = numbers(k) if k else None
    options = AblateOptions(kind, sites, tuple(range(seeds)), mode, tokens, match, perplexity)
    if preset:
        options, sizes = presets.get(preset).ablate, sizes or presets.get(preset).k
    tests = read(prompt_file) if prompt_file else None
    if language or paraphrase:
        from relact.studies.other_tests import asked_otherwise

        asked = PromptOptions(
            language or "en", shots=shots, test_size=test_size, seed=seed, paraphrase=paraphrase
        )
        tests = asked_otherwise(store, asked)
        parts = [mask or f"top-{k}", *([language] if language else []), *["paraphrase"] * paraphrase]
        name = name or "-".join(parts)
    if dry_run:
        from relact.ablating.forecast import forecast

        planned = forecast(options, store, mask=mask, k=sizes, model=model, tests=tests, device=device)
        return show_plans([planned], as_json)
    from relact.ablating.ablate import ablate_with

    with Stages() as progress:
        result = ablate_with(
            options,
            store,
            mask=mask,
            k=sizes,
            model=model,
            tests=tests,
            name=name,
            device=device,
            progress=progress,
        )
    show_ablation(result, as_json)

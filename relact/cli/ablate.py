"""`relact ablate`: what breaks without each relation's neurons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relact.ablating.options import AblateOptions
from relact.cli.options import (
    By,
    Control,
    CountNeurons,
    Device,
    DryRun,
    Json,
    KeepSuperUnits,
    Kind,
    MaskSites,
    Match,
    Mode,
    Seeds,
    Statistic,
    StoreModel,
    StorePath,
    Tokens,
    TrustRemoteCode,
    Unit,
)
from relact.cli.printing import decimals, numbers, show_ablation, show_frame, show_plans, told_of
from relact.cli.progress import Stages
from relact.schema import MASKS, SCORES

if TYPE_CHECKING:
    import pandas as pd

    from relact.plan import Plan

SEEDS = len(AblateOptions.seeds)


def ablate(
    store: StorePath,
    mask: Annotated[str | None, typer.Option(help="name of a stored mask")] = None,
    k: Annotated[str | None, typer.Option("--k", help="select the top k first; 10,50,200 sweeps")] = None,
    kind: Kind = AblateOptions.kind,
    sites: MaskSites = None,
    by: By = None,
    statistic: Statistic = None,
    unit: Unit = AblateOptions.unit,
    count_neurons: CountNeurons = False,
    keep_super_units: KeepSuperUnits = False,
    mode: Mode = AblateOptions.mode,
    scale: Annotated[
        str | None,
        typer.Option(help="multiply the neurons' values instead, a result per factor: 0.5,1.5,2"),
    ] = None,
    tokens: Tokens = AblateOptions.tokens,
    model: StoreModel = None,
    seeds: Seeds = SEEDS,
    control: Control = AblateOptions.control,
    match: Match = AblateOptions.match,
    on: Annotated[
        str,
        typer.Option(
            help="all test prompts; dev, a third of the subjects, to choose settings on; test, the others; "
            "or identify, where the neurons were chosen"
        ),
    ] = AblateOptions.part,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompts", help="test prompts of this table instead")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="ask the same facts in de, fr, es, zh, ja instead")
    ] = None,
    paraphrase: Annotated[
        bool, typer.Option("--paraphrase", help="ask with the other templates instead")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="with --language or --paraphrase: where other templates or languages of the store's "
            "relations are, as `relact prompts` takes it; may be given several times; bundled by default"
        ),
    ] = None,
    perplexity: Annotated[
        bool, typer.Option("--perplexity", help="of a bundled text under every condition")
    ] = False,
    perplexity_of: Annotated[
        str | None,
        typer.Option(
            help="the same of: text, the bundled one; or objects, sentences without a relation that end in "
            "objects of the test prompts, as published"
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="paper: k, mode, tokens, rule and controls as published")
    ] = None,
    registered: Annotated[
        bool, typer.Option("--register", help="write settings and hypotheses into the store before the run")
    ] = False,
    hypothesis: Annotated[
        list[str] | None, typer.Option(help="with --register: a sentence; may be given several times")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the result; by default what was done")] = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch off each relation's neurons and see which test prompts stay correct."""
    from relact.studies import presets

    sizes = numbers(k) if k else None
    options = AblateOptions(
        kind=kind,
        sites=sites,
        by=by,
        statistic=statistic,
        counted="neuron" if count_neurons else "unit",
        keep_super_units=keep_super_units,
        seeds=tuple(range(seeds)),
        control=control,
        mode=mode,
        tokens=tokens,
        match=match,
        part=on,
        perplexity=perplexity or perplexity_of is not None,
        perplexity_of=perplexity_of or AblateOptions.perplexity_of,
        unit=unit,
    )
    if preset:
        recipe = presets.get(preset)
        options, sizes = recipe.ablate, sizes or (None if mask else recipe.k)
    factors = _factors(scale, options, sizes)
    _require_partners(source, language or paraphrase, hypothesis, registered)
    suffix = [*filter(None, [language]), *["paraphrase"] * paraphrase]
    tests = _tests(store, prompt_file, language, paraphrase, source or [], preset)
    asked: dict[str, Any] = {"mask": mask, "k": sizes, "model": model, "tests": tests, "device": device}
    asked["trust_remote_code"] = trust_remote_code
    asked |= {"name": name, "suffix": suffix}
    if dry_run:
        return show_plans(_plans(options, store, factors, asked | {"registered": registered}), as_json)
    asked["hypotheses"] = (hypothesis or []) if registered else None
    told_of(store, SCORES if mask is None else MASKS)
    if factors:
        return _doses(options, store, factors, asked, as_json)
    from relact.ablating.ablate import ablate_with

    with Stages() as progress:
        result = ablate_with(options, store, **asked, progress=progress)
    show_ablation(result, as_json)


def _factors(scale: str | None, options: AblateOptions, sizes: int | list[int] | None) -> list[float]:
    """The factors of --scale, refused where a run would."""
    if not scale:
        return []
    from relact.ablating.doses import require_factors

    factors = decimals(scale, "--scale")
    if isinstance(sizes, list):
        raise typer.BadParameter("of one k", param_hint="--scale")
    require_factors(options, factors)
    return factors


def _plans(options: AblateOptions, store: Path, factors: list[float], asked: dict[str, Any]) -> list[Plan]:
    """The plan of the one ablation, or one per factor."""
    from relact.ablating.doses import of_factor
    from relact.ablating.forecast import forecast

    if not factors:
        return [forecast(options, store, **asked)]
    scaled = [of_factor(options, factor, asked["name"]) for factor in factors]
    return [forecast(each, store, **asked | {"name": called}) for each, called in scaled]


def _doses(
    options: AblateOptions, store: Path, factors: list[float], asked: dict[str, Any], as_json: bool
) -> None:
    """One ablation per factor, and what all stored factors cost."""
    from relact.ablating.doses import ablate_doses
    from relact.analysis.doses import dose_response

    with Stages() as progress:
        doses = ablate_doses(options, store, factors, **asked, progress=progress)
    table = dose_response(store, like=next(iter(doses)))
    show_frame(table, as_json, heat=("own",))


def _require_partners(
    source: list[str] | None, otherwise: str | bool, hypothesis: list[str] | None, registered: bool
) -> None:
    """Refuse options that say nothing without another one."""
    if source and not otherwise:
        raise typer.BadParameter("give --language or --paraphrase too", param_hint="--source")
    if hypothesis and not registered:
        raise typer.BadParameter("give --register too", param_hint="--hypothesis")


def _tests(
    store: Path,
    prompt_file: Path | None,
    language: str | None,
    paraphrase: bool,
    sources: list[str],
    preset: str | None,
) -> pd.DataFrame | None:
    """Other test prompts than the store's; None where its own are asked."""
    if language or paraphrase:
        from relact.studies.other_tests import asked_otherwise

        return asked_otherwise(
            store, language=language, paraphrase=paraphrase, sources=sources, preset=preset
        )
    if prompt_file:
        from relact.relations.table import read

        return read(prompt_file)
    return None

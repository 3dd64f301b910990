"""`relact prompts`: relations to labelled prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relact.cli import terminal
from relact.cli.options import (
    Examples,
    Form,
    GroupColumn,
    Json,
    LabelColumn,
    LabelNames,
    Language,
    Limit,
    Match,
    ObjectColumn,
    OwnNegatives,
    PerRelation,
    Seed,
    Shots,
    SkipBad,
    Strict,
    SubjectColumn,
    Template,
    TemplateColumn,
    Templates,
    TestSize,
    TextColumn,
    TrustRemoteCode,
    chosen_of,
    reading_of,
    require_only,
)
from relact.cli.printing import show_sources
from relact.cli.progress import Stages
from relact.relations.options import PromptOptions, ReadingOptions

if TYPE_CHECKING:
    import pandas as pd

AS_PUBLISHED = {"sources", "output", "seed", "paraphrase", "preset", "known_by", "strict", "as_json"}


def prompts(
    context: typer.Context,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="as listed by --list, or files")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="file to write: .parquet, .csv, .jsonl")
    ] = None,
    shots: Shots = PromptOptions.shots,
    examples: Examples = PromptOptions.examples,
    language: Language = PromptOptions.language,
    templates: Templates = PromptOptions.templates,
    form: Form = PromptOptions.form,
    per_relation: PerRelation = PromptOptions.per_relation,
    test_size: TestSize = PromptOptions.test_size,
    seed: Seed = PromptOptions.seed,
    paraphrase: Annotated[bool, typer.Option(help="test prompts from the other templates")] = False,
    preset: Annotated[
        str | None, typer.Option(help="paper: the published method's prompts from a folder of LRE JSON")
    ] = None,
    known_by: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="keep the identification prompts that this model answers"),
    ] = None,
    match: Match = "prefix",
    trust_remote_code: TrustRemoteCode = False,
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
    strict: Strict = PromptOptions.strict,
    listing: Annotated[bool, typer.Option("--list", help="list the bundled relations")] = False,
    as_json: Json = False,
) -> None:
    """Build labelled prompts from relations."""
    from relact.relations import table as prompt_table

    if listing:
        return _list_relations(as_json)
    if not sources:
        raise typer.BadParameter("name at least one SOURCE, or use --list")
    if preset:
        allowed = AS_PUBLISHED | ({"per_relation", "match", "trust_remote_code"} if known_by else set())
        require_only(context, allowed, "a preset is as published")
    options = chosen_of(PromptOptions, context, per_relation=None if known_by else per_relation)
    reading = reading_of(context)
    skipped: list[str] = []
    chosen: list[str] = []
    frame = _frame(sources, reading, options, preset, skipped, chosen)
    if known_by:
        from relact.studies.known_prompts import known

        with Stages() as progress:
            frame = known(
                frame,
                known_by,
                match=match,
                per_relation=per_relation,
                strict=strict,
                trust_remote_code=trust_remote_code,
                progress=progress,
            )
    summary = prompt_table.summary(frame)
    where = prompt_table.write(frame, output) if output else None
    if as_json:
        shown = {"output": where, "columns": chosen, "skipped": skipped}
        return terminal.dump({**shown, "relations": summary.to_dict("records")})
    show_sources(chosen, skipped)
    terminal.table(summary)
    terminal.say(f"written to {where}" if where else f"\n{prompt_table.preview(frame)}")


def _frame(
    sources: list[str],
    reading: ReadingOptions,
    options: PromptOptions,
    preset: str | None,
    skipped: list[str],
    chosen: list[str],
) -> pd.DataFrame:
    """The prompts of the sources. A preset has options of its own: seed, paraphrase and strict are chosen."""
    from relact.relations.prompts import build, published
    from relact.relations.sources import load_all
    from relact.studies import presets

    if preset:
        kept = {name: getattr(options, name) for name in ("seed", "paraphrase", "strict")}
        return published(sources, replace(presets.get(preset).prompts, **kept))
    return build(load_all(sources, reading, skipped=skipped, chosen=chosen), options)


def _list_relations(as_json: bool) -> None:
    import pandas as pd

    from relact.relations.sources import load

    rows: list[dict[str, Any]] = [
        {
            "relation": relation.name,
            "facts": len({fact.key for fact in relation.facts}),
            "languages": list(relation.languages),
            "templates": {language: len(texts) for language, texts in relation.templates.items()},
            "source": relation.source,
        }
        for relation in load("all")
    ]
    if as_json:
        terminal.dump(rows)
        return
    for row in rows:
        row["languages"], row["templates"] = " ".join(row["languages"]), sum(row["templates"].values())
    terminal.table(pd.DataFrame(rows))

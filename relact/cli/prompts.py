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
    Json,
    Language,
    Match,
    PerRelation,
    Seed,
    Shots,
    Strict,
    Templates,
    TestSize,
)
from relact.cli.progress import Stages
from relact.relations.options import PromptOptions, ReadingOptions

if TYPE_CHECKING:
    import pandas as pd


def prompts(
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
    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column", "--relation-column", help="column of your table that names the relation"
        ),
    ] = None,
    subject_column: Annotated[str | None, typer.Option(help="column with the subjects of facts")] = None,
    object_column: Annotated[str | None, typer.Option(help="column with the answers")] = None,
    text_column: Annotated[str | None, typer.Option(help="column with ready texts, instead of facts")] = None,
    template_column: Annotated[str | None, typer.Option(help="column with every row's template")] = None,
    template: Annotated[
        str | None, typer.Option(help='for tables of facts without one: "The capital of {} is"')
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="facts per relation to read at most, for very large tables")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option(help="pass over rows that cannot be used, and count them")
    ] = False,
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
    options = PromptOptions(
        language,
        shots,
        examples,
        templates,
        form,
        None if known_by else per_relation,
        test_size,
        seed,
        paraphrase,
        strict=strict,
    )
    reading = ReadingOptions(
        label_column,
        template,
        limit=limit,
        skip_bad=skip_bad,
        subject_column=subject_column,
        object_column=object_column,
        text_column=text_column,
        template_column=template_column,
    )
    skipped: list[str] = []
    chosen: list[str] = []
    frame = _frame(sources, reading, options, preset, skipped, chosen)
    if known_by:
        from relact.studies.known_prompts import known

        with Stages() as progress:
            frame = known(frame, known_by, match=match, per_relation=per_relation, progress=progress)
    summary = prompt_table.summary(frame)
    where = prompt_table.write(frame, output) if output else None
    if as_json:
        shown = {"output": where, "columns": chosen, "skipped": skipped}
        return terminal.dump({**shown, "relations": summary.to_dict("records")})
    _show(summary, chosen, skipped)
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


def _show(summary: pd.DataFrame, chosen: list[str], skipped: list[str]) -> None:
    """What became of the sources: their columns, their relations, and the rows that were left out."""
    for line in chosen:
        terminal.say(line)
    terminal.table(summary)
    if skipped:
        more = "; ..." if len(skipped) > 3 else ""
        terminal.say(f"\n{len(skipped)} rows skipped: {'; '.join(skipped[:3])}{more}")


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

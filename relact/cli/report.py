"""`relact report`: a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relact.cli import terminal
from relact.cli.options import Json, Relations, StorePlace
from relact.cli.printing import listed, told_of
from relact.schema import RESULTS


def report(
    store: StorePlace,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="page to write: .html")] = None,
    figures: Annotated[Path | None, typer.Option(help="folder for every figure as PNG, SVG and PDF")] = None,
    width: Annotated[
        str | None, typer.Option(help="of the figures: column or page of a paper; free by default")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="neuron sets to show; those of the ablation shown first by default")
    ] = None,
    relations: Relations = None,
    as_json: Json = False,
) -> None:
    """One page with every result of a study, and its figures as files."""
    from relact.reporting.report import report as write_report

    if output is None and figures is None:
        raise typer.BadParameter("say what to write: -o FILE, --figures FOLDER, or both")
    place, names = told_of(store, *RESULTS), listed(relations)
    written = write_report(place, output, figures=figures, width=width, mask=mask, relations=names)
    if as_json:
        terminal.dump({"store": store, "written": written})
        return
    for path in written:
        typer.echo(f"written: {path}")

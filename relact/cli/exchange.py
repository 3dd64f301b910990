"""`relact export` and `relact import`: files of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relact.cli.options import Json, Relations, StorePath, StorePlace
from relact.cli.printing import listed, show, show_store, told_of
from relact.schema import RESULTS


def export(
    store: StorePlace,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="file, or folder for the formats of other tools")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="scores: selfcond, lang_neuron; masks: json, csv, safetensors, and by the names of other "
            "libraries transformer-lens, nnsight, hooks; ablations: parquet, "
            "errors (what was said instead); prompts: concepts",
        ),
    ],
    mask: Annotated[str | None, typer.Option(help="mask to export; the only one by default")] = None,
    ablation: Annotated[str | None, typer.Option(help="ablation to export; the only one by default")] = None,
    relations: Relations = None,
    group: Annotated[str, typer.Option(help="the other tools' name for a family of concepts")] = "sense",
    limited: Annotated[
        int | None, typer.Option(help="also expertise_limited files of so many neurons")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write scores, neuron lists, ablations or prompts for other tools."""
    from relact.exchange.formats import export as write_files

    written = write_files(
        told_of(store, *RESULTS),
        out,
        form,
        mask=mask,
        ablation=ablation,
        relations=listed(relations),
        group=group,
        limited=limited,
    )
    show({"format": form, "written": [str(path) for path in written]}, as_json)


def import_scores(
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE... STORE", help="expertise.csv files or folders")
    ],
    store: StorePath,
    as_json: Json = False,
) -> None:
    """Put the scores of ml-selfcond or lang_neuron into a store of the same model."""
    from relact.exchange.selfcond import import_scores as read_scores

    show_store(read_scores(store, source), as_json)

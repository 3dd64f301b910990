"""`relact look`: where neurons act in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relact.cli import terminal
from relact.cli.options import By, Device, Json, NeuronNames, Place, PlaceModel, TrustRemoteCode
from relact.cli.printing import neurons_of, show_frame, spoken
from relact.cli.progress import Stages
from relact.schema import ACTIVATION, ATTRIBUTION

if TYPE_CHECKING:
    from relact.studies.look import Look


def look(
    place: Place,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="what is read")] = None,
    prompt: Annotated[int | None, typer.Option(help="instead: a prompt of the store, by number")] = None,
    split: Annotated[str, typer.Option(help="of --prompt: identify or test")] = "identify",
    answer: Annotated[
        str | None, typer.Option(help="whose first token is attributed; the likeliest by default")
    ] = None,
    relation: Annotated[str | None, typer.Option(help="show neurons of this one only")] = None,
    neuron: NeuronNames = None,
    n: Annotated[int | None, typer.Option("-n", help="neurons of every relation, or of the model")] = None,
    sites: Annotated[str | None, typer.Option(help="show neurons of these sites")] = None,
    by: By = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="without a text: read off what this mask's neurons write and where in prompts they act, and "
            "keep it in the store"
        ),
    ] = None,
    model: PlaceModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="write it: .html, or a table as .parquet, .csv, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Where neurons act in one sentence, token by token, and what of the answer is owed to them there."""
    if mask is not None and text is None and prompt is None:
        return _mask(place, mask, model, device, trust_remote_code, output, as_json)
    from relact.analysis.tables import write_table
    from relact.studies.look import look as read

    seen = read(
        place,
        text,
        prompt=prompt,
        split=split,
        answer=answer,
        neurons=neurons_of(neuron) if neuron else None,
        relation=relation,
        n=n,
        by=by,
        sites=sites,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    if output:
        html = output.suffix.lower() == ".html"
        output = seen.write(output) if html else write_table(seen.table(), output)
    if as_json:
        return terminal.dump(_document(seen))
    if output:
        return terminal.say(f"written: {output}")
    from relact.cli import drawing

    drawing.look(seen)


def _document(seen: Look) -> dict[str, object]:
    """What JSON says: numbers per token of the shown neurons."""
    rows = seen.shown.to_dict("records")
    for name in (ACTIVATION, ATTRIBUTION):
        for row, values in zip(rows, seen.values(name).tolist(), strict=True):
            row[name] = values
    about = {"model": seen.model, "text": seen.text, "tokens": seen.tokens, "answer": seen.answer}
    return about | {"log_probability": seen.log_probability, "neurons": rows}


def _mask(
    store: str,
    mask: str,
    model: str | None,
    device: str,
    trust_remote_code: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Look at a mask's neurons, and show what they write."""
    from relact.studies.looks import look_at_mask

    with Stages() as progress:
        table = look_at_mask(
            store, mask, model=model, device=device, trust_remote_code=trust_remote_code, progress=progress
        )
    if output or as_json:
        return show_frame(table, as_json, output)
    shown = table.assign(
        **{name: [spoken(words) for words in table[name]] for name in ("promoted", "suppressed")}
    )
    show_frame(shown[["relation", "rank", "site", "layer", "neuron", "promoted", "suppressed"]], False)

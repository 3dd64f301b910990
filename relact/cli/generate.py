"""`relact generate`: what a model says without a relation's neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relact.cli.options import (
    Control,
    Device,
    Json,
    NeuronNames,
    Output,
    Place,
    PlaceModel,
    PromptTexts,
    TrustRemoteCode,
)
from relact.cli.printing import decimals, neurons_of, show_frame
from relact.cli.progress import Stages

SET = "set them to a statistic instead: on_p90, on_p50, off_mean, mean, resample"


def generate(
    place: Place,
    text: PromptTexts = None,
    mask: Annotated[str | None, typer.Option(help="of the store; the only one by default")] = None,
    relation: Annotated[str | None, typer.Option(help="whose set of the mask")] = None,
    neuron: NeuronNames = None,
    scale: Annotated[
        str | None, typer.Option(help="multiply their values instead of switching them off: 0,0.5,2")
    ] = None,
    set_to: Annotated[str | None, typer.Option("--set", help=SET)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="of every text, at most")] = 64,
    sample: Annotated[bool, typer.Option("--sample", help="draw tokens instead of the likeliest")] = False,
    temperature: Annotated[float, typer.Option(help="of --sample")] = 1.0,
    top_p: Annotated[float, typer.Option(help="of --sample: share of the distribution to draw from")] = 1.0,
    seed: Annotated[int, typer.Option(help="of --sample, the same for every condition")] = 0,
    seeds: Annotated[int, typer.Option(help="random sets beside the relation's own")] = 1,
    control: Control = "matched",
    prompt_file: Annotated[
        Path | None, typer.Option("--prompts", help="go on from these: a table with a column text, or lines")
    ] = None,
    model: PlaceModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Free text as the model is, without a relation's neurons, and without random ones, side by side."""
    if not text and prompt_file is None:
        raise typer.BadParameter("give a text, or --prompts FILE", param_hint="TEXT")
    from relact.ablating.speaking import generate as speak
    from relact.ablating.subject import texts_of

    with Stages() as progress:
        table = speak(
            place,
            [*(text or []), *(texts_of(prompt_file) if prompt_file else [])],
            mask=mask,
            relation=relation,
            neurons=neurons_of(neuron) if neuron else None,
            scale=decimals(scale, "--scale") if scale else None,
            set_to=set_to,
            max_new_tokens=max_new_tokens,
            sample=sample,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            seeds=range(seeds),
            control=control,
            model=model,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if output or as_json:
        return show_frame(table, as_json, output)
    from relact.cli import drawing

    drawing.texts(table)

"""`relact patch`: whether a relation's own neurons suffice."""

from __future__ import annotations

from typing import Annotated

import typer

from relact.ablating.options import PatchOptions
from relact.cli.options import Device, Json, Output, StoreModel, StorePlace, TrustRemoteCode
from relact.cli.printing import show_frame, told_of
from relact.cli.progress import Stages
from relact.schema import MASKS


def patch(
    store: StorePlace,
    mask: Annotated[str, typer.Option(help="name of a stored mask")],
    per_relation: Annotated[
        int, typer.Option(help="test prompts of every relation, at most")
    ] = PatchOptions.per_relation,
    identify: Annotated[
        int, typer.Option(help="identification prompts of every relation whose values are averaged, at most")
    ] = PatchOptions.identify,
    seeds: Annotated[int, typer.Option(help="random controls")] = len(PatchOptions.seeds),
    tokens: Annotated[
        str, typer.Option(help="patch all tokens, or from the last one of a prompt on")
    ] = PatchOptions.tokens,
    seed: Annotated[int, typer.Option(help="of the prompts and answers that are drawn")] = PatchOptions.seed,
    model: StoreModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Set a relation's neurons in other relations' prompts as its own set them: do its answers come up."""
    from relact.cli import terminal
    from relact.studies.patch import patch

    with Stages() as progress:
        table = patch(
            told_of(store, MASKS),
            mask,
            per_relation=per_relation,
            identify=identify,
            seeds=range(seeds),
            tokens=tokens,
            seed=seed,
            model=model,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if not (output or as_json):
        terminal.say(
            "nats of an answer's first token in prompts of other relations; gains with 95 % intervals"
        )
        table = table.round(3)
    show_frame(table, as_json, output, heat=("gain", "over_random"))

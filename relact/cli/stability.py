"""`relact stability`: the same neurons, and the same function, from the other half of the prompts?"""

from __future__ import annotations

from typing import Annotated

import typer

from relact.cli.options import (
    By,
    Device,
    Json,
    Negatives,
    Output,
    Statistic,
    StoreModel,
    StorePath,
    TrustRemoteCode,
    Workers,
)
from relact.cli.printing import show_frame
from relact.cli.progress import Stages


def stability(
    store: StorePath,
    k: Annotated[int, typer.Option("--k", help="neurons per relation")],
    by: By = None,
    statistic: Statistic = None,
    splits: Annotated[int, typer.Option(help="how often the prompts are halved")] = 3,
    seed: Annotated[int, typer.Option(help="of the halves")] = 0,
    negatives: Negatives = None,
    workers: Workers = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="also switch off both halves' sets on the test prompts")
    ] = False,
    seeds: Annotated[int, typer.Option(help="with --ablate: random controls")] = 3,
    model: StoreModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Choose every relation's top k from two random halves of its prompts, and say how much is the same."""
    from relact.cli import terminal
    from relact.scoring.criteria import named
    from relact.studies.stability import stability

    with Stages() as progress:
        table = stability(
            store,
            k=k,
            statistic=named(by, statistic),
            splits=splits,
            seed=seed,
            negatives=negatives,
            workers=workers,
            ablate=ablate,
            seeds=range(seeds),
            model=model,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if not (output or as_json):
        terminal.say("share of k that both halves choose; others: with the other relations' halves")
        means = table.drop(columns="split").groupby("relation", sort=False).mean()
        table = means.reset_index().round(3)
        terminal.say(f"means over {splits} splits; of all relations {means['shared'].mean():.3f}")
    show_frame(table, as_json, output, heat=("shared",))

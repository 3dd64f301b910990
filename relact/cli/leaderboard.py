"""`relact leaderboard`: which criterion finds the neurons that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relact.cli.options import Device, Json, Output, StoreModel, TrustRemoteCode
from relact.cli.printing import listed, numbers, show_frame, told_of
from relact.cli.progress import Stages
from relact.schema import ABLATIONS, SCORES

POINTS = ["own", "other", "random", "size_other", "size_random"]
SHOWN = ["part", "criterion", "k", *POINTS, "log_own", "log_other", "log_random"]


def leaderboard(
    stores: Annotated[
        list[Path],
        typer.Argument(metavar="STORE...", help="one, or several of the same prompts, each in its way"),
    ],
    criteria: Annotated[
        str | None,
        typer.Option(help="comma-separated statistics; those that need the store alone by default"),
    ] = None,
    k: Annotated[str, typer.Option("--k", help="numbers of neurons per relation")] = "50,100,200,400",
    seeds: Annotated[int, typer.Option(help="random controls")] = 5,
    model: StoreModel = None,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Compare criteria x k: chosen on the dev prompts, the best of each shown on the test prompts."""
    from relact.cli import terminal
    from relact.studies.leaderboard import leaderboard

    sizes = numbers(k)
    for store in stores:
        told_of(store, SCORES, ABLATIONS)
    with Stages() as progress:
        board = leaderboard(
            stores,
            listed(criteria),
            k=[sizes] if isinstance(sizes, int) else sizes,
            seeds=seeds,
            model=model,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    if output or as_json:
        return show_frame(board, as_json, output)
    short = board.assign(
        interval=[
            f"[{low:.1f}, {high:.1f}]" for low, high in zip(board["own_low"], board["own_high"], strict=True)
        ],
        separate=[f"{some} of {of}" for some, of in zip(board["separate"], board["relations"], strict=True)],
        separate_log=[
            f"{some} of {of}" for some, of in zip(board["separate_log"], board["relations"], strict=True)
        ],
    )
    terminal.say(
        "drop in points (size: either way, where losses and gains do not cancel), and in nats of the "
        "answer's first token; k was chosen on dev, test chose nothing"
    )
    columns = [*SHOWN[:4], "interval", *SHOWN[4:], "separate", "separate_log", "area", "cost"]
    terminal.table(short[columns].round(2), heat=("own",))

"""`relact judge`: verdicts made again from stored texts."""

from __future__ import annotations

from typing import Annotated

import typer

from relact.cli import terminal
from relact.cli.options import Json, StorePath
from relact.cli.printing import show_frame, told_of
from relact.schema import ABLATIONS


def judge(
    store: StorePath,
    ablation: Annotated[
        list[str] | None, typer.Argument(metavar="[ABLATION]...", help="names; all by default")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="another rule, recorded in the former one's place: prefix, exact, paper"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the stored texts of ablations again, and store the verdicts.

    They take the place of the former ones, which `--match` with the former rule brings back. No model is
    needed where the texts suffice.
    """
    from relact.ablating.judge import judge as judge_again

    table = judge_again(told_of(store, ABLATIONS), ablation or None, match=match)
    show_frame(table, as_json)
    short = table.loc[table["undecided"] > 0, "ablation"].tolist()
    if short and not as_json:
        terminal.say(f"texts of {', '.join(short)} end before the verdict: `relact ablate` reads them on")

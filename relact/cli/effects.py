"""`relact effects`: what stored ablations cost, whole or split by their prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relact.ablating.options import AblateOptions
from relact.cli.options import Json, Output, StorePlace
from relact.cli.printing import show_frame, told_of
from relact.schema import ABLATIONS

if TYPE_CHECKING:
    import pandas as pd

GROUPS = ("own", "other", "random")


def effects(
    store: StorePlace,
    ablation: Annotated[
        list[str] | None,
        typer.Option(help="name of a stored one, may be given several times; all by default"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="answers: those that identification prompts of the relation had too, and those unseen; or "
            "by the prompts' language or template"
        ),
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Mean drops under own, other and random neurons, with intervals over relations and prompts."""
    from relact.analysis.splits import effect_table
    from relact.cli import terminal

    table = effect_table(told_of(store, ABLATIONS), ablation or None, split=split)
    if output or as_json:
        return show_frame(table, as_json, output)
    terminal.say("mean drop [95 % interval]: in points, and in nats of the answer's first token")
    terminal.say("size: points either way, mean over cells, where losses and gains do not cancel")
    terminal.table(_wide(table))


def _wide(table: pd.DataFrame) -> pd.DataFrame:
    """A row per ablation and label, columns of own, other and random, as text; the rule for a right answer
    where it is not the usual one.
    """
    import pandas as pd

    shown = table[table["group"].isin(GROUPS)].copy()
    for log, digits in (("", 1), ("log_", 2)):
        columns = (shown[f"{log}{name}"] for name in ("drop", "low", "high"))
        shown[f"{log}text"] = [
            f"{drop:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
            for drop, low, high in zip(*columns, strict=True)
        ]
    shown["size"] = [f"{size:.1f}" for size in shown["size"]]
    usual = (table["match"] == AblateOptions.match).all()
    index = ["ablation", "k", "split", *([] if usual else ["match"]), "prompts", "relations"]
    found: dict[tuple[object, ...], dict[str, object]] = {}
    for row in shown.to_dict("records"):
        cells = found.setdefault(tuple(row[name] for name in index), {name: row[name] for name in index})
        group = row["group"]
        cells |= {group: row["text"], f"size_{group}": row["size"], f"log_{group}": row["log_text"]}
    wide = pd.DataFrame(list(found.values()))
    groups = [name for name in GROUPS if name in wide]
    sizes = [f"size_{name}" for name in groups if name != "own"]
    return wide[[*index, *groups, *sizes, *(f"log_{name}" for name in groups)]].fillna("")

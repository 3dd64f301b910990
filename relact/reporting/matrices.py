"""Matrices: what every relation (rows) gains or loses by each condition (columns), in points or in nats."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from relact.reporting.ablations import CONTROL
from relact.reporting.gather import Contents
from relact.reporting.looks import LIGHT, Look, dressed, turn
from relact.reporting.pieces import cells, chosen, slanted, with_choices
from relact.schema import INTACT


def ablation(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Points of accuracy that every relation (rows) gains or loses by each condition (columns).

    A star marks what is significant against the intact model after correction.
    """
    table = _changes(contents.accuracy)
    more = [
        alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".1f"),
        alt.Tooltip("intact:Q", title="intact (%)", format=".1f"),
        alt.Tooltip("change:Q", title="change (points)", format="+.1f"),
        alt.Tooltip("low:Q", title="lost at least (points)", format="+.1f"),
        alt.Tooltip("high:Q", title="and at most", format="+.1f"),
    ]
    return _matrix(contents, table, more, look, live, 10.0, "Change of accuracy in points")


def log_ablation(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Nats of log-probability that the answers of every relation gain or lose by each condition."""
    table = contents.accuracy.dropna(subset=["log_drop"]).assign(change=lambda rows: -rows["log_drop"])
    table = table[["choice", "condition", "relation", "change"]].round(3)
    table["label"] = [f"{change:+.1f}".replace("-", "\u2212") for change in table["change"]]
    more = [alt.Tooltip("change:Q", title="change (nats)", format="+.2f")]
    return _matrix(contents, table, more, look, live, 1.0, "Change of the answers' log-probability in nats")


def experts(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Experts of every layer that a relation's prompts use most beyond other prompts, best first."""
    table = contents.experts.assign(
        more=contents.experts["use"] - contents.experts["others"],
        label=contents.experts["expert"].map(str),
    )
    first, far = contents.relations[0], max(1e-4, float(table["more"].abs().max()))
    base = chosen(table, live, relation=first).encode(
        x=alt.X("rank:O", title="used most beyond others", axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("layer:O", title="layer"),
        tooltip=[
            "relation:N",
            "layer:O",
            "expert:O",
            alt.Tooltip("use:Q", title="mean weight", format=".3f"),
            alt.Tooltip("others:Q", title="on other prompts", format=".3f"),
            alt.Tooltip("neurons:Q", title="chosen neurons", format=","),
            alt.Tooltip("chance:Q", title="if spread evenly", format=",.1f"),
        ],
    )
    colour = alt.Color("more:Q", title="weight beyond", scale=alt.Scale(scheme="cividis", domain=[0, far]))
    ink = alt.condition(f"datum.more > {0.45 * far}", alt.value("#000000"), alt.value("#ffffff"))
    drawn = cells(base, look, colour, alt.Text("label:N"), ink)
    chart = with_choices(alt.layer(*drawn), live, relation=first)
    rows, columns = table["layer"].nunique(), int(table["rank"].max())
    return dressed(chart, look, live, rows, columns, f"Experts that {first} uses")


def _matrix(
    contents: Contents,
    table: pd.DataFrame,
    more: Sequence[alt.Tooltip],
    look: Look,
    live: bool,
    least: float,
    title: str,
) -> alt.TopLevelMixin:
    """A matrix of changes, relations by conditions, coloured up to the largest one, or ``least``.

    Args:
        table: choice, condition, relation, change, label, and what the tooltips ``more`` show.
    """
    there = set(table["relation"])
    rows = [name for name in contents.relations if name in there]
    columns = _conditions(table, contents.relations)
    first = next(iter(contents.choices))
    base = chosen(table, live, choice=first).encode(
        x=alt.X("condition:N", sort=columns, title="neurons switched off", axis=slanted()),
        y=alt.Y("relation:N", sort=rows, title=None),
        tooltip=[
            alt.Tooltip("relation:N", title="relation"),
            alt.Tooltip("condition:N", title="switched off"),
            *more,
        ],
    )
    far = max(least, float(table["change"].abs().max()))
    scale = alt.Scale(
        domain=[-far, 0, far], range=[look.loss, look.even, look.gain], type="linear", interpolate="rgb"
    )
    colour = alt.Color("change:Q", title="points", scale=scale, legend=None)
    down, up = -far * turn(look, look.loss), far * turn(look, look.gain)
    ink = alt.condition(
        f"datum.change < {down} || datum.change > {up}", alt.value(look.strong), alt.value(look.plain)
    )
    own = base.transform_filter("datum.relation == datum.condition").mark_rect(
        filled=False, stroke=look.ink, strokeWidth=1.5
    )
    drawn = cells(base, look, colour, "label:N", ink)
    chart = with_choices(alt.layer(*drawn, own), live, choice=first)
    made = contents.choices[first]
    titled = f"{title}: {first}, {made.asked}, {contents.provenance['capture']['model']['id']}"
    return dressed(chart, look, live, len(rows), len(columns), titled)


def _changes(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Contents.accuracy` with the change that a cell shows and its label, the intact model first."""
    table = accuracy.assign(change=-accuracy["drop"])
    intact = table.drop_duplicates(["choice", "relation"]).assign(
        condition=INTACT, change=0.0, low=None, high=None, clear=False
    )
    intact["accuracy"] = intact["intact"]
    table = pd.concat([intact, table]).drop(columns=["drop", "log_drop"])
    table[["low", "high"]] = table[["low", "high"]].astype(float)
    table = table.round(2)
    cells = zip(table["condition"], table["accuracy"], table["change"], table["clear"], strict=True)
    labels = [
        f"{percent:.0f} %" if condition == INTACT else f"{_signed(change)}{'*' if clear else ''}"
        for condition, percent, change, clear in cells
    ]
    return table.assign(label=labels)


def _conditions(table: pd.DataFrame, relations: Sequence[str]) -> list[str]:
    """Conditions of a table in order: intact, the relations, what else was switched off, the controls."""
    there = dict.fromkeys(table["condition"])
    named = [name for name in relations if name in there]
    others = [name for name in there if name not in {*named, INTACT, CONTROL}]
    return [INTACT, *named, *others, *([CONTROL] if CONTROL in there else [])]


def _signed(value: float) -> str:
    """A change in whole points with a true minus; nothing for none."""
    whole = round(value)
    return f"{whole:+d}".replace("-", "\u2212") if whole else "0"

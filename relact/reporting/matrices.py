"""Matrices: what every relation (rows) gains or loses by each condition (columns), in points or in nats."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from relact.reporting.ablations import CONTROL, OTHER, OWN
from relact.reporting.gather import Contents
from relact.reporting.looks import LIGHT, Look, dressed, themed, turn
from relact.reporting.pieces import cells, chosen, data, slanted, with_choices
from relact.schema import INTACT

GIVEN, EFFECT = "given", "effect"  # orders of a matrix: as the relations come, or by what they lose
OWN_WIDTH, OWN_ROW = 300, 19  # pixels of a panel, and of a relation in it


def ablation(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Points of accuracy that every relation (rows) gains or loses by each condition (columns).

    A star marks what is significant against the intact model after correction.
    """
    table = _changes(contents.accuracy)
    more = [
        alt.Tooltip("prompts:Q", title="prompts"),
        alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".1f"),
        alt.Tooltip("intact:Q", title="intact (%)", format=".1f"),
        alt.Tooltip("change:Q", title="change (points)", format="+.1f"),
        alt.Tooltip("low:Q", title="lost at least (points)", format="+.1f"),
        alt.Tooltip("high:Q", title="and at most", format="+.1f"),
    ]
    return _matrix(contents, table, more, look, live, 10.0, "Change of accuracy in points")


def log_ablation(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Nats of log-probability that the answers of every relation gain or lose by each condition; a star as in
    `ablation`.
    """
    table = contents.accuracy.dropna(subset=["log_drop"]).assign(change=lambda rows: -rows["log_drop"])
    table = table[["choice", "condition", "relation", "prompts", "change", "log_clear"]].round(3)
    changes = zip(table["change"], table["log_clear"], strict=True)
    table["label"] = [f"{_signed(change, 1)}{'*' if clear else ''}" for change, clear in changes]
    more = [
        alt.Tooltip("prompts:Q", title="prompts"),
        alt.Tooltip("change:Q", title="change (nats)", format="+.2f"),
    ]
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
    base = _ordered(chosen(_placed(table, rows, columns), live, choice=first), live).encode(
        x=alt.X("condition:N", sort=_by("column"), title="neurons switched off", axis=slanted()),
        y=alt.Y("relation:N", sort=_by("row"), title=None),
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
    chart = with_choices(alt.layer(*drawn, own), live, choice=first, order=GIVEN)
    return dressed(chart, look, live, len(rows), len(columns), f"{title}: {about(contents, first)}")


def about(contents: Contents, choice: str) -> str:
    """Model, number of neurons, what chose them, and the prompts of an ablation, for a title."""
    made = contents.choices[choice]
    by = f" by {made.statistic}" if made.statistic else ""
    return f"{contents.model}, k = {made.k:,}{by}, {made.asked}"


def _placed(table: pd.DataFrame, rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """With the place of every row and column as given, and by what a relation's own neurons do to it."""
    own = table[table["condition"] == table["relation"]].set_index(["choice", "relation"])["change"]
    effect = own.groupby(level="choice").rank(method="first").to_dict()  # the largest loss is 1
    given = {name: at for at, name in enumerate(columns)}
    last = len(columns)

    def place(choice: str, name: str) -> float:
        """A condition that is no relation stays where it is: intact first, random last."""
        return float(effect.get((choice, name), given.get(name, 0) if given.get(name) == 0 else last))

    pairs = list(zip(table["choice"], table["relation"], table["condition"], strict=True))
    return table.assign(
        row_given=[rows.index(relation) for _, relation, _ in pairs],
        row_effect=[place(choice, relation) for choice, relation, _ in pairs],
        column_given=[given[condition] for *_, condition in pairs],
        column_effect=[place(choice, condition) for choice, _, condition in pairs],
    )


def _ordered(chart: alt.Chart, live: bool) -> alt.Chart:
    """Rows and columns by the signal ``order``, in files as given."""
    for name in ("row", "column"):
        given, effect = f"datum.{name}_given", f"datum.{name}_effect"
        chart = chart.transform_calculate(
            **{f"{name}_at": f"order == '{EFFECT}' ? {effect} : {given}" if live else given}
        )
    return chart


def _by(name: str) -> alt.EncodingSortField:
    return alt.EncodingSortField(field=f"{name}_at", op="min", order="ascending")


def own(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Points that every relation loses under its own neurons, with intervals, under the others' and random
    ones: a panel per criterion, side by side.
    """
    shown = [choice for choice, made in contents.choices.items() if not made.foreign]
    of_statistic = {contents.choices[choice].statistic: choice for choice in reversed(shown)}  # the clearest
    panels = {_panel(contents, choice): choice for choice in of_statistic.values()}
    table = contents.accuracy[contents.accuracy["choice"].isin(panels.values())]
    whose = np.where(table["condition"] == table["relation"], OWN, OTHER)
    table = table.assign(whose=np.where(table["condition"] == CONTROL, CONTROL, whose))
    keys = ["choice", "relation", "whose"]
    table = table.groupby(keys, sort=False)[["drop", "low", "high", "clear"]].mean().reset_index()
    table.loc[table["whose"] != OWN, ["low", "high"]] = np.nan
    table["panel"] = table["choice"].map({choice: panel for panel, choice in panels.items()})
    first = table[(table["choice"] == shown[0]) & (table["whose"] == OWN)].sort_values(
        "drop", ascending=False
    )
    rows = first["relation"].tolist()
    colour = alt.Color(
        "whose:N", title="neurons", scale=alt.Scale(domain=[OWN, OTHER, CONTROL], range=list(look.series))
    )
    shape = alt.Shape("whose:N", title="neurons", scale=alt.Scale(domain=[OWN, OTHER, CONTROL]))
    keep = ["panel", "relation", "whose", "drop", "low", "high"]
    bare = alt.Chart(data(table[keep].round(2)))
    base = bare.encode(y=alt.Y("relation:N", sort=rows, title=None))
    tips = [
        "relation:N",
        "whose:N",
        *(alt.Tooltip(f"{name}:Q", format="+.1f") for name in ("drop", "low", "high")),
    ]
    points = base.mark_point(filled=True, size=50, opacity=1).encode(
        x=alt.X("drop:Q", title="points of accuracy lost"), color=colour, shape=shape, tooltip=tips
    )
    bars = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=colour)
    zero = bare.transform_aggregate(rows="count()", groupby=["panel"]).mark_rule(color=look.ink)
    zero = zero.encode(x=alt.datum(0))
    both = alt.layer(zero, bars, points).properties(width=OWN_WIDTH, height=len(rows) * OWN_ROW)
    order = sorted(panels, key=lambda panel: shown.index(panels[panel]))
    chart = both.facet(column=alt.Column("panel:N", sort=order, title=None))
    title = f"What every relation loses without its own neurons: {contents.model}, test prompts"
    return themed(chart if live else chart.properties(title=title), look)


def _panel(contents: Contents, choice: str) -> str:
    return f"{choice}, k = {contents.choices[choice].k:,}"


def _changes(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Contents.accuracy` with the change that a cell shows and its label, the intact model first."""
    table = accuracy.assign(change=-accuracy["drop"])
    intact = table.drop_duplicates(["choice", "relation"]).drop(columns=["low", "high"])
    intact = intact.assign(condition=INTACT, change=0.0, clear=False, accuracy=intact["intact"])
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


def _signed(value: float, digits: int = 0) -> str:
    """A change with a true minus; what rounds to none has no sign."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "\u2212") if rounded else f"{0:.{digits}f}"

"""Figures: the tables of a study as Altair charts, one function each.

Every chart exists in two forms. As a file or in a notebook it shows one choice and carries its title.
``live``, on the page, it fills its frame and follows the signals ``choice``, ``relation`` and ``site`` that
the page's controls set. Colours are blue to orange around zero and cividis from zero upwards, both told apart
with every common form of colour blindness; the value stands in the cell wherever there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import altair as alt
import pandas as pd

from relact import colours
from relact.errors import StoreError
from relact.reporting.gather import ALL, CONTROL, Study
from relact.schema import INTACT

CELL = {"width": 44, "height": 26}  # pixels of a matrix cell in files
PLAIN = {"width": 460, "height": 260}
OVERHANG = 36  # pixels that the last slanted label needs
FORMATS = ("png", "svg", "pdf")
PNG_SCALE = 2.0
FONT = "system-ui, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Look:
    """Colours of the light or the dark page."""

    paper: str
    ink: str
    faint: str
    loss: str
    even: str
    gain: str
    series: tuple[str, str, str]  # own, other, random; also told apart by their dashes
    plain: str  # text in a cell that is even
    strong: str  # text in a cell that is far from even


LIGHT = Look(
    "#ffffff",
    "#1f2328",
    "#d0d7de",
    "#b35806",
    "#f7f7f7",
    "#2166ac",
    ("#b35806", "#2166ac", "#6e7781"),
    "#000000",
    "#ffffff",
)
DARK = Look(
    "#0d1117",
    "#e6edf3",
    "#30363d",
    "#e08214",
    "#20262d",
    "#4393c3",
    ("#f0a04b", "#6cb2eb", "#9198a1"),
    "#ffffff",
    "#000000",
)


def charts(study: Study, look: Look = LIGHT, live: bool = False) -> dict[str, alt.TopLevelMixin]:
    """Every figure that the study has data for, by name, in the order of the page."""
    drawn: dict[str, tuple[Callable[..., Any], bool]] = {
        "ablation": (ablation, bool(study.choices)),
        "sweep": (sweep, study.sweep["k"].nunique() > 1),
        "overlap": (overlap, len(study.relations) > 1),
        "growth": (growth, len(study.growth) > 0),
        "layers": (layers, True),
        "distribution": (distribution, True),
    }
    return {name: draw(study, look, live) for name, (draw, there) in drawn.items() if there}


def ablation(study: Study, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """What switching off each relation's neurons (columns) does to every relation (rows):
    points of accuracy gained or lost.
    """
    table = study.accuracy.assign(change=-study.accuracy["drop"])
    intact = table.drop_duplicates(["choice", "relation"]).assign(condition=INTACT, change=0.0)
    intact["accuracy"] = intact["intact"]
    table = pd.concat([intact, table]).drop(columns="drop").round(2)
    shown = zip(table["condition"], table["accuracy"], table["change"], strict=True)
    table["label"] = [
        f"{right:.0f} %" if name == INTACT else _signed(change) for name, right, change in shown
    ]
    named = [name for name in study.relations if name in set(table["condition"])]
    rest = [name for name in dict.fromkeys(table["condition"]) if name not in {*named, INTACT, CONTROL}]
    columns = [INTACT, *named, *rest, *([CONTROL] if CONTROL in set(table["condition"]) else [])]
    rows = [name for name in study.relations if name in set(table["relation"])]
    far = max(10.0, float(table["change"].abs().max()))
    base = _chosen(table, live, choice=next(iter(study.choices))).encode(
        x=alt.X(
            "condition:N",
            sort=columns,
            title="neurons switched off",
            axis=alt.Axis(labelAngle=-55, orient="top"),
        ),
        y=alt.Y("relation:N", sort=rows, title=None),
        tooltip=[
            alt.Tooltip("relation:N", title="relation"),
            alt.Tooltip("condition:N", title="switched off"),
            alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".1f"),
            alt.Tooltip("intact:Q", title="intact (%)", format=".1f"),
            alt.Tooltip("change:Q", title="change (points)", format="+.1f"),
        ],
    )
    colour = alt.Color(
        "change:Q",
        title="points",
        scale=alt.Scale(
            domain=[-far, 0, far], range=[look.loss, look.even, look.gain], type="linear", interpolate="rgb"
        ),
        legend=None,
    )
    down, up = (-far * _turn(look, look.loss), far * _turn(look, look.gain))
    text = alt.condition(
        f"datum.change < {down} || datum.change > {up}", alt.value(look.strong), alt.value(look.plain)
    )
    cells = base.mark_rect(stroke=look.paper, strokeWidth=1.5).encode(color=colour)
    values = base.mark_text(fontSize=11).encode(text="label:N", color=text)
    own = base.transform_filter("datum.relation == datum.condition").mark_rect(
        filled=False, stroke=look.ink, strokeWidth=1.5
    )
    chart = _with_choices(alt.layer(cells, values, own), live, choice=next(iter(study.choices)))
    return _dressed(chart, look, live, len(rows), len(columns), "Change of accuracy in points")


def sweep(study: Study, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Points of accuracy lost over the number of neurons switched off: a relation's own, another's,
    random ones.
    """
    table = study.sweep.drop(columns="choice").round(2)
    whose = ["own", "other", "random"]
    chart = (
        _chosen(table.rename(columns={"relation": "swept"}), live, swept=ALL)
        .mark_line(point=alt.OverlayMarkDef(size=50), strokeWidth=2.5)
        .encode(
            x=alt.X(
                "k:Q",
                scale=alt.Scale(type="log", nice=False, padding=8),
                title="neurons switched off, k",
                axis=_over_k(table["k"]),
            ),
            y=alt.Y("drop:Q", title="points of accuracy lost"),
            color=alt.Color(
                "whose:N",
                title="neurons",
                legend=alt.Legend(symbolType="stroke", symbolSize=600, symbolStrokeWidth=2.5),
                scale=alt.Scale(domain=whose, range=list(look.series)),
            ),
            strokeDash=alt.StrokeDash(
                "whose:N", title="neurons", scale=alt.Scale(domain=whose, range=[[1, 0], [6, 3], [2, 2]])
            ),
            tooltip=[
                alt.Tooltip("swept:N", title="relation"),
                "whose:N",
                alt.Tooltip("k:Q", format=","),
                alt.Tooltip("drop:Q", format=".1f"),
            ],
        )
    )
    return _dressed(
        _with_choices(chart, live, swept=ALL), look, live, title="Accuracy lost over k, mean of all relations"
    )


def overlap(study: Study, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Neurons that two relations share, coloured by their Jaccard index."""
    table = study.overlap[study.overlap["relation"] != study.overlap["other"]].round(4)
    far = max(0.01, float(table["jaccard"].max()))
    base = _chosen(table, live, site=ALL).encode(
        x=alt.X("other:N", sort=study.relations, title=None, axis=alt.Axis(labelAngle=-55, orient="top")),
        y=alt.Y("relation:N", sort=study.relations, title=None),
        tooltip=[
            "relation:N",
            alt.Tooltip("other:N", title="and"),
            alt.Tooltip("shared:Q", format=","),
            alt.Tooltip("expected:Q", title="expected by chance", format=",.1f"),
            alt.Tooltip("jaccard:Q", format=".3f"),
        ],
    )
    colour = alt.Color(
        "jaccard:Q", title="Jaccard", scale=alt.Scale(scheme="cividis", domain=[0, far]), legend=None
    )
    text = alt.condition(f"datum.jaccard > {0.45 * far}", alt.value("#000000"), alt.value("#ffffff"))
    cells = base.mark_rect(stroke=look.paper, strokeWidth=1.5).encode(color=colour)
    values = base.mark_text(fontSize=11).encode(text=alt.Text("shared:Q", format=","), color=text)
    chart = _with_choices(alt.layer(cells, values), live, site=ALL)
    size = len(study.relations)
    return _dressed(chart, look, live, size, size, f"Neurons shared ({study.mask})")


def growth(study: Study, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Share of the top k that two relations have in common, over k; the dashed line is chance."""
    table = study.growth.round(5)
    table = table.assign(pair=table["relation"] + " & " + table["other"])
    first = study.relations[0]
    base = alt.Chart(_data(table)).encode(
        x=alt.X(
            "k:Q", scale=alt.Scale(type="log", nice=False, padding=8), title="top k", axis=_over_k(table["k"])
        )
    )
    if live:
        marked: Any = alt.condition(
            "datum.relation == relation || datum.other == relation",
            alt.value(look.series[0]),
            alt.value(look.faint),
        )
        width: Any = alt.condition(
            "datum.relation == relation || datum.other == relation", alt.value(2.5), alt.value(1)
        )
    else:
        marked, width = alt.value(look.series[1]), alt.value(1.2)
    lines = base.mark_line(point=alt.OverlayMarkDef(size=20)).encode(
        y=alt.Y("share:Q", title="share of k in common", axis=alt.Axis(format="%")),
        detail="pair:N",
        color=marked,
        strokeWidth=width,
        tooltip=[
            "relation:N",
            alt.Tooltip("other:N", title="and"),
            alt.Tooltip("k:Q", format=","),
            alt.Tooltip("share:Q", format=".1%"),
            alt.Tooltip("chance:Q", format=".1%"),
        ],
    )
    chance = base.mark_line(strokeDash=[6, 4], color=look.ink).encode(y="mean(chance):Q")
    chart = _with_choices(alt.layer(lines, chance), live, relation=first)
    return _dressed(chart, look, live, title="Overlap of every two relations over k (dashed: chance)")


def layers(study: Study, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """How many of each relation's neurons lie in every layer."""
    last = int(study.layers["layer"].max())
    chart = (
        _chosen(study.layers.round(2), live, site=ALL)
        .mark_rect()
        .encode(
            x=alt.X(
                "layer:O",
                title="layer",
                axis=alt.Axis(labelAngle=0, labelOverlap=True, values=list(range(0, last + 1, 2))),
            ),
            y=alt.Y("relation:N", sort=study.relations, title=None),
            color=alt.Color("neurons:Q", title="neurons", scale=alt.Scale(scheme="cividis", domainMin=0)),
            tooltip=[
                "relation:N",
                "layer:O",
                alt.Tooltip("neurons:Q", format=","),
                alt.Tooltip("chance:Q", title="if spread evenly", format=",.1f"),
            ],
        )
    )
    chart = _with_choices(chart, live, site=ALL)
    return _dressed(
        chart, look, live, len(study.relations), (last + 1) // 2, f"Neurons per layer ({study.mask})"
    )


def distribution(study: Study, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Average precision of all neurons, beside what random rankings of the same prompts would give."""
    table = study.histogram
    if not live:
        table = table[table["site"] == ALL]
    base = alt.Chart(_data(table)).encode(
        x=alt.X("low:Q", title="average precision", scale=alt.Scale(domain=[0, 1], nice=False))
    )
    count = alt.Y(
        "neurons:Q",
        title="neurons",
        scale=alt.Scale(type="symlog", constant=1),
        axis=alt.Axis(values=TICKS, format=",d"),
    )
    names = alt.Scale(domain=["found", "expected by chance"], range=[look.series[1], look.series[0]])
    bars = (
        base.transform_calculate(what="'found'")
        .mark_rect(opacity=0.75)
        .encode(
            x2="high:Q",
            y=count,
            y2=alt.datum(0),
            color=alt.Color("what:N", scale=names, title=None),
            tooltip=[
                "relation:N",
                alt.Tooltip("low:Q", title="from"),
                alt.Tooltip("high:Q", title="to"),
                alt.Tooltip("neurons:Q", format=","),
                alt.Tooltip("chance:Q", title="expected by chance", format=",.1f"),
            ],
        )
    )
    null = (
        base.transform_calculate(what="'expected by chance'")
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(y=alt.Y("chance:Q", title="neurons"), color=alt.Color("what:N", scale=names, title=None))
    )
    both = alt.layer(bars, null)
    if live:
        chosen = both.transform_filter("datum.relation == relation && datum.site == site")
        return _dressed(_with_choices(chosen, live, relation=study.relations[0], site=ALL), look, live)
    small = both.properties(width=220, height=140)
    panels = small.facet(facet=alt.Facet("relation:N", sort=study.relations, title=None), columns=3)
    return _themed(panels.properties(title="Average precision of all neurons"), look)


TICKS = [0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000]


def save(drawn: Mapping[str, alt.TopLevelMixin], folder: str | Path) -> list[Path]:
    """Write every chart as ``folder/<name>.png``, ``.svg`` and ``.pdf``; returns the paths.

    Raises:
        StoreError: the folder cannot be written.
    """
    target = Path(folder)
    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, chart in drawn.items():
            for suffix in FORMATS:
                path = target / f"{name}.{suffix}"
                chart.save(path, scale_factor=PNG_SCALE if suffix == "png" else 1)
                written.append(path)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror or error})", where=target) from error
    return written


def _turn(look: Look, colour: str) -> float:
    """How far from even to ``colour`` the text of a cell turns from black to white, or the reverse,
    to stay readable.
    """
    grounds = ((step / 100, colours.mix(look.even, colour, step / 100)) for step in range(101))
    turned = (
        at for at, ground in grounds if colours.readable(ground, look.plain, look.strong) == look.strong
    )
    return next(turned, 1.0)


def _signed(value: float) -> str:
    """A change in whole points with a true minus; nothing for none."""
    whole = round(value)
    return f"{whole:+d}".replace("-", "\u2212") if whole else "0"


def _over_k(sizes: pd.Series) -> alt.Axis:
    """An axis with a tick at every k."""
    return alt.Axis(values=sorted(set(sizes.tolist())), grid=False, format="~s", labelOverlap=True)


def _data(table: pd.DataFrame) -> Any:
    """Rows inside the chart, whatever their number."""
    return alt.InlineData(
        values=cast(list[Any], table.astype(object).where(table.notna(), None).to_dict("records"))
    )


def _chosen(table: pd.DataFrame, live: bool, **choice: str) -> alt.Chart:
    """A chart of the rows with these values: filtered now, or on the page by the signals of these names."""
    if not live:
        for name, value in choice.items():
            table = table[table[name] == value]
    chart = alt.Chart(_data(table))
    return (
        chart.transform_filter(" && ".join(f"datum.{name} == {name}" for name in choice)) if live else chart
    )


def _with_choices(chart: Any, live: bool, **choice: str) -> Any:
    """Give a live chart its signals."""
    return (
        chart.add_params(*(alt.param(name=name, value=value) for name, value in choice.items()))
        if live
        else chart
    )


def _dressed(
    chart: Any, look: Look, live: bool, rows: int | None = None, columns: int | None = None, title: str = ""
) -> Any:
    """Size and title: as wide as its frame on the page, by the number of cells in a file."""
    height = PLAIN["height"] if rows is None else rows * CELL["height"]
    if live:
        room = {"left": 4, "top": 4, "bottom": 4, "right": 4 if columns is None else OVERHANG}
        return _themed(chart.properties(width="container", height=height, padding=room), look)
    width = PLAIN["width"] if columns is None else columns * CELL["width"]
    return _themed(chart.properties(width=width, height=height, title=title), look)


def _themed(chart: Any, look: Look) -> Any:
    text = {
        "labelColor": look.ink,
        "titleColor": look.ink,
        "labelFont": FONT,
        "titleFont": FONT,
        "titleFontWeight": 500,
    }
    return (
        chart.configure(background=look.paper, font=FONT)
        .configure_view(stroke=None)
        .configure_axis(
            gridColor=look.faint,
            domainColor=look.faint,
            tickColor=look.faint,
            labelLimit=220,
            labelFontSize=11,
            **text,
        )
        .configure_legend(orient="bottom", **text)
        .configure_header(labelColor=look.ink, labelFont=FONT, labelFontSize=12)
        .configure_title(color=look.ink, font=FONT, fontSize=14, anchor="start", fontWeight=600)
    )

"""Figures: the tables of a report as Altair charts, one function each.

Every chart exists in two forms. As a file or in a notebook it shows one choice and carries its title.
``live``, on the page, it fills its frame and follows the signals ``choice``, ``relation`` and ``site`` that
the page's controls set. The value stands in the cell wherever there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from relact.errors import StoreError
from relact.reporting.ablations import CONTROL, MEAN, OTHER, OWN
from relact.reporting.fitting import fitted
from relact.reporting.gather import ALL, Contents
from relact.reporting.looks import LIGHT, WIDTHS, Look, dressed, themed
from relact.reporting.matrices import ablation, experts, log_ablation, own
from relact.reporting.pieces import cells, chosen, data, slanted, with_choices

FORMATS = ("png", "svg", "pdf")
PNG_SCALE = 2.0
NAMED_LINES, NAMES_HIGH = 5, 16  # lines that bear their name, and how many names fit above each other
TICKS = [0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000]  # of a number of neurons


def charts(
    contents: Contents, look: Look = LIGHT, live: bool = False, width: str | None = None
) -> dict[str, alt.TopLevelMixin]:
    """Every figure that there is data for, by name, in the order of the page.

    Args:
        width: ``column`` or ``page`` of a paper, which the figures then fit.
    """
    drawn: dict[str, tuple[Callable[..., Any], bool]] = {
        "own": (own, any(not made.foreign for made in contents.choices.values())),
        "ablation": (ablation, bool(contents.choices)),
        "log_ablation": (log_ablation, bool(contents.accuracy["log_drop"].notna().any())),
        "sweep": (sweep, contents.sweep["k"].nunique() > 1),
        "board": (board, contents.board["criterion"].nunique() > 1 and not (live and one_k(contents))),
        "overlap": (overlap, shares_some(contents) if live else len(contents.relations) > 1),
        "growth": (growth, len(contents.growth) > 0),
        "layers": (layers, True),
        "experts": (experts, len(contents.experts) > 0 and bool(contents.experts["use"].notna().any())),
        "distribution": (distribution, len(contents.histogram) > 0),
    }
    found = {name: draw(contents, look, live) for name, (draw, there) in drawn.items() if there}
    return found if width is None else {name: fitted(chart, WIDTHS[width]) for name, chart in found.items()}


def shares_some(contents: Contents) -> bool:
    """Whether any two relations have a neuron in common: a wall of zeros is better said in words."""
    table = contents.overlap
    return bool(table.loc[table["relation"] != table["other"], "shared"].any())


def one_k(contents: Contents) -> bool:
    """Whether every criterion was tried with one k: then a table says what the figure of them would."""
    return len(contents.board) == contents.board["criterion"].nunique()


def board(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Points lost over k by criterion: a relation's own neurons, another's, random ones, with intervals."""
    parts = [
        contents.board[["criterion", "k", whose, f"{whose}_low", f"{whose}_high"]]
        .set_axis(["criterion", "k", "drop", "low", "high"], axis=1)
        .assign(whose=whose)
        for whose in (OWN, OTHER, CONTROL)
    ]
    table = pd.concat(parts).dropna(subset=["drop"]).round(2)
    whose = [OWN, OTHER, CONTROL]
    colour = alt.Color("whose:N", title="neurons", scale=alt.Scale(domain=whose, range=list(look.series)))
    base = alt.Chart(data(table)).encode(
        x=alt.X("k:O", title="neurons switched off, k", axis=alt.Axis(labelAngle=0)), color=colour
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=alt.Y("drop:Q", title="points of accuracy lost"),
        tooltip=[
            "criterion:N",
            alt.Tooltip("k:O", format=","),
            "whose:N",
            alt.Tooltip("drop:Q", format=".1f"),
            alt.Tooltip("low:Q", format=".1f"),
            alt.Tooltip("high:Q", format=".1f"),
        ],
    )
    bars = base.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    both = alt.layer(bars, points).properties(width=150, height=170)
    panels = both.facet(facet=alt.Facet("criterion:N", title=None), columns=4)
    title = f"Criteria on prompts that chose nothing: {contents.model}"
    return themed(panels.properties(title=title) if not live else panels, look)


def sweep(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Points of accuracy lost over k neurons switched off: a relation's own, another's, random ones."""
    table = contents.sweep.drop(columns="choice").round(2)
    whose = [OWN, OTHER, CONTROL]
    chart = (
        chosen(table.rename(columns={"relation": "swept"}), live, swept=MEAN)
        .mark_line(point=alt.OverlayMarkDef(size=50), strokeWidth=2.5)
        .encode(
            x=_over_k(table["k"], "neurons switched off, k"),
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
    return dressed(
        with_choices(chart, live, swept=MEAN),
        look,
        live,
        title=f"Accuracy lost over k, mean of all relations: {contents.model}",
    )


def overlap(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Neurons that two relations share, coloured by their Jaccard index."""
    table = contents.overlap[contents.overlap["relation"] != contents.overlap["other"]].round(4)
    far = max(0.01, float(table["jaccard"].max()))
    base = chosen(table, live, site=ALL).encode(
        x=alt.X("other:N", sort=contents.relations, title=None, axis=slanted()),
        y=alt.Y("relation:N", sort=contents.relations, title=None),
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
    ink = alt.condition(f"datum.jaccard > {0.45 * far}", alt.value("#000000"), alt.value("#ffffff"))
    drawn = cells(base, look, colour, alt.Text("shared:Q", format=","), ink)
    chart = with_choices(alt.layer(*drawn), live, site=ALL)
    size = len(contents.relations)
    return dressed(chart, look, live, size, size, f"Neurons shared: {_titled(contents)}")


def growth(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Share of the top k that two relations have in common, over k; the dashed line is chance."""
    table = contents.growth.round(5)
    table = table.assign(pair=table["relation"] + " & " + table["other"])
    first = contents.relations[0]
    base = alt.Chart(data(table)).encode(x=_over_k(table["k"], "top k"))
    if live:
        marked = "datum.relation == relation || datum.other == relation"
        colour: Any = alt.condition(marked, alt.value(look.series[0]), alt.value(look.faint))
        width: Any = alt.condition(marked, alt.value(2.5), alt.value(1))
    else:
        colour, width = alt.value(look.series[1]), alt.value(1.2)
    lines = base.mark_line(point=alt.OverlayMarkDef(size=20)).encode(
        y=alt.Y("share:Q", title="share of k in common", axis=alt.Axis(format="%")),
        detail="pair:N",
        color=colour,
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
    ends = _labelled(table, live).mark_text(align="right", dx=-6, dy=-7, fontSize=10, color=look.ink)
    names = ends.encode(x="k:Q", y="share:Q", text="pair:N")
    ground = names.mark_text(  # a name is read on whatever lines it stands on
        align="right", dx=-6, dy=-7, fontSize=10, stroke=look.paper, strokeWidth=4, strokeJoin="round"
    )
    chart = with_choices(alt.layer(lines, chance, ground, names), live, relation=first)
    title = f"Overlap of every two relations over k (dashed: chance): {contents.model}"
    return dressed(chart, look, live, title=title)


def _labelled(table: pd.DataFrame, live: bool) -> alt.Chart:
    """The last point of the lines that bear a name: the highest, on the page those of the chosen relation; of
    names that would stand on each other the higher one.
    """
    last = table[table["k"] == table["k"].max()].sort_values("share", ascending=False)
    apart = float(table["share"].max() or 1) / NAMES_HIGH

    def spaced(rows: pd.DataFrame, relation: str) -> pd.DataFrame:
        kept: list[int] = []
        for at, share in zip(rows.index, rows["share"], strict=True):
            if not kept or last["share"][kept[-1]] - share >= apart:
                kept.append(at)
        return rows.loc[kept[:NAMED_LINES]].assign(marked=relation)

    if not live:
        return alt.Chart(data(spaced(last, "")))
    both = [
        spaced(last[(last["relation"] == name) | (last["other"] == name)], name)
        for name in dict.fromkeys([*table["relation"], *table["other"]])
    ]
    return alt.Chart(data(pd.concat(both))).transform_filter("datum.marked == relation")


def _titled(contents: Contents) -> str:
    """Model, mask and number of neurons, for a title."""
    return f"{contents.model}, k = {contents.k:,} ({contents.mask})"


def layers(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """How many of each relation's neurons lie in every layer."""
    last = int(contents.layers["layer"].max())
    chart = (
        chosen(contents.layers.round(2), live, site=ALL)
        .mark_rect()
        .encode(
            x=alt.X(
                "layer:O",
                title="layer",
                axis=alt.Axis(labelAngle=0, labelOverlap=True, values=list(range(0, last + 1, 2))),
            ),
            y=alt.Y("relation:N", sort=contents.relations, title=None),
            color=alt.Color(
                "neurons:Q",
                title="neurons",
                scale=alt.Scale(range=[look.even, look.gain], domainMin=0, interpolate="lab"),
                legend=alt.Legend(gradientLength=160, tickCount=4, format=",d"),
            ),
            tooltip=[
                "relation:N",
                "layer:O",
                alt.Tooltip("neurons:Q", format=","),
                alt.Tooltip("chance:Q", title="if spread evenly", format=",.1f"),
            ],
        )
    )
    chart = with_choices(chart, live, site=ALL)
    return dressed(
        chart,
        look,
        live,
        len(contents.relations),
        (last + 1) // 2,
        f"Neurons per layer: {_titled(contents)}",
    )


def distribution(contents: Contents, look: Look = LIGHT, live: bool = False) -> alt.TopLevelMixin:
    """Average precision of all neurons, beside what random rankings of the same prompts would give."""
    table = contents.histogram
    if not live:
        table = table[table["site"] == ALL]
    base = alt.Chart(data(table)).encode(
        x=alt.X("low:Q", title="average precision", scale=alt.Scale(domain=[0, 1], nice=False))
    )
    count = _counted(contents.histogram)
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
        .encode(
            y=alt.Y("chance:Q", title="neurons (logarithmic)"),
            color=alt.Color("what:N", scale=names, title=None),
        )
    )
    both = alt.layer(bars, null)
    if live:
        narrowed = both.transform_filter("datum.relation == relation && datum.site == site")
        return dressed(with_choices(narrowed, live, relation=contents.relations[0], site=ALL), look, live)
    small = both.properties(width=220, height=140)
    panels = small.facet(facet=alt.Facet("relation:N", sort=contents.relations, title=None), columns=3)
    title = f"Average precision of all {contents.n_neurons:,} neurons: {contents.model}"
    return themed(panels.properties(title=title), look)


def _counted(histogram: pd.DataFrame) -> alt.Y:
    """A logarithmic axis of neurons, one for all panels: up to the largest count, found or expected."""
    highest = int(np.ceil(histogram[["neurons", "chance"]].max().max()))
    scale = alt.Scale(type="symlog", constant=1, domain=[0, highest])
    axis = alt.Axis(values=TICKS, format=",d")
    return alt.Y("neurons:Q", title="neurons (logarithmic)", scale=scale, axis=axis)


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


def _over_k(sizes: pd.Series, title: str) -> alt.X:
    """A logarithmic axis of ``k`` with a tick at every one."""
    axis = alt.Axis(values=sorted(set(sizes.tolist())), grid=False, format="~s", labelOverlap=True)
    return alt.X("k:Q", scale=alt.Scale(type="log", nice=False, padding=8), title=title, axis=axis)

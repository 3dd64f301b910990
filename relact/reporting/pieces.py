"""Pieces of charts: rows inside them, choices that are made now or on the page, the cells of a matrix."""

from __future__ import annotations

from typing import Any, cast

import altair as alt
import pandas as pd

from relact.reporting.looks import Look


def slanted() -> alt.Axis:
    """The axis above a matrix, its long labels side by side."""
    return alt.Axis(labelAngle=-55, orient="top")


def cells(base: alt.Chart, look: Look, colour: Any, label: Any, ink: Any) -> tuple[alt.Chart, alt.Chart]:
    """The coloured cells of a matrix, and the label in each."""
    grounds = base.mark_rect(stroke=look.paper, strokeWidth=1.5).encode(color=colour)
    return grounds, base.mark_text(fontSize=11).encode(text=label, color=ink)


def data(table: pd.DataFrame) -> Any:
    """Rows inside the chart, whatever their number."""
    return alt.InlineData(
        values=cast(list[Any], table.astype(object).where(table.notna(), None).to_dict("records"))
    )


def chosen(table: pd.DataFrame, live: bool, **choice: str) -> alt.Chart:
    """A chart of the rows with these values: filtered now, or on the page by the signals of these names."""
    if not live:
        for name, value in choice.items():
            table = table[table[name] == value]
    chart = alt.Chart(data(table))
    return (
        chart.transform_filter(" && ".join(f"datum.{name} == {name}" for name in choice)) if live else chart
    )


def with_choices(chart: Any, live: bool, **choice: str) -> Any:
    """Give a live chart its signals."""
    return (
        chart.add_params(*(alt.param(name=name, value=value) for name, value in choice.items()))
        if live
        else chart
    )

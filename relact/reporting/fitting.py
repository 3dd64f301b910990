"""Fitting: a figure as wide as a column or a page of a paper, title, labels and legend included."""

from __future__ import annotations

from typing import Any

import altair as alt

from relact.reporting.looks import SMALL

SMALLEST = 8.0  # pixels of a letter: 6 points
PANEL, APART = 110, 20  # pixels of a panel at least, and of what lies between two
NUMBERS, NAMES = 60, 150  # pixels of an axis with numbers, and of one with names and a legend
LINE = 0.7  # of a letter's height is its width in bold, on average


def fitted(chart: alt.TopLevelMixin, width: int) -> alt.TopLevelMixin:
    """The chart ``width`` pixels wide: plots side by side stand below each other where they must, titles are
    broken into lines, and cells that are too small for their numbers keep their colour and their stars.
    """
    spec = chart.to_dict()
    _break_title(spec, width)
    _shrink_letters(spec)
    if "spec" in spec:  # panels
        _fit_panels(spec, width)
    else:
        spec["width"], spec["autosize"] = width, {"type": "fit-x", "contains": "padding"}
        _mark_only(spec, width)
    return alt.Chart.from_dict(spec)


def _break_title(spec: dict[str, Any], width: int) -> None:
    """Lines of a title that are no wider than the figure."""
    title = spec.get("title")
    if not isinstance(title, str):
        return
    size = 11
    room, lines = int(width / (LINE * size)), [""]
    for word in title.split():
        lines[-1:] = (
            [f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < room else [lines[-1], word]
        )
    spec["title"] = lines
    spec.setdefault("config", {}).setdefault("title", {})["fontSize"] = size


def _shrink_letters(spec: dict[str, Any]) -> None:
    config = spec.setdefault("config", {})
    for name in ("axis", "legend", "header"):
        config.setdefault(name, {}).update(labelFontSize=SMALLEST, titleFontSize=SMALLEST + 1)
    config["axis"]["labelLimit"] = 110


def _fit_panels(spec: dict[str, Any], width: int) -> None:
    """As many panels side by side as there is room for, beside what labels take."""
    inner = spec["spec"]
    if "columns" in spec:
        labels, columns = NUMBERS, max(2, (width - NUMBERS) // PANEL)
        spec["columns"] = columns
        inner["height"] = min(int(inner.get("height", PANEL)), PANEL)
    else:
        labels, columns = NAMES, 1 if width - NAMES < 2 * PANEL else 2
        if columns == 1:
            spec["facet"] = {"row": spec["facet"]["column"]}
    inner["width"] = (width - labels) // columns - APART


def _mark_only(spec: dict[str, Any], width: int) -> None:
    """In small cells the numbers make place for the star of what is significant."""
    rows = spec.get("height", 0)
    layers = spec.get("layer", [])
    texts = [layer for layer in layers if layer.get("mark", {}).get("type") == "text"]
    if not texts or "rect" not in str(layers[0].get("mark")):
        return
    n_columns = max(1, round((rows / 26) + 2))
    cell = (width - 120) / n_columns
    if cell >= SMALL:
        return
    spec["height"] = int(rows * max(cell, 10) / 26) + 4
    for layer in texts:
        label = layer["encoding"]["text"]
        layer["mark"]["fontSize"] = SMALLEST
        if label.get("field") == "label":
            layer["transform"] = [
                *layer.get("transform", []),
                {"calculate": "indexof(datum.label, '*') < 0 ? '' : '*'", "as": "star"},
            ]
            layer["encoding"]["text"] = {"field": "star", "type": "nominal"}
        else:
            layer["mark"]["fontSize"] = 6

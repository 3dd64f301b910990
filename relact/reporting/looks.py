"""Looks: the colours, sizes and fonts of every chart, on the light page, on the dark one and in files.

Colours are blue to orange around zero and cividis from zero upwards, both told apart with every common form
of colour blindness; `turn` says where text in a cell must change its colour to be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relact import colours

CELL = {"width": 44, "height": 26}  # pixels of a matrix cell in files
PLAIN = {"width": 460, "height": 260}
WIDTHS = {"column": 312, "page": 648}  # pixels of a figure in a paper: 3.25 and 6.75 inches
SMALL = 24  # pixels of a cell below which no number is read in it
OVERHANG = 36  # pixels that the last slanted label needs
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
    paper="#ffffff",
    ink="#1f2328",
    faint="#d0d7de",
    loss="#b35806",
    even="#f7f7f7",
    gain="#2166ac",
    series=("#b35806", "#2166ac", "#6e7781"),
    plain="#000000",
    strong="#ffffff",
)
DARK = Look(
    paper="#0d1117",
    ink="#e6edf3",
    faint="#30363d",
    loss="#e08214",
    even="#20262d",
    gain="#4393c3",
    series=("#f0a04b", "#6cb2eb", "#9198a1"),
    plain="#ffffff",
    strong="#000000",
)


def turn(look: Look, colour: str) -> float:
    """How far from even to ``colour`` a cell's text turns from ``plain`` to ``strong`` to stay readable."""
    grounds = ((step / 100, colours.mix(look.even, colour, step / 100)) for step in range(101))
    turned = (
        share for share, ground in grounds if colours.readable(ground, look.plain, look.strong) == look.strong
    )
    return next(turned, 1.0)


def dressed(
    chart: Any, look: Look, live: bool, rows: int | None = None, columns: int | None = None, title: str = ""
) -> Any:
    """Size and title: as wide as its frame on the page, by the number of cells in a file."""
    height = PLAIN["height"] if rows is None else rows * CELL["height"]
    if live:
        room = {"left": 4, "top": 4, "bottom": 4, "right": 4 if columns is None else OVERHANG}
        return themed(chart.properties(width="container", height=height, padding=room), look)
    width = PLAIN["width"] if columns is None else columns * CELL["width"]
    return themed(chart.properties(width=width, height=height, title=title), look)


def themed(chart: Any, look: Look) -> Any:
    """Colours and fonts of everything around the marks."""
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

"""What the commands print: results on stdout, problems in one line on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from relact import colours
from relact.progress import LOG
from relact.schema import escaped

if TYPE_CHECKING:
    import pandas as pd

PIPE_WIDTH = 100_000
FAINT = 0.05  # a fraction below this is left without colour
WARM, COLD = ("#fde0c5", "#8f3b00"), ("#d1e5f0", "#053061")  # pale, deep
BLACK, WHITE = "#000000", "#ffffff"


class Plain(Console):
    """A console that shows what a terminal would obey: texts of a store are somebody else's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(escaped(text, kept="\n"), style)


out, err = Plain(soft_wrap=True), Plain(stderr=True)


def say(text: str) -> None:
    """One line of result."""
    out.print(text, highlight=False, markup=False)


def problem(text: str) -> None:
    """One line on stderr, whatever it holds."""
    print(f"relact: {escaped(' '.join(text.split()))}", file=sys.stderr)


def dump(value: Any) -> None:
    """JSON for machines: one document on stdout."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=_plain)
    print("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


class _Told(logging.Handler):
    """What is going on, a faint line each on a terminal; what is worth knowing a plain one, anywhere."""

    def emit(self, record: logging.LogRecord) -> None:
        text, told = record.getMessage(), record.levelno >= logging.WARNING
        if err.is_terminal:
            err.print(escaped(text), style="" if told else "dim", highlight=False, markup=False)
        else:
            problem(text)


def listen() -> None:
    """Show what is told to `relact.progress.LOG`: on a terminal all of it, elsewhere what changes results or
    says what is kept of them.
    """
    if not any(isinstance(known, _Told) for known in LOG.handlers):
        LOG.addHandler(_Told())
    LOG.setLevel(logging.INFO if err.is_terminal else logging.WARNING)


def pairs(values: Mapping[str, Any]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, values))
    for name, value in values.items():
        out.print(Text(f"{name:<{width}}  ", style="bold") + Text(escaped(str(value))), highlight=False)


def table(frame: pd.DataFrame, title: str | None = None, heat: Sequence[str] = ()) -> None:
    """A table of a frame; numbers right-aligned, floats to four digits;
    columns of ``heat`` shaded by their own range.
    """
    shown = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in frame.columns:
        shown.add_column(
            escaped(str(name)), justify="left" if frame[name].dtype.kind in "OTU" else "right", no_wrap=True
        )
    shades = {name: _shades(frame[name]) for name in heat if name in frame}
    for at, row in enumerate(frame.itertuples(index=False)):
        cells = [Text(f"{cell:.4f}" if isinstance(cell, float) else escaped(f"{cell}")) for cell in row]
        for name, styles in shades.items():
            cells[list(frame.columns).index(name)].stylize(styles[at])
        shown.add_row(*cells)
    wide(shown)


def _shades(column: pd.Series) -> list[str]:
    low, high = column.min(), column.max()
    return [shade((value - low) / (high - low or 1)) for value in column.astype(float)]


def shade(fraction: float) -> str:
    """A cell's style: no colour at 0, then pale to deep orange up to 1, pale to deep blue down to -1.

    Blue and orange are told apart with every common form of colour blindness.
    """
    if not abs(fraction) >= FAINT:  # also NaN
        return ""
    pale, deep = WARM if fraction > 0 else COLD
    ground = colours.mix(pale, deep, min(abs(fraction), 1.0))
    return f"{colours.readable(ground, BLACK, WHITE)} on {ground}"


def wide(shown: Table) -> None:
    """Print a table; one that goes to a file or a pipe is never cut."""
    (out if out.is_terminal else Plain(width=PIPE_WIDTH)).print(shown)

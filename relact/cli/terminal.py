"""What the commands print: results on stdout, problems in one line on stderr.

Colours are drawn by rich (`console`), which costs more to import than many commands take: what goes to a file
or a pipe is written as it is, in the same words.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from relact import colours
from relact.progress import LOG
from relact.schema import escaped

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Column = np.ndarray | pd.Series

TERMINALS = ("FORCE_COLOR", "TTY_COMPATIBLE")  # by which rich is told that a pipe ends at a terminal
FAINT = 0.05  # a fraction below this is left without colour
WARM, COLD = ("#fde0c5", "#8f3b00"), ("#d1e5f0", "#053061")  # pale, deep
BLACK, WHITE = "#000000", "#ffffff"


def is_coloured(stream: TextIO) -> bool:
    """Whether what is written may be seen on a terminal; then rich decides."""
    return stream.isatty() or any(os.environ.get(name) for name in TERMINALS)


def say(text: str) -> None:
    """One line of result."""
    print(escaped(text, kept="\n"))


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
        if not _is_terminal(sys.stderr):
            return problem(text)
        from relact.cli.console import err

        err.print(escaped(text), style="" if told else "dim", highlight=False, markup=False)


def listen() -> None:
    """Show what is told to `relact.progress.LOG`: on a terminal all of it, elsewhere what changes results or
    says what is kept of them.
    """
    if not any(isinstance(known, _Told) for known in LOG.handlers):
        LOG.addHandler(_Told())
    LOG.setLevel(logging.INFO if _is_terminal(sys.stderr) else logging.WARNING)


def _is_terminal(stream: TextIO) -> bool:
    if not is_coloured(stream):
        return False
    from relact.cli.console import err

    return err.is_terminal


def pairs(values: Mapping[str, Any]) -> None:
    """Names and values, one pair a line."""
    shown = {escaped(name): escaped(str(value)) for name, value in values.items()}
    if is_coloured(sys.stdout):
        from relact.cli import console

        return console.pairs(shown)
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")


def table(
    frame: pd.DataFrame | Mapping[str, Column], title: str | None = None, heat: Sequence[str] = ()
) -> None:
    """A table of named columns; numbers right-aligned, floats to four digits;
    columns of ``heat`` shaded by their own range.
    """
    series: dict[str, Column] = {str(name): column for name, column in frame.items()}
    columns = {escaped(name): [_cell(value) for value in held.tolist()] for name, held in series.items()}
    left = [escaped(name) for name, held in series.items() if held.dtype.kind in "OTU"]
    title = None if title is None else escaped(title)
    if is_coloured(sys.stdout):
        from relact.cli import console

        styles = {escaped(name): _shades(series[name].tolist()) for name in heat if name in series}
        return console.table(columns, left, title, styles)
    if title is not None:
        print(title)
    widths = {name: max(map(_width, (name, *cells))) for name, cells in columns.items()}
    for row in ([*columns], *zip(*columns.values(), strict=True)):
        cells = zip(columns, row, strict=True)
        print("  ".join(_padded(cell, widths[name], name in left) for name, cell in cells))


def _padded(cell: str, width: int, left: bool) -> str:
    blank = " " * (width - _width(cell))
    return cell + blank if left else blank + cell


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else escaped(f"{value}")


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _shades(values: Sequence[float]) -> list[str]:
    known = [value for value in values if value == value] or [0.0]
    low, high = min(known), max(known)
    return [shade((value - low) / (high - low or 1)) for value in values]


def shade(fraction: float) -> str:
    """A cell's style: no colour at 0, then pale to deep orange up to 1, pale to deep blue down to -1.

    Blue and orange are told apart with every common form of colour blindness.
    """
    if not abs(fraction) >= FAINT:  # also NaN
        return ""
    pale, deep = WARM if fraction > 0 else COLD
    ground = colours.mix(pale, deep, min(abs(fraction), 1.0))
    return f"{colours.readable(ground, BLACK, WHITE)} on {ground}"

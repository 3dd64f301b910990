"""Write a table by the suffix of its file: Parquet, CSV, LaTeX, Markdown or JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from relact.errors import InputError, StoreError

if TYPE_CHECKING:
    import pandas as pd


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write ``frame`` without its index to ``path``: .parquet, .csv, .tex, .md or .json; returns the path.

    Numbers are written in full, except in LaTeX and Markdown, which are for reading: four digits there.

    Raises:
        InputError: another suffix. StoreError: the place cannot be written.
    """
    target = Path(path)
    writer = WRITERS.get(target.suffix.lower())
    if writer is None:
        known = " ".join(WRITERS)
        raise InputError(
            f"cannot write a table as {target.suffix or 'a file without suffix'!r}",
            where=path,
            fix=f"use {known}",
        )
    try:
        writer(frame, target)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror or error})", where=path) from error
    return target


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table; numbers right-aligned, bars and line breaks in cells made harmless."""
    heads = [_cell(name) for name in frame.columns]
    rules = [":--" if frame[name].dtype.kind in "OTU" else "--:" for name in frame.columns]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rules, *rows))


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False)


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as CSV has it: a text that a spreadsheet would take for a formula gets an apostrophe in
    front, which `as_meant` takes away again.
    """
    texts = [name for name in frame.columns if frame[name].dtype.kind in "OTU"]
    return frame.assign(**{name: frame[name].map(_harmless) for name in texts})


def as_meant(text: str) -> str:
    """A text of a CSV file that relact wrote, without the apostrophe that `harmless` put in front."""
    return text[1:] if re.match("'+[=+@\\t\\r-]", text) else text


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and re.match("'*[=+@\\t\\r-]", value) else value


def _csv(frame: pd.DataFrame, path: Path) -> None:
    harmless(frame).to_csv(path, index=False)


def _latex(frame: pd.DataFrame, path: Path) -> None:
    # the formatter of pandas escapes what LaTeX would read as its own
    frame.to_latex(path, index=False, escape=True, float_format="%.4f")


def _markdown(frame: pd.DataFrame, path: Path) -> None:
    path.write_text(markdown(frame), encoding="utf-8")


def _json(frame: pd.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records", force_ascii=False, indent=2, double_precision=15)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tex": _latex,
    ".md": _markdown,
    ".json": _json,
}

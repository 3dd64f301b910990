"""Report: one self-contained page with every result of a study, and its figures as files.

>>> report("study.zarr", "report.html")  # no network needed to read it
[PosixPath('report.html')]
>>> charts("study.zarr")["ablation"].to_dict()["config"]["background"]  # an Altair chart, drawn by a notebook
'#ffffff'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from relact.errors import InputError
from relact.reporting.figures import charts as charts_of
from relact.reporting.figures import save
from relact.reporting.gather import gather
from relact.reporting.looks import WIDTHS
from relact.reporting.offline import Figures, offline
from relact.reporting.page import write
from relact.store.reading import Store

PAGES = (".html", ".htm")


@overload
def report(
    store: str | Path | Store,
    output: None = None,
    *,
    figures: None = None,
    mask: str | None = None,
    relations: Sequence[str] | None = None,
) -> Figures: ...


@overload
def report(
    store: str | Path | Store,
    output: str | Path | None = None,
    *,
    figures: str | Path | None = None,
    width: str | None = None,
    mask: str | None = None,
    relations: Sequence[str] | None = None,
) -> list[Path]: ...


def report(
    store: str | Path | Store,
    output: str | Path | None = None,
    *,
    figures: str | Path | None = None,
    width: str | None = None,
    mask: str | None = None,
    relations: Sequence[str] | None = None,
) -> list[Path] | Figures:
    """Write the page of a study to ``output`` and its figures into ``figures``; returns the files written.

    Args:
        width: of the figures: ``column`` or ``page`` of a paper; as large as they are read best by default.
        mask: the neuron sets for overlaps and layers; those of the ablation shown first by default.
        relations: those to tell of; the first hundred by default.

    Returns:
        The files written; without ``output`` and ``figures`` the figures themselves, see `charts`.

    Raises:
        StoreError: the store has no scores, or a file cannot be written. InputError: another width, or
            another kind of page.
    """
    if width is not None and width not in WIDTHS:
        raise InputError(f"no width {width!r}", where="width", fix=f"use {' or '.join(WIDTHS)}")
    if output is not None and Path(output).suffix.lower() not in PAGES:
        raise InputError("a page is written as .html", where=output, fix="name it so")
    if output is None and figures is None:
        return charts(store, mask=mask, relations=relations)
    contents = gather(store, mask=mask, relations=relations)
    written = [write(contents, output)] if output else []
    return written + (save(charts_of(contents, width=width), figures) if figures else [])


def charts(
    store: str | Path | Store, *, mask: str | None = None, relations: Sequence[str] | None = None
) -> Figures:
    """The figures of a study as Altair charts, by name; a notebook shows them without network."""
    contents = gather(store, mask=mask, relations=relations)
    return Figures({name: offline(chart) for name, chart in charts_of(contents).items()})

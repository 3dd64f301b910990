"""Report: one self-contained page with every result of a study, and its figures as files.

    report("study.zarr", "report.html")                     # no network needed to read it
    report("study.zarr", figures="figures/")                # every figure as PNG, SVG and PDF
    charts("study.zarr")["ablation"]                        # an Altair chart, drawn by a notebook

Order of reading: study (the store as tables) -> figures (tables to charts) -> page (charts, tables and text
to HTML).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relact.reporting.gather import Study, gather
from relact.reporting.page import write as write_page

if TYPE_CHECKING:
    import altair as alt

    from relact.store.reading import Store

__all__ = ["Study", "charts", "gather", "report", "write_figures", "write_page"]


def report(
    store: str | Path | Store,
    output: str | Path | None = None,
    *,
    figures: str | Path | None = None,
    mask: str | None = None,
) -> list[Path]:
    """Write the page of a study to ``output`` and its figures into the folder ``figures``;
    returns the files written.

    Args:
        mask: the neuron sets for overlaps and layers; those of the ablation shown first by default.

    Raises:
        StoreError: the store has no scores, or a file cannot be written.
    """
    study = gather(store, mask=mask)
    written = [write_page(study, output)] if output else []
    return written + (write_figures(study, figures) if figures else [])


def charts(store: str | Path | Store, *, mask: str | None = None) -> dict[str, alt.TopLevelMixin]:
    """The figures of a study as Altair charts, by name; a notebook draws them."""
    from relact.reporting import figures

    return figures.charts(gather(store, mask=mask))


def write_figures(study: Study, folder: str | Path) -> list[Path]:
    """Every figure as PNG, SVG and PDF."""
    from relact.reporting import figures

    return figures.save(figures.charts(study), folder)

"""Report: one self-contained page with every result of a study, and its figures as files.

>>> report("study.zarr", "report.html")  # no network needed to read it
[PosixPath('report.html')]
>>> charts("study.zarr")["ablation"].to_dict()["config"]["background"]  # an Altair chart, drawn by a notebook
'#ffffff'
"""

from __future__ import annotations

from pathlib import Path

import altair as alt

from relact.reporting.figures import charts as charts_of
from relact.reporting.figures import save
from relact.reporting.gather import gather
from relact.reporting.page import write
from relact.store.reading import Store


def report(
    store: str | Path | Store,
    output: str | Path | None = None,
    *,
    figures: str | Path | None = None,
    mask: str | None = None,
) -> list[Path]:
    """Write the page of a study to ``output`` and its figures into ``figures``; returns the files written.

    Args:
        mask: the neuron sets for overlaps and layers; those of the ablation shown first by default.

    Raises:
        StoreError: the store has no scores, or a file cannot be written.
    """
    contents = gather(store, mask=mask)
    written = [write(contents, output)] if output else []
    return written + (save(charts_of(contents), figures) if figures else [])


def charts(store: str | Path | Store, *, mask: str | None = None) -> dict[str, alt.TopLevelMixin]:
    """The figures of a study as Altair charts, by name; a notebook draws them."""
    return charts_of(gather(store, mask=mask))

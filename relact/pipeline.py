"""Run: the whole study, step by step; every step reuses what is already there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from relact import ablate as ablation
from relact import capture as capturing
from relact import facts, masks, models, score
from relact import prompts as prompt_tables
from relact.progress import Progress, silent

if TYPE_CHECKING:
    from relact.store import Store


def run(
    sources: Iterable[str | Path] | pd.DataFrame,
    *,
    model: str | models.LoadedModel,
    store: str | Path,
    k: int,
    prompts: Mapping[str, Any] | None = None,
    capture: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    ablate: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> tuple[Store, xr.Dataset]:
    """Prompts, capture, score, select, ablate: from facts to an ablation matrix.

    Args:
        sources: relation sources (`facts.load`), or a prompt table.
        model, store: as in `capture`.
        k: neurons per relation to switch off.
        prompts, capture, scores, ablate: options of those steps, by their own names.

    Returns:
        The store and the ``ablations/top-<k>`` dataset.
    """
    table = (
        sources
        if isinstance(sources, pd.DataFrame)
        else prompt_tables.build(facts.load_all(sources), **dict(prompts or {}))
    )
    loaded = model if isinstance(model, models.LoadedModel) else models.load(model)
    opened = capturing.capture(loaded, table, store, progress=progress, **dict(capture or {}))
    score.score(opened, progress=progress, **dict(scores or {}))
    mask = masks.select(opened, k=k)
    return opened, ablation.ablate(opened, mask=mask, model=loaded, progress=progress, **dict(ablate or {}))

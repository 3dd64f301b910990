"""Run: the whole study, step by step; every step reuses what is already there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from relact import ablate as ablation
from relact import capture as capturing
from relact.relations import facts
from relact import known, outlook, presets, score
from relact.models import loading
from relact.relations import prompts as prompt_tables
from relact import sites as site_names
from relact.store import local
from relact.errors import InputError
from relact.plan import Plan, block_of, layouts
from relact.progress import Progress, silent

if TYPE_CHECKING:
    from relact.store.local import Store

K = 400  # neurons per relation


def run(
    sources: Iterable[str | Path] | pd.DataFrame,
    *,
    model: str | loading.LoadedModel,
    store: str | Path,
    k: int | None = None,
    preset: str | None = None,
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
        k: neurons per relation to switch off; the preset's, or 400.
        preset: a published study's settings (`presets`), for which the options of a step are refined by those given here.
        prompts, capture, scores, ablate: options of those steps, by their own names.

    Returns:
        The store and the ``ablations/top-<k>`` dataset.
    """
    chosen = presets.get(preset) if preset else presets.Preset(K)
    loaded = model if isinstance(model, loading.LoadedModel) else loading.load(model)
    table = _table(sources, preset, prompts)
    if chosen.known:
        table = known.known(table, loaded, match=chosen.match, progress=progress)
    opened = capturing.capture(loaded, table, store, progress=progress, **{**chosen.capture, **dict(capture or {})})
    score.score(opened, progress=progress, **{**chosen.scores, **dict(scores or {})})
    options = {**chosen.ablate, **dict(ablate or {})}
    return opened, ablation.ablate(opened, k=k or chosen.k, model=loaded, progress=progress, **options)


def dry_run(
    sources: Iterable[str | Path] | pd.DataFrame,
    *,
    model: str | loading.LoadedModel,
    store: str | Path | None = None,
    preset: str | None = None,
    prompts: Mapping[str, Any] | None = None,
    capture: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    ablate: Mapping[str, Any] | None = None,
) -> list[Plan]:
    """What `run` with the same arguments would write and need, step by step; the model is loaded and timed.

    Nothing is written. What a ``store`` holds already is left out of the capture's plan. Where a preset keeps only the prompts
    that the model answers, the plans are those of all prompts.
    """
    chosen = presets.get(preset) if preset else presets.Preset(K)
    loaded = model if isinstance(model, loading.LoadedModel) else loading.load(model)
    table = _table(sources, preset, prompts)
    tests = table[table["split"] == "test"]
    relation_of = table.loc[table["split"] == "identify", "relation"].tolist()
    capture, ablate = {**chosen.capture, **dict(capture or {})}, {**chosen.ablate, **dict(ablate or {})}
    widths = {
        site: loaded.widths[site] for site in site_names.resolve(loaded.model.config, capture.get("sites", "mlp"))
    }
    rows = capture.get("block") or block_of(len(relation_of))
    shapes = layouts(len(relation_of), rows, loaded.n_layers, widths, capture.get("dtype", "float16"))
    return [
        capturing.dry_run(loaded, table, store, **capture),
        outlook.scores(shapes, relation_of, memory=dict(scores or {}).get("memory", score.MEMORY)),
        ablation.outlook(
            loaded, tests, list(dict.fromkeys(relation_of)), len(ablate.get("seeds", ablation.SEEDS)), widths,
            special_tokens=capture.get("special_tokens", True), perplexity=ablate.get("perplexity", False),
        ),
    ]  # fmt: skip


def _table(
    sources: Iterable[str | Path] | pd.DataFrame, preset: str | None, prompts: Mapping[str, Any] | None
) -> pd.DataFrame:
    """The prompts of `run`."""
    if isinstance(sources, pd.DataFrame):
        return sources
    if preset:
        return prompt_tables.preset(preset, list(sources), **dict(prompts or {}))
    return prompt_tables.build(facts.load_all(sources), **dict(prompts or {}))


def asked_otherwise(
    store: str | Path, *, language: str = "en", paraphrase: bool = False, shots: int, test_size: int, seed: int
) -> pd.DataFrame:
    """Test prompts about the same held-out facts in another language or with the other templates.

    Args:
        shots, test_size, seed: those of the store's own prompts, so that the same facts are held out.

    Raises:
        InputError: the store's relations are not bundled ones, or none has this language.
    """
    relations = facts.load_all(local.open(store).relations())
    there = [relation for relation in relations if language in relation.languages]
    if not there:
        what = f"none of {', '.join(relation.name for relation in relations)} has prompts in {language!r}"
        raise InputError(what, where="--language", fix="see `relact prompts --list`")
    table = prompt_tables.build(
        there, language=language, paraphrase=paraphrase, shots=shots, test_size=test_size, seed=seed
    )
    return table[table["split"] == "test"].reset_index(drop=True)

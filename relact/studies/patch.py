"""Patch: whether a relation's own neurons suffice to bring its answers up, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.ablating.options import PatchOptions
from relact.ablating.patch import PATCHED, read_patched
from relact.analysis.evidence import RESAMPLES
from relact.analysis.intervals import of_means, over_relations
from relact.models.loading import LoadedModel
from relact.progress import Progress, in_notebooks
from relact.store.reading import Store

MEAN = "mean"  # the row of all relations, every relation weighing the same
LEVELS, GAINS = ("intact", "patched", "random"), ("gain", "over_random")
COLUMNS = [name for gain in GAINS for name in (gain, f"{gain}_low", f"{gain}_high")]


def patch(
    store: str | Path | Store,
    mask: str,
    *,
    per_relation: int = PatchOptions.per_relation,
    identify: int = PatchOptions.identify,
    seeds: Sequence[int] = PatchOptions.seeds,
    tokens: str = PatchOptions.tokens,
    seed: int = PatchOptions.seed,
    batch_tokens: int = PatchOptions.batch_tokens,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """Set a relation's own neurons, in other relations' test prompts, to their means over its identification
    prompts: how much likelier do its answers become, and how much by as many random neurons set likewise?

    Nothing is written. What an answer is, and what a random set, says `ablating.patch.read_patched`.

    Args:
        mask: name of a stored mask. model: the store's own by default; another one is refused.
        per_relation, identify, seeds, tokens, seed, batch_tokens: see `PatchOptions`.

    Returns:
        A row per relation: relation, prompts (of others), intact, patched, random (mean nats of the answer's
        first token), gain (patched minus intact) and over_random (patched minus random), each with _low and
        _high, 95 % over prompts. A last row ``mean`` of all relations, its intervals over both. NaN where
        nothing was read.

    Raises:
        InputError: no such mask, or sets of it that are no relations with prompts. IdentityError: another
            model than the store's.
    """
    options = PatchOptions(per_relation, identify, seeds, tokens, seed, batch_tokens)
    return table_of(
        read_patched(
            options,
            store,
            mask,
            model=model,
            device=device,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    )


def table_of(found: xr.Dataset, *, seed: int = 0) -> pd.DataFrame:
    """What `patch` returns, of log-probabilities [condition, relation, prompt]; ``seed`` of the draws."""
    values = found[schema.LOG_PROBABILITY].values.astype(float)
    names = [str(name) for name in found["condition"].values]
    random = [at for at, name in enumerate(names) if name.startswith(schema.RANDOM)]
    intact, patched = values[names.index(schema.INTACT)], values[names.index(PATCHED)]
    by_chance = values[random].mean(axis=0) if random else np.full(intact.shape, np.nan)
    generator, tables, rows = np.random.default_rng(seed), [], []
    for at, relation in enumerate(found["relation"].values.tolist()):
        read = ~np.isnan(patched[at])
        levels = np.stack([part[at][read] for part in (intact, patched, by_chance)])  # [level, prompt]
        gains = levels[1] - levels[[0, 2]]
        tables.append(np.concatenate([levels, gains]))
        means = tables[-1].mean(axis=1) if read.any() else np.full(5, np.nan)
        rows.append(_row(relation, int(read.sum()), means, *of_means(gains, RESAMPLES, generator)))
    low, high = over_relations(tables, RESAMPLES, generator)
    read_all = [each.mean(axis=1) for each in tables if each.shape[1]]
    means = np.mean(read_all, axis=0) if read_all else np.full(5, np.nan)
    n_prompts = sum(each.shape[1] for each in tables)
    rows.append(_row(MEAN, n_prompts, means, low[3:], high[3:]))
    return pd.DataFrame(rows, columns=["relation", "prompts", *LEVELS, *COLUMNS])


def _row(
    relation: str, prompts: int, means: np.ndarray, low: np.ndarray, high: np.ndarray
) -> dict[str, object]:
    """``means`` of the levels, then of the gains, which have bounds."""
    row: dict[str, object] = {
        "relation": relation,
        "prompts": prompts,
        **dict(zip(LEVELS, means, strict=False)),
    }
    for gain, mean, *bounds in zip(GAINS, means[3:], low, high, strict=True):
        row |= dict(zip((gain, f"{gain}_low", f"{gain}_high"), (mean, *bounds), strict=True))
    return row

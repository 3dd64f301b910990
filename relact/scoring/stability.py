"""Stability: how much of a relation's top-k survives when its prompts are drawn again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from relact import kernels
from relact.progress import Progress, silent
from relact.schema import AVERAGE_PRECISION
from relact.scoring import masks
from relact.scoring.schedulers import on_scheduler
from relact.scoring.score import Task, labels_of, relation_of_prompts, tasks_of
from relact.store import local
from relact.store.reading import Store


class _Job(NamedTuple):
    store: Store
    rows: np.ndarray
    labels: kernels.Labels


def stability(
    store: str | Path | Store,
    *,
    k: int,
    resamples: int = 10,
    seed: int = 0,
    negatives: int | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> xr.Dataset:
    """Bootstrap of the prompts: the share of every relation's top-k neurons by average precision that stay in
    it.

    A resample draws as many identification prompts of each relation as there are, with replacement, and
    scores all neurons again. Neurons that only fit these very prompts fall out.

    Args:
        k: neurons per relation. resamples: passes over the activations.
        negatives: as in `score`.

    Returns:
        ``survival`` [resample, relation], 0 to 1.
    """
    opened = local.writable(store)
    names = np.array(relation_of_prompts(opened))
    relations = list(dict.fromkeys(names.tolist()))
    draws = [
        np.arange(len(names)),
        *(_draw(names, np.random.default_rng([seed, n])) for n in range(resamples)),
    ]
    tops = []
    for number, rows in enumerate(draws):
        labels = labels_of(names[rows], relations, negatives, seed)
        scores = _average_precision(opened, rows, labels, workers or os.cpu_count() or 1)
        tops.append(masks.flatten(masks.top_k(scores, k)))  # bool [relation, neurons]
        progress("bootstrap", number + 1, len(draws), "passes")
    kept = [(top & tops[0]).sum(axis=1) / k for top in tops[1:]]
    return xr.Dataset(
        {"survival": (("resample", "relation"), np.array(kept))},
        {"relation": relations},
        {"k": k, "seed": seed},
    )


def _draw(names: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Row numbers, ascending: each relation's prompts drawn with replacement."""
    parts = [np.flatnonzero(names == name) for name in np.unique(names)]
    return np.sort(np.concatenate([random.choice(part, part.size) for part in parts]))


def _average_precision(
    store: Store, rows: np.ndarray, labels: kernels.Labels, workers: int
) -> dict[str, np.ndarray]:
    """Float32 [relation, layer, neuron] per site over the given prompts."""
    shape = {site: (len(labels.relations), lay.n_layers, lay.width) for site, lay in store.layouts.items()}
    scores = {site: np.empty(size, np.float32) for site, size in shape.items()}

    def collect(task: Task, values: np.ndarray) -> None:
        scores[task.stream][:, task.layer, task.start : task.stop] = values

    with on_scheduler(workers=workers) as compute:
        for site, lay in store.layouts.items():
            compute(
                _run,
                _Job(store, rows, labels),
                tasks_of(site, range(lay.n_layers), lay.width, lay.span),
                collect,
            )
    return scores


def _run(job: _Job, task: Task) -> np.ndarray:
    drawn = np.concatenate(job.store.columns(*task))[job.rows]
    return kernels.rank_statistics([drawn], job.labels, [AVERAGE_PRECISION])[AVERAGE_PRECISION].astype(
        np.float32
    )

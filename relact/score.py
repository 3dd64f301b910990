"""Score: one sort per neuron for every relation, in tasks of one neuron span, within a memory budget.

A task reads one span of one layer from every block (mapped, no copy), ranks it once and returns the statistics of all
relations. Tasks are independent, so any scheduler (`schedulers`) gives the same bits. Relations that are stored already for the
same prompts, labels and model are taken over, not computed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from relact import kernels, plan, schema
from relact.store import local
from relact.errors import InputError, NumericError, StoreError
from relact.progress import Progress, silent
from relact.schedulers import THREADS, on_scheduler

STATISTICS = schema.STATISTICS
MEMORY = "4GiB"


class Task(NamedTuple):
    """Neurons ``start`` to ``stop`` of one layer of one site."""

    site: str
    layer: int
    start: int
    stop: int


class Job(NamedTuple):
    """What all tasks of one scoring have in common; it travels to the workers once."""

    path: str
    created: str
    labels: kernels.Labels
    statistics: tuple[str, ...]
    device: str


def score(
    store: str | Path | local.Store,
    *,
    relations: Sequence[str] | None = None,
    negatives: int | None = None,
    seed: int = 0,
    statistics: Sequence[str] = STATISTICS,
    workers: int | None = None,
    memory: str | int = MEMORY,
    scheduler: str = THREADS,
    device: str = "cpu",
    progress: Progress = silent,
) -> local.Store:
    """Write ``scores/<site>`` for every captured site: each statistic float32 [relation, layer, neuron].

    Average precision is scikit-learn's ``average_precision_score`` of the raw activations, the relation's prompts
    against the others'.

    Args:
        relations: score only these; the other prompts stay negatives.
        negatives: sample this many negatives per positive (the published method takes 4) instead of all.
        seed: of that sampling.
        statistics: names in ``kernels.STATISTICS``; register your own with ``kernels.statistic``.
        workers: threads; all cores by default. A cluster has its own.
        memory: budget of a process that only scores, in bytes or as text ("4GiB"); the span per task shrinks to fit.
        scheduler: ``threads``, or the address of a Dask scheduler (``tcp://host:port``) whose workers see the store's path.
        device: ``cpu``, or a CUDA device: the same numbers within float32 rounding.

    Raises:
        StoreError: the capture is not complete. InputError: a relation without prompts. BudgetError.
        NumericError: an activation is not a number.
    """
    opened = store if isinstance(store, local.Store) else local.open(store)
    workers = workers or os.cpu_count() or 1
    local.recover(opened)
    names = relation_of_prompts(opened)
    chosen = _chosen(opened, names, relations)
    attributes = {
        "relations": list(chosen),
        "negatives": negatives,
        "seed": seed if negatives else None,
        "prompts": opened.manifest.prompts[schema.IDENTIFY]["digest"],
        "model": opened.manifest.model.fingerprint,
    }
    kept = _kept(opened, attributes, chosen, statistics)
    if kept == chosen and opened.attributes(schema.SCORES) == attributes:
        return opened
    shapes = [shape_of(opened, site, len(chosen), len(statistics), workers) for site in opened.layouts]
    spans = [shape.fit(plan.parse_bytes(memory)) for shape in shapes]
    todo = [name for name in chosen if name not in kept]
    labels = labels_of(names, todo, negatives, seed) if todo else None
    done, total = 0, sum(lay.n_layers * lay.width for lay in opened.layouts.values())

    def finished(part: _Part, task: Task, values: np.ndarray) -> None:
        nonlocal done
        part.put(task, todo, values)
        done += task.stop - task.start
        progress("score", done, total, "neurons")

    with opened.stage(schema.SCORES, attributes) as group, on_scheduler(scheduler, workers) as compute:
        for (site, lay), span in zip(opened.layouts.items(), spans, strict=True):
            arrays = create_arrays(group.create_group(site), lay, chosen, statistics)
            former = opened.dataset(f"{schema.SCORES}/{site}") if kept else None
            for layers in _runs(lay):
                part = _Part(
                    np.empty((len(statistics), len(chosen), len(layers), lay.width), np.float32), chosen, layers
                )
                if former is not None:
                    part.take_over(former, kept, statistics)
                if labels is not None:
                    job = Job(str(opened.path.resolve()), opened.manifest.created, labels, tuple(statistics), device)
                    compute(run_task, job, tasks_of(site, layers, lay.width, span), partial(finished, part))
                for array, values in zip(arrays, part.values, strict=True):
                    array[:, layers.start : layers.stop] = values
    return opened


class _Part(NamedTuple):
    """Scores of a few layers of a site, until they are written."""

    values: np.ndarray  # float32 [statistic, relation, layer, neuron]
    relations: list[str]
    layers: range

    def put(self, task: Task, relations: Sequence[str], values: np.ndarray) -> None:
        rows = [self.relations.index(name) for name in relations]
        self.values[:, rows, task.layer - self.layers.start, task.start : task.stop] = values

    def take_over(self, former: xr.Dataset, relations: Sequence[str], statistics: Sequence[str]) -> None:
        rows = [self.relations.index(name) for name in relations]
        same = former.sel(relation=list(relations)).isel(layer=slice(self.layers.start, self.layers.stop))
        for values, name in zip(self.values, statistics, strict=True):
            values[rows] = same[name].values


def run_task(job: Job, task: Task) -> np.ndarray:
    """One task, wherever it runs: float32 [statistic, relation, neuron]. `NumericError` names a NaN's place."""
    columns = _opened(job.path, job.created).columns(*task)
    rank = kernels.rank_statistics if job.device == "cpu" else kernels.on_device(job.device)
    try:
        found = rank(columns, job.labels, job.statistics)
    except kernels.NotANumber as error:
        raise NumericError(
            f"the activation of neuron {task.start + error.neuron} on prompt {error.prompt} is NaN",
            where=f"site {task.site}, layer {task.layer}",
            fix="capture again; if it stays, the model itself produces it",
        ) from error
    return np.stack([found[name] for name in job.statistics]).astype(np.float32)


@lru_cache(maxsize=4)
def _opened(path: str, created: str) -> local.Store:
    """The store at ``path``, opened once per process; ``created`` tells a new store at an old path."""
    return local.open(path)


def labels_of(names: Sequence[str], relations: Sequence[str], negatives: int | None, seed: int) -> kernels.Labels:
    """One relation's prompts against all others', or against ``negatives`` times as many drawn from them."""
    labels = kernels.Labels.one_vs_rest(names, relations)
    return labels.sampled(negatives, seed) if negatives else labels


def shape_of(store: local.Store, site: str, n_relations: int, n_statistics: int, workers: int) -> plan.ScoreShape:
    """What the memory of scoring a site depends on."""
    return plan.ScoreShape(store.layouts[site], n_relations, n_statistics, workers, store.is_mapped(site))


def relation_of_prompts(store: local.Store) -> list[str]:
    """The relation of every identification prompt; `StoreError` when some are not captured yet."""
    missing = store.missing_blocks()
    if missing:
        raise StoreError(
            f"{len(missing)} of {store.n_blocks} blocks are not captured yet",
            where=store.path,
            fix="run the same `relact capture` again to resume it",
        )
    return [str(name) for name in store.prompts(schema.IDENTIFY)["relation"]]


def _chosen(store: local.Store, names: Sequence[str], relations: Sequence[str] | None) -> list[str]:
    """The relations to score, checked."""
    known = list(dict.fromkeys(names))
    unknown = sorted(set(relations or ()) - set(known))
    if unknown:
        raise InputError(
            f"no prompts of relation {', '.join(unknown)}", where=store.path, fix=f"choose from {', '.join(known)}"
        )
    if len(known) < 2:
        raise InputError(
            f"all prompts belong to {known[0]!r}: nothing to tell it from",
            where=store.path,
            fix="capture prompts of at least two relations",
        )
    return list(dict.fromkeys(relations)) if relations else known


def _kept(
    store: local.Store, attributes: Mapping[str, Any], chosen: Sequence[str], statistics: Sequence[str]
) -> list[str]:
    """Chosen relations whose stored scores were computed from the same prompts, labels and model, with these statistics."""
    if not store.has(schema.SCORES):
        return []
    recorded = store.attributes(schema.SCORES)
    if {**recorded, "relations": None} != {**attributes, "relations": None}:
        return []
    if not all(set(statistics) <= set(store.dataset(f"{schema.SCORES}/{site}")) for site in store.layouts):
        return []
    return [name for name in chosen if name in recorded["relations"]]


def _runs(lay: plan.Layout) -> Iterator[range]:
    """Layers that are written together."""
    step = plan.score_layers(lay.n_layers, lay.width)
    for first in range(0, lay.n_layers, step):
        yield range(first, min(first + step, lay.n_layers))


def tasks_of(site: str, layers: range, width: int, span: int) -> list[Task]:
    """All tasks of some layers of a site."""
    return [Task(site, layer, start, start + span) for layer in layers for start in range(0, width, span)]


def create_arrays(
    group: zarr.Group, lay: plan.Layout, relations: Sequence[str], statistics: Sequence[str]
) -> list[zarr.Array]:
    """Empty arrays [relation, layer, neuron], one per statistic; a query for one relation reads only its own chunks."""
    local.write_coordinates(group, relation=list(relations), layer=range(lay.n_layers), neuron=range(lay.width))
    return [
        group.create_array(
            name,
            shape=(len(relations), lay.n_layers, lay.width),
            dtype="float32",
            fill_value=float("nan"),
            chunks=(1, plan.score_layers(lay.n_layers, lay.width), lay.width),
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("relation", "layer", "neuron"),
        )
        for name in statistics
    ]


def ranked(store: local.Store, statistic: str = "average_precision") -> Iterator[tuple[str, np.ndarray]]:
    """(site, float32 [relation, layer, neuron]) for every scored site, in the store's order."""
    for site in store.manifest.capture.sites:
        yield site, store.dataset(f"{schema.SCORES}/{site}")[statistic].values

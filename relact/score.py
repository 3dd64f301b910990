"""Score: Dask over neuron spans, one sort per neuron for every relation, within a memory budget.

One task reads one span of one layer from every block (mapped, no copy), ranks it once and returns the statistics of all
relations. Tasks are independent, so any scheduler gives the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dask
import numpy as np
import xarray as xr
import zarr
from dask.callbacks import Callback
from zarr.codecs import ZstdCodec

from relact import kernels, plan, schema
from relact import store as stores
from relact.errors import InputError, NumericError, StoreError
from relact.progress import Progress, silent

STATISTICS = ("average_precision", "on_p50", "on_p90", "off_mean", "off_p50")
MEMORY = "4GiB"


def score(
    store: str | Path | stores.Store,
    *,
    relations: Sequence[str] | None = None,
    negatives: int | None = None,
    seed: int = 0,
    statistics: Sequence[str] = STATISTICS,
    workers: int | None = None,
    memory: str | int = MEMORY,
    progress: Progress = silent,
) -> stores.Store:
    """Write ``scores/<site>`` for every captured site: each statistic float32 [relation, layer, neuron].

    Average precision is scikit-learn's ``average_precision_score`` of the raw activations, the relation's prompts
    against the others'.

    Args:
        relations: score only these; the other prompts stay negatives.
        negatives: sample this many negatives per positive (the published method takes 4) instead of all.
        seed: of that sampling.
        workers: threads; all cores by default.
        memory: budget in bytes or as text ("4GiB"); the span per task shrinks to fit.

    Raises:
        StoreError: the capture is not complete. InputError: a relation without prompts. BudgetError.
    """
    opened = store if isinstance(store, stores.Store) else stores.open(store)
    stores.recover(opened)
    missing = opened.missing_blocks()
    if missing:
        raise StoreError(
            f"{len(missing)} of {opened.n_blocks} blocks are not captured yet",
            where=opened.path,
            fix="run the same `relact capture` again to resume it",
        )
    labels = _labels(opened, relations, negatives, seed)
    workers = workers or os.cpu_count() or 1
    attributes = {
        "relations": list(labels.relations),
        "negatives": negatives,
        "seed": seed if negatives else None,
        "prompts": opened.manifest.prompts[schema.IDENTIFY]["digest"],
        "model": opened.manifest.model.fingerprint,
    }
    if _is_current(opened, attributes, statistics):
        return opened
    tasks = {site: _spans(opened, site, workers, plan.parse_bytes(memory)) for site in opened.layouts}
    total, done = sum(lay.n_layers * lay.width for lay in opened.layouts.values()), 0

    def finished(neurons: int) -> None:
        nonlocal done
        done += neurons
        progress("score", done, total, "neurons")

    with opened.stage(schema.SCORES, attributes) as group:
        for site, spans in tasks.items():
            arrays = _score_site(opened, site, spans, labels, statistics, workers, finished)
            _write(group.create_group(site), arrays, labels.relations)
    return opened


def _labels(store: stores.Store, relations: Sequence[str] | None, negatives: int | None, seed: int) -> kernels.Labels:
    names = store.prompts(schema.IDENTIFY)["relation"].tolist()
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
    labels = kernels.Labels.one_vs_rest(names, list(relations) if relations else known)
    return labels.sampled(negatives, seed) if negatives else labels


def _is_current(store: stores.Store, attributes: dict, statistics: Sequence[str]) -> bool:
    """Whether the stored scores were computed from the same prompts, labels and model, with these statistics."""
    if not store.has(schema.SCORES) or store.attributes(schema.SCORES) != attributes:
        return False
    return all(set(statistics) <= set(store.dataset(f"{schema.SCORES}/{site}")) for site in store.layouts)


def _spans(store: stores.Store, site: str, workers: int, budget: int) -> list[tuple[int, int, int]]:
    """(layer, start, stop) of every task."""
    lay = store.layouts[site]
    span = plan.score_span(lay.n_prompts, lay.span, lay.item, workers, budget)
    return [(layer, start, start + span) for layer in range(lay.n_layers) for start in range(0, lay.width, span)]


def _score_site(
    store: stores.Store,
    site: str,
    spans: Sequence[tuple[int, int, int]],
    labels: kernels.Labels,
    statistics: Sequence[str],
    workers: int,
    finished: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Statistics of one site, each float32 [relation, layer, neuron]."""
    lay = store.layouts[site]
    arrays = {name: np.empty((len(labels.relations), lay.n_layers, lay.width), np.float32) for name in statistics}

    def one(layer: int, start: int, stop: int) -> int:
        try:
            found = kernels.rank_statistics(store.columns(site, layer, start, stop), labels, statistics)
        except NumericError as error:
            raise NumericError(error.what, where=f"site {site}, layer {layer}, from neuron {start}") from error
        for name, values in found.items():
            arrays[name][:, layer, start:stop] = values
        return stop - start

    tasks = [dask.delayed(one, pure=False)(*span) for span in spans]
    with Callback(posttask=lambda key, result, *_: finished(result)):
        dask.compute(*tasks, scheduler="threads", num_workers=workers)
    return arrays


def _write(group: zarr.Group, arrays: dict[str, np.ndarray], relations: Sequence[str]) -> None:
    """One chunk per relation and statistic: a query for one relation reads only its own."""
    _, n_layers, width = next(iter(arrays.values())).shape
    stores.write_coordinates(group, relation=list(relations), layer=range(n_layers), neuron=range(width))
    for name, values in arrays.items():
        group.create_array(
            name,
            data=values,
            chunks=(1, n_layers, width),
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("relation", "layer", "neuron"),
        )


def ranked(store: stores.Store, statistic: str = "average_precision") -> Iterator[tuple[str, np.ndarray]]:
    """(site, float32 [relation, layer, neuron]) for every scored site, in the store's order."""
    for site in store.manifest.capture.sites:
        yield site, store.dataset(f"{schema.SCORES}/{site}")[statistic].values


def names(scores: xr.Dataset) -> list[str]:
    """The statistics a ``scores/<site>`` group holds, the usual ones first and in their usual order."""
    found = sorted(map(str, scores.data_vars))
    return [name for name in STATISTICS if name in found] + [name for name in found if name not in STATISTICS]

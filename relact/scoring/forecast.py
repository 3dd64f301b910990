"""What scoring a store would write and need. Nothing is written; a few neurons are scored to time it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from relact import kernels, plan
from relact.scoring.memory import ScoreShape, layers_per_chunk
from relact.scoring.options import ScoreOptions
from relact.scoring.score import relation_of_prompts, workers_of
from relact.store import local
from relact.store.layout import Layout
from relact.store.reading import Store

TIMED = 64  # neurons scored to estimate the time


def forecast(options: ScoreOptions, store: str | Path | Store) -> plan.Plan:
    """The plan of `score` with the same options, everything computed anew; bytes are a bound,
    as scores are compressed.

    Raises:
        StoreError: the capture is not complete. BudgetError: the memory is too little.
    """
    opened = local.writable(store)
    names = relation_of_prompts(opened)
    mapped = all(opened.is_mapped(site) for site in opened.layouts)
    return forecast_of(options, opened.layouts, names, mapped)


def forecast_of(
    options: ScoreOptions, layouts: Mapping[str, Layout], names: Sequence[str], mapped: bool = True
) -> plan.Plan:
    """The plan of scoring prompts of the relations ``names``, one name per prompt, captured or not."""
    chosen = list(dict.fromkeys(options.relations or names))
    workers, statistics = workers_of(options), options.statistics
    n_files, n_bytes, peak = 1, plan.METADATA, 0
    for lay in layouts.values():
        shape = ScoreShape(lay, len(chosen), len(statistics), workers, mapped)
        peak = max(peak, shape.memory(shape.fit(plan.parse_bytes(options.memory))))
        layers = layers_per_chunk(lay.n_layers, lay.width)
        chunks = len(statistics) * len(chosen) * -(-lay.n_layers // layers)
        # the group, three coordinates, the statistics, their chunks
        files = 1 + 2 * 3 + len(statistics) + chunks
        coordinates = 8 * (lay.width + lay.n_layers) + sum(4 + len(name.encode()) for name in chosen)
        n_bytes += chunks * plan.compressed(layers * lay.width * 4) + 3 * plan.compressed(coordinates)
        n_bytes += files * plan.NAME + (4 + len(statistics)) * plan.METADATA
        n_files += files
    neurons = sum(lay.n_layers * lay.width for lay in layouts.values())
    item = next(iter(layouts.values())).item
    seconds = neurons * _seconds_of_a_neuron(names, chosen, statistics, item) / workers
    return plan.Plan("score", n_files, n_bytes, False, peak, seconds)


def _seconds_of_a_neuron(
    names: Sequence[str], relations: Sequence[str], statistics: Sequence[str], item: int
) -> float:
    """Time of one neuron in one thread, from scoring random ones; the second of two runs counts."""
    labels = kernels.Labels.one_vs_rest(list(names), list(relations))
    values = np.random.default_rng(0).standard_normal((len(names), TIMED)).astype(f"f{item}")
    taken = 0.0
    for _ in range(2):
        start = time.perf_counter()
        kernels.rank_statistics([values], labels, statistics)
        taken = time.perf_counter() - start
    return taken / TIMED

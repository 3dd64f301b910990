"""What scoring a store would write and need. Nothing is written; a few neurons are scored to time it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from relact import kernels, plan
from relact.scoring.memory import ScoreShape, layers_per_chunk, relations_per_chunk
from relact.scoring.options import ScoreOptions
from relact.scoring.quantities import wanted
from relact.scoring.score import relation_of_prompts, workers_of
from relact.store import local
from relact.store.layout import Layout
from relact.store.reading import Store

TIMED = 64  # neurons scored to estimate the time, or fewer,
VALUES = 1 << 19  # of as many values


def forecast(options: ScoreOptions, store: str | Path | Store) -> plan.Plan:
    """The plan of `score` with the same options, everything computed anew; bytes are a bound,
    as scores are compressed.

    Raises:
        StoreError: the capture is not complete. BudgetError: the memory is too little.
    """
    opened = local.writable(store)
    names = relation_of_prompts(opened)
    mapped = all(opened.is_mapped(stream) for stream in opened.streams)
    return forecast_of(options, opened.streams, names, mapped)


def forecast_of(
    options: ScoreOptions, streams: Mapping[str, Layout], names: Sequence[str], mapped: bool = True
) -> plan.Plan:
    """The plan of scoring prompts of the relations ``names``, one name per prompt, captured or not."""
    chosen = list(dict.fromkeys(options.relations or names))
    parts, workers = wanted(streams, options.statistics), workers_of(options)
    n_files, n_bytes, peak, seconds = 1, plan.METADATA, 0, 0.0
    sites: set[str] = set()
    for part in parts:
        lay, n_statistics = streams[part.stream], len(part.names)
        shape = ScoreShape(lay, len(chosen), n_statistics, workers, mapped)
        span = shape.fit(plan.parse_bytes(options.memory), wide=options.device != "cpu")
        peak = max(peak, shape.memory(span))
        layers = layers_per_chunk(lay.n_layers, lay.width)
        together = relations_per_chunk(len(chosen), layers * lay.width)
        chunks = n_statistics * -(-len(chosen) // together) * -(-lay.n_layers // layers)
        files, documents = n_statistics + chunks, n_statistics
        if part.site not in sites:  # the group, three coordinates
            files, documents = files + 1 + 2 * 3, documents + 4
            coordinates = 8 * (lay.width + lay.n_layers) + sum(4 + len(name.encode()) for name in chosen)
            n_bytes += 3 * plan.compressed(coordinates)
        sites.add(part.site)
        n_bytes += chunks * plan.compressed(together * layers * lay.width * 4)
        n_bytes += files * plan.NAME + documents * plan.METADATA
        n_files += files
        of_neuron = _seconds_of_a_neuron(names, chosen, part.statistics, lay.item)
        seconds += lay.n_layers * lay.width * of_neuron / workers
    return plan.Plan("score", n_files, n_bytes, False, peak, seconds)


def _seconds_of_a_neuron(
    names: Sequence[str], relations: Sequence[str], statistics: Sequence[str], item: int
) -> float:
    """Time of one neuron in one thread, from scoring random ones; the second of two runs counts."""
    labels = kernels.Labels.one_vs_rest(list(names), list(relations))
    timed = min(TIMED, max(1, VALUES // len(names)))
    values = np.random.default_rng(0).standard_normal((len(names), timed)).astype(f"f{item}")
    taken = 0.0
    for _ in range(2):
        start = time.perf_counter()
        kernels.rank_statistics([values], labels, statistics)
        taken = time.perf_counter() - start
    return taken / timed

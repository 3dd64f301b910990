"""Score: one sort per neuron for every relation, in tasks of one neuron span, within a memory budget.

A task reads one span of one layer from every block, ranks it once and returns all relations' statistics.
Tasks are independent, so any scheduler (`schedulers`) gives the same bits. What is ranked is copied from the
shards, not mapped: a file that is cut meanwhile is one line, not the end of the process.
Relations that are stored already for the same prompts, labels and model are taken over, not computed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from relact import kernels, schema
from relact.errors import InputError, NumericError, StoreError
from relact.plan import parse_bytes
from relact.progress import Progress, in_notebooks
from relact.scoring.arrays import Part, create_arrays, runs_of
from relact.scoring.criteria import PROBE
from relact.scoring.former import beside, kept, with_stored
from relact.scoring.memory import ScoreShape
from relact.scoring.options import DEVICE_WORKERS, ScoreOptions
from relact.scoring.probes import PREFILTER, probe_bytes, probed
from relact.scoring.quantities import Wanted, wanted
from relact.scoring.roles import labels_of, relations_of
from relact.scoring.schedulers import on_scheduler
from relact.store import local
from relact.store.coarse import coarse, tell
from relact.store.layout import quantity_of, site_of
from relact.store.local import LocalStore
from relact.store.reading import Store

Put = Callable[[int, int, int, np.ndarray], None]  # layer, start, stop, [statistic, relation, neuron]


class Task(NamedTuple):
    """Neurons ``start`` to ``stop`` of one layer of one stream."""

    stream: str
    layer: int
    start: int
    stop: int


class Job(NamedTuple):
    """What all tasks of one scoring have in common; it travels to the workers once."""

    path: str
    version: str
    labels: kernels.Labels  # of the relations that are scored, then of others that they are compared with
    n_scored: int
    statistics: tuple[str, ...]
    device: str


def score(
    store: str | Path | Store,
    *,
    relations: Sequence[str] | None = ScoreOptions.relations,
    negatives: int | None = ScoreOptions.negatives,
    seed: int = ScoreOptions.seed,
    statistics: Sequence[str] = ScoreOptions.statistics,
    workers: int | None = ScoreOptions.workers,
    memory: str | int = ScoreOptions.memory,
    scheduler: str = ScoreOptions.scheduler,
    device: str = ScoreOptions.device,
    own_negatives: bool = ScoreOptions.own_negatives,
    progress: Progress = in_notebooks,
) -> LocalStore:
    """Write ``scores/<site>`` for every captured site: each statistic float32 [relation, layer, neuron].

    Average precision is scikit-learn's ``average_precision_score`` of the raw activations, the relation's
    prompts against the others'. Statistics ``attribution_...`` are those of the site's attributions.

    Args:
        relations: score only these, beside what is stored of others; the other prompts stay negatives.
        negatives: sample this many negatives per positive (the published method takes 4) instead of all.
        seed: of that sampling.
        statistics: names in ``kernels.STATISTICS``, also after ``attribution_``, and ``probe``; register your
            own with ``kernels.statistic``. By default those of attributions count only where there are some.
            Those that are stored stay.
        workers: threads; all cores by default, two for a device. A cluster has its own.
        memory: budget of a process that only scores, in bytes or as text ("4GiB"); the span per task shrinks
            to fit.
        scheduler: ``threads``, or the address of a Dask scheduler (``tcp://host:port``) whose workers see the
            store's path.
        device: ``cpu``, or a CUDA device: the same numbers within float32 rounding.
        own_negatives: relations called ``group=label`` are compared with the labels of their group alone.

    Raises:
        StoreError: the capture is not complete. InputError: a relation without prompts; others are stored
        that were scored otherwise. BudgetError. NumericError: an activation is not a number.
    """
    options = ScoreOptions(
        relations, negatives, seed, statistics, workers, memory, scheduler, device, own_negatives
    )
    scored = score_with(options, store, progress=progress)
    tell(scored)
    return scored


def score_with(
    options: ScoreOptions, store: str | Path | Store, *, progress: Progress = in_notebooks
) -> LocalStore:
    """`score` with options that travel together."""
    opened = local.writable(store)
    local.recover(opened)
    names = relation_of_prompts(opened)
    chosen = relations_of(names, options.relations, opened.path)
    record = schema.ScoresRecord(
        relations=tuple(chosen),
        negatives=options.negatives,
        seed=options.seed if options.negatives else None,
        prompts=opened.manifest.prompts_digest(schema.IDENTIFY),
        model=opened.manifest.model.fingerprint,
        own_negatives=options.own_negatives or None,
        coarse=coarse(opened) or None,
    )
    stored = opened.scores_record() if opened.has(schema.SCORES) else None
    if stored and not stored.imported:
        record = beside(opened, stored, record) if options.relations else record
        chosen, options = list(record.relations), with_stored(opened, options)
    same = kept(opened, record, wanted(opened.streams, options.statistics))
    if same == chosen and stored == record:
        return opened
    _Scoring.of(options, opened, names, chosen, same).write(record, progress)
    return opened


def scores_of(
    store: str | Path | Store,
    negatives: int | None,
    *,
    seed: int = ScoreOptions.seed,
    statistic: str = schema.AVERAGE_PRECISION,
    workers: int | None = ScoreOptions.workers,
    memory: str | int = ScoreOptions.memory,
    progress: Progress = in_notebooks,
) -> dict[str, np.ndarray]:
    """Scores of all relations under other negatives, in memory: site -> float32 [relation, layer, neuron].

    Nothing is stored. The budget ``memory`` includes what is returned; other arguments are those of `score`.

    Raises:
        StoreError: the store has no activations here, or not all of them. BudgetError.
    """
    opened = local.writable(store)
    names = relation_of_prompts(opened)
    if statistic == PROBE:
        raise InputError(f"{PROBE} is stored with the scores or not at all", fix="score the store by it")
    options = ScoreOptions(None, negatives, seed, (statistic,), workers, memory)
    relations = list(dict.fromkeys(names))
    scored = [opened.streams[each.stream] for each in wanted(opened.streams, options.statistics)]
    returned = sum(4 * len(relations) * lay.n_layers * lay.width for lay in scored)
    scoring = _Scoring.of(options, opened, names, relations, [], reserved=returned)
    return scoring.computed(progress)


@dataclass
class _Scoring:
    """One scoring: what is kept of the former scores, what is computed, and how much of that is done."""

    options: ScoreOptions
    store: LocalStore
    relations: list[str]
    kept: list[str]
    labels: kernels.Labels | None  # of the relations that are not kept
    spans: dict[Wanted, int]  # neurons per task of every stream
    done: int = 0

    @classmethod
    def of(
        cls,
        options: ScoreOptions,
        store: LocalStore,
        names: Sequence[str],
        relations: list[str],
        kept: list[str],
        reserved: int = 0,
    ) -> _Scoring:
        """With tasks that fit the memory, but for the bytes that are ``reserved``."""
        parts, budget = wanted(store.streams, options.statistics), parse_bytes(options.memory) - reserved
        todo = [name for name in relations if name not in kept]
        compares = any(
            isinstance(kernels.STATISTICS.get(name), kernels.MomentStatistic)
            for part in parts
            for name in part.statistics
        )
        labelled = list(dict.fromkeys([*todo, *names])) if compares else todo
        n_relations, workers = max(len(relations), len(labelled)), workers_of(options)
        wide = options.device != "cpu"
        spans = {
            part: shape_of(store, part.stream, n_relations, len(part.names), workers).fit(budget, wide=wide)
            for part in parts
        }
        roles = options.negatives, options.seed
        labels = labels_of(names, labelled, *roles, own_negatives=options.own_negatives) if todo else None
        return cls(options, store, relations, kept, labels, spans)

    def write(self, record: schema.ScoresRecord, progress: Progress) -> None:
        """Write the stage, a few layers of a stream at a time."""
        with (
            self.store.stage(schema.SCORES, record.to_attributes()) as group,
            on_scheduler(self.options.scheduler, workers_of(self.options)) as compute,
        ):
            for wanted, span in self.spans.items():
                lay, names = self.store.streams[wanted.stream], wanted.of_neurons
                arrays = create_arrays(group.require_group(wanted.site), lay, self.relations, names)
                if not names:
                    continue
                former = self.store.dataset(f"{schema.SCORES}/{wanted.site}") if self.kept else None
                for layers in runs_of(lay):
                    part = Part(len(names), self.todo, layers, lay.width, self.store.path.parent)
                    if self.labels is not None:
                        tasks, job = tasks_of(wanted.stream, layers, lay.width, span), self._job(wanted)
                        compute(run_task, job, tasks, self._collect(part.put, progress))
                    for at, (name, array) in enumerate(zip(names, arrays, strict=True)):
                        part.write(at, array, self.relations, None if former is None else former[name])
            if PROBE in self.options.statistics:
                self._write_probes(group, progress)

    def _write_probes(self, group: zarr.Group, progress: Progress) -> None:
        """Add the statistic of all neurons together."""
        prefilter = self._prefilter(self.todo, progress)
        found = probed(self.store, self.labels, prefilter, self.options.seed, progress)
        for site, lay in self.store.layouts.items():
            part = Part(1, self.todo, range(lay.n_layers), lay.width, self.store.path.parent)
            former = self.store.dataset(f"{schema.SCORES}/{site}")[PROBE] if self.kept else None
            for layer in range(lay.n_layers if self.todo else 0):
                part.put(layer, 0, lay.width, found[site][None, :, layer])
            array = create_arrays(group.require_group(site), lay, self.relations, (PROBE,))[0]
            part.write(0, array, self.relations, former)

    def _prefilter(self, relations: list[str], progress: Progress) -> dict[str, np.ndarray]:
        """What candidates of a probe are chosen by: site -> float32 [relation, layer, neuron]."""
        if not relations:
            return {}
        options = replace(self.options, statistics=(PREFILTER,))
        reserved = probe_bytes(self.store, len(relations))
        names = relation_of_prompts(self.store)
        return _Scoring.of(options, self.store, names, relations, [], reserved).computed(progress)

    def computed(self, progress: Progress) -> dict[str, np.ndarray]:
        """The scores of the only statistic, not written: site -> float32 [relation, layer, neuron]."""
        scores: dict[str, np.ndarray] = {}
        with on_scheduler(self.options.scheduler, workers_of(self.options)) as compute:
            for wanted, span in self.spans.items():
                lay = self.store.streams[wanted.stream]
                values = np.empty((len(self.relations), lay.n_layers, lay.width), np.float32)

                def put(layer: int, start: int, stop: int, some: np.ndarray, of: np.ndarray = values) -> None:
                    of[:, layer, start:stop] = some[0]

                if self.labels is not None:
                    tasks = tasks_of(wanted.stream, range(lay.n_layers), lay.width, span)
                    compute(run_task, self._job(wanted), tasks, self._collect(put, progress))
                scores[wanted.site] = values
        return scores

    def _job(self, wanted: Wanted) -> Job:
        path, manifest = str(self.store.path.resolve()), self.store.manifest
        version = f"{manifest.id} {manifest.created} {manifest.prompts_digest(schema.IDENTIFY)}"
        n_scored = len(self.relations) - len(self.kept)
        assert self.labels is not None
        return Job(path, version, self.labels, n_scored, wanted.statistics, self.options.device)

    @cached_property
    def todo(self) -> list[str]:
        """Relations that are not kept."""
        return [name for name in self.relations if name not in self.kept]

    def _collect(self, put: Put, progress: Progress) -> Callable[[Task, np.ndarray], None]:
        """What is done with a task's scores."""
        scored = [self.store.streams[wanted.stream] for wanted in self.spans]
        total = sum(lay.n_layers * lay.width for lay in scored)

        progress("score", self.done, total, "neurons")

        def collect(task: Task, values: np.ndarray) -> None:
            put(task.layer, task.start, task.stop, values)
            self.done += task.stop - task.start
            progress("score", self.done, total, "neurons")

        return collect


def workers_of(options: ScoreOptions) -> int:
    """Threads: as many as asked for, or all cores; for a device as many as keep it busy."""
    return options.workers or (os.cpu_count() or 1 if options.device == "cpu" else DEVICE_WORKERS)


def run_task(job: Job, task: Task) -> np.ndarray:
    """One task, wherever it runs: float32 [statistic, relation, neuron].
    `NumericError` names a NaN's place.
    """
    store = _opened(job.path, job.version)
    try:
        if job.device == "cpu":
            values = kernels.rank_statistics(store.columns(*task), job.labels, job.statistics)
        else:
            values = kernels.on_device(job.device)(_together(store, task), job.labels, job.statistics)
    except kernels.NotANumber as error:
        raise NumericError(
            f"the {quantity_of(task.stream)} of neuron {task.start + error.neuron} "
            f"on prompt {error.prompt} is NaN",
            where=f"site {site_of(task.stream)}, layer {store.streams[task.stream].layers[task.layer]}",
            fix="capture again; if it stays, the model itself produces it",
        ) from error
    return np.stack([values[name][: job.n_scored] for name in job.statistics]).astype(np.float32)


def _together(store: LocalStore, task: Task) -> list[kernels.Beside]:
    """A task's columns, which may lie in several inner chunks."""
    span = store.streams[task.stream].span
    starts = range(task.start, task.stop, span)
    pieces = [task._replace(start=start, stop=min(start + span, task.stop)) for start in starts]
    columns = [store.columns(*piece) for piece in pieces]
    return [kernels.Beside(block) for block in zip(*columns, strict=True)]


@lru_cache(maxsize=4)
def _opened(path: str, version: str) -> LocalStore:
    """The store at ``path``, opened once per process; ``version`` tells a new store at an old path, and one
    that has grown.
    """
    return local.open(path)


def shape_of(store: Store, stream: str, n_relations: int, n_statistics: int, workers: int) -> ScoreShape:
    """What the memory of scoring a stream depends on."""
    return ScoreShape(store.streams[stream], n_relations, n_statistics, workers, store.is_mapped(stream))


def relation_of_prompts(store: Store) -> list[str]:
    """The relation of every identification prompt; `StoreError` when some are not captured yet."""
    missing = store.missing_blocks()
    if missing:
        raise StoreError(
            f"{len(missing)} of {store.n_blocks} blocks are not captured yet",
            where=store.path,
            fix="run the same `relact capture` again to resume it",
        )
    return [str(name) for name in store.prompts(schema.IDENTIFY)["relation"]]


def tasks_of(stream: str, layers: range, width: int, span: int) -> list[Task]:
    """All tasks of some layers of a stream."""
    return [Task(stream, layer, start, start + span) for layer in layers for start in range(0, width, span)]

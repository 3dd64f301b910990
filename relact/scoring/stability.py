"""Stability: how many of a relation's neurons are found again from the other half of its prompts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from relact import kernels, schema
from relact.errors import InputError
from relact.progress import Progress, in_notebooks
from relact.schema import HALF, MARGIN
from relact.scoring import masks
from relact.scoring.experts import neurons_of
from relact.scoring.magnitudes import super_unit_masks
from relact.scoring.quantities import wanted
from relact.scoring.roles import labels_of
from relact.scoring.schedulers import on_scheduler
from relact.scoring.score import Task, relation_of_prompts, tasks_of
from relact.scoring.selection import Choice, Masks, Numbering, Rules, choose, countable, flatten
from relact.store.local import LocalStore
from relact.store.reading import Store


@dataclass(frozen=True)
class Halves:
    """What two random halves of every relation's identification prompts choose.

    Attributes:
        rows: numbers of the prompts of each half, ascending. choices: the sets of each half.
        n_units: what may be chosen: hidden units, and neurons of other sites.
    """

    relations: list[str]
    k: int
    rows: tuple[np.ndarray, np.ndarray]
    choices: tuple[Choice, Choice]
    n_units: int

    @property
    def shared(self) -> np.ndarray:
        """Share of k that both halves choose, float [relation of the first, relation of the second]."""
        first, second = (choice.sets for choice in self.choices)
        numbering = Numbering.of(first)
        units = np.array([numbering.spread(row) for row in flatten(second)])
        return flatten(first).astype(float) @ units.T / self.k

    @property
    def chance(self) -> float:
        """Share of k that two random sets have in common, on average."""
        return self.k / self.n_units


class _Job(NamedTuple):
    store: Store
    rows: tuple[np.ndarray, ...]
    labels: tuple[kernels.Labels, ...]
    statistics: tuple[str, ...]


def halves_of(
    store: LocalStore,
    *,
    k: int,
    statistic: str = schema.AVERAGE_PRECISION,
    splits: int = 3,
    seed: int = 0,
    negatives: int | None = None,
    workers: int | None = None,
    progress: Progress = in_notebooks,
) -> Iterator[Halves]:
    """Split the identification prompts of each relation in two ``splits`` times, and choose from each half.

    Neurons are scored and chosen as `score` and `select` do, ties by the half's own margins, then by a hash
    that differs between the halves. One pass over the captured values per split.

    Args:
        k: neurons per relation. statistic: any that can be scored.
        seed: of the splits. negatives: as in `score`.

    Raises:
        InputError: a relation with one prompt, no split, k beyond the neurons, a statistic that is unknown or
            of attributions that are not there.
    """
    names = np.array(relation_of_prompts(store))
    relations = list(dict.fromkeys(names.tolist()))
    few = [name for name in relations if (names == name).sum() < 2]
    if few or splits < 1:
        problem = f"relation {few[0]!r} has one identification prompt" if few else f"{splits} splits"
        raise InputError(problem, where=store.path, fix="split at least two prompts, at least once")
    progress("halves", 0, splits, "splits")
    for split in range(splits):
        rows = _halved(names, np.random.default_rng([seed, split]))
        labels = tuple(labels_of(names[half], relations, negatives, seed) for half in rows)
        scored = _scored(store, rows, labels, statistic, workers or os.cpu_count() or 1)
        seeds = (2 * split, 2 * split + 1)
        choices = [_chosen(store, k, *arrays, each) for arrays, each in zip(scored, seeds, strict=True)]
        (first, n_units), (second, _) = choices
        progress("halves", split + 1, splits, "splits")
        yield Halves(relations, k, rows, (first, second), n_units)


def _halved(names: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two halves, ascending; of an odd number of prompts the first has one more."""
    drawn = [random.permutation(np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())]
    first = np.sort(np.concatenate([rows[: (len(rows) + 1) // 2] for rows in drawn]))
    second = np.sort(np.concatenate([rows[(len(rows) + 1) // 2 :] for rows in drawn]))
    return first, second


def _scored(
    store: Store,
    rows: tuple[np.ndarray, ...],
    labels: tuple[kernels.Labels, ...],
    statistic: str,
    workers: int,
) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Scores and margins from each half, float32 [relation, layer, neuron] per site."""
    every = wanted(store.streams, (statistic,))
    chosen_among = neurons_of([part.site for part in every])
    parts = [part for part in every if part.site in chosen_among]
    shapes = {
        part.site: (store.streams[part.stream].n_layers, store.streams[part.stream].width) for part in parts
    }
    found = {
        site: np.empty((len(rows), 2, len(labels[0].relations), *shape), np.float32)
        for site, shape in shapes.items()
    }
    with on_scheduler(workers=workers) as compute:
        for part in parts:
            lay, target = store.streams[part.stream], found[part.site]

            def collect(task: Task, values: np.ndarray, target: np.ndarray = target) -> None:
                target[..., task.layer, task.start : task.stop] = values

            job = _Job(store, rows, labels, (part.statistics[0], MARGIN))
            compute(_run, job, tasks_of(part.stream, range(lay.n_layers), lay.width, lay.span), collect)
    return [
        ({site: of[half, 0] for site, of in found.items()}, {site: of[half, 1] for site, of in found.items()})
        for half in range(len(rows))
    ]


def _run(job: _Job, task: Task) -> np.ndarray:
    """float32 [half, statistic, relation, neuron]."""
    values = np.concatenate(job.store.columns(*task))
    halves = [
        kernels.rank_statistics([values[rows]], labels, list(dict.fromkeys(job.statistics)))
        for rows, labels in zip(job.rows, job.labels, strict=True)
    ]
    return np.array([[scores[name] for name in job.statistics] for scores in halves], np.float32)


def _chosen(store: Store, k: int, scores: Masks, margins: Masks, seed: int) -> tuple[Choice, int]:
    """The top k, and among how many."""
    flat = flatten(margins).astype(np.float64)
    rules = Rules(
        seed=seed, without=super_unit_masks(store, scores), margins=lambda numbers: flat[:, numbers]
    )
    return choose(scores, k, "top", rules), countable(Numbering.of(scores), rules)


def write_half(
    store: LocalStore, found: Halves, half: int, statistic: str, name: str, negatives: int | None, seed: int
) -> str:
    """Write the sets of one half as ``masks/<name>``, with the digest of its prompts; returns the name."""
    prompts = store.prompts(schema.IDENTIFY).iloc[found.rows[half]]
    columns = ("text", "relation", "object")
    asked = [dict(zip(columns, row, strict=True)) for row in prompts[[*columns]].itertuples(index=False)]
    scores = schema.ScoresRecord(
        relations=tuple(found.relations),
        negatives=negatives,
        seed=seed if negatives else None,
        prompts=schema.digest(asked),
        model=store.manifest.model.fingerprint,
    )
    choice = found.choices[half]
    record = schema.MaskRecord(
        k=found.k,
        kind=HALF,
        fdr=None,
        statistic=statistic,
        sites=tuple(choice.chosen.numbering.shapes),
        scores=scores,
        counted=schema.UNIT,
        ties=choice.ties,
        ties_by=MARGIN,
        without=masks.left_out(store, choice.chosen.numbering.shapes),
        halved=store.manifest.prompts_digest(schema.IDENTIFY),
    )
    return masks.write(store, name, choice.chosen, found.relations, record)

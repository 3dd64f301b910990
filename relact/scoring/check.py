"""Check: stored average precisions of random neurons against scikit-learn's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relact import schema
from relact.errors import InputError, NumericError
from relact.kernels.labels import LEFT_OUT, POSITIVE
from relact.progress import Progress, in_notebooks
from relact.scoring.roles import labels_of
from relact.scoring.score import relation_of_prompts
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store

TOLERANCE = 1e-6  # scores are stored as float32


@dataclass(frozen=True)
class Check:
    """How many ``neurons`` were recomputed for how many ``relations``, and the ``largest`` difference."""

    neurons: int
    relations: int
    largest: float


def check(
    store: str | Path | Store, neurons: int, *, seed: int = 0, progress: Progress = in_notebooks
) -> Check:
    """Recompute random neurons with ``sklearn.metrics.average_precision_score``, for every relation.

    Args:
        neurons: how many. seed: of their choice.

    Raises:
        NumericError: a stored score differs by more than float32 rounding explains.
        StoreError: the store has no scores. InputError: they are another tool's, or fewer than one neuron.
    """
    from sklearn.metrics import average_precision_score  # takes a second that scoring does without

    opened = local.writable(store)
    record = opened.scores_record()
    if record.imported:
        raise InputError("these scores are another tool's", where=opened.path, fix="score the store first")
    if neurons < 1:
        raise InputError(f"{neurons} neurons", where="--check", fix="give at least 1")
    labels = labels_of(
        relation_of_prompts(opened),
        record.relations,
        record.negatives,
        record.seed or 0,
        own_negatives=record.own_negatives,
    )
    roles = labels.roles[labels.classes]  # [prompt, relation]
    largest = 0.0
    for done, (site, layer, neuron) in enumerate(_drawn(opened, neurons, seed), 1):
        values = np.concatenate(opened.columns(site, layer, neuron, neuron + 1))[:, 0].astype(np.float64)
        stored = opened.dataset(f"{schema.SCORES}/{site}")[schema.AVERAGE_PRECISION][:, layer, neuron].values
        for relation, role, score in zip(record.relations, roles.T, stored, strict=True):
            counted = role != LEFT_OUT
            reference = average_precision_score(role[counted] == POSITIVE, values[counted])
            if not abs(score - reference) <= TOLERANCE:
                raise NumericError(
                    f"neuron {neuron} has {score:.7f} for {relation}, scikit-learn says {reference:.7f}",
                    where=f"site {site}, layer {opened.layers(site)[layer]}",
                    fix="run `relact verify`, then score again",
                )
            largest = max(largest, abs(float(score) - reference))
        progress("check", done, neurons, "neurons")
    return Check(neurons, len(record.relations), largest)


def _drawn(store: LocalStore, neurons: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """(site, layer, neuron) of random neurons, every neuron equally likely."""
    sizes = {site: lay.n_layers * lay.width for site, lay in store.layouts.items()}
    starts = np.cumsum([0, *sizes.values()])
    sites = list(sizes)
    for place in np.random.default_rng(seed).integers(starts[-1], size=neurons).tolist():
        at = int(np.searchsorted(starts, place, side="right")) - 1
        layer, neuron = divmod(place - int(starts[at]), store.layouts[sites[at]].width)
        yield sites[at], layer, neuron

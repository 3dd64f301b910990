"""Probes: which neurons a sparse linear classifier of a relation's prompts takes, all neurons competing.

For every relation a logistic regression with an L1 penalty tells its prompts from the others by standardised
activations. It sees the `CANDIDATES` neurons that tell them apart best alone (`PREFILTER`, high for the
relation; a difference of means in standard deviations, where Gurnee et al. take the plain difference), so
that memory does not grow with the model. A neuron's score is its coefficient where that is positive; all
others follow in the order of the prefilter, below 0. So the top k are those of the largest coefficients,
filled by the prefilter where fewer are chosen.

Source: sparse probing, Gurnee et al. 2023, Finding Neurons in a Haystack, arXiv 2305.01610.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from relact.kernels.labels import LEFT_OUT, POSITIVE, Labels
from relact.kernels.moments import D_PRIME
from relact.progress import Progress, in_notebooks
from relact.scoring.selection import Numbering, flatten, unflatten
from relact.scoring.ties import chunks_of
from relact.store.reading import Store

PREFILTER = D_PRIME
CANDIDATES = 1024
STRENGTH = 1.0  # inverse of the penalty's weight, scikit-learn's C


def probed(
    store: Store,
    labels: Labels | None,
    prefilter: Mapping[str, np.ndarray],
    seed: int = 0,
    progress: Progress = in_notebooks,
) -> dict[str, np.ndarray]:
    """Site -> float32 [relation, layer, neuron]: scores of the first relations of ``labels``.

    Args:
        labels: None where there is nothing to do. prefilter: of the same relations, site -> [relation, layer,
            neuron].
        seed: of the solver, which visits neurons in random order.
    """
    if labels is None or not prefilter:
        return {}
    flat, numbering = flatten(prefilter), Numbering.of(prefilter)
    roles, scores = labels.roles[labels.classes], np.empty(flat.shape, np.float32)
    progress("probe", 0, len(flat), "relations")
    for row, values in enumerate(flat):
        order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
        scores[row, order] = -(np.arange(1, order.size + 1)) / (order.size + 1)
        numbers, role = np.sort(order[:CANDIDATES]), roles[:, row]
        told = role != LEFT_OUT
        weights = coefficients(gathered(store, numbering, numbers)[told], role[told] == POSITIVE, seed)
        scores[row, numbers[weights > 0]] = weights[weights > 0]
        progress("probe", row + 1, len(flat), "relations")
    return unflatten(scores, prefilter)


def coefficients(values: np.ndarray, positive: np.ndarray, seed: int) -> np.ndarray:
    """float64 [neuron] of the sparse classifier; 0 where it does not look, and for constant neurons.

    Both classes weigh the same.

    Args:
        values: [prompt, neuron]. positive: bool [prompt].
    """
    from sklearn.linear_model import LogisticRegression  # takes a second that other statistics do without

    wide = values.astype(np.float64)
    spread = wide.std(axis=0)
    standard = (wide - wide.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    fitted = LogisticRegression(
        l1_ratio=1.0,
        solver="liblinear",
        C=STRENGTH,
        class_weight="balanced",
        random_state=seed,
        max_iter=1000,
    )
    with warnings.catch_warnings():  # what has not converged is as good a ranking
        warnings.simplefilter("ignore")
        fitted.fit(standard, positive)
    found: np.ndarray = fitted.coef_[0]
    return found


def gathered(store: Store, numbering: Numbering, numbers: np.ndarray) -> np.ndarray:
    """float32 [prompt, n]: activations of neurons by ascending numbers, an inner chunk read at a time."""
    found = np.empty((store.n_prompts, len(numbers)), np.float32)
    for site, which, layers, indices in numbering.places(numbers):
        for part, layer, start, stop in chunks_of(layers, indices, store.streams[site].span):
            row = 0
            for block in store.columns(site, layer, start, stop):
                found[row : row + len(block), which[part]] = block[:, indices[part] - start]
                row += len(block)
    return found


def probe_bytes(store: Store, n_relations: int) -> int:
    """What probes hold beside the prefilter's own scoring: two scores of every neuron, candidates."""
    neurons = sum(lay.n_layers * lay.width for lay in store.layouts.values())
    return 2 * 4 * n_relations * neurons + 8 * neurons + (4 + 3 * 8) * CANDIDATES * store.n_prompts

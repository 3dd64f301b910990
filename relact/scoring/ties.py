"""Margins of neurons whose scores are equal: how far a relation lifts them above every other one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from relact import kernels, schema
from relact.schema import MARGIN
from relact.scoring.quantities import stream_of
from relact.scoring.selection import Margins, Numbering
from relact.store.reading import Store


def margins_of(
    store: Store, relations: Sequence[str], numbering: Numbering, statistic: str
) -> Margins | None:
    """The statistic ``margin`` of any neurons, computed when it is asked for; None without a capture.

    It compares all relations of the identification prompts, whichever are scored. Only columns of the neurons
    asked for are copied, those of one inner chunk at a time.

    Args:
        relations: those of the rows that are wanted. numbering: of the neurons.
        statistic: whose equals are told apart: the margin is of activations or attributions, as that is.
    """
    if store.missing_blocks():
        return None
    names = [str(name) for name in store.prompts(schema.IDENTIFY)["relation"]]
    labels = kernels.Labels.one_vs_rest(names)
    if not set(relations) <= set(labels.relations):
        return None
    rows = [labels.relations.index(name) for name in relations]

    def margins(numbers: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), len(numbers)))
        for site, which, layers, indices in numbering.places(numbers):
            stream = stream_of(site, statistic)
            for part, layer, start, stop in chunks_of(layers, indices, store.streams[stream].span):
                columns = [
                    block[:, indices[part] - start] for block in store.columns(stream, layer, start, stop)
                ]
                found[:, which[part]] = kernels.rank_statistics(columns, labels, [MARGIN])[MARGIN][rows]
        return found

    return margins


def chunks_of(
    layers: np.ndarray, indices: np.ndarray, span: int
) -> Iterator[tuple[np.ndarray, int, int, int]]:
    """(which neurons, layer, start, stop) of every inner chunk that holds some; the neurons are in order."""
    keys = np.stack([layers, indices // span], axis=1)
    cuts = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    for part in np.split(np.arange(len(layers)), cuts):
        if part.size:
            yield part, int(layers[part[0]]), int(indices[part[0]]), int(indices[part[-1]]) + 1

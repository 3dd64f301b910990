"""Means of sites over identification prompts, by a pass over these: where no store holds the activations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from relact import schema
from relact.capturing.options import CaptureOptions
from relact.capturing.passes import capture_rows
from relact.models.loading import LoadedModel, encode
from relact.progress import Progress, in_notebooks
from relact.store.reading import Store


def means_over(
    loaded: LoadedModel,
    table: pd.DataFrame,
    groups: Sequence[str],
    sites: Sequence[str],
    *,
    pool: str = "mean",
    special_tokens: bool = True,
    skip_first_token: bool = False,
    progress: Progress = in_notebooks,
) -> dict[str, np.ndarray]:
    """Mean activations of the prompts of every group: float32 [group, layer, neuron] per site.

    Args:
        table: text and relation of prompts; the relations are the groups they belong to.
        groups: in the order of the first axis.
        pool, special_tokens, skip_first_token: as in `capture`.
    """
    options = CaptureOptions(
        sites=tuple(sites),
        pool=pool,
        dtype="float32",
        special_tokens=special_tokens,
        skip_first_token=skip_first_token and pool != "last",
    )
    tokens = encode(loaded, table["text"].tolist(), special_tokens=special_tokens)
    sums = _Sums(np.array([list(groups).index(name) for name in table["relation"]]))
    done = 0
    progress("means", done, len(tokens), "prompts")
    for rows in capture_rows(loaded, tokens, sums, options.record()):
        done += rows
        progress("means", done, len(tokens), "prompts")
    return sums.means()


def means_of(store: Store, loaded: LoadedModel, sites: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Mean activations of all identification prompts of a store, pooled as it pools: float32 [layer, neuron]
    per site.
    """
    capture, everything = store.manifest.capture, "all"
    table = store.prompts(schema.IDENTIFY).assign(relation=everything)
    means = means_over(
        loaded,
        table,
        [everything],
        sites,
        pool=capture.pool,
        special_tokens=capture.special_tokens,
        skip_first_token=bool(capture.skip_first_token),
    )
    return {site: of_groups[0] for site, of_groups in means.items()}


class _Sums:
    """Sums of pooled values over every group's prompts, as batches arrive."""

    def __init__(self, group_of: np.ndarray) -> None:
        self.group_of, self.n_groups = group_of, int(group_of.max()) + 1
        self.of: dict[str, dict[int, np.ndarray]] = defaultdict(dict)  # site -> layer -> [group, neuron]

    def put(self, stream: str, layer: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Add ``values`` [rows, neurons] of the given prompts."""
        sums = self.of[stream].setdefault(layer, np.zeros((self.n_groups, values.shape[1])))
        np.add.at(sums, self.group_of[rows], values)

    def means(self) -> dict[str, np.ndarray]:
        """float32 [group, layer, neuron] per site."""
        counts = np.bincount(self.group_of)[:, None, None]
        return {
            site: (np.stack([of[layer] for layer in sorted(of)], axis=1) / counts).astype(np.float32)
            for site, of in self.of.items()
        }

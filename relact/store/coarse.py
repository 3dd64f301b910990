"""Columns that float16 holds coarsely: neurons whose values lie far from 0 and close together.

float16 has 11 bits. Values about 4,000 come in steps of 2: where a neuron's values on all prompts are a few
such steps apart, prompts that float32 tells apart become ties, and average precision is another number.
Simulated columns of 60 to 1,200 prompts with `STEPS` steps or more change their average precision by 0.006 on
average, by 0.02 in one of twenty; with 4 to 8 by 0.1 on average.
"""

from __future__ import annotations

import numpy as np

from relact.progress import LOG
from relact.store.reading import Store

STEPS = 64  # of float16, from the smallest to the largest value of a column: fewer are coarse


def is_coarse(values: np.ndarray) -> np.ndarray:
    """bool [neuron] of float16 values [prompt, neuron]: whether they are fewer than `STEPS` steps apart.

    A step is that of the largest magnitude. A neuron that is 0 on all prompts is not coarse.
    """
    bits = values.view(np.int16)
    ordered = bits ^ ((bits >> 15) & 0x7FFF)  # integers in the order of the numbers: far faster than halves
    ends = np.stack([ordered.min(axis=0), ordered.max(axis=0)])
    smallest, largest = (ends ^ ((ends >> 15) & 0x7FFF)).view(np.float16)
    magnitude = np.maximum(np.abs(smallest), np.abs(largest))
    apart = largest.astype(np.float32) - smallest.astype(np.float32)
    found: np.ndarray = (magnitude > 0) & (apart < STEPS * np.spacing(magnitude).astype(np.float32))
    return found


def coarse(store: Store) -> dict[str, int]:
    """Site -> how many of its neurons are coarse on the prompts of the first block; of sites with some.

    Reads one block of every site that is stored as float16: a large store has many.
    """
    counts = {
        site: sum(
            int(is_coarse(store.chunk(site, layer, 0, start, start + lay.span)).sum())
            for layer in range(lay.n_layers)
            for start in range(0, lay.width, lay.span)
        )
        for site, lay in store.layouts.items()
        if store.manifest.capture.streams[site] == "float16"
    }
    return {site: count for site, count in counts.items() if count}


def in_words(counts: dict[str, int]) -> str:
    """What they are, and what helps."""
    sites = ", ".join(f"{count:,} of {site}" for site, count in counts.items())
    return (
        f"float16 is coarse for {sites}: neurons whose values are fewer than {STEPS} of its steps apart, "
        "which makes ties. Capture with --dtype float32 to tell them apart"
    )


def tell(store: Store) -> None:
    """Tell `LOG` of the coarse neurons of a store, if there are some."""
    if counts := coarse(store):
        LOG.warning("%s: %s", store.path, in_words(counts))

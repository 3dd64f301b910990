"""Compare: which neurons relations share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from relact import masks
from relact import store as stores


def overlap(store: str | Path | stores.Store, mask: str) -> xr.Dataset:
    """Neurons that two relations have in common under one mask.

    Returns:
        shared: int [relation, other], the diagonal is the size of each set.
        jaccard: float [relation, other], shared over united.
        expected: float [relation, other], shared neurons if the sets were drawn at random.
    """
    opened = store if isinstance(store, stores.Store) else stores.open(store)
    relations, chosen = masks.read(opened, mask)
    flat = masks.flatten(chosen).astype(np.float64)  # [relation, neurons]
    shared = flat @ flat.T
    sizes = np.diag(shared)
    united = sizes[:, None] + sizes[None, :] - shared
    dims = ("relation", "other")
    return xr.Dataset(
        {
            "shared": (dims, shared.astype(np.int64)),
            "jaccard": (dims, shared / np.maximum(united, 1)),
            "expected": (dims, np.outer(sizes, sizes) / flat.shape[1]),
        },
        coords={"relation": relations, "other": relations},
    )

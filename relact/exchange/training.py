"""Training: a store's values as a map-style data set of torch, which a DataLoader shuffles and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from relact.exchange.rows import Rows
from relact.store.reading import Store


class Prompts(Rows, Dataset[dict[str, Any]]):  # type: ignore[misc]
    """`Rows` that torch's DataLoader, samplers and splits take for one of its own."""


def torch_dataset(
    store: str | Path | Store, *, site: str, layer: int | None = None, by: str | None = None
) -> Prompts:
    """A store's values to train on: a row per identification prompt, read from mapped files in any order.

    Args:
        store: a finished capture, by its path or address, or open.
        site: which neurons.
        layer: of which layer, by the model's own number; None is all of the site's.
        by: ``activation`` or ``attribution``; by default what the store holds of the site.

    Returns:
        A `torch.utils.data.Dataset` whose rows are dictionaries: ``values`` float32 [neuron], or
        [layer, neuron] of all layers; ``label``, a place among its ``relations``; ``prompt``, the row's
        number. What a DataLoader asks for at once is read together; workers open the store themselves.

    Raises:
        InputError: no such site or layer. StoreError: its values are not stored, or not all yet.
    """
    return Prompts(store, site=site, layer=layer, by=by)

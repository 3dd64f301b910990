"""Looks: what a mask's neurons write and where in prompts they act, as a store holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import zarr

from relact import schema
from relact.errors import StoreError
from relact.packed.store import open_store
from relact.schema import BY, LOOKS, PROMOTED, SUPPRESSED
from relact.store.reading import Store

COLUMNS = ["relation", "rank", "site", "layer", "neuron", PROMOTED, SUPPRESSED]


@dataclass(frozen=True)
class Driver:
    """A prompt that drives a neuron: its number, its tokens and the neuron's value at each."""

    prompt: int
    tokens: list[str]
    values: np.ndarray
    quantity: str


def promoted(store: str | Path | Store, mask: str | None = None) -> pd.DataFrame:
    """What the best neurons of a mask write: the tokens that each promotes and suppresses most.

    Args:
        mask: one that was looked at; all of them by default.

    Returns:
        A row per relation and neuron: relation, rank, site, layer, neuron, promoted and suppressed (lists of
        tokens, strongest first), promoted_by and suppressed_by (their logits per unit of activation, but for
        what the final norm divides by), mask. Neurons that write nothing of their own have empty lists.

    Raises:
        StoreError: the store has no looks: `relact look STORE --mask NAME` makes them.
    """
    opened = open_store(store)
    names = opened.children(LOOKS) if mask is None else [mask]
    if not names or not all(opened.has(f"{LOOKS}/{name}") for name in names):
        fix = f"run `relact look {opened.path} --mask {mask or 'NAME'}` with the model at hand"
        raise StoreError(f"nobody looked at {mask or 'a mask'} yet", where=opened.path, fix=fix)
    return pd.concat([_rows(opened, name) for name in names], ignore_index=True)


def _rows(store: Store, name: str) -> pd.DataFrame:
    data = store.dataset(f"{LOOKS}/{name}").load()
    table = pd.DataFrame(
        {
            "relation": [str(relation) for relation in data[schema.WHOSE].values],
            "rank": data[schema.RANK].values,
            "site": [str(site) for site in data["site"].values],
            "layer": data["layer"].values,
            "neuron": data["neuron"].values,
        }
    )
    for kind in (PROMOTED, SUPPRESSED):
        table[kind] = [[str(word) for word in row if word] for row in data[kind].values]
    for kind in (PROMOTED, SUPPRESSED):
        rows = zip(data[f"{kind}{BY}"].values, table[kind], strict=True)
        table[f"{kind}{BY}"] = [values[: len(words)].tolist() for values, words in rows]
    return table.assign(mask=name)


Words = tuple[list[str], list[str]]  # promoted, suppressed


def written_by(store: Store) -> dict[tuple[str, int, int], Words]:
    """(site, layer, index) -> what a neuron writes, of all looked at; of the first mask that has it.

    Read without xarray, whose import takes longer.
    """
    found: dict[tuple[str, int, int], Words] = {}
    for name in store.children(LOOKS):
        group = cast(zarr.Group, store.root[f"{LOOKS}/{name}"])
        names = ("site", "layer", "neuron", PROMOTED, SUPPRESSED)
        columns = [np.asarray(cast("zarr.Array[Any]", group[key])[...]) for key in names]
        for site, layer, index, up, down in zip(*columns, strict=True):
            words = [str(word) for word in up if word], [str(word) for word in down if word]
            found.setdefault((str(site), int(layer), int(index)), words)
    return found


def of_neuron(known: Mapping[tuple[str, int, int], Words], site: str, layer: int, index: int) -> Words | None:
    """What a neuron writes, or another site of its hidden unit; None if nobody looked."""
    alike = schema.HIDDEN if site in schema.HIDDEN else (site,)
    return next((known[other, layer, index] for other in alike if (other, layer, index) in known), None)


def drivers(store: Store, name: str) -> dict[tuple[str, int, int], list[Driver]]:
    """(site, layer, index) -> the prompts that drive a neuron of a mask most, token by token."""
    data = store.dataset(f"{LOOKS}/{name}").load()
    tokens = [[str(piece) for piece in row] for row in data[schema.PIECE].values]
    numbers = data[schema.SHOWN].values.tolist()
    found = {}
    for at, place in enumerate(
        zip(*(data[key].values.tolist() for key in ("site", "layer", "neuron")), strict=True)
    ):
        rows = []
        for slot, row in enumerate(data[schema.DRIVER].values[at].tolist()):
            values = data[schema.DRIVE].values[at, slot]
            real = int(np.isfinite(values).sum())
            if row >= 0:
                quantity = str(data[schema.QUANTITY].values[at])
                rows.append(Driver(numbers[row], tokens[row][:real], values[:real], quantity))
        found[str(place[0]), int(place[1]), int(place[2])] = rows
    return found

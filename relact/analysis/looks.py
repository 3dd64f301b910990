"""Looks: what a mask's neurons write and where in prompts they act, as a store holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

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


def of_neuron(store: Store, site: str, layer: int, index: int) -> tuple[list[str], list[str]] | None:
    """(promoted, suppressed) of one neuron, or of another site of its hidden unit; None if nobody looked."""
    alike = schema.HIDDEN if site in schema.HIDDEN else (site,)
    for name in store.children(LOOKS):
        data = store.dataset(f"{LOOKS}/{name}")
        sites = np.array([str(found) for found in data["site"].values])
        here = np.isin(sites, alike) & (data["layer"].values == layer) & (data["neuron"].values == index)
        if here.any():
            at = int(np.flatnonzero(here)[0])
            up, down = (
                [str(word) for word in data[kind].values[at] if word] for kind in (PROMOTED, SUPPRESSED)
            )
            return up, down
    return None


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

"""Overridden: chosen neurons set or scaled in anybody's own run of a model, every batch row and token of it.

>>> from relact.models.loading import load
>>> loaded = load("smollm2")
>>> with overridden(loaded, [("mlp.hidden", 12, 345), ("mlp.hidden", 20, 7)], scale=0.5):
...     output = loaded.model(loaded.model.dummy_inputs["input_ids"])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from relact.ablating.conditions import Condition
from relact.errors import InputError
from relact.models import hooks
from relact.models.loading import LoadedModel
from relact.models.routed import Routed
from relact.packed.store import open_store
from relact.scoring import masks
from relact.sites import SITES

Neurons = Mapping[str, Any] | pd.DataFrame | Iterable[tuple[str, int, int]]


@contextmanager
def overridden(
    model: LoadedModel | nn.Module,
    mask: Neurons,
    *,
    scale: float | None = None,
    values: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Whatever runs ``model`` inside the block runs it with these neurons at 0, at ``values``, or scaled.

    Args:
        model: of `relact.models.load`, or a causal language model of transformers.
        mask: bool [layer, neuron] per site, as `mask_of` gives; a table with site, layer and neuron, as `top`
            gives; or (site, layer, neuron) of each.
        scale: what their values are multiplied by: 0 switches them off (the default), 1 changes nothing.
        values: instead, what they are set to: float [layer, neuron] per site, or one number for all
            of a site.

    Raises:
        InputError: a neuron that is not there, values together with a factor. ModelError: a site that the
            family lacks, see `relact.models.hooks.visit`.
    """
    if scale is not None and values is not None:
        raise InputError("a factor and values", where="scale, values", fix="give one of them")
    condition = condition_of("chosen", places_of(mask), values).scaled(scale)
    with overriding(model.model if isinstance(model, LoadedModel) else model, condition):
        yield


def mask_of(store: Any, mask: str, relation: str) -> dict[str, np.ndarray]:
    """One relation's set of a stored mask: bool [layer, neuron] per site.

    Raises:
        InputError: no such mask, or no such relation in it.
    """
    opened = open_store(store)
    relations, sets = masks.read(opened, mask)
    if relation not in relations:
        fix = f"choose from {', '.join(relations)}"
        raise InputError(f"no relation {relation!r} in mask {mask!r}", where=opened.path, fix=fix)
    return {site: rows[relations.index(relation)] for site, rows in sets.items()}


def places_of(neurons: Neurons) -> dict[str, np.ndarray]:
    """int64 [neurons, 2] per site: the (layer, index) of each, ascending, none twice."""
    if isinstance(neurons, Mapping):
        found = {site: np.argwhere(np.asarray(chosen, bool)) for site, chosen in neurons.items()}
    else:
        if isinstance(neurons, pd.DataFrame):
            neurons = neurons[["site", "layer", "neuron"]].itertuples(index=False, name=None)
        listed: dict[str, list[tuple[int, int]]] = {}
        for site, layer, index in neurons:
            listed.setdefault(str(site), []).append((int(layer), int(index)))
        found = {site: np.unique(np.array(pairs), axis=0) for site, pairs in listed.items()}
    unknown = sorted(set(found) - set(SITES))
    if unknown:
        raise InputError(f"unknown site {unknown[0]!r}", where="mask", fix=f"use {', '.join(SITES)}")
    return found


def condition_of(name: str, places: Mapping[str, np.ndarray], values: Mapping[str, Any] | None) -> Condition:
    """A condition of neurons by place; ``values`` as of `overridden`."""
    new = {}
    for site, every in (values or {}).items():
        if site in places:
            of_all = np.asarray(every, np.float32)
            new[site] = np.broadcast_to(of_all, ()) if of_all.ndim == 0 else of_all[tuple(places[site].T)]
            new[site] = np.broadcast_to(new[site], len(places[site]))
    return Condition(name, dict(places), new)


@contextmanager
def overriding(model: nn.Module, condition: Condition) -> Iterator[None]:
    """Inside the block every row of every batch runs under one condition."""
    wanted = {
        (site, int(layer)): condition.entries(site, int(layer))
        for site, places in condition.off.items()
        for layer in np.unique(places[:, 0])
    }
    if not wanted:
        yield
        return

    def write(site: str, layer: int, values: Tensor | Routed) -> Tensor | Routed | None:
        if (site, layer) not in wanted:
            return None
        neurons, new = wanted[site, layer]
        width = values.width if isinstance(values, Routed) else values.shape[-1]
        if neurons[-1] >= width or neurons[0] < 0:
            there = f"count from 0 to {width - 1}"
            raise InputError(f"no neuron {neurons[-1]}", where=f"{site} in layer {layer}", fix=there)
        at = torch.from_numpy(neurons).to(values.device)
        given = torch.from_numpy(np.array(new)).to(values.device)
        if isinstance(values, Routed):
            change = values.set if condition.factor is None else values.scaled
            return change(1, torch.zeros_like(at), at, given, None)
        full = values.clone()  # the caller may hold the model's own tensor, or take gradients through it
        # a product is rounded once: factors stay float32
        full[..., at] = (full[..., at] * given if condition.factor is not None else given).to(values.dtype)
        return full

    layers = {layer for _, layer in wanted}
    with hooks.visit(model, sorted({site for site, _ in wanted}), write, layers=layers):
        yield

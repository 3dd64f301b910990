"""Masks: scores -> neuron sets.

A mask is bool [relation, layer, neuron] per site. Neurons are numbered flat over the chosen sites, in the order site, layer,
index; ties at the edge of a top-k go to the lower number, so a selection is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from zarr.codecs import ZstdCodec

from relact import schema, score
from relact import sites as site_names
from relact import store as stores
from relact.errors import InputError

Masks = Mapping[str, np.ndarray]  # site -> bool [relation, layer, neuron]


def select(
    store: str | Path | stores.Store,
    *,
    k: int,
    name: str | None = None,
    sites: str | Sequence[str] | None = None,
    statistic: str = "average_precision",
) -> str:
    """Write ``masks/<name>``: the ``k`` neurons of every relation with the highest score over all chosen sites together.

    Args:
        name: of the mask; ``top-<k>`` by default.
        sites: a subset of the captured sites.

    Returns:
        The mask's name.
    """
    opened = store if isinstance(store, stores.Store) else stores.open(store)
    stores.recover(opened)
    name = name or f"top-{k}"
    if "/" in name or name.startswith("."):
        raise InputError(f"{name!r} cannot name a mask", fix="use letters, digits, dots and dashes")
    scores = dict(score.ranked(opened, statistic))
    chosen = [site for site in scores if sites is None or site in site_names.expand(sites)]
    if not chosen:
        raise InputError(f"none of the sites {sites} is captured", where=opened.path, fix=f"use {', '.join(scores)}")
    masks = top_k({site: scores[site] for site in chosen}, k)
    relations = opened.attributes(schema.SCORES)["relations"]
    attributes = {"k": k, "statistic": statistic, "sites": chosen, "scores": opened.attributes(schema.SCORES)}
    group = f"{schema.MASKS}/{name}"
    if opened.has(group) and opened.attributes(group) == attributes:
        return name
    with opened.stage(group, attributes) as built:
        for site, mask in masks.items():
            part = built.create_group(site)
            _, n_layers, width = mask.shape
            stores.write_coordinates(part, relation=relations, layer=range(n_layers), neuron=range(width))
            part.create_array(
                "mask",
                data=mask,
                chunks=(1, n_layers, width),
                compressors=ZstdCodec(level=1, checksum=True),
                dimension_names=("relation", "layer", "neuron"),
            )
    return name


def read(store: stores.Store, name: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Relation names and, per site, the mask bool [relation, layer, neuron]."""
    group = f"{schema.MASKS}/{name}"
    if not store.has(group):
        raise InputError(
            f"no mask {name!r}, there are: {', '.join(store.children(schema.MASKS)) or 'none'}",
            where=store.path,
            fix="make it with `relact select`",
        )
    sites = store.attributes(group)["sites"]
    masks = {site: store.dataset(f"{group}/{site}")["mask"].values for site in sites}
    return list(store.attributes(group)["scores"]["relations"]), masks


def top_k(scores: Mapping[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """The ``k`` highest scores of every relation over all sites; exactly ``k`` neurons each.

    Args:
        scores: site -> [relation, layer, neuron].

    Raises:
        InputError: ``k`` is not between 1 and the number of neurons.
    """
    flat = flatten(scores)  # [relation, neurons]
    if not 1 <= k <= flat.shape[1]:
        raise InputError(
            f"k = {k} of {flat.shape[1]} neurons", where="--k", fix="choose from 1 to the number of neurons"
        )
    chosen = np.zeros(flat.shape, bool)
    for row, values in zip(chosen, flat, strict=True):
        edge = np.partition(values, -k)[-k]
        row[values > edge] = True
        ties = np.flatnonzero(values == edge)
        row[ties[: k - int(row.sum())]] = True
    return unflatten(chosen, scores)


def random_matched(masks: Masks, seed: int) -> dict[str, np.ndarray]:
    """A random neuron set with the relations' average number of neurons in every site and layer.

    Args:
        masks: what to match: bool [relation, layer, neuron] per site.

    Returns:
        bool [layer, neuron] per site; as many neurons in all as one relation has on average.
    """
    generator = np.random.default_rng(seed)
    means = np.concatenate([mask.sum(axis=2).mean(axis=0) for mask in masks.values()])  # [sites x layers]
    counts = _round_to_total(means)
    result, at = {}, 0
    for site, mask in masks.items():
        _, n_layers, width = mask.shape
        picked = np.zeros((n_layers, width), bool)
        for layer in range(n_layers):
            picked[layer, generator.choice(width, counts[at + layer], replace=False)] = True
        result[site], at = picked, at + n_layers
    return result


def _round_to_total(means: np.ndarray) -> np.ndarray:
    """Integers that sum to the rounded sum, the largest remainders rounded up."""
    counts = np.floor(means).astype(int)
    short = round(float(means.sum())) - int(counts.sum())
    order = np.argsort(counts - means, kind="stable")
    counts[order[:short]] += 1
    return counts


def flatten(arrays: Masks) -> np.ndarray:
    """[relation, neurons of all sites], flat in the order site, layer, index."""
    return np.concatenate([values.reshape(len(values), -1) for values in arrays.values()], axis=1)


def unflatten(flat: np.ndarray, like: Masks) -> dict[str, np.ndarray]:
    """Undo `flatten`, with the shapes of ``like``."""
    result, at = {}, 0
    for site, values in like.items():
        size = values.shape[1] * values.shape[2]
        result[site] = flat[:, at : at + size].reshape(values.shape)
        at += size
    return result

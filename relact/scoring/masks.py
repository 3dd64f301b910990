"""Masks: scores -> neuron sets.

A mask is bool [relation, layer, neuron] per site. Neurons are numbered flat over the chosen sites, in the
order site, layer, index; ties at the edge of a top-k go to the lower number, so a selection is the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from zarr.codecs import ZstdCodec

from relact import kernels, schema
from relact import sites as site_names
from relact.errors import InputError
from relact.scoring.score import ranked
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.skeleton import write_coordinates

NULL_DRAWS = 20_000  # random rankings that average precisions are compared with

Masks = Mapping[str, np.ndarray]  # site -> bool [relation, layer, neuron]


def select(
    store: str | Path | Store,
    *,
    k: int | None = None,
    kind: str = "top",
    fdr: float | None = None,
    name: str | None = None,
    sites: str | Sequence[str] | None = None,
    statistic: str = schema.AVERAGE_PRECISION,
) -> str:
    """Write ``masks/<name>``: a set of neurons for every relation,
    chosen by score over all chosen sites together.

    Args:
        k: neurons per relation.
        kind: the ``top`` k (highest scores), the ``bottom`` k, or ``both``: half of k of each.
        fdr: instead of k, every neuron whose average precision beats chance at this rate of false
            discoveries.
        name: of the mask; by default what it is: ``top-400``, ``bottom-400-attn``, ``fdr-0.01``.
        sites: a subset of the captured sites.

    Returns:
        The mask's name.
    """
    opened = local.writable(store)
    local.recover(opened)
    if (k is None) == (fdr is None):
        raise InputError(
            "name k, or a rate of false discoveries", where="--k/--fdr", fix="give exactly one of them"
        )
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}", where="--kind", fix=f"choose from {', '.join(KINDS)}")
    name = name or "-".join([f"fdr-{fdr:g}" if fdr else f"{kind}-{k}", *_sites_named(sites)])
    scores = dict(ranked(opened, statistic))
    chosen = [site for site in scores if sites is None or site in site_names.expand(sites)]
    if not chosen:
        raise InputError(
            f"none of the sites {sites} is captured", where=opened.path, fix=f"use {', '.join(scores)}"
        )
    scored = opened.scores_record()
    scores = {site: scores[site] for site in chosen}
    sets = significant(scores, opened, scored, fdr) if fdr else KINDS[kind](scores, k or 0)
    size = round(float(flatten(sets).sum(axis=1).mean()))
    record = schema.MaskRecord(size, kind, fdr, statistic, tuple(chosen), scored)
    return write(opened, name, sets, scored.relations, record)


def combine(
    store: str | Path | Store, mask: str, pair: tuple[str, str] | None = None, *, name: str | None = None
) -> str:
    """Write a mask of set algebra between the relations of another mask.

    Args:
        pair: two relations A and B, for the sets ``A and B``, ``A without B`` and ``B without A``. Without
            it, every relation's neurons that no other relation has.
        name: of the new mask; ``<mask>-only`` or ``<mask>-<A>-<B>`` by default.

    Returns:
        The new mask's name.
    """
    opened = local.writable(store)
    relations, sets = read(opened, mask)
    flat = flatten(sets)
    labels, rows = (
        (relations, flat & (flat.sum(axis=0) == 1)) if pair is None else _algebra(relations, flat, mask, pair)
    )
    size, kind = round(float(rows.sum(axis=1).mean())), "only" if pair is None else "pair"
    record = replace(opened.mask_record(mask), k=size, kind=kind, of=mask)
    return write(
        opened, name or "-".join([mask, *(pair or ("only",))]), unflatten(rows, sets), labels, record
    )


def _algebra(
    relations: Sequence[str], flat: np.ndarray, mask: str, pair: tuple[str, str]
) -> tuple[list[str], np.ndarray]:
    """Names and rows of ``A and B``, ``A without B``, ``B without A``."""
    unknown = [name for name in pair if name not in relations]
    if unknown or pair[0] == pair[1]:
        problem = f"no relation {unknown[0]!r} in mask {mask!r}" if unknown else f"{pair[0]!r} twice"
        raise InputError(problem, where="--pair", fix=f"choose two of {', '.join(relations)}")
    (a, b), (first, second) = pair, (flat[relations.index(name)] for name in pair)
    rows = np.stack([first & second, first & ~second, second & ~first])
    return [f"{a} and {b}", f"{a} without {b}", f"{b} without {a}"], rows


def write(
    store: LocalStore, name: str, sets: Masks, relations: Sequence[str], record: schema.MaskRecord
) -> str:
    """Write ``masks/<name>`` unless it is there with the same record; returns the name."""
    if "/" in name or name.startswith("."):
        raise InputError(f"{name!r} cannot name a mask", fix="use letters, digits, dots and dashes")
    group = f"{schema.MASKS}/{name}"
    if store.has(group) and store.mask_record(name) == record:
        return name
    with store.stage(group, record.to_attributes()) as built:
        for site, mask in sets.items():
            part = built.create_group(site)
            _, n_layers, width = mask.shape
            write_coordinates(part, relation=list(relations), layer=range(n_layers), neuron=range(width))
            part.create_array(
                schema.MASK,
                data=mask,
                chunks=(1, n_layers, width),
                compressors=ZstdCodec(level=1, checksum=True),
                dimension_names=schema.BY_NEURON,
            )
    return name


def _sites_named(sites: str | Sequence[str] | None) -> list[str]:
    return [] if sites is None else [sites.replace(",", "-") if isinstance(sites, str) else "-".join(sites)]


def read(store: Store, name: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the sets (relations, as a rule) and, per site, the mask bool [relation, layer, neuron]."""
    sites = store.mask_record(name).sites
    parts = {site: store.dataset(f"{schema.MASKS}/{name}/{site}") for site in sites}
    labels = [str(label) for label in next(iter(parts.values()))["relation"].values]
    return labels, {site: part[schema.MASK].values for site, part in parts.items()}


def significant(
    scores: Mapping[str, np.ndarray], store: Store, scored: schema.ScoresRecord, fdr: float
) -> dict[str, np.ndarray]:
    """The neurons whose average precision beats random rankings, with ``fdr`` false ones expected among them.

    Args:
        scores: average precisions, site -> [relation, layer, neuron]. scored: how they were made (negatives
            per positive).
    """
    counts = store.prompts(schema.IDENTIFY)["relation"].value_counts()
    flat = flatten(scores)
    rows = np.zeros(flat.shape, bool)
    for row, values, relation in zip(rows, flat, scored.relations, strict=True):
        positives, others = int(counts[relation]), int(counts.sum() - counts[relation])
        negatives = min(others, positives * scored.negatives) if scored.negatives else others
        null = kernels.average_precision_null(positives, positives + negatives, NULL_DRAWS, seed=0)
        row[:] = kernels.false_discovery(kernels.p_values(values, null), fdr)
    return unflatten(rows, scores)


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


def bottom_k(scores: Mapping[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """The ``k`` lowest scores of every relation over all sites; see `top_k`."""
    return top_k({site: -values for site, values in scores.items()}, k)


def both_k(scores: Mapping[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """Half of ``k`` highest and half of ``k`` lowest scores of every relation (the odd one is a high one)."""
    nothing = {site: np.zeros(values.shape, bool) for site, values in scores.items()}
    low = bottom_k(scores, k // 2) if k > 1 else nothing
    high = top_k(scores, k - k // 2)
    return {site: high[site] | low[site] for site in scores}


KINDS = {"top": top_k, "bottom": bottom_k, "both": both_k}


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

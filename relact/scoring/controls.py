"""Random sets of neurons to hold a relation's own set against.

All are bool [layer, neuron] per site, drawn with a seed and the relation's name: one seed gives different
sets for different relations. What a set is matched to is one relation's own set; super-units (``without``)
are never drawn. Where hidden units are counted (`selection`), no two neurons of one unit are drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from relact.errors import InputError
from relact.schema import BY_EXPERT, HIDDEN, UNIT
from relact.scoring.selection import Masks

BINS = 10  # deciles of the activations of a layer
IN_CLASS = 4  # experts of like load at least: with fewer a set would be drawn from its own
Set = Mapping[str, np.ndarray]  # site -> bool [layer, neuron]
# (site, layer, free bool [neuron], generator) -> the neurons drawn among the free ones
Draw = Callable[[str, int, np.ndarray, np.random.Generator], np.ndarray]


def random_matched(
    own: Set, seed: int, relation: str, without: Set | None = None, counted: str = UNIT
) -> dict[str, np.ndarray]:
    """As many neurons in every site and layer as ``own`` has.

    Args:
        own: the set of ``relation``. without: what is never drawn, `magnitudes.super_unit_masks`.
        counted: what the mask counts, ``unit`` or ``neuron``.

    Raises:
        InputError: fewer neurons are free in a layer than ``own`` has.
    """
    counts = {site: mask.sum(axis=1) for site, mask in own.items()}
    return _drawn(_shapes(own), _uniformly(counts), _generator(seed, relation), without or {}, counted)


def random_like_magnitude(
    own: Set,
    magnitudes: Mapping[str, np.ndarray],
    seed: int,
    relation: str,
    without: Set | None = None,
    counted: str = UNIT,
) -> dict[str, np.ndarray]:
    """As `random_matched`, and of like activations: in every site and layer, as many of each decile of mean
    |activation| as ``own`` has there, or of the nearest decile with free neurons.

    Args:
        magnitudes: float [layer, neuron] per site, `magnitudes.magnitudes`.
    """

    def draw(site: str, layer: int, free: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        ranks = np.argsort(np.argsort(magnitudes[site][layer], kind="stable"), kind="stable")
        bins = ranks * BINS // len(ranks)
        wanted = np.bincount(bins[own[site][layer]], minlength=BINS)
        return _of_bins(bins, wanted, free, generator)

    return _drawn(_shapes(own), draw, _generator(seed, relation), without or {}, counted)


def random_like_load(
    own: Set,
    loads: np.ndarray,
    seed: int,
    relation: str,
    without: Set | None = None,
    counted: str = UNIT,
) -> dict[str, np.ndarray]:
    """As `random_matched`, and of experts that are used as much: in every layer, as many of each class of
    load as ``own`` has there, or of the nearest class with free neurons.

    Args:
        own: of sites whose neurons belong to experts, and of others, of which any are drawn.
        loads: float [layer, expert], `experts.loads_of`.
    """
    n_experts = loads.shape[1]
    ranks = np.argsort(np.argsort(loads, axis=1, kind="stable"), axis=1, kind="stable")
    classes = ranks * max(1, min(BINS, n_experts // IN_CLASS)) // n_experts  # [layer, expert]
    anywhere = _uniformly({site: mask.sum(axis=1) for site, mask in own.items()})

    def draw(site: str, layer: int, free: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if site not in BY_EXPERT:
            return anywhere(site, layer, free, generator)
        bins = np.repeat(classes[layer], len(free) // n_experts)
        wanted = np.bincount(bins[own[site][layer]], minlength=BINS)
        return _of_bins(bins, wanted, free, generator)

    return _drawn(_shapes(own), draw, _generator(seed, relation), without or {}, counted)


def random_average(
    masks: Masks, seed: int, without: Set | None = None, counted: str = UNIT
) -> dict[str, np.ndarray]:
    """The relations' average number of neurons in every site and layer: where a relation has no set.

    Args:
        masks: bool [relation, layer, neuron] per site.
    """
    means = np.concatenate([mask.sum(axis=2).mean(axis=0) for mask in masks.values()])  # [sites x layers]
    ends = np.cumsum([mask.shape[1] for mask in masks.values()])[:-1]
    counts = dict(zip(masks, np.split(_round_to_total(means), ends), strict=True))
    shapes = {site: mask.shape[1:] for site, mask in masks.items()}
    return _drawn(shapes, _uniformly(counts), _generator(seed), without or {}, counted)


def random_uniform(masks: Masks, seed: int) -> dict[str, np.ndarray]:
    """As many neurons as the relations have on average, drawn from all sites as one: as published."""
    size = round(float(sum(mask.sum() for mask in masks.values())) / len(next(iter(masks.values()))))
    shapes = {site: mask.shape[1:] for site, mask in masks.items()}
    flat = np.zeros(sum(layers * width for layers, width in shapes.values()), bool)
    flat[_generator(seed).choice(len(flat), size, replace=False)] = True
    ends = np.cumsum([layers * width for layers, width in shapes.values()])[:-1]
    parts = np.split(flat, ends)
    return {site: part.reshape(shapes[site]) for site, part in zip(shapes, parts, strict=True)}


def _generator(seed: int, relation: str = "") -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(relation.encode())])


def _shapes(own: Set) -> dict[str, tuple[int, ...]]:
    return {site: mask.shape for site, mask in own.items()}


def _drawn(
    shapes: Mapping[str, tuple[int, ...]],
    draw: Draw,
    generator: np.random.Generator,
    without: Set,
    counted: str,
) -> dict[str, np.ndarray]:
    """Draw site by site and layer by layer; what is drawn of a hidden unit is not free in its other sites."""
    sizes = {site: (shape[0], shape[1]) for site, shape in shapes.items()}
    result = {site: np.zeros(size, bool) for site, size in sizes.items()}
    hidden = [site for site in sizes if site in HIDDEN and counted == UNIT]
    for site, (n_layers, _) in sizes.items():
        taken = [result[other] for other in hidden] if site in hidden else [result[site]]
        if site in without:
            taken.append(without[site])
        for layer in range(n_layers):
            free = ~np.logical_or.reduce([mask[layer] for mask in taken])
            result[site][layer, draw(site, layer, free, generator)] = True
    return result


def _uniformly(counts: Mapping[str, np.ndarray]) -> Draw:
    """So many in every site and layer, each free neuron as likely as another."""

    def draw(site: str, layer: int, free: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        return _choice(np.flatnonzero(free), int(counts[site][layer]), generator)

    return draw


def _choice(numbers: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    if count > len(numbers):
        raise InputError(
            f"{count} neurons of a layer are to be drawn, {len(numbers)} are free",
            where="random control",
            fix="choose a smaller k, or count neurons instead of hidden units",
        )
    return generator.choice(numbers, count, replace=False)


def _of_bins(
    bins: np.ndarray, wanted: Sequence[int] | np.ndarray, free: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """``wanted`` [bins] free neurons of every bin; what a bin lacks comes from the nearest that has more."""
    free, picked, lacking = free.copy(), [], []
    for number, count in enumerate(wanted):
        here = np.flatnonzero(free & (bins == number))
        chosen = _choice(here, min(int(count), len(here)), generator)
        free[chosen] = False
        picked.append(chosen)
        lacking += [number] * (int(count) - len(chosen))
    for number in lacking:
        others = np.flatnonzero(free)
        distances = np.abs(bins[others] - number)
        chosen = _choice(others[distances == distances.min(initial=BINS)], 1, generator)
        free[chosen] = False
        picked.append(chosen)
    return np.concatenate(picked)


def _round_to_total(means: np.ndarray) -> np.ndarray:
    """Integers that sum to the rounded sum, the largest remainders rounded up."""
    counts = np.floor(means).astype(int)
    short = round(float(means.sum())) - int(counts.sum())
    order = np.argsort(counts - means, kind="stable")
    counts[order[:short]] += 1
    return counts

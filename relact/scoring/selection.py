"""Scores -> sets of neurons, on plain arrays.

A set is bool [relation, layer, neuron] per site. Neurons are numbered flat over the chosen sites, in the
order site, layer, index.

`mlp.gate`, `mlp.up`, `mlp.act` and `mlp.hidden` of one layer and index are one hidden unit: to override any
of them is much the same intervention. Where units are counted, the best of these neurons stands for the unit
and the others are left out, so that k neurons are k interventions.

Where more neurons share the score at the edge of a top k than fit, those with the larger margin are in
(`Rules.margins`), then those with the smaller hash of seed, site, layer and index. No order in which neurons
happen to be stored decides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from relact.errors import InputError
from relact.schema import HIDDEN, UNIT


class ByRelation(Protocol):
    """[relation, layer, neuron]: an array, or what reads one relation's when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, relation: Any, /) -> Any: ...


Masks = Mapping[str, np.ndarray]  # site -> bool [relation, layer, neuron]
Scores = Mapping[str, ByRelation]  # site -> float [relation, layer, neuron]
Margins = Callable[[np.ndarray], np.ndarray]  # flat numbers [n] -> float64 [relation, n]
MARGINS_TOGETHER = 2**24  # of all relations: asked for no more than so many at a time


@dataclass(frozen=True)
class Numbering:
    """Flat numbers of the neurons of some sites, and which of them are one hidden unit.

    Attributes:
        shapes: (layers, neurons) per site.
    """

    shapes: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, arrays: Scores) -> Numbering:
        """Of arrays [relation, layer, neuron] per site."""
        return cls({site: (values.shape[1], values.shape[2]) for site, values in arrays.items()})

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [sites + 1]: neurons in all sites before each."""
        return np.cumsum([0, *(layers * width for layers, width in self.shapes.values())])

    @property
    def size(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def shared(self) -> list[slice]:
        """The flat ranges of sites that hold the same hidden units, neuron by neuron."""
        ranges = [slice(*self.starts[at : at + 2].tolist()) for at in range(len(self.shapes))]
        return [part for site, part in zip(self.shapes, ranges, strict=True) if site in HIDDEN]

    def places(self, numbers: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """(site, which of ``numbers`` are in it, their layers, their indices) of every site that has some."""
        site_of = np.searchsorted(self.starts, numbers, side="right") - 1
        found = []
        for at, (site, (_, width)) in enumerate(self.shapes.items()):
            which = np.flatnonzero(site_of == at)
            if which.size:
                layers, indices = np.divmod(numbers[which] - self.starts[at], width)
                found.append((site, which, layers, indices))
        return found

    def spread(self, flat: np.ndarray) -> np.ndarray:
        """bool [neurons]: of every hidden unit of which a neuron is chosen, all neurons."""
        whole = flat.copy()
        if self.shared:
            units = np.logical_or.reduce([flat[part] for part in self.shared])
            for part in self.shared:
                whole[part] = units
        return whole

    def best(self, values: np.ndarray) -> np.ndarray:
        """bool [neurons]: those that no other neuron of their hidden unit outdoes; of equals the first."""
        stands = np.ones(len(values), bool)
        if len(self.shared) > 1:
            winner = np.argmax([values[part] for part in self.shared], axis=0)
            for at, part in enumerate(self.shared):
                stands[part] = winner == at
        return stands

    def hashes(self, numbers: np.ndarray, seed: int) -> np.ndarray:
        """uint64 [n]: a neuron's own random number, whatever other neurons there are."""
        hashed = np.empty(len(numbers), np.uint64)
        for site, which, layers, indices in self.places(numbers):
            key = int.from_bytes(hashlib.blake2b(f"{seed} {site}".encode(), digest_size=8).digest(), "little")
            place = (layers.astype(np.uint64) << np.uint64(32)) | indices.astype(np.uint64)
            hashed[which] = _mixed(np.uint64(key) ^ _mixed(place))
        return hashed


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit depends on every bit. Source: SplitMix64, Steele, Lea and Flood 2014, OOPSLA."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


@dataclass(frozen=True)
class Rules:
    """What is not a neuron's score.

    Attributes:
        counted: ``unit`` or ``neuron``.
        seed: of the hash that decides what is still equal.
        without: neurons that are never chosen, bool [layer, neuron] per site; of a hidden unit all, where
            units are counted.
        margins: of neurons by number, asked for those that are equal at an edge; without it the hash decides.
    """

    counted: str = UNIT
    seed: int = 0
    without: Mapping[str, np.ndarray] = field(default_factory=dict)
    margins: Margins | None = None


@dataclass(frozen=True)
class Sets:
    """Neuron sets by the numbers of what is in them: as large as the sets, whatever they were chosen from.

    Attributes:
        numbers: int64 [size of the set], ascending, of every relation.
    """

    numbering: Numbering
    numbers: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, masks: Scores) -> Sets:
        """Of bool [relation, layer, neuron] per site."""
        found = tuple(np.flatnonzero(row_of(masks, at)) for at in range(n_relations(masks)))
        return cls(Numbering.of(masks), found)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def sizes(self) -> np.ndarray:
        """int64 [relation]"""
        return np.array([len(numbers) for numbers in self.numbers], np.int64)

    def within(self, site: str, relations: slice = slice(None)) -> list[np.ndarray]:
        """Of some relations the numbers inside a site, from 0: layer x width + neuron."""
        at = list(self.numbering.shapes).index(site)
        start, stop = self.numbering.starts[at : at + 2].tolist()
        found = []
        for numbers in self.numbers[relations]:
            first, last = np.searchsorted(numbers, (start, stop))
            found.append(numbers[first:last] - start)
        return found

    def only(self, site: str) -> Sets:
        """What is chosen in one site."""
        return Sets(Numbering({site: self.numbering.shapes[site]}), tuple(self.within(site)))

    def of_relations(self, places: Sequence[int]) -> Sets:
        """The sets of some relations."""
        return Sets(self.numbering, tuple(self.numbers[at] for at in places))

    def counts(self, site: str, together: int) -> np.ndarray:
        """int64 [relation, neurons of the site / together]: how many of every so many neurons are chosen."""
        n = math.prod(self.numbering.shapes[site]) // together
        return np.array([np.bincount(own // together, minlength=n) for own in self.within(site)])

    def mask(self, site: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """bool [relation, layer, neuron] of a site, of relations ``first`` to ``last``."""
        n_layers, width = self.numbering.shapes[site]
        chosen = self.within(site, slice(first, last))
        mask = np.zeros((len(chosen), n_layers * width), bool)
        for row, numbers in zip(mask, chosen, strict=True):
            row[numbers] = True
        return mask.reshape(-1, n_layers, width)

    def masks(self) -> dict[str, np.ndarray]:
        """bool [relation, layer, neuron] per site."""
        return {site: self.mask(site) for site in self.numbering.shapes}


@dataclass(frozen=True)
class Choice:
    """Sets, and per relation how many share the score at the edge, and how many of them are in."""

    chosen: Sets
    ties: tuple[tuple[int, int], ...]

    @property
    def sets(self) -> dict[str, np.ndarray]:
        """bool [relation, layer, neuron] per site."""
        return self.chosen.masks()


def choose(scores: Scores, k: int, kind: str = "top", rules: Rules | None = None) -> Choice:
    """The ``k`` best neurons of every relation over all sites; exactly ``k`` each.

    A NaN is the worst score of all. Of ``both``, the bottom half is chosen among what the top half left.
    One relation's scores are in memory at a time, and what is chosen.

    Args:
        scores: float [relation, layer, neuron] per site.
        kind: the ``top``, the ``bottom``, or ``both``: half of k of each (the odd one is a high one).

    Raises:
        InputError: ``k`` is not between 1 and the number of what is counted.
    """
    ends = {"top": [(1, k)], "bottom": [(-1, k)], "both": [(1, k - k // 2), (-1, k // 2)]}[kind]
    choosing = _Choosing.of(scores, rules or Rules())
    free = countable(choosing.numbering, choosing.rules)
    if not 1 <= k <= free:
        what = "neurons" if choosing.rules.counted != UNIT else "neurons, hidden units counted once"
        raise InputError(
            f"k = {k} of {free} {what}", where="--k", fix="choose from 1 to the number of neurons"
        )
    ties = np.sum([choosing.take(sign, size) for sign, size in ends if size], axis=0)
    chosen = Sets(choosing.numbering, tuple(choosing.chosen))
    return Choice(chosen, tuple((int(n), int(taken)) for n, taken in ties))


def top_k(scores: Scores, k: int, rules: Rules | None = None) -> dict[str, np.ndarray]:
    """The sets of `choose`, of the ``k`` highest scores."""
    return choose(scores, k, "top", rules).sets


def admitted(numbering: Numbering, rules: Rules) -> np.ndarray:
    """bool [neurons]: those that may be chosen."""
    none = {site: np.zeros(shape, bool) for site, shape in numbering.shapes.items()}
    out = np.concatenate([rules.without.get(site, none[site]).reshape(-1) for site in none])
    return ~(numbering.spread(out) if rules.counted == UNIT else out)


def countable(numbering: Numbering, rules: Rules) -> int:
    """The largest k: how many neurons, or hidden units and other neurons, may be chosen of a relation."""
    allowed = admitted(numbering, rules)
    repeated = numbering.shared[1:] if rules.counted == UNIT else []
    return int(allowed.sum()) - sum(int(allowed[part].sum()) for part in repeated)


@dataclass(frozen=True)
class _Choosing:
    """What is taken so far, and from what.

    Attributes:
        allowed: bool [neurons]. chosen: numbers of every relation, ascending.
    """

    scores: Scores
    numbering: Numbering
    rules: Rules
    allowed: np.ndarray
    chosen: list[np.ndarray]

    @classmethod
    def of(cls, scores: Scores, rules: Rules) -> _Choosing:
        """Nothing is taken yet."""
        numbering, none = Numbering.of(scores), np.empty(0, np.int64)
        return cls(scores, numbering, rules, admitted(numbering, rules), [none] * n_relations(scores))

    def take(self, sign: int, size: int) -> np.ndarray:
        """Take the ``size`` best of every relation, of scores times ``sign``; int64 [relation, 2] as in
        `Choice`.
        """
        contested: dict[int, np.ndarray] = {}
        ties = []
        for at, taken in enumerate(self.chosen):
            signed = _worst_where_nan(sign * row_of(self.scores, at))
            numbers = np.flatnonzero(self._candidates(signed, taken))
            offered = signed[numbers]
            edge = np.partition(offered, -size)[-size]
            sure, equal = numbers[offered > edge], numbers[offered == edge]
            missing = size - len(sure)
            ties.append((len(equal), missing))
            if len(equal) > missing:
                contested[at], equal = equal, equal[:0]
            self._add(at, sure, equal)
        self._settle(contested, [missing for _, missing in ties], sign)
        return np.array(ties)

    def _add(self, at: int, *numbers: np.ndarray) -> None:
        self.chosen[at] = np.sort(np.concatenate([self.chosen[at], *numbers]))

    def _candidates(self, signed: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """bool [neurons]: what may be taken for a relation, beside what is ``taken``."""
        out = np.zeros(len(signed), bool)
        out[taken] = True
        if self.rules.counted != UNIT:
            return self.allowed & ~out
        return self.allowed & self.numbering.best(signed) & ~self.numbering.spread(out)

    def _settle(self, contested: Mapping[int, np.ndarray], missing: Sequence[int], sign: int) -> None:
        """Take ``missing`` of the ``contested`` neurons of every relation that has some."""
        margins = self._margins(contested)
        for at, numbers in contested.items():
            signed = _worst_where_nan(sign * margins[at])
            order = np.lexsort((self.numbering.hashes(numbers, self.rules.seed), -signed))
            self._add(at, numbers[order[: missing[at]]])

    def _margins(self, contested: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Those of the contested neurons of every relation, a part of all relations' at a time."""
        found = {at: np.zeros(len(numbers)) for at, numbers in contested.items()}
        if self.rules.margins is None or not contested:
            return found
        asked = np.unique(np.concatenate(list(contested.values())))
        step = max(1, MARGINS_TOGETHER // len(self.chosen))
        for start in range(0, len(asked), step):
            part = asked[start : start + step]
            known = self.rules.margins(part)
            for at, numbers in contested.items():
                first, last = np.searchsorted(numbers, (part[0], part[-1] + 1))
                found[at][first:last] = known[at, np.searchsorted(part, numbers[first:last])]
        return found


def _worst_where_nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -np.inf, values)


def n_relations(arrays: Scores) -> int:
    """Of all sites alike."""
    return len(next(iter(arrays.values())))


def row_of(arrays: Scores, at: int) -> np.ndarray:
    """[neurons of all sites] of one relation, flat as in `flatten`."""
    return np.concatenate([np.asarray(values[at]).reshape(-1) for values in arrays.values()])


def flatten(arrays: Masks) -> np.ndarray:
    """[relation, neurons of all sites], flat in the order site, layer, index."""
    return np.concatenate([values.reshape(len(values), -1) for values in arrays.values()], axis=1)


def unflatten(flat: np.ndarray, like: Masks) -> dict[str, np.ndarray]:
    """Undo `flatten`, with the layers and neurons of ``like``."""
    result, at = {}, 0
    for site, values in like.items():
        size = values.shape[1] * values.shape[2]
        result[site] = flat[:, at : at + size].reshape(len(flat), *values.shape[1:])
        at += size
    return result

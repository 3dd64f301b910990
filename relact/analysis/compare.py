"""Compare: which neurons relations share within a store, and what is the same in two stores.

>>> overlap("study.zarr", "top-200")["shared"].dims  # under a stored mask
('relation', 'other')
>>> overlap("study.zarr", k=[100, 400, 1600])["jaccard"].dims  # over k, from the scores
('relation', 'other', 'k')
>>> overlap("study.zarr", "top-200", by="layer")["expected"].dims  # layer by layer
('relation', 'other', 'layer')
>>> overlap("study.zarr", k=400, negatives=4)["shared"].dims  # and had few negatives been sampled
('relation', 'other', 'negatives')
>>> in_common("study.zarr", "top-200", "top-200")["jaccard"].tolist()  # two masks, relation by relation
[1.0, 1.0, 1.0]
>>> agreement("study.zarr", "study.zarr", k=400)["shared"].tolist()  # the same relations in two stores
[400, 400, 400]
>>> moved("study.zarr", "study.zarr", relation="country_capital")["change"].max()
np.float32(0.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis import query
from relact.errors import InputError
from relact.packed.store import open_store
from relact.progress import Progress, in_notebooks
from relact.scoring import masks
from relact.scoring.arrays import Stored
from relact.scoring.experts import neurons_of
from relact.scoring.magnitudes import super_unit_masks
from relact.scoring.score import scores_of
from relact.scoring.selection import Numbering, Rules, Scores, Sets, choose, row_of
from relact.scoring.ties import margins_of
from relact.store.reading import Store

if TYPE_CHECKING:
    import xarray as xr

DIMENSIONS = ("relation", "other")
TOP = 400  # neurons of a relation that two stores are compared by, where nothing is said
BY = ("site", "layer")
NEGATIVES, REST = "negatives", "rest"


def overlap(
    store: str | Path | Store,
    mask: str | None = None,
    *,
    k: int | Sequence[int] | None = None,
    statistic: str = schema.AVERAGE_PRECISION,
    by: str | None = None,
    negatives: int | None = None,
    progress: Progress = in_notebooks,
) -> xr.Dataset:
    """Neurons that two relations have in common: under one mask, or among the top ``k`` of the stored scores.

    Args:
        mask: name of a stored mask; the store's only one by default.
        k: instead of a mask, chosen as `masks.select` does it. Several make a dimension ``k``.
        statistic: with ``k``: of the stored ones, such as ``attribution_z``.
        by: "site" or "layer", to count in each of them apart.
        negatives: beside the top ``k`` of the stored scores, that of scores against so many sampled negatives
            per positive; they are computed here, from the activations, and not stored. Against all other
            relations a neuron that answers to two of them ranks low in both, so that sets share next to
            nothing; against the published four per positive they share many.

    Returns:
        shared: int [relation, other], the diagonal is the size of each set.
        jaccard: float [relation, other], shared over united.
        expected: float [relation, other], shared neurons if sets of these sizes were drawn at random.
        All with a third dimension ``k``, ``site``, ``layer`` or ``negatives`` (labels such as "rest", for all
        other relations, and "4") where asked for. The attribute ``negatives`` says what the scores had.

    Raises:
        InputError: no such mask, several to choose from, or choices that do not go together.
        StoreError: ``negatives`` of a store without activations.
    """
    import xarray as xr

    _require_choices(mask, k, by, negatives, statistic)
    opened = open_store(store)
    if k is None:
        name = mask or opened.named(schema.MASKS)
        shared = overlap_of(*masks.numbers(opened, name), by, opened.layers)
        return shared.assign_attrs(negatives=label_of(opened.mask_record(name).scores.negatives))
    relations, scores = all_scores(opened, statistic)
    rules = rules_of(opened, relations, scores, statistic)
    stored = label_of(opened.scores_record().negatives)
    if isinstance(k, Sequence):
        shared = overlap_over(relations, scores, k, rules)
    else:
        shared = overlap_of(relations, choose(scores, k, rules=rules).chosen, by, opened.layers)
        if negatives is not None:
            few = _sampled(opened, relations, negatives, progress)
            sampled = overlap_of(relations, choose(few, k, rules=rules).chosen)
            index = pd.Index([stored, label_of(negatives)], name=NEGATIVES)
            shared = xr.concat([shared, sampled], dim=index).transpose(*DIMENSIONS, NEGATIVES)
    return shared.assign_attrs(negatives=stored)


def overlap_over(relations: Sequence[str], scores: Scores, sizes: Sequence[int], rules: Rules) -> xr.Dataset:
    """`overlap` of the top k of scores, of several k, of the relations whose scores they are."""
    import xarray as xr

    sets = [overlap_of(relations, choose(scores, k, rules=rules).chosen) for k in sizes]
    return xr.concat(sets, dim=pd.Index(list(sizes), name="k")).transpose(*DIMENSIONS, "k")


def rules_of(
    store: Store, relations: Sequence[str], scores: Scores, statistic: str = schema.AVERAGE_PRECISION
) -> Rules:
    """What decides beside the scores of some relations where `masks.select` is asked for nothing but k."""
    margins = margins_of(store, relations, Numbering.of(scores), statistic)
    return Rules(without=super_unit_masks(store, scores), margins=margins)


def label_of(negatives: int | None) -> str:
    """How negatives per positive are called; `REST` where all other relations are."""
    return REST if negatives is None else str(negatives)


def _require_choices(
    mask: str | None, k: int | Sequence[int] | None, by: str | None, negatives: int | None, statistic: str
) -> None:
    """Refuse choices of `overlap` that do not go together."""
    if mask is not None and k is not None:
        raise InputError("both a mask and k", where="overlap", fix="give one of them")
    if by is not None and by not in BY:
        raise InputError(f"cannot count by {by!r}", where="overlap", fix=f"use {' or '.join(BY)}")
    if isinstance(k, Sequence) and by is not None:
        raise InputError(f"several k and by {by}", where="overlap", fix="give one k, or leave the other out")
    if statistic != schema.AVERAGE_PRECISION and (k is None or negatives is not None):
        raise InputError(f"{statistic} chooses the top k", where="overlap", fix="give it with k alone")
    if negatives is None:
        return
    if negatives < 1:
        raise InputError(f"{negatives} negatives per positive", where="negatives", fix="give 1 or more")
    if by is not None or not isinstance(k, int):
        fix = "give one k, and count whole sets"
        raise InputError("other negatives are shown beside the top of one k", where="negatives", fix=fix)


def _sampled(
    store: Store, relations: Sequence[str], negatives: int, progress: Progress
) -> dict[str, np.ndarray]:
    """Average precisions of the relations against sampled negatives, [relation, layer, neuron] per site."""
    if store.scores_record().negatives == negatives:
        problem = f"the stored scores have {negatives} sampled negatives per positive already"
        raise InputError(problem, where=store.path, fix="give another number")
    rows = [store.relations().index(name) for name in relations]
    scores = scores_of(store, negatives, progress=progress)
    return {site: values[rows] for site, values in scores.items()}


def overlap_of(
    relations: Sequence[str],
    sets: Scores | Sets,
    by: str | None = None,
    layers: Callable[[str], Sequence[int]] | None = None,
) -> xr.Dataset:
    """`overlap` of neuron sets in memory: bool [relation, layer, neuron] per site, or by their numbers.

    Args:
        layers: gives the numbers of a site's layers, as `Store.layers`; None is from 0.
    """
    import xarray as xr

    chosen = sets if isinstance(sets, Sets) else Sets.of(sets)
    if by is None:
        return _shared(relations, chosen.numbers, chosen.numbering.size)
    keys, parts = zip(*_slices(chosen, by, layers), strict=True)
    whole = [_shared(relations, *part) for part in parts]
    return xr.concat(whole, dim=pd.Index(list(keys), name=by)).transpose(*DIMENSIONS, by)


def pairs(shared: xr.Dataset) -> pd.DataFrame:
    """The result of `overlap` as a table: every two relations (and k, site or layer), most shared first."""
    table = shared.to_dataframe().reset_index()
    order = {str(name): at for at, name in enumerate(shared["relation"].values)}
    table = table[table["relation"].map(order) < table["other"].map(order)]
    extra = [str(name) for name in shared.dims if name not in DIMENSIONS]
    table = table[[*DIMENSIONS, *extra, "shared", "jaccard", "expected"]]
    return table.sort_values("shared", ascending=False, kind="stable").reset_index(drop=True)


def in_common(store: str | Path | Store, mask: str, other: str) -> pd.DataFrame:
    """What two masks of a store choose alike for every relation, whichever sites they are of.

    Neurons of one hidden unit (`schema.HIDDEN`) are the same one: a mask on ``mlp.hidden`` and one on
    ``mlp.gate`` may agree.

    Returns:
        A row per relation of both: ``size`` and ``other_size`` (hidden units and other neurons of each set),
        ``shared``, ``jaccard``, and ``expected``, how many random sets of these sizes would share.

    Raises:
        InputError: no such mask, or no relation in both.
    """
    opened = open_store(store)
    (names, sets), (other_names, other_sets) = masks.numbers(opened, mask), masks.numbers(opened, other)
    rows = [name for name in names if name in other_names]
    if not rows:
        raise InputError(f"no relation in both {mask} and {other}", where=opened.path)
    shapes = {**sets.numbering.shapes, **other_sets.numbering.shapes}
    keys = {site: schema.HIDDEN[0] if site in schema.HIDDEN else site for site in shapes}
    units = Numbering({keys[site]: shape for site, shape in shapes.items()})
    first, second = (
        [_units(each, of.index(name), keys, units) for name in rows]
        for of, each in ((names, sets), (other_names, other_sets))
    )
    sizes, other_sizes = (np.array([len(own) for own in each]) for each in (first, second))
    shared = np.array([len(np.intersect1d(*pair)) for pair in zip(first, second, strict=True)])
    return pd.DataFrame(
        {
            "relation": rows,
            "size": sizes,
            "other_size": other_sizes,
            "shared": shared,
            "jaccard": shared / np.maximum(sizes + other_sizes - shared, 1),
            "expected": sizes * other_sizes / units.size,
        }
    )


def _units(sets: Sets, at: int, keys: Mapping[str, str], units: Numbering) -> np.ndarray:
    """Numbers, ascending, of the hidden units and other neurons of one relation's set."""
    starts = dict(zip(units.shapes, units.starts.tolist(), strict=False))
    found = [sets.within(site, slice(at, at + 1))[0] + starts[keys[site]] for site in sets.numbering.shapes]
    return np.unique(np.concatenate(found))


def agreement(store: str | Path | Store, other: str | Path | Store, *, k: int) -> pd.DataFrame:
    """How far two stores agree on each relation that both score.

    Two seeds, two languages, two prompt sets, two trainings of a model.

    Returns:
        A row per relation: ``correlation`` (Spearman's, of the average precision of all neurons), then
        ``shared``, ``jaccard`` and ``expected`` of the two top-``k`` sets.

    Raises:
        InputError: no relation or site in common, or models of different shape.
    """
    from scipy.stats import rankdata

    names, *scores = _both(open_store(store), open_store(other))
    n_neurons = Numbering.of(scores[0]).size
    rows = []
    for at, name in enumerate(names):
        of_relation = [{site: values[at][None] for site, values in arrays.items()} for arrays in scores]
        ranks = [rankdata(row_of(arrays, 0)) for arrays in of_relation]
        first, second = (choose(arrays, k).chosen.numbers[0] for arrays in of_relation)
        shared = len(np.intersect1d(first, second))
        correlation, jaccard = np.corrcoef(*ranks)[0, 1], shared / (2 * k - shared)
        rows.append((name, correlation, k, shared, jaccard, k * k / n_neurons))
    return pd.DataFrame(rows, columns=["relation", "correlation", "k", "shared", "jaccard", "expected"])


def moved(
    store: str | Path | Store, other: str | Path | Store, *, relation: str, n: int = 20
) -> pd.DataFrame:
    """The ``n`` neurons whose average precision for a relation differs most between two stores.

    Returns:
        site, layer, neuron, ``before`` (first store), ``after`` (second), ``change``; largest change first.
    """
    first, second = open_store(store), open_store(other)
    names, scores, other_scores = _both(first, second)
    at = query.position(names, relation, first.path)
    parts = []
    for site, values in scores.items():
        before, after = values[at].ravel(), other_scores[site][at].ravel()
        chosen = np.argsort(-np.abs(after - before), kind="stable")[:n]
        place, neuron = np.unravel_index(chosen, values[at].shape)
        layer = np.asarray(first.layers(site))[place]
        columns = {"before": before[chosen], "after": after[chosen], "change": (after - before)[chosen]}
        parts.append(pd.DataFrame({"site": site, "layer": layer, "neuron": neuron, **columns}))
    return (
        pd.concat(parts)
        .sort_values("change", key=np.abs, ascending=False, kind="stable")
        .head(n)
        .reset_index(drop=True)
    )


def all_scores(
    store: Store, statistic: str = schema.AVERAGE_PRECISION
) -> tuple[list[str], dict[str, Stored]]:
    """Relation names, and float32 [relation, layer, neuron] per site that has the statistic and whose neurons
    are not whole experts, if there is one; read when a relation is asked for.
    """
    groups = query.groups_of(store, statistic)
    names = query.relations(next(iter(groups.values())))
    return names, {site: Stored(groups[site][statistic]) for site in neurons_of(groups)}


def _both(first: Store, second: Store) -> tuple[list[str], dict[str, Stored], dict[str, Stored]]:
    """Relations that two stores score, and the average precision of those in each, on the sites of both."""
    (first_names, first_scores), (second_names, second_scores) = all_scores(first), all_scores(second)
    names = [name for name in first_names if name in second_names]
    if not names:
        problem = f"no relation in common: {', '.join(first_names)} and {', '.join(second_names)}"
        raise InputError(problem, where=second.path)
    sites = [site for site in first_scores if site in second_scores]
    if not sites:
        problem = f"no site in common: {', '.join(first_scores)} and {', '.join(second_scores)}"
        raise InputError(problem, where=second.path)
    for site in sites:
        shapes = [scores[site].shape[1:] for scores in (first_scores, second_scores)]
        if shapes[0] != shapes[1]:
            layers_by_neurons = (" x ".join(map(str, shape)) for shape in shapes)
            raise InputError(
                f"{site} is {' in one store and '.join(layers_by_neurons)} in the other: "
                "their neurons are not the same",
                where=second.path,
                fix="compare stores of models of the same shape",
            )
    rows, other_rows = (
        [all_names.index(name) for name in names] for all_names in (first_names, second_names)
    )
    return (
        names,
        {site: first_scores[site].of(rows) for site in sites},
        {site: second_scores[site].of(other_rows) for site in sites},
    )


def _slices(
    sets: Sets, by: str, layers: Callable[[str], Sequence[int]] | None
) -> Iterator[tuple[str | int, tuple[list[np.ndarray], int]]]:
    """(site or layer, (of every relation the numbers in it, how many neurons there are))."""
    shapes = sets.numbering.shapes
    if by == "site":
        yield from ((site, (sets.within(site), math.prod(shape))) for site, shape in shapes.items())
        return
    numbers = {site: layers(site) if layers else range(n_layers) for site, (n_layers, _) in shapes.items()}
    for layer in sorted(set().union(*numbers.values())):
        there = {site: list(own).index(layer) for site, own in numbers.items() if layer in own}
        ends = {site: [at * shapes[site][1], (at + 1) * shapes[site][1]] for site, at in there.items()}
        starts = dict(zip(shapes, sets.numbering.starts.tolist(), strict=False))
        spans = [np.array(pair) + starts[site] for site, pair in ends.items()]
        inside = [
            np.concatenate([own[slice(*np.searchsorted(own, span))] for span in spans])
            for own in sets.numbers
        ]
        yield layer, (inside, sum(shapes[site][1] for site in there))


def _shared(relations: Sequence[str], sets: Sequence[np.ndarray], n_neurons: int) -> xr.Dataset:
    """Overlap of sets of numbers, each ascending, out of ``n_neurons``."""
    import xarray as xr
    from scipy.sparse import csr_array

    sizes = np.array([len(own) for own in sets], np.int64)
    columns, ends = np.concatenate([*sets, np.empty(0, np.int64)]), np.cumsum([0, *sizes])
    _, columns = np.unique(columns, return_inverse=True)
    chosen = csr_array((np.ones(len(columns), np.int64), columns, ends), (len(sets), max(1, len(columns))))
    shared = (chosen @ chosen.T).toarray()
    united = sizes[:, None] + sizes[None, :] - shared
    return xr.Dataset(
        {
            "shared": (DIMENSIONS, shared),
            "jaccard": (DIMENSIONS, shared / np.maximum(united, 1)),
            "expected": (DIMENSIONS, np.outer(sizes, sizes) / n_neurons),
        },
        coords={name: list(relations) for name in DIMENSIONS},
    )

"""Gather: everything that the figures and the page show, read from a store once, as plain tables.

The tables are long (one number a row), their columns named once here; `figures` draws them, `page` embeds
them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd

from relact import kernels, schema
from relact.analysis import compare, query
from relact.analysis.experts import use_of
from relact.analysis.leaderboard import leaderboard_of
from relact.errors import StoreError
from relact.packed.store import open_store
from relact.reporting.ablations import Choice, ablations_of
from relact.reporting.neurons import best, details_of, listed
from relact.reporting.units import units_of
from relact.scoring import masks
from relact.scoring.arrays import Stored
from relact.scoring.magnitudes import super_units
from relact.scoring.roles import counts_of
from relact.scoring.selection import Numbering, Rules, Scores, Sets, choose, countable
from relact.store.reading import Store
from relact.store.stale import stale

SIZES = (10, 50, 200, 500, 1000, 3000, 10_000, 20_000, 50_000)  # of the published method
BINS = 50  # of average precision between 0 and 1
DRAWS = 20_000  # random rankings behind a null
FALSE = 0.01  # expected share of false discoveries
DEFAULT_K = 400
ALL = "all"  # the choice of every site
EXPERTS = 6  # of a layer and relation
AT_MOST = 100  # relations that a page tells of where it is not told which: of more nobody reads the pairs


@dataclass(frozen=True)
class Contents:
    """What a report shows. Every table is long; columns are in this order.

    Attributes:
        relations: those that are shown, of `n_relations`.
        accuracy: choice, condition, relation, accuracy, intact, drop (in points of 100), low, high (95 %
            interval of the drop), log_drop (nats of the answer's first token), clear, log_clear (which of
            both is significant after correction), prompts (of the relation); conditions without ``intact``.
        sweep: choice, k, relation (with `MEAN`), whose (own, other, random), drop; of ablations like
            the first choice.
        overlap: site (with `ALL`), relation, other, shared, jaccard, expected.
        growth: k, relation, other, share (shared of k), chance.
        layers: site (with `ALL`), relation, layer, neurons, chance.
        histogram: site (with `ALL`), relation, low, high, neurons, chance (expected of the null).
        nulls: relation, positives, prompts, chance (mean of the null), found (neurons that survive a
            false-discovery rate of `FALSE`).
        neurons: site, layer, neuron, then one average precision per relation: the best of every relation and
            site.
        experts: relation, layer, rank, expert, use, others, neurons, chance, see `analysis.experts`: those of
            every relation and layer that it uses most beyond the others; empty where there are none.
        details: of the best few neurons of every relation: the prompts that drive them and their
            distribution.
        prompts: identification prompts that `details` point to by number: relation, subject, object, text.
        super_units: neurons that break the model alone, in words; empty where none is known.
        stale: results that were computed before prompts were appended.
        choices: k, the mean drops and the claims of every ablation by its name, those of the store's own
            prompts first, and of them the widest gap between own and other.
        units: neurons that somebody looked at, with what they write, see `units.units_of`.
        board: criteria x k, see `analysis.leaderboard.leaderboard_of`: on the prompts that the choices above
            show where every criterion has one k, on those for showing where there were several.
    """

    store: Path | str
    super_units: str
    stale: list[str]
    relations: list[str]
    n_relations: int
    sites: list[str]
    n_neurons: int
    k: int
    mask: str
    provenance: dict[str, Any]
    choices: dict[str, Choice]
    board: pd.DataFrame
    accuracy: pd.DataFrame
    sweep: pd.DataFrame
    overlap: pd.DataFrame
    growth: pd.DataFrame
    layers: pd.DataFrame
    histogram: pd.DataFrame
    nulls: pd.DataFrame
    neurons: pd.DataFrame
    experts: pd.DataFrame = field(default_factory=pd.DataFrame)
    details: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[int, dict[Hashable, Any]] = field(default_factory=dict)
    units: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> str:
        """What the model is called: of a folder its name alone."""
        called = str(self.provenance["capture"]["model"]["id"])
        return Path(called).name if Path(called).is_absolute() or "\\" in called else called


def gather(
    store: str | Path | Store, *, mask: str | None = None, relations: Sequence[str] | None = None
) -> Contents:
    """Read a store into a `Contents`; of scores and sets a relation at a time.

    Args:
        relations: those to tell of; the first `AT_MOST` by default.
        mask: the neuron sets for overlaps and layers; by default those of the ablation shown first, or the
            top 400.

    Raises:
        StoreError: neither scores nor masks; a package may have masks alone. InputError: no such mask or
            relation.
    """
    opened = open_store(store)
    known, shown, scores = _scores(opened, relations)
    sites = list(scores or opened.sites)
    choices, accuracy, sweep = _ablations(opened, {*known} - {*shown})
    name, labels, sets = _sets(opened, shown, scores, mask, choices)
    neurons = best(opened, shown, scores) if scores else listed(opened, shown)
    histogram, nulls = _distributions(opened, shown, scores)
    details, prompts = details_of(opened, shown, neurons)
    return Contents(
        store=opened.path,
        super_units=_super_units(opened),
        stale=stale(opened),
        relations=shown,
        n_relations=len(known),
        sites=sites,
        n_neurons=sum(math.prod(opened.shape(site)) for site in sites),
        k=int(np.median(sets.sizes)),
        mask=name,
        provenance=_provenance(opened),
        choices=choices,
        board=_board(opened),
        accuracy=accuracy,
        sweep=sweep,
        overlap=_overlap(labels, sets),
        growth=_growth(opened, shown, scores),
        layers=_layers(opened, labels, sets),
        histogram=histogram,
        nulls=nulls,
        neurons=neurons,
        experts=_experts(opened, labels, sets),
        details=details,
        prompts=prompts,
        units=units_of(opened, shown),
    )


def _super_units(store: Store) -> str:
    """What selections and random sets leave out, as the page says it."""
    return ", ".join(
        f"{unit.site} {unit.layer} {unit.neuron} (alone it costs {unit.cost:.1f} nats a token)"
        for unit in super_units(store).itertuples()
    )


def _scores(store: Store, asked: Sequence[str] | None) -> tuple[list[str], list[str], Mapping[str, Stored]]:
    """All relations; those to tell of, in the order of the store; their average precision per
    site: none of a package that was made without its scores, of which masks, ablations and the best neurons
    are shown.
    """
    known, scores = store.relations(), dict[str, Stored]()
    if store.has(schema.SCORES) or not store.children(schema.MASKS):
        known, scores = compare.all_scores(store)
    places = [query.position(known, name, store.path) for name in asked or known[:AT_MOST]]
    shown = [known[at] for at in sorted({*places})]
    return list(known), shown, {site: values.of(sorted({*places})) for site, values in scores.items()}


def _ablations(store: Store, hidden: set[str]) -> tuple[dict[str, Choice], pd.DataFrame, pd.DataFrame]:
    """`ablations_of` without the relations that are not shown."""
    choices, accuracy, sweep = ablations_of(store)
    away = accuracy["relation"].isin(hidden) | accuracy["condition"].isin(hidden)
    return choices, accuracy[~away], sweep[~sweep["relation"].isin(hidden)]


def _board(store: Store) -> pd.DataFrame:
    """Criteria on all test prompts; where a k can be chosen of several, on those that chose none."""
    whole = leaderboard_of(store, part="all")
    return whole if not whole["criterion"].duplicated().any() else leaderboard_of(store, part=schema.TEST)


# --- neuron sets


def _sets(
    store: Store,
    relations: list[str],
    scores: Scores,
    mask: str | None,
    choices: Mapping[str, Choice],
) -> tuple[str, list[str], Sets]:
    """Name, labels (relations, as a rule) and neuron sets.

    They are those of the mask, those of the first ablation, or the top few; of the relations that are shown,
    and of labels that are none, as many.
    """
    first = next(iter(choices), "")
    k = choices[first].k if first else DEFAULT_K
    k = min(k, countable(Numbering.of(scores), Rules())) if scores else k
    stored = store.children(schema.MASKS)
    if mask is None:
        likely = [name for name in (first, f"top-{k}") if name in stored]
        mask = likely[0] if likely else stored[0] if len(stored) == 1 or not scores else None
    if mask is None:
        rules = compare.rules_of(store, relations, scores)
        return f"top {k}", relations, choose(scores, k, rules=rules).chosen
    labels, sets = masks.numbers(store, mask)
    places = [at for at, label in enumerate(labels) if label in relations] or list(range(len(labels)))[
        :AT_MOST
    ]
    return mask, [labels[at] for at in places], sets.of_relations(places)


def _with_all(sites: Iterable[str]) -> dict[str, list[str]]:
    """The sites to choose from: `ALL`, then each alone (when there is more than one)."""
    every = list(sites)
    return {ALL: every, **({site: [site] for site in every} if len(every) > 1 else {})}


def _overlap(labels: Sequence[str], sets: Sets) -> pd.DataFrame:
    parts = [
        compare.overlap_of(labels, sets if site == ALL else sets.only(site))
        .to_dataframe()
        .reset_index()
        .assign(site=site)
        for site in _with_all(sets.numbering.shapes)
    ]
    return pd.concat(parts)[["site", "relation", "other", "shared", "jaccard", "expected"]]


def _growth(store: Store, relations: Sequence[str], scores: Scores) -> pd.DataFrame:
    """Overlap of every two relations over k, as a share of k."""
    columns = ["k", "relation", "other", "share", "chance"]
    sizes = [size for size in SIZES if scores and size <= countable(Numbering.of(scores), Rules()) // 2]
    if not sizes:
        return pd.DataFrame(columns=columns)
    rules = compare.rules_of(store, relations, scores)
    table = compare.pairs(compare.overlap_over(relations, scores, sizes, rules))
    chance = table["k"] / Numbering.of(scores).size
    return table.assign(share=table["shared"] / table["k"], chance=chance)[columns]


def _layers(store: Store, labels: Sequence[str], sets: Sets) -> pd.DataFrame:
    """Neurons of every set in every layer, and how many there would be were they spread evenly."""
    parts = []
    shapes = sets.numbering.shapes
    for site, chosen in _with_all(shapes).items():
        counted = {name: sets.counts(name, shapes[name][1]) for name in chosen}
        counts = pd.concat(
            [pd.DataFrame(each, list(labels), store.layers(name)) for name, each in counted.items()], axis=1
        )
        table = counts.T.groupby(level=0).sum().T  # [relation, layer]
        long = table.rename_axis(index="relation", columns="layer").reset_index()
        long = long.melt("relation", value_name="neurons")
        chance = long["relation"].map(table.sum(axis=1)) / table.shape[1]
        parts.append(long.assign(site=site, chance=chance))
    return pd.concat(parts)[["site", "relation", "layer", "neurons", "chance"]]


def _experts(store: Store, labels: Sequence[str], sets: Sets) -> pd.DataFrame:
    """The few experts of every layer that a relation uses most beyond the others, by rank from 1."""
    table = use_of(store, labels, sets).groupby(["relation", "layer"], sort=False).head(EXPERTS)
    return table.assign(rank=table.groupby(["relation", "layer"], sort=False).cumcount() + 1).round(4)


# --- scores


def _distributions(
    store: Store, relations: Sequence[str], scores: Scores
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Histograms of average precision beside those of random rankings, and what is beyond them."""
    of_histogram = ["site", "relation", "low", "high", "neurons", "chance"]
    of_nulls = ["relation", "positives", "prompts", "chance", "found"]
    if not scores:
        return pd.DataFrame(columns=of_histogram), pd.DataFrame(columns=of_nulls)
    counts = counts_of(store.prompts(schema.IDENTIFY)["relation"].tolist(), store.scores_record())
    nulls: dict[tuple[int, int], np.ndarray] = {}
    parts, rows = [], []
    for at, relation in enumerate(relations):
        positives, prompts = counts[relation][0], sum(counts[relation])
        if (positives, prompts) not in nulls:
            nulls[positives, prompts] = kernels.average_precision_null(positives, prompts, DRAWS, seed=0)
        null = nulls[positives, prompts]
        of_relation = {site: values[at] for site, values in scores.items()}
        parts += [table.assign(relation=relation) for table in _histograms(of_relation, null)]
        values = np.concatenate([values.ravel() for values in of_relation.values()])
        surprising = kernels.false_discovery(kernels.p_values(values, null), FALSE)
        rows.append((relation, positives, prompts, float(null.mean()), int(surprising.sum())))
    return pd.concat(parts)[of_histogram], pd.DataFrame(rows, columns=of_nulls)


def _histograms(scores: Mapping[str, np.ndarray], null: np.ndarray) -> Iterator[pd.DataFrame]:
    """Per choice of site: neurons in every bin of average precision, and how many chance would put there."""
    edges = np.linspace(0, 1, BINS + 1)
    expected = np.histogram(null, edges)[0] / len(null)
    for site, chosen in _with_all(scores).items():
        values = np.concatenate([scores[name].ravel() for name in chosen])
        counts = np.histogram(values, edges)[0]
        bins = {"low": edges[:-1].round(4), "high": edges[1:].round(4), "neurons": counts}
        yield pd.DataFrame({"site": site, **bins, "chance": (expected * values.size).round(2)})


# --- provenance


def _provenance(store: Store) -> dict[str, Any]:
    """The identity of the store and what every stage records of itself."""
    manifest = store.manifest.to_attributes()
    stages = {schema.SCORES: store.attributes(schema.SCORES)} if store.has(schema.SCORES) else {}
    for stage in (schema.MASKS, schema.ABLATIONS):
        for name in store.children(stage):
            stages[f"{stage}/{name}"] = store.attributes(f"{stage}/{name}")
    if not stages:
        raise StoreError(
            "no scores in this store",
            where=store.path,
            fix=f"run `relact score {quote(str(store.path))}` first",
        )
    return {"store": store.describe(), "capture": manifest, **stages}

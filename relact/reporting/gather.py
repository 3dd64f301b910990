"""Gather: everything that the figures and the page show, read from a store once, as plain tables.

The tables are long (one number a row), their columns named once here; `figures` draws them, `page` embeds
them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
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
from relact.reporting.units import units_of
from relact.scoring import masks
from relact.scoring.magnitudes import super_units
from relact.scoring.roles import counts_of
from relact.scoring.selection import Numbering, Rules, countable
from relact.store.reading import Store
from relact.store.stale import stale

SIZES = (10, 50, 200, 500, 1000, 3000, 10_000, 20_000, 50_000)  # of the published method
BINS = 50  # of average precision between 0 and 1
DRAWS = 20_000  # random rankings behind a null
FALSE = 0.01  # expected share of false discoveries
DEFAULT_K = 400
ALL = "all"  # the choice of every site
# best neurons of a relation: listed, of every site, with their prompts
LISTED, LISTED_BY_SITE, SHOWN = 300, 60, 10
EXPERTS = 6  # of a layer and relation
PROMPTS = 4  # that drive a neuron most, and as many least


@dataclass(frozen=True)
class Contents:
    """What a report shows. Every table is long; columns are in this order.

    Attributes:
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


def gather(store: str | Path | Store, *, mask: str | None = None) -> Contents:
    """Read a store into a `Contents`.

    Args:
        mask: the neuron sets for overlaps and layers; by default those of the ablation shown first, or the
            top 400.

    Raises:
        StoreError: neither scores nor masks; a package may have masks alone. InputError: no such mask.
    """
    opened = open_store(store)
    relations, scores = _scores(opened)
    sites = list(scores or opened.sites)
    choices, accuracy, sweep = ablations_of(opened)
    name, labels, sets = _sets(opened, relations, scores, mask, choices)
    sizes = sum(mask.sum(axis=(1, 2)) for mask in sets.values())  # [relation]
    neurons = _best(opened, relations, scores) if scores else _listed(opened, relations)
    histogram, nulls = _distributions(opened, relations, scores)
    details, prompts = _details(opened, relations, neurons)
    return Contents(
        store=opened.path,
        super_units=_super_units(opened),
        stale=stale(opened),
        relations=relations,
        sites=sites,
        n_neurons=sum(math.prod(opened.shape(site)) for site in sites),
        k=int(np.median(sizes)),
        mask=name,
        provenance=_provenance(opened),
        choices=choices,
        board=_board(opened),
        accuracy=accuracy,
        sweep=sweep,
        overlap=_overlap(labels, sets),
        growth=_growth(opened, scores),
        layers=_layers(opened, labels, sets),
        histogram=histogram,
        nulls=nulls,
        neurons=neurons,
        experts=_experts(opened, relations, sets),
        details=details,
        prompts=prompts,
        units=units_of(opened, relations),
    )


def _super_units(store: Store) -> str:
    """What selections and random sets leave out, as the page says it."""
    return ", ".join(
        f"{unit.site} {unit.layer} {unit.neuron} (alone it costs {unit.cost:.1f} nats a token)"
        for unit in super_units(store).itertuples()
    )


def _scores(store: Store) -> tuple[list[str], Mapping[str, np.ndarray]]:
    """Relations, and average precision [relation, layer, neuron] per site; none of a package that was made
    without its scores, of which masks, ablations and the best neurons are shown.
    """
    if store.has(schema.SCORES) or not store.children(schema.MASKS):
        return compare.all_scores(store)
    return store.relations(), {}


def _board(store: Store) -> pd.DataFrame:
    """Criteria on all test prompts; where a k can be chosen of several, on those that chose none."""
    whole = leaderboard_of(store, part="all")
    return whole if not whole["criterion"].duplicated().any() else leaderboard_of(store, part=schema.TEST)


# --- neuron sets


def _sets(
    store: Store,
    relations: list[str],
    scores: Mapping[str, np.ndarray],
    mask: str | None,
    choices: Mapping[str, Choice],
) -> tuple[str, list[str], Mapping[str, np.ndarray]]:
    """Name, labels (relations, as a rule) and neuron sets, bool [label, layer, neuron] per site.

    They are those of the mask, those of the first ablation, or the top few.
    """
    first = next(iter(choices), "")
    k = choices[first].k if first else DEFAULT_K
    k = min(k, countable(Numbering.of(scores), Rules())) if scores else k
    stored = store.children(schema.MASKS)
    if mask is None:
        likely = [name for name in (first, f"top-{k}") if name in stored]
        mask = likely[0] if likely else stored[0] if len(stored) == 1 or not scores else None
    if mask is None:
        return f"top {k}", relations, masks.top_k(scores, k, compare.rules_of(store, scores))
    return mask, *masks.read(store, mask)


def _with_all(sets: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The sites to choose from: `ALL`, then each alone (when there is more than one)."""
    alone = {site: {site: mask} for site, mask in sets.items()}
    return {ALL: dict(sets), **(alone if len(alone) > 1 else {})}


def _overlap(labels: Sequence[str], sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    parts = [
        compare.overlap_of(labels, chosen).to_dataframe().reset_index().assign(site=site)
        for site, chosen in _with_all(sets).items()
    ]
    return pd.concat(parts)[["site", "relation", "other", "shared", "jaccard", "expected"]]


def _growth(store: Store, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Overlap of every two relations over k, as a share of k."""
    columns = ["k", "relation", "other", "share", "chance"]
    if not scores:
        return pd.DataFrame(columns=columns)
    n_neurons = sum(values[0].size for values in scores.values())
    sizes = [size for size in SIZES if size <= countable(Numbering.of(scores), Rules()) // 2]
    if not sizes:
        return pd.DataFrame(columns=columns)
    table = compare.pairs(compare.overlap(store, k=sizes))
    return table.assign(share=table["shared"] / table["k"], chance=table["k"] / n_neurons)[columns]


def _layers(store: Store, labels: Sequence[str], sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Neurons of every set in every layer, and how many there would be were they spread evenly."""
    parts = []
    for site, chosen in _with_all(sets).items():
        counts = pd.concat(
            [
                pd.DataFrame(mask.sum(axis=2), list(labels), store.layers(name))
                for name, mask in chosen.items()
            ],
            axis=1,
        )
        table = counts.T.groupby(level=0).sum().T  # [relation, layer]
        long = table.rename_axis(index="relation", columns="layer").reset_index()
        long = long.melt("relation", value_name="neurons")
        chance = long["relation"].map(table.sum(axis=1)) / table.shape[1]
        parts.append(long.assign(site=site, chance=chance))
    return pd.concat(parts)[["site", "relation", "layer", "neurons", "chance"]]


def _experts(store: Store, relations: Sequence[str], sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The few experts of every layer that a relation uses most beyond the others, by rank from 1."""
    table = use_of(store, relations, sets).groupby(["relation", "layer"], sort=False).head(EXPERTS)
    return table.assign(rank=table.groupby(["relation", "layer"], sort=False).cumcount() + 1).round(4)


# --- scores


def _distributions(
    store: Store, relations: Sequence[str], scores: Mapping[str, np.ndarray]
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
        of_relation = {site: values[at][None] for site, values in scores.items()}
        parts += [table.assign(relation=relation) for table in _histograms(of_relation, null)]
        surprising = kernels.false_discovery(kernels.p_values(masks.flatten(of_relation)[0], null), FALSE)
        rows.append((relation, positives, prompts, float(null.mean()), int(surprising.sum())))
    return pd.concat(parts)[of_histogram], pd.DataFrame(rows, columns=of_nulls)


def _histograms(scores: Mapping[str, np.ndarray], null: np.ndarray) -> Iterator[pd.DataFrame]:
    """Per choice of site: neurons in every bin of average precision, and how many chance would put there."""
    edges = np.linspace(0, 1, BINS + 1)
    expected = np.histogram(null, edges)[0] / len(null)
    for site, chosen in _with_all(scores).items():
        values = masks.flatten(chosen)[0]
        counts = np.histogram(values, edges)[0]
        bins = {"low": edges[:-1].round(4), "high": edges[1:].round(4), "neurons": counts}
        yield pd.DataFrame({"site": site, **bins, "chance": (expected * values.size).round(2)})


def _best(store: Store, relations: Sequence[str], scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The neurons to list: the best of every relation, and of every relation in each site; in the order in
    which equal ones are shown.
    """
    flat = masks.flatten(scores)  # [relation, neurons]
    starts = np.cumsum([0, *(values[0].size for values in scores.values())])
    ties = Numbering.of(scores).hashes(np.arange(flat.shape[1]), 0)  # as `query.top` has it
    chosen: set[int] = set()
    for values in flat:
        chosen.update(query.best(values, LISTED, ties).tolist())
        for start, stop in itertools.pairwise(starts):
            found = query.best(values[start:stop], LISTED_BY_SITE, ties[start:stop])
            chosen.update((start + found).tolist())
    places = np.array(sorted(chosen, key=ties.__getitem__))
    site_at = np.searchsorted(starts, places, side="right") - 1
    widths = np.array([values.shape[2] for values in scores.values()])
    row, neuron = np.divmod(places - starts[site_at], widths[site_at])
    numbers, names = [np.asarray(store.layers(site)) for site in scores], list(scores)
    layer = np.array([numbers[at][each] for at, each in zip(site_at, row, strict=True)])
    table = pd.DataFrame({"site": np.array(names)[site_at], "layer": layer, "neuron": neuron})
    ap = pd.DataFrame(flat[:, places].T.astype(np.float64).round(4), columns=list(relations))
    return pd.concat([table, ap], axis=1)


def _listed(store: Store, relations: Sequence[str]) -> pd.DataFrame:
    """The best neurons of every relation by a package's short list: a neuron has a number in relations that
    list it, NaN in others.
    """
    places = ["site", "layer", "neuron"]
    found = [pd.DataFrame(columns=places)]
    for relation in relations:
        best = store.short_list(relation, LISTED, store.sites, schema.AVERAGE_PRECISION)
        if best is not None:
            columns = {name: best[name] for name in places}
            columns[relation] = best[schema.AVERAGE_PRECISION].astype(np.float64).round(4)
            found.append(pd.DataFrame(columns))
    known = [table.set_index(places) for table in found]
    together = pd.concat(known, axis=1) if len(known) > 1 else known[0]
    return together.reindex(columns=list(relations)).reset_index()


def _details(
    store: Store, relations: Sequence[str], neurons: pd.DataFrame
) -> tuple[list[dict[str, Any]], dict[int, dict[Hashable, Any]]]:
    """Prompts and distribution of every relation's best few neurons; empty where there are no activations."""
    if not query.has_activations(store):
        return [], {}
    table = store.prompts(schema.IDENTIFY)
    rows = dict.fromkeys(
        row
        for name in relations
        for row in query.best(neurons[name].to_numpy(), SHOWN, np.arange(len(neurons))).tolist()
    )
    details, used = [], set()
    for row in rows:
        site, layer, index = neurons.loc[row, ["site", "layer", "neuron"]]
        values = query.column(store, site, int(layer), int(index))
        order = np.argsort(-values, kind="stable")
        most = order[:PROMPTS].tolist()
        least = order[max(len(most), len(order) - PROMPTS) :].tolist()
        used.update(most + least)
        of_relations = (values[table["relation"] == name] for name in relations)
        quantiles = list(query.QUANTILES.values())
        spread = [np.quantile(some, quantiles).round(4).tolist() for some in of_relations]
        drive = {int(at): round(float(values[at]), 4) for at in most + least}
        details.append({"row": row, "most": most, "least": least, "activation": drive, "spread": spread})
    kept = table.loc[sorted(used), ["relation", "subject", "object", "text"]]
    return details, {int(at): row for at, row in zip(kept.index, kept.to_dict("records"), strict=True)}


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

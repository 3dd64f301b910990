"""Masks: scores -> neuron sets, stored under a name that says what they are.

A mask is bool [relation, layer, neuron] per site. What is chosen is in `selection`, what decides between
equals in `ties`, which neurons nobody chooses in `magnitudes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from zarr.codecs import ZstdCodec

from relact import kernels, schema
from relact import sites as site_names
from relact.errors import InputError
from relact.schema import HIDDEN, UNIT
from relact.scoring.arrays import Stored, array_at, stored
from relact.scoring.criteria import CAPTURE, of_attributions
from relact.scoring.experts import neurons_of, per_expert
from relact.scoring.magnitudes import super_unit_masks, super_units, super_units_record
from relact.scoring.memory import relations_per_chunk
from relact.scoring.options import SelectOptions
from relact.scoring.roles import counts_of
from relact.scoring.selection import (
    Choice,
    Masks,
    Numbering,
    Rules,
    Scores,
    Sets,
    admitted,
    choose,
    flatten,
    row_of,
    top_k,
    unflatten,
)
from relact.scoring.ties import margins_of
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.skeleton import write_coordinates, write_places

__all__ = [
    "Masks",
    "Sets",
    "by_relation",
    "combine",
    "flatten",
    "numbers",
    "read",
    "select",
    "select_with",
    "top_k",
    "unflatten",
    "write",
]

NULL_DRAWS = 20_000  # random rankings that average precisions are compared with


def select(
    store: str | Path | Store,
    *,
    k: int | None = SelectOptions.k,
    kind: str = SelectOptions.kind,
    fdr: float | None = SelectOptions.fdr,
    min_ap: float | None = SelectOptions.min_ap,
    name: str | None = None,
    sites: str | Sequence[str] | None = SelectOptions.sites,
    by: str | None = SelectOptions.by,
    statistic: str | None = SelectOptions.statistic,
    counted: str = SelectOptions.counted,
    keep_super_units: bool = SelectOptions.keep_super_units,
    seed: int = SelectOptions.seed,
    unit: str = SelectOptions.unit,
) -> str:
    """Write ``masks/<name>``: a set of neurons for every relation,
    chosen by score over all chosen sites together.

    Equal scores at the edge of a top k go by margin, then by a hash (`ties`, `selection`); how many there
    were is in the mask's record.

    Args:
        k: neurons per relation.
        kind: the ``top`` k (highest scores), the ``bottom`` k, or ``both``: half of k of each.
        fdr: instead of k, every neuron whose average precision beats chance at this rate of false
            discoveries; ``min_ap``: and is at least this.
        name: of the mask; by default what it is: ``top-400``, ``auroc-bottom-400-attn``, ``fdr-0.01``.
        sites: a subset of the captured sites.
        by: ``activation`` (by average precision, as published) or ``attribution`` (by z), where these are
            captured.
        statistic: another of the stored ones, such as ``z``; ``attribution_z`` needs no ``by``. The sites
            that have it are chosen among.
        counted: ``unit``: of a hidden unit (`schema.HIDDEN`) only the best neuron is chosen; ``neuron``:
            every neuron counts, as published.
        keep_super_units: do not leave out the neurons that break the model alone (`magnitudes`).
        seed: of the hash.
        unit: ``expert``: k experts instead of neurons, of a model that has some, see `experts.per_expert`.

    Returns:
        The mask's name.

    Raises:
        InputError: choices that do not go together, a k beyond the neurons, a statistic that is not stored.
    """
    among = k, kind, fdr, min_ap, sites, by, statistic
    options = SelectOptions(*among, counted, keep_super_units, seed, unit)
    return select_with(options, store, name=name)


def select_with(options: SelectOptions, store: str | Path | Store, *, name: str | None = None) -> str:
    """`select` with options that travel together."""
    opened, name = local.writable(store), name or name_of(options)
    schema.require_result(name, opened.children(schema.MASKS), "a mask")
    local.recover(opened)
    scores, scored = _scores(opened, options), opened.scores_record()
    rules = rules_of(opened, options, scored.relations, scores)
    if options.fdr:
        choice = Choice(significant(scores, opened, scored, options, rules), ())
    else:
        choice = choose(scores, options.k or 0, options.kind, rules)
    record = schema.MaskRecord(
        k=round(float(choice.chosen.sizes.mean())),
        kind=options.kind,
        fdr=options.fdr,
        statistic=options.criterion,
        sites=tuple(scores),
        scores=scored,
        counted=options.counted,
        ties=choice.ties or None,
        ties_by=None if options.fdr else "margin" if rules.margins else "hash",
        seed=None if options.fdr else options.seed,
        min_ap=options.min_ap,
        without=None if options.keep_super_units else left_out(opened, scores),
        unit=options.unit if options.unit == schema.EXPERT else None,
    )
    return write(opened, name, choice.chosen, scored.relations, record)


def rules_of(store: Store, options: SelectOptions, relations: Sequence[str], scores: Scores) -> Rules:
    """What beside the scores decides: super-units of the store, margins from its activations."""
    without = {} if options.keep_super_units else super_unit_masks(store, scores)
    computed = not set(scores) <= set(store.scored(options.criterion))  # of other sites' scores
    margins = None
    if not computed and not options.fdr:
        margins = margins_of(store, relations, Numbering.of(scores), options.criterion)
    return Rules(options.counted, options.seed, without, margins)


def name_of(options: SelectOptions) -> str:
    """What a mask is called: what it is, as far as it is not the default."""
    default, sites = SelectOptions, options.sites
    what = f"{options.kind}-{options.k}" if options.fdr is None else f"fdr-{options.fdr:g}"
    parts = [
        *([options.criterion] if options.criterion != schema.AVERAGE_PRECISION else []),
        what,
        *([f"ap-{options.min_ap:g}"] if options.min_ap is not None else []),
        *([] if sites is None else [sites.replace(",", "-") if isinstance(sites, str) else "-".join(sites)]),
        *(["experts"] if options.unit != default.unit else []),
        *(["neurons"] if options.counted != default.counted else []),
        *(["super"] if options.keep_super_units else []),
        *([f"seed-{options.seed}"] if options.seed != default.seed else []),
    ]
    return "-".join(parts)


def sites_of(store: Store, options: SelectOptions) -> list[str]:
    """The sites that are chosen among: those that have the statistic, in the store's order, or of them the
    ones that are asked for.

    Raises:
        InputError: there are none, and what there is.
    """
    store.scores_record()  # that there are some
    having = store.scored(options.criterion)
    if not having:
        lacking = of_attributions(options.criterion) and store.manifest.capture.attribution is None
        raise InputError(
            f"no statistic {options.criterion!r} is stored, there are: {', '.join(store.statistics())}",
            where=store.path,
            fix=CAPTURE if lacking else "add it with `relact score --statistics`",
        )
    if options.unit == schema.EXPERT:
        return list(having)
    wanted = site_names.expand(options.sites) if options.sites is not None else neurons_of(having)
    if schema.ROUTER in wanted:
        raise InputError("is read, nothing follows from it", where=schema.ROUTER, fix=f"use {schema.WEIGHT}")
    chosen = [site for site in having if site in wanted]
    if not chosen:
        problem = f"none of the sites {options.sites} has {options.criterion}"
        raise InputError(problem, where=store.path, fix=f"use {', '.join(having)}")
    return chosen


def _scores(store: LocalStore, options: SelectOptions) -> Scores:
    """Of the sites that are chosen among, or of experts: float32 [relation, layer, neuron], in order."""
    scores = stored(store, options.criterion, sites_of(store, options))
    return per_expert(store, scores, options.sites) if options.unit == schema.EXPERT else scores


def left_out(store: Store, sites: Mapping[str, object]) -> tuple[tuple[str, int, int], ...] | None:
    """(site, layer, neuron) of super-units that leave neurons of the sites out; None where nobody looked."""
    if super_units_record(store) is None:
        return None
    reached = {*sites, *(HIDDEN if sites.keys() & set(HIDDEN) else ())}
    places = super_units(store)[["site", "layer", "neuron"]].itertuples(index=False)
    return tuple((str(site), int(layer), int(neuron)) for site, layer, neuron in places if site in reached)


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
    relations, sets = numbers(opened, mask)
    if pair is None:
        times = np.bincount(np.concatenate(sets.numbers), minlength=1)
        labels, chosen = relations, [own[times[own] == 1] for own in sets.numbers]
    else:
        labels, chosen = _algebra(relations, sets.numbers, mask, pair)
    found = Sets(sets.numbering, tuple(chosen))
    size, kind = round(float(found.sizes.mean())), "only" if pair is None else "pair"
    record = replace(opened.mask_record(mask), k=size, kind=kind, of=mask, ties=None)
    return write(opened, name or "-".join([mask, *_words(pair or ("only",))]), found, labels, record)


def _words(relations: Sequence[str]) -> list[str]:
    """Relations as a mask's name has them."""
    return list(schema.file_names(relations).values())


def _algebra(
    relations: Sequence[str], sets: Sequence[np.ndarray], mask: str, pair: tuple[str, str]
) -> tuple[list[str], list[np.ndarray]]:
    """Names and numbers of ``A and B``, ``A without B``, ``B without A``."""
    unknown = [name for name in pair if name not in relations]
    if unknown or pair[0] == pair[1]:
        problem = f"no relation {unknown[0]!r} in mask {mask!r}" if unknown else f"{pair[0]!r} twice"
        raise InputError(problem, where="--pair", fix=f"choose two of {', '.join(relations)}")
    (a, b), (first, second) = pair, (sets[relations.index(name)] for name in pair)
    chosen = [np.intersect1d(first, second), np.setdiff1d(first, second), np.setdiff1d(second, first)]
    return [f"{a} and {b}", f"{a} without {b}", f"{b} without {a}"], chosen


def write(
    store: LocalStore, name: str, sets: Masks | Sets, relations: Sequence[str], record: schema.MaskRecord
) -> str:
    """Write ``masks/<name>`` unless it is there with the same record; returns the name."""
    schema.require_result(name, store.children(schema.MASKS), "a mask")
    group = f"{schema.MASKS}/{name}"
    if store.has(group) and store.mask_record(name) == record:
        return name
    chosen = sets if isinstance(sets, Sets) else Sets.of(sets)
    with store.stage(group, record.to_attributes()) as built:
        for site, (n_layers, width) in chosen.numbering.shapes.items():
            part = built.create_group(site)
            write_coordinates(part, relation=list(relations))
            write_places(part, store.layers(site), width, store.experts_of(site))
            together = relations_per_chunk(len(chosen), n_layers * width, item=1)
            array = part.create_array(
                schema.MASK,
                shape=(len(chosen), n_layers, width),
                dtype="bool",
                chunks=(together, n_layers, width),
                compressors=ZstdCodec(level=1, checksum=True),
                dimension_names=schema.BY_NEURON,
            )
            for first in range(0, len(chosen), together):
                array[first : first + together] = chosen.mask(site, first, first + together)
    return name


def read(store: Store, name: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the sets (relations, as a rule) and, per site, the mask bool [relation, layer, neuron]."""
    labels, sets = numbers(store, name)
    return labels, sets.masks()


def by_relation(store: Store, name: str) -> tuple[list[str], dict[str, Stored]]:
    """The same, of which a chunk is in memory at a time: a mask is asked for a relation's [layer, neuron]."""
    groups = {site: f"{schema.MASKS}/{name}/{site}" for site in store.mask_record(name).sites}
    masks = {site: Stored(array_at(store, f"{group}/{schema.MASK}")) for site, group in groups.items()}
    labels = np.asarray(array_at(store, f"{next(iter(groups.values()))}/relation")[:])
    return [str(label) for label in labels], masks


def numbers(store: Store, name: str) -> tuple[list[str], Sets]:
    """The same by the numbers of the neurons that are in the sets."""
    labels, masks = by_relation(store, name)
    return labels, Sets.of(masks)


def significant(
    scores: Scores,
    store: Store,
    scored: schema.ScoresRecord,
    options: SelectOptions,
    rules: Rules,
) -> Sets:
    """The neurons whose average precision beats random rankings, with ``fdr`` false ones expected among them.

    Every admitted neuron is tested; where hidden units are counted, the best of a unit's is kept.

    Args:
        scores: average precisions, site -> [relation, layer, neuron]. scored: how they were made (negatives
            per positive).
    """
    counts = counts_of(store.prompts(schema.IDENTIFY)["relation"].tolist(), scored)
    numbering = Numbering.of(scores)
    tested, found = np.flatnonzero(admitted(numbering, rules)), []
    null_of = lru_cache(maxsize=1)(kernels.average_precision_null)  # relations of a size have one
    for at, relation in enumerate(scored.relations):
        values, (positives, negatives) = row_of(scores, at), counts[relation]
        null = null_of(positives, positives + negatives, NULL_DRAWS, seed=0)
        row = np.zeros(numbering.size, bool)
        row[tested] = kernels.false_discovery(kernels.p_values(values[tested], null), options.fdr or 0.0)
        if options.counted == UNIT:
            row &= numbering.best(values)
        if options.min_ap is not None:
            row &= values >= options.min_ap
        found.append(np.flatnonzero(row))
    return Sets(numbering, tuple(found))

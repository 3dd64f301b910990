"""Whom a relation's prompts are compared with: all others, some of them, or those of its own group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relact.errors import InputError
from relact.kernels import Labels
from relact.kernels.labels import LEFT_OUT, NEGATIVE, POSITIVE
from relact.schema import ScoresRecord

BETWEEN = "="  # a group's name and a label's, in the name of a relation: ``toxic=1``


def labels_of(
    names: Sequence[str],
    relations: Sequence[str],
    negatives: int | None,
    seed: int,
    *,
    own_negatives: bool | None = None,
) -> Labels:
    """One relation's prompts against all others', or against ``negatives`` times as many drawn from them.

    Args:
        names: the relation of every prompt. relations: those to score.
        own_negatives: those called ``group=label`` are compared within their group alone.

    Raises:
        InputError: a group with one label.
    """
    labels = Labels.one_vs_rest(names, relations)
    if own_negatives:
        labels = _within_groups(labels, names)
    return labels.sampled(negatives, seed) if negatives else labels


def relations_of(names: Sequence[str], relations: Sequence[str] | None, where: object) -> list[str]:
    """The relations to score, all or those that are asked for.

    Args:
        names: the relation of every prompt.

    Raises:
        InputError: of one there is no prompt; all prompts are of one.
    """
    known = list(dict.fromkeys(names))
    unknown = sorted(set(relations or ()) - set(known))
    if unknown:
        fix = f"choose from {', '.join(known)}"
        raise InputError(f"no prompts of relation {', '.join(unknown)}", where=where, fix=fix)
    if len(known) < 2:
        problem = f"all prompts belong to {known[0]!r}: nothing to tell it from" if known else "no prompts"
        raise InputError(problem, where=where, fix="capture prompts of at least two relations")
    return list(dict.fromkeys(relations)) if relations else known


def group_of(relation: str) -> str:
    """The group of ``group=label``; empty for other names, which are one group, too.

    >>> group_of("toxic=1"), group_of("country_capital")
    ('toxic', '')
    """
    return relation.rpartition(BETWEEN)[0]


def counts_of(names: Sequence[str], scored: ScoresRecord) -> dict[str, tuple[int, int]]:
    """Relation -> prompts that were its positives and its negatives when it was scored."""
    roles = scored.negatives, scored.seed or 0
    labels = labels_of(names, scored.relations, *roles, own_negatives=scored.own_negatives)
    counts = labels.count(POSITIVE).tolist(), labels.count(NEGATIVE).tolist()
    return dict(zip(labels.relations, zip(*counts, strict=True), strict=True))


def _within_groups(labels: Labels, names: Sequence[str]) -> Labels:
    for relation in labels.relations:
        group = group_of(relation)
        if {name for name in names if group_of(name) == group} == {relation}:
            what = f"group {group!r}" if group else "those without a group"
            raise InputError(
                f"{what} has this label alone, so nothing is its negative",
                where=f"relation {relation}",
                fix="score without --own-negatives, or add texts with the group's other labels",
            )
    matrix = labels.roles[labels.classes]
    groups = np.array([group_of(name) for name in names])
    of_relation = np.array([group_of(name) for name in labels.relations])
    matrix[groups[:, None] != of_relation[None, :]] = LEFT_OUT
    return Labels.from_matrix(matrix, labels.relations)

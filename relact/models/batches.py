"""Which prompts run together: pure functions of the token lists, so a resumed run forms the same batches.

Prompts that begin alike (few-shot prompts share their examples) form a *prefix group*: the prefix is computed
once and its keys and values are reused for every member. Inside a group prompts are sorted by length and cut
into batches under a token budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Pass = tuple[
    int, int, int
]  # shape of a forward pass: rows, prefix tokens, tokens of the longest row after it
SHARED_FLOOR = 12  # tokens; a shorter common prefix costs more in bookkeeping than it saves
SAVED_FLOOR = 128  # tokens; a group must save this many to be worth a forward pass for its prefix


@dataclass(frozen=True)
class PrefixGroup:
    """Rows that begin with the same ``prefix`` tokens (possibly none), in ascending order."""

    prefix: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Rows that run together after ``prefix``, longest first; ``longest``: its tokens after the prefix."""

    prefix: tuple[int, ...]
    rows: tuple[int, ...]
    longest: int


@dataclass(frozen=True)
class Ways:
    """What may run together.

    Attributes:
        whole: every prompt runs from its first token, without a prefix.
        even: only prompts of equal length run together, without padding.
        switch: tokens; longer prompts run whole, and beside none that is not longer. None: all alike.
    """

    whole: bool = False
    even: bool = False
    switch: int | None = None


ANY_WAY = Ways()


def schedule(tokens: Sequence[Sequence[int]], budget: int, ways: Ways = ANY_WAY) -> Iterator[Batch]:
    """Every batch of a list of prompts, in order; the batches of one prefix follow each other.

    Args:
        budget: tokens in one forward pass, padding included.
    """
    for group in groups_of(tokens, ways):
        lengths = [len(row) - len(group.prefix) for row in tokens]  # true of the group's rows only
        for rows in by_length(group.rows, lengths, budget, even=ways.even):
            yield Batch(group.prefix, tuple(rows), lengths[rows[0]])


def groups_of(tokens: Sequence[Sequence[int]], ways: Ways) -> list[PrefixGroup]:
    """What shares a prefix, and what runs apart from that."""
    every = range(len(tokens))
    beyond = [row for row in every if ways.switch and len(tokens[row]) > ways.switch]
    usual = sorted(set(every) - set(beyond))
    if ways.whole:
        groups = [PrefixGroup((), tuple(usual))] if usual else []
    else:
        parts = prefix_groups([tokens[row] for row in usual])
        groups = [PrefixGroup(part.prefix, tuple(usual[row] for row in part.rows)) for part in parts]
    return groups + ([PrefixGroup((), tuple(beyond))] if beyond else [])


def passes(tokens: Sequence[Sequence[int]], budget: int, ways: Ways = ANY_WAY) -> Iterator[Pass]:
    """Shapes of the forward passes that `schedule` asks for: every prefix once, then its batches."""
    before: tuple[int, ...] = ()
    for batch in schedule(tokens, budget, ways):
        if batch.prefix and batch.prefix != before:
            yield 1, 0, len(batch.prefix)
        before = batch.prefix
        yield len(batch.rows), len(batch.prefix), batch.longest


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens two prompts share."""
    length = min(len(first), len(second))
    return next((at for at in range(length) if first[at] != second[at]), length)


def prefix_groups(tokens: Sequence[Sequence[int]], floor: int = SHARED_FLOOR) -> list[PrefixGroup]:
    """Partition rows into groups with a shared prefix; every row keeps at least one token after it.

    Neighbours in lexicographic order share the longest prefixes, so one pass over the sorted rows finds the
    groups. Rows whose sharing would not pay go together into one group without a prefix.
    """
    order = sorted(range(len(tokens)), key=lambda row: (list(tokens[row]), row))
    groups: list[tuple[int, list[int]]] = []  # (shared length, rows)
    for row in order:
        if groups:
            shared, rows = groups[-1]
            overlap = min(shared, common_prefix(tokens[rows[0]], tokens[row]), len(tokens[row]) - 1)
            if overlap >= floor:
                groups[-1] = (overlap, [*rows, row])
                continue
        groups.append((len(tokens[row]) - 1, [row]))
    worthy = [(shared, rows) for shared, rows in groups if shared * (len(rows) - 1) >= SAVED_FLOOR]
    sharing = [PrefixGroup(tuple(tokens[rows[0]][:n]), tuple(sorted(rows))) for n, rows in worthy]
    alone = sorted(set(range(len(tokens))) - {row for _, rows in worthy for row in rows})
    return sharing + ([PrefixGroup((), tuple(alone))] if alone else [])


def by_length(
    rows: Sequence[int], lengths: Sequence[int], budget: int, *, even: bool = False
) -> list[list[int]]:
    """Rows sorted by length, longest first, cut so that rows x longest row stays within ``budget`` tokens.

    A single row longer than the budget gets a batch of its own; ``even``: so do rows of another length.
    """
    batches: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        longest = lengths[batches[-1][0]] if batches else 0
        fits = longest * (len(batches[-1]) + 1) <= budget if batches else False
        if fits and (not even or lengths[row] == longest):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def same_length(rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Rows grouped by exact length, at most ``most`` together: no padding at all."""
    batches: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (lengths[row], row)):
        if batches and lengths[batches[-1][0]] == lengths[row] and len(batches[-1]) < most:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches

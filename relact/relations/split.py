"""Which of a relation's facts are held out for testing, which are examples, which identify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relact import schema
from relact.relations.facts import Fact, Relation, leaks, order
from relact.relations.identity import same, united

DEV_SHARE = 3  # one subject of so many is for choosing


@dataclass(frozen=True)
class Split:
    """Keys by role, each in the seeded order; ``leaking`` counts facts left out per language."""

    examples: tuple[str, ...]
    test: tuple[str, ...]
    identify: tuple[str, ...]
    usable: dict[tuple[str, str], tuple[Fact, ...]]  # (language, key) -> facts
    leaking: dict[str, int]


def split(
    relation: Relation, *, shots: int = 0, test_size: int = 50, seed: int = 0, keep_leaks: bool = False
) -> Split:
    """Deal a relation's keys to test, examples and identify, once for all languages.

    Keys that exist in more languages come first, then the hash decides. Test takes keys until every language
    has ``test_size`` facts, or a third of what it has; examples take the next until every language has
    ``shots``. Facts about one subject (`identity`) have one key here, whatever they came with. Facts whose
    first template gives their answer away are left out: the deal is the same whichever others are asked.
    """
    relation = united(relation)
    usable: dict[tuple[str, str], list[Fact]] = {}
    leaking: dict[str, int] = {}
    for fact in relation.facts:
        templates = relation.templates_of(fact)
        if not templates:
            continue
        if not keep_leaks and gives_away(relation, fact, templates[0]):
            leaking[fact.language] = leaking.get(fact.language, 0) + 1
        else:
            usable.setdefault((fact.language, fact.key), []).append(fact)
    counts: dict[str, dict[str, int]] = {}  # key -> language -> number of facts
    for (language, key), told in usable.items():
        counts.setdefault(key, {})[language] = len(told)
    keys = sorted(counts, key=lambda key: (-len(counts[key]), order(seed, relation.name, key), key))
    totals: dict[str, int] = {}
    for by_language in counts.values():
        for language, number in by_language.items():
            totals[language] = totals.get(language, 0) + number
    answerable = any(fact.object for fact in relation.facts)
    wanted = {
        name: min(test_size, max(n // 3, 1)) if n > 1 and answerable else 0 for name, n in totals.items()
    }
    test = _deal(keys, counts, wanted)
    rest = [key for key in keys if key not in test]
    examples = _deal(rest, counts, dict.fromkeys(totals, shots), overshoot=True)
    identify = tuple(key for key in rest if key not in examples)
    frozen = {where: tuple(told) for where, told in usable.items()}
    return Split(tuple(examples), tuple(test), identify, frozen, leaking)


def gives_away(relation: Relation, fact: Fact, template: str) -> bool:
    """Whether a prompt holds its own answer, in a relation where that is not its nature."""
    text = template.replace("{}", fact.subject)
    return not relation.leaks and leaks(fact.answers, text, fact.language)


def _deal(
    keys: Sequence[str], counts: dict[str, dict[str, int]], wanted: dict[str, int], *, overshoot: bool = False
) -> dict[str, None]:
    """The first keys that fill what every language wants, without those whose facts would overshoot it.

    With ``overshoot`` such keys, too, where no others are left.
    """
    need, dealt = dict(wanted), dict[str, None]()
    for over in (False, True) if overshoot else (False,):
        for key in keys:
            if key not in dealt and any(
                number > 0 and need[language] > 0 and (over or number <= need[language])
                for language, number in counts[key].items()
            ):
                dealt[key] = None
                for language, number in counts[key].items():
                    need[language] -= number
    return dealt


def parts_of(relations: Sequence[str], subjects: Sequence[str]) -> list[str]:
    """For every test prompt `schema.DEV`, to choose settings on, or `schema.TEST`, to show results on.

    A third of each relation's subjects is for choosing, by a hash of their names: the same ones in every
    store and under every template. Prompts without a subject count one by one.
    """
    keys = [same(subject).strip() or f"\0{at}" for at, subject in enumerate(subjects)]
    by_relation: dict[str, set[str]] = {}
    for relation, key in zip(relations, keys, strict=True):
        by_relation.setdefault(relation, set()).add(key)
    dev = {
        (relation, key)
        for relation, of_relation in by_relation.items()
        for key in sorted(of_relation, key=lambda key: (order(0, f"dev {relation}", key), key))[
            : len(of_relation) // DEV_SHARE
        ]
    }
    return [schema.DEV if place in dev else schema.TEST for place in zip(relations, keys, strict=True)]

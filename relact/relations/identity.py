"""When two facts are about the same subject. Whatever deals, merges or bars subjects asks here, nowhere else.

Spellings that differ in case, blanks, Unicode form or invisible letters are one subject, in every language;
so are subjects under one key (``FR``), and those whose prompts read the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from relact.relations.facts import Fact, Relation, plain

INVISIBLE = "Cf"  # Unicode's category of soft hyphens, joiners and marks of order


def same(subject: str) -> str:
    """The form in which subjects are compared; of one without a visible letter, the subject as it is.

    >>> same(" New\u00a0 York") == same("NEW YORK")
    True
    """
    if subject.isascii():
        return " ".join(subject.casefold().split()) or subject
    shown = "".join(letter for letter in subject if unicodedata.category(letter) != INVISIBLE)
    return " ".join(unicodedata.normalize("NFKC", plain(shown)).split()) or subject


def named_subjects(relations: Iterable[str], subjects: Iterable[str]) -> set[tuple[str, str]]:
    """(relation, subject as it is compared) of prompts; of those without a subject nothing."""
    named = zip(relations, subjects, strict=True)
    return {(relation, same(subject)) for relation, subject in named if subject.strip()}


def united(relation: Relation) -> Relation:
    """The relation with one key, the first in file order, for all facts about one subject."""
    first = _Groups()
    for fact in relation.facts:
        for name in _names(relation, fact):
            first.join(("key", fact.key), name)
    keys = {fact.key: first.of(("key", fact.key))[1] for fact in relation.facts}
    if all(key == chosen for key, chosen in keys.items()):
        return relation
    facts = tuple(
        fact if fact.key == keys[fact.key] else replace(fact, key=keys[fact.key]) for fact in relation.facts
    )
    return replace(relation, facts=facts)


def _names(relation: Relation, fact: Fact) -> list[tuple[str, str]]:
    """What a fact may be recognised by besides its key: its subject, and its prompts."""
    return [
        ("subject", same(fact.subject)),
        *(
            ("prompt", same(template.replace("{}", fact.subject)))
            for template in relation.templates_of(fact)
            if template != "{}"  # the prompt is the subject
        ),
    ]


class _Groups:
    """Names that stand for one another; a group is called by the member that came first."""

    def __init__(self) -> None:
        self._above: dict[tuple[str, str], tuple[str, str]] = {}
        self._age: dict[tuple[str, str], int] = {}

    def of(self, name: tuple[str, str]) -> tuple[str, str]:
        """The first member of a name's group."""
        self._age.setdefault(name, len(self._age))
        while (above := self._above.get(name, name)) != name:
            self._above[name] = name = self._above.get(above, above)
        return name

    def join(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Put two names into one group."""
        first, second = sorted((self.of(one), self.of(other)), key=self._age.__getitem__)
        self._above[second] = first

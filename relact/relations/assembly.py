"""Rows to relations: what the rows of a name say together, whatever file they come from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace

from relact.errors import InputError
from relact.relations.facts import Fact, Relation, order
from relact.relations.identity import same
from relact.relations.options import ReadingOptions
from relact.relations.row import Row, slotted


def assemble(rows: Iterable[Row], options: ReadingOptions | None = None) -> list[Relation]:
    """Relations from an importer's rows, in the order in which their names first appear.

    Raises:
        InputError: choices that exclude each other, or facts without a template.
    """
    options = options or ReadingOptions()
    _check(options)
    given = (slotted(options.template),) if options.template is not None else ()
    drafts: dict[str, _Draft] = {}
    # one object for equal ones: labels, answers and templates repeat a million times
    shared: dict[str, str] = {}
    alike: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in rows:
        draft = drafts.get(row.relation)
        if draft is None:
            draft = drafts[row.relation] = _Draft(row.relation, options)
        language = row.language or options.language
        language = shared.setdefault(language, language)
        templates = row.templates or given
        if not templates:
            raise InputError(
                "facts without a template",
                where=row.where,
                fix="add a 'template' column or pass one ('... {} ...')",
            )
        draft.templates.setdefault(language, {}).update(dict.fromkeys(templates))
        draft.about.update(row.about)
        answer = shared.setdefault(row.object, row.object)
        templates = alike.setdefault(templates, templates)
        draft.add(Fact(row.key or same(row.subject), row.subject, answer, row.aliases, language, templates))
    return [draft.done() for draft in drafts.values()]


class _Draft:
    """A relation while its rows arrive, each fact with the templates of its row.

    With a limit, a heap per language keeps the facts that are first in the seeded order.
    """

    def __init__(self, name: str, options: ReadingOptions) -> None:
        self.name, self.limit, self.seed = name, options.limit, options.seed
        self.merge = options.duplicates == "merge"
        self.templates: dict[str, dict[str, None]] = {}  # language -> ordered set
        self.about: dict[str, str] = {}
        self.facts: dict[tuple[object, ...], Fact] = {}  # insertion order is row order
        # language -> (-order, key, subject, templates), last kept on top
        self.heaps: dict[str, list[tuple[int, str, str, tuple[str, ...]]]] = {}

    def add(self, fact: Fact) -> None:
        """Take in one more fact, or its answers where the same is asked already."""
        identity: tuple[object, ...] = (fact.language, fact.key, fact.subject, fact.templates)
        identity = identity if self.merge else (*identity, len(self.facts))
        former = self.facts.get(identity)
        if former is not None:
            new = [answer for answer in fact.answers if answer not in former.answers]
            if new:
                self.facts[identity] = replace(former, aliases=(*former.aliases, *new))
            return
        if self.limit is None or self._has_room(fact):
            self.facts[identity] = fact

    def _has_room(self, fact: Fact) -> bool:
        heap = self.heaps.setdefault(fact.language, [])
        place = (-order(self.seed, self.name, fact.key), fact.key, fact.subject, fact.templates)
        if len(heap) < (self.limit or 0):
            heapq.heappush(heap, place)
            return True
        if not heap or place < heap[0]:
            return False
        _, *dropped = heapq.heapreplace(heap, place)
        self.facts.pop((fact.language, *dropped), None)
        return True

    def done(self) -> Relation:
        """The relation of all rows so far."""
        templates = {language: tuple(texts) for language, texts in self.templates.items()}
        shared = {language: self._crossed(language, texts) for language, texts in templates.items()}
        facts: dict[tuple[object, ...], Fact] = {}
        for identity, fact in self.facts.items():
            crossed = shared[fact.language]
            if crossed and self.merge:
                identity = identity[:3]  # language, key, subject: asked with every template, told once
            facts.setdefault(identity, replace(fact, templates=()) if crossed else fact)
        return Relation(self.name, templates, tuple(facts.values()), **self.about)

    def _crossed(self, language: str, templates: tuple[str, ...]) -> bool:
        """Whether every subject of a language is asked with each of the templates, for the same answers.

        Then the templates are the relation's. Otherwise a row's template is the row's own.
        """
        every = set(templates)
        told = [fact for fact in self.facts.values() if fact.language == language]
        if all(set(fact.templates) == every for fact in told):
            return True
        if not self.merge:
            return False
        asked: dict[tuple[str, str], set[str]] = {}
        answers: dict[tuple[str, str], tuple[str, ...]] = {}
        for fact in told:
            subject = fact.key, fact.subject
            asked.setdefault(subject, set()).update(fact.templates)
            if answers.setdefault(subject, fact.answers) != fact.answers:
                return False
        return all(texts == every for texts in asked.values())


def _check(options: ReadingOptions) -> None:
    limit, duplicates = options.limit, options.duplicates
    if duplicates not in ("merge", "keep") or (limit is not None and duplicates == "keep"):
        fix = "use merge, or keep without limit"
        raise InputError(f"{duplicates!r} with limit {limit}", where="duplicates", fix=fix)

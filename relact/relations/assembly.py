"""Rows to relations: what the rows of a name say together, whatever file they come from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace

from relact.errors import InputError
from relact.relations.facts import Fact, Relation, order, plain
from relact.relations.options import ReadingOptions
from relact.relations.row import Row, has_one_slot


def assemble(rows: Iterable[Row], options: ReadingOptions | None = None) -> list[Relation]:
    """Relations from an importer's rows, in the order in which their names first appear.

    Raises:
        InputError: choices that exclude each other, or facts without a template.
    """
    options = options or ReadingOptions()
    _check(options)
    drafts: dict[str, _Draft] = {}
    shared: dict[
        str, str
    ] = {}  # one string object for equal texts: labels and answers repeat a million times
    for row in rows:
        draft = drafts.get(row.relation)
        if draft is None:
            draft = drafts[row.relation] = _Draft(row.relation, options)
        language = row.language or options.language
        language = shared.setdefault(language, language)
        templates = row.templates or ((options.template,) if options.template else ())
        if not templates:
            raise InputError(
                "facts without a template",
                where=row.where,
                fix="add a 'template' column or pass one ('... {} ...')",
            )
        draft.templates.setdefault(language, {}).update(dict.fromkeys(templates))
        draft.about.update(row.about)
        answer = shared.setdefault(row.object, row.object)
        draft.add(Fact(row.key or subject_key(row.subject), row.subject, answer, row.aliases, language))
    return [draft.done() for draft in drafts.values()]


class _Draft:
    """A relation while its rows arrive.

    With a limit, a heap per language keeps the facts that are first in the seeded order.
    """

    def __init__(self, name: str, options: ReadingOptions) -> None:
        self.name, self.limit, self.seed = name, options.limit, options.seed
        self.merge = options.duplicates == "merge"
        self.templates: dict[str, dict[str, None]] = {}  # language -> ordered set
        self.about: dict[str, str] = {}
        self.facts: dict[tuple[object, ...], Fact] = {}  # insertion order is row order
        # language -> (-order, key, subject), last kept on top
        self.heaps: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, fact: Fact) -> None:
        """Take in one more fact, or its answers where the subject is there already."""
        identity: tuple[object, ...] = (fact.language, fact.key, fact.subject)
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
        place = (-order(self.seed, self.name, fact.key), fact.key, fact.subject)
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
        return Relation(self.name, templates, tuple(self.facts.values()), **self.about)


def _check(options: ReadingOptions) -> None:
    limit, duplicates, template = options.limit, options.duplicates, options.template
    if duplicates not in ("merge", "keep") or (limit is not None and duplicates == "keep"):
        fix = "use merge, or keep without limit"
        raise InputError(f"{duplicates!r} with limit {limit}", where="duplicates", fix=fix)
    if template is not None and not has_one_slot(template):
        fix = "mark the subject's place once, as {}"
        raise InputError(f"{template!r} has no single {{}}", where="template", fix=fix)


def subject_key(subject: str) -> str:
    """A subject's key where none is given: a split must not part spellings that differ in case or blanks."""
    return " ".join(plain(subject).split())

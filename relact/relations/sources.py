"""Where relations come from: ``load("starter")``, ``load("country_capital")``, ``load("lre/")``.

Bundled relations are data files beside this module, JSON with one fact a line, built by
``tools/build_relations.py``. Reading other people's files (LRE, ml-selfcond, CSV, JSONL, Parquet) is the
business of `importers`, which returns plain rows; this module turns rows into relations. Nothing heavy is
imported here.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from relact.errors import InputError
from relact.relations import importers
from relact.relations.facts import Fact, Relation, order, plain

HERE = Path(__file__).parent

STARTER = (
    "country_capital",
    "country_language",
    "city_country",
    "landmark_continent",
    "element_symbol",
    "unit_quantity",
    "verb_past_tense",
    "adj_comparative",
    "noun_plural",
    "word_first_letter",
    "animal_class",
    "substance_phase",
)
"""The relations of the demo: the embedded model answers at least 0.4 of each with five examples
(docs/relations.md).
"""

PAPER = {
    "company_ceo": "company_ceo",
    "company_hq": "company_hq",
    "landmark_on_continent": "landmark_continent",
    "landmark_in_country": "landmark_country",
    "person_father": "person_father",
    "person_mother": "person_mother",
    "person_occupation": "person_occupation",
    "person_plays_instrument": "person_plays_instrument",
    "person_plays_pro_sport": "person_pro_sport",
    "person_plays_position_in_sport": "person_sport_position",
    "product_by_company": "product_company",
    "star_constellation": "star_constellation",
}
"""LRE file name -> the published method's name for it, in the method's order."""


def bundled() -> tuple[str, ...]:
    """Names of the relations that come with relact, sorted."""
    return tuple(sorted(path.stem for path in HERE.glob("*.json")))


def load(
    source: str | Path,
    *,
    label_column: str | None = None,
    template: str | None = None,
    language: str = "en",
    limit: int | None = None,
    seed: int = 0,
    duplicates: str = "merge",
    skip_bad: bool = False,
    skipped: list[str] | None = None,
) -> list[Relation]:
    """Relations from a bundled name, ``starter``, ``all``, or a file
    or folder that ``relact.importers`` reads.

    Args:
        label_column: the column of a table that names the relation (default ``relation``, ``label`` or
            ``concept``).
        template: for tables of facts without a ``template`` column, such as ``"The capital of {} is"``.
        language: what rows that don't name a language are in.
        limit: keep only so many facts per relation and language, the first in the seeded order; memory stays
            bounded however long the file is, and the facts kept are those a prompt table would take first.
        duplicates: ``merge`` makes further answers of one subject aliases of the first; ``keep`` keeps every
            row.
        skip_bad: pass over rows that cannot be used; one line about each is appended to ``skipped``.

    Raises:
        InputError: no such relation or file, or a row that cannot be used (file and line are named).
    """
    name = str(source)
    if name == "starter":
        return [_read_bundled(one) for one in STARTER]
    if name == "all":
        return [_read_bundled(one) for one in bundled()]
    if name in bundled():
        return [_read_bundled(name)]
    path = Path(source)
    if not path.exists():
        raise _unknown(name)
    rows = importers.rows(path, label_column=label_column, skip_bad=skip_bad, skipped=skipped)
    found = assemble(
        rows, template=template, language=language, limit=limit, seed=seed, duplicates=duplicates
    )
    if not found:
        raise InputError(
            "holds no facts and no prompts", where=path, fix="give a file with at least two rows"
        )
    return found


def load_all(sources: Iterable[str | Path | Relation], **options: object) -> list[Relation]:
    """The relations of several sources, each name once; see ``load`` for the options.
    Relations as such are taken over.
    """
    relations: dict[str, Relation] = {}
    for source in sources:
        loaded = [source] if isinstance(source, Relation) else load(source, **options)  # type: ignore[arg-type]
        for relation in loaded:
            if relations.setdefault(relation.name, relation) != relation:
                where = source.name if isinstance(source, Relation) else source
                raise InputError(
                    f"relation {relation.name!r} comes from two sources",
                    where=where,
                    fix="rename one of them",
                )
    return list(relations.values())


def load_paper(folder: str | Path) -> list[Relation]:
    """The published method's twelve relations under its names, from a folder of LRE JSON;
    every row is kept.
    """
    by_stem = {relation.name: relation for relation in load(folder, duplicates="keep")}
    missing = [stem for stem in PAPER if stem not in by_stem]
    if missing:
        raise InputError(
            f"the paper's relations need {missing[0]}.json",
            where=folder,
            fix="give the folder of LRE's JSON files",
        )
    return [replace(by_stem[stem], name=name) for stem, name in PAPER.items()]


# --- rows to relations
# ------------------------------------------------------------------------------------------------


class _Draft:
    """A relation while its rows arrive. With a limit, a heap per language keeps the first in the seeded
    order.
    """

    def __init__(self, name: str, limit: int | None, seed: int, merge: bool) -> None:
        self.name, self.limit, self.seed, self.merge = name, limit, seed, merge
        self.templates: dict[str, dict[str, None]] = {}  # language -> ordered set
        self.about: dict[str, str] = {}
        self.facts: dict[tuple[object, ...], Fact] = {}  # insertion order is row order
        # language -> (-order, key, subject), last kept on top
        self.heaps: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, fact: Fact) -> None:
        where: tuple[object, ...] = (fact.language, fact.key, fact.subject)
        where = where if self.merge else (*where, len(self.facts))
        old = self.facts.get(where)
        if old is not None:
            new = [answer for answer in fact.answers if answer not in old.answers]
            if new:
                self.facts[where] = replace(old, aliases=(*old.aliases, *new))
            return
        if self.limit is None or self._has_room(fact):
            self.facts[where] = fact

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
        templates = {language: tuple(texts) for language, texts in self.templates.items()}
        return Relation(self.name, templates, tuple(self.facts.values()), **self.about)


def assemble(
    rows: Iterable[importers.Row],
    *,
    template: str | None = None,
    language: str = "en",
    limit: int | None = None,
    seed: int = 0,
    duplicates: str = "merge",
) -> list[Relation]:
    """Relations from an importer's rows, in the order in which their names first appear;
    arguments as in ``load``.
    """
    if duplicates not in ("merge", "keep") or (limit is not None and duplicates == "keep"):
        fix = "use merge, or keep without limit"
        raise InputError(f"{duplicates!r} with limit {limit}", where="duplicates", fix=fix)
    if template is not None and template.count("{}") != 1:
        fix = "mark the subject's place once, as {}"
        raise InputError(f"{template!r} has no single {{}}", where="template", fix=fix)
    drafts: dict[str, _Draft] = {}
    names: dict[str, str] = {}  # one string object for equal texts: labels and answers repeat a million times
    for row in rows:
        draft = drafts.get(row.relation)
        if draft is None:
            draft = drafts[row.relation] = _Draft(row.relation, limit, seed, duplicates == "merge")
        tongue = names.setdefault(row.language or language, row.language or language)
        texts = row.templates or ((template,) if template else ())
        if not texts:
            raise InputError(
                "facts without a template",
                where=row.where,
                fix="add a 'template' column or pass one ('... {} ...')",
            )
        draft.templates.setdefault(tongue, {}).update(dict.fromkeys(texts))
        draft.about.update(row.about)
        answer = names.setdefault(row.object, row.object)
        draft.add(Fact(row.key or _key(row.subject), row.subject, answer, row.aliases, tongue))
    return [draft.done() for draft in drafts.values()]


def _key(subject: str) -> str:
    """A subject's key where none is given: spellings that differ in case
    or blanks must not be told apart by a split.
    """
    return " ".join(plain(subject).split())


# --- bundled files
# ----------------------------------------------------------------------------------------------------


def read_relation(path: Path) -> Relation:
    """One file of the bundled format. ``InputError`` names the file and what is wrong in it."""
    found = assemble(importers.rows(path))
    if not found:
        raise InputError("holds no facts", where=path, fix="add facts, one a line")
    return found[0]


def _read_bundled(name: str) -> Relation:
    return read_relation(HERE / f"{name}.json")


def _unknown(name: str) -> InputError:
    known = ("starter", "all", *bundled())
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    what = f"neither a bundled relation nor a file: {name!r}"
    return InputError(what, where="source", fix=f"{hint}`relact prompts --list` names them")

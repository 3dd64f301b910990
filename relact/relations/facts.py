"""Facts and relations, and where they come from: ``load("starter")``, ``load("country_capital")``, ``load("lre/")``;
and which of a relation's facts are held out for testing (``split``).

A relation holds facts in one or more languages; facts of one key (``FR``) are the same fact told in several
languages, so a split by key never tears them apart. Bundled relations are data files in ``relact/relations``,
JSON with one fact a line, built by ``tools/build_relations.py``.

Reading other people's files (LRE, ml-selfcond, CSV, JSONL, Parquet) is the business of ``relact.importers``, which
returns plain rows; this module turns rows into relations. Nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
import heapq
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from relact.relations import importers
from relact.errors import InputError

HERE = Path(__file__).parent
UNSPACED = ("zh", "ja")  # no blank between words, nor between template and object

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
"""The relations of the demo: the embedded model answers at least 0.4 of each with five examples (docs/relations.md)."""

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


@dataclass(frozen=True, slots=True)
class Fact:
    """One subject with its answer, in one language. ``aliases`` are other answers that are just as right.

    ``object`` is empty for a ready text that carries only a label ("this is toxic"): nothing to answer there.
    """

    key: str
    subject: str
    object: str
    aliases: tuple[str, ...] = ()
    language: str = "en"

    @property
    def answers(self) -> tuple[str, ...]:
        """Every accepted answer, the object first; empty when there is nothing to answer."""
        return (self.object, *self.aliases) if self.object else ()


@dataclass(frozen=True, slots=True)
class Relation:
    """A name, templates per language (each with one ``{}`` for the subject) and facts.

    The object follows the filled template after a space; directly in Chinese and Japanese. ``leaks`` is the reason
    why answers may stand inside their prompts, where that lies in the nature of the relation; normally empty.
    """

    name: str
    templates: Mapping[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    description: str = ""
    source: str = ""
    licence: str = ""
    leaks: str = ""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages with both a template and a fact, in the order of the templates."""
        told = {fact.language for fact in self.facts}
        return tuple(language for language in self.templates if language in told)

    def told_in(self, language: str) -> tuple[Fact, ...]:
        """The facts of one language, in file order."""
        return tuple(fact for fact in self.facts if fact.language == language)


def plain(text: str) -> str:
    """The form in which texts are compared: Unicode compatibility forms and case don't matter, outer blanks neither."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def leaks(answers: Iterable[str], text: str, language: str = "en") -> bool:
    """Whether an accepted answer stands in the text as a word of its own; anywhere in it for Chinese and Japanese."""
    text = plain(text)
    for answer in filter(None, map(plain, answers)):
        if answer in text and (language in UNSPACED or re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)):
            return True
    return False


def order(seed: int, relation: str, key: str) -> int:
    """A fact's place in the seeded order, from its own name alone: adding other facts does not move it."""
    return int.from_bytes(blake2b(f"{seed}\0{relation}\0{key}".encode(), digest_size=8).digest(), "big")


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
    """Relations from a bundled name, ``starter``, ``all``, or a file or folder that ``relact.importers`` reads.

    Args:
        label_column: the column of a table that names the relation (default ``relation``, ``label`` or ``concept``).
        template: for tables of facts without a ``template`` column, such as ``"The capital of {} is"``.
        language: what rows that don't name a language are in.
        limit: keep only so many facts per relation and language, the first in the seeded order; memory stays bounded
            however long the file is, and the facts kept are those a prompt table would take first.
        duplicates: ``merge`` makes further answers of one subject aliases of the first; ``keep`` keeps every row.
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
    found = assemble(rows, template=template, language=language, limit=limit, seed=seed, duplicates=duplicates)
    if not found:
        raise InputError("holds no facts and no prompts", where=path, fix="give a file with at least two rows")
    return found


def load_all(sources: Iterable[str | Path], **options: object) -> list[Relation]:
    """The relations of several sources, each name once; see ``load`` for the options."""
    found: dict[str, Relation] = {}
    for source in sources:
        for relation in load(source, **options):  # type: ignore[arg-type]
            if relation.name in found and found[relation.name] != relation:
                raise InputError(
                    f"relation {relation.name!r} comes from two sources", where=source, fix="rename one of them"
                )
            found[relation.name] = relation
    return list(found.values())


def load_paper(folder: str | Path) -> list[Relation]:
    """The published method's twelve relations under its names, from a folder of LRE JSON; every row is kept."""
    by_stem = {relation.name: relation for relation in load(folder, duplicates="keep")}
    missing = [stem for stem in PAPER if stem not in by_stem]
    if missing:
        raise InputError(
            f"the paper's relations need {missing[0]}.json", where=folder, fix="give the folder of LRE's JSON files"
        )
    return [replace(by_stem[stem], name=name) for stem, name in PAPER.items()]


# --- rows to relations ------------------------------------------------------------------------------------------------


class _Draft:
    """A relation while its rows arrive. With a limit, a heap per language keeps the first in the seeded order."""

    def __init__(self, name: str, limit: int | None, seed: int, merge: bool) -> None:
        self.name, self.limit, self.seed, self.merge = name, limit, seed, merge
        self.templates: dict[str, dict[str, None]] = {}  # language -> ordered set
        self.about: dict[str, str] = {}
        self.facts: dict[tuple[object, ...], Fact] = {}  # insertion order is row order
        self.heaps: dict[str, list[tuple[int, str, str]]] = {}  # language -> (-order, key, subject), last kept on top

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
    """Relations from an importer's rows, in the order in which their names first appear; arguments as in ``load``."""
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
                "facts without a template", where=row.where, fix="add a 'template' column or pass one ('... {} ...')"
            )
        draft.templates.setdefault(tongue, {}).update(dict.fromkeys(texts))
        draft.about.update(row.about)
        answer = names.setdefault(row.object, row.object)
        draft.add(Fact(row.key or _key(row.subject), row.subject, answer, row.aliases, tongue))
    return [draft.done() for draft in drafts.values()]


def _key(subject: str) -> str:
    """A subject's key where none is given: spellings that differ in case or blanks must not be told apart by a split."""
    return " ".join(plain(subject).split())


# --- bundled files ----------------------------------------------------------------------------------------------------


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


# --- who goes where ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Keys by role, each in the seeded order; ``leaking`` counts facts left out per language."""

    examples: tuple[str, ...]
    test: tuple[str, ...]
    identify: tuple[str, ...]
    usable: dict[tuple[str, str], tuple[Fact, ...]]  # (language, key) -> facts
    leaking: dict[str, int]


def split(relation: Relation, *, shots: int = 0, test_size: int = 50, seed: int = 0, keep_leaks: bool = False) -> Split:
    """Deal a relation's keys to test, examples and identify, once for all languages.

    Keys that exist in more languages come first, then the hash decides. Test takes keys until every language has
    ``test_size`` facts, or a third of what it has; examples take the next until every language has ``shots``.
    """
    usable: dict[tuple[str, str], list[Fact]] = {}
    leaking: dict[str, int] = {}
    for fact in relation.facts:
        texts = relation.templates.get(fact.language, ())
        if not texts:
            continue
        filled = " \n ".join(text.replace("{}", fact.subject) for text in texts)
        if not keep_leaks and not relation.leaks and leaks(fact.answers, filled, fact.language):
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
    wanted = {name: min(test_size, max(n // 3, 1)) if n > 1 and answerable else 0 for name, n in totals.items()}
    test = _deal(keys, counts, wanted)
    rest = [key for key in keys if key not in test]
    examples = _deal(rest, counts, dict.fromkeys(totals, shots))
    identify = tuple(key for key in rest if key not in examples)
    frozen = {where: tuple(told) for where, told in usable.items()}
    return Split(tuple(examples), tuple(test), identify, frozen, leaking)


def _deal(keys: Sequence[str], counts: dict[str, dict[str, int]], wanted: dict[str, int]) -> dict[str, None]:
    """The first keys that fill what every language wants; a key whose facts would overshoot its need is passed over."""
    need, dealt = dict(wanted), dict[str, None]()
    for key in keys:
        if any(0 < number <= need[language] for language, number in counts[key].items()):
            dealt[key] = None
            for language, number in counts[key].items():
                need[language] -= number
    return dealt

"""Where relations come from: ``load("starter")``, ``load("country_capital")``, ``load("lre/")``.

Bundled relations are data files beside this module, JSON with one fact a line, built by
``tools/build_relations.py``. Any other file or folder is read row by row by `importers`, and `assembly` turns
rows into relations. Nothing heavy is imported here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from relact.errors import InputError
from relact.relations import importers
from relact.relations.assembly import assemble
from relact.relations.columns import Naming
from relact.relations.facts import Relation
from relact.relations.options import ReadingOptions
from relact.relations.row import slotted

NAMED = 8  # labels that an error lists
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
    label_column: str | None = ReadingOptions.label_column,
    template: str | None = ReadingOptions.template,
    language: str = ReadingOptions.language,
    limit: int | None = ReadingOptions.limit,
    seed: int = ReadingOptions.seed,
    duplicates: str = ReadingOptions.duplicates,
    skip_bad: bool = ReadingOptions.skip_bad,
    subject_column: str | None = ReadingOptions.subject_column,
    object_column: str | None = ReadingOptions.object_column,
    text_column: str | None = ReadingOptions.text_column,
    template_column: str | None = ReadingOptions.template_column,
    group_column: str | None = ReadingOptions.group_column,
    label_names: Mapping[str, str] | None = ReadingOptions.label_names,
    own_negatives: bool = ReadingOptions.own_negatives,
    skipped: list[str] | None = None,
    chosen: list[str] | None = None,
) -> list[Relation]:
    """Relations from a bundled name, ``starter``, ``all``, or a file or folder that `importers` reads.

    Args:
        label_column: the column of a table that names the relation; well-known names by default
            (`columns.NAMES`), as for the other columns.
        template: for tables of facts without a ``template`` column, such as ``"The capital of {} is"``. Of
            ready texts it asks for the label: ``"{} This review is"``.
        language: what rows that don't name a language are in.
        limit: keep only so many facts per relation and language, the first in the seeded order; memory stays
            bounded however long the file is, and the facts kept are those a prompt table would take first.
        duplicates: ``merge`` makes further answers of one subject aliases of the first; ``keep`` keeps every
            row.
        skip_bad: pass over rows that cannot be used; a line about each is appended to ``skipped``.
        subject_column, object_column: of a table of facts. text_column: of ready prompts. template_column:
            of each row's own template.
        group_column: relations are called ``group=label``: labels of one group, which scores can be kept
            within. label_names: labels as they stand in a table -> as they shall be called.
        own_negatives: a concept data set becomes ``concept=positive`` and ``concept=negative``, instead of
            all negative sentences together.
        chosen: a line about the columns of every table is appended.

    Raises:
        InputError: no such relation or file, or a row that cannot be used (file and line are named).
    """
    options = ReadingOptions(
        label_column,
        template,
        language,
        limit,
        seed,
        duplicates,
        skip_bad,
        subject_column,
        object_column,
        text_column,
        template_column,
        group_column,
        label_names,
        own_negatives,
    )
    met: set[str] = set()
    relations = _load(source, options, skipped, chosen, met)
    _require_met(options, met)
    return relations


def load_all(
    sources: Iterable[str | Path | Relation],
    options: ReadingOptions | None = None,
    *,
    skipped: list[str] | None = None,
    chosen: list[str] | None = None,
) -> list[Relation]:
    """The relations of several sources, each name once; relations as such are taken over.

    Args:
        options, skipped, chosen: as `load` takes them.

    Raises:
        InputError: two sources say different things of one relation; columns are named, and no source is a
            table; what `load` refuses.
    """
    options = options or ReadingOptions()
    chosen = [] if chosen is None else chosen
    before, met = len(chosen), set[str]()
    relations: dict[str, Relation] = {}
    for source in sources:
        loaded = [source] if isinstance(source, Relation) else _load(source, options, skipped, chosen, met)
        for relation in loaded:
            if relations.setdefault(relation.name, relation) != relation:
                where = source.name if isinstance(source, Relation) else source
                raise InputError(
                    f"relation {relation.name!r} comes from two sources",
                    where=where,
                    fix="rename one of them",
                )
    found = list(relations.values())
    _require_used(found, options, tables=len(chosen) > before)
    _require_met(options, met)
    return found


def _require_used(relations: Sequence[Relation], options: ReadingOptions, *, tables: bool) -> None:
    """Refuse what is said of sources and is true of none of them.

    Raises:
        InputError: columns or names of labels without a table, a template that no relation is asked with.
    """
    leave = "leave the option out, or give a table"
    if options.columns and not tables:
        column = next(iter(options.columns.values()))
        problem = f"none of them is a table, so there is no column {column!r}"
        raise InputError(problem, where="sources", fix=leave)
    if options.label_names and not tables:
        raise InputError("none of them is a table, so no label has another name", where="sources", fix=leave)
    if options.template is None:
        return
    given = slotted(options.template)
    used = {text for relation in relations for texts in relation.templates.values() for text in texts}
    if given not in used:
        problem = f"no prompt is made with the template {options.template!r}: they have their own"
        raise InputError(problem, where="--template", fix="leave it out, or give facts or texts without one")


def _require_met(options: ReadingOptions, met: Collection[str]) -> None:
    """Refuse another name for a label that no row has: a misspelt one would keep its old name unsaid.

    Raises:
        InputError: such a label.
    """
    for label in options.label_names or {}:
        if label not in met:
            there = sorted(met)
            more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
            fix = f"labels are {', '.join(there[:NAMED])}{more}" if there else "leave the option out"
            raise InputError(f"no row has the label {label!r}", where="--label-names", fix=fix)


def load_paper(folder: str | Path) -> list[Relation]:
    """The published method's twelve relations under its names, from a folder of LRE JSON; keeps every row."""
    by_stem = {relation.name: relation for relation in load(folder, duplicates="keep")}
    missing = [stem for stem in PAPER if stem not in by_stem]
    if missing:
        raise InputError(
            f"the paper's relations need {missing[0]}.json",
            where=folder,
            fix="give the folder of LRE's JSON files",
        )
    return [replace(by_stem[stem], name=name) for stem, name in PAPER.items()]


def read_relation(path: Path) -> Relation:
    """The relation in one file of the bundled form.

    Raises:
        InputError: with the file and what is wrong in it.
    """
    relations = assemble(importers.rows(path))
    if not relations:
        raise InputError("holds no facts", where=path, fix="add facts, one a line")
    return relations[0]


def _load(
    source: str | Path,
    options: ReadingOptions,
    skipped: list[str] | None,
    chosen: list[str] | None,
    met: set[str],
) -> list[Relation]:
    name = str(source)
    if name == "starter":
        return [_read_bundled(relation) for relation in STARTER]
    if name == "all":
        return [_read_bundled(relation) for relation in bundled()]
    if name in bundled():
        return [_read_bundled(name)]
    path = Path(source)
    if not path.exists():
        raise _unknown(name)
    naming = Naming(
        options.columns,
        [] if chosen is None else chosen,
        None if options.template is None else slotted(options.template),
        options.label_names or {},
        options.own_negatives,
        met,
    )
    rows = importers.rows(path, naming=naming, skip_bad=options.skip_bad, skipped=skipped)
    relations = assemble(rows, options)
    if not relations:
        raise InputError(
            "holds no facts and no prompts", where=path, fix="give a file with at least two rows"
        )
    return relations


def _read_bundled(name: str) -> Relation:
    return read_relation(HERE / f"{name}.json")


def _unknown(name: str) -> InputError:
    known = ("starter", "all", *bundled())
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    problem = f"neither a bundled relation nor a file: {name!r}"
    return InputError(problem, where="source", fix=f"{hint}`relact prompts --list` names them")

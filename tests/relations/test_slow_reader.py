"""Generated tables, written as others write them, against a reader that knows the rows: no row differs."""

from __future__ import annotations

import csv
import gzip
import json
import random
import tempfile
from pathlib import Path

import pandas
import pytest
from helpers import deep, disk
from helpers.facts import leaked
from hypothesis import given, settings
from hypothesis import strategies as st

from relact.errors import InputError
from relact.relations import prompts, sources
from relact.relations.identity import same

NAMES = ("subject", "object", "relation", "language", "template")
LETTERS = "Aab é\u0301ß\"'|,;\t\n\r日\u00a0\u200b{0}[X]#\\/"
SUBJECTS = ["Avala", "AVALA", " avala", "Avala\u00a0", "Borun", "Cidra"]
OBJECTS, RELATIONS, LANGUAGES = ["Nirel", "Kesta"], ["town", "river"], ["en", "de"]
TEMPLATES = ["{} has", "{} has", "The {} of"]
SUFFIXES = (
    ".csv",
    ".tsv",
    ".semicolon.csv",
    ".jsonl",
    ".columns.json",
    ".split.json",
    ".records.json",
    ".parquet",
)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]
QUOTING = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL]


def is_word(text):
    return bool(same(text).strip() and text.strip())


def is_answer(text):
    """Not a list or a record."""
    return is_word(text) and text.strip()[0] not in "[{"


WORDS = st.text(LETTERS, min_size=1, max_size=9)
ROWS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(SUBJECTS), WORDS.filter(is_word)),
        st.one_of(st.sampled_from(OBJECTS), WORDS.filter(is_answer)),
        st.sampled_from(RELATIONS),
        st.sampled_from(LANGUAGES),
        st.sampled_from(TEMPLATES),
    ),
    min_size=1,
    max_size=30,
)


def slowly(rows):
    """(relation, language, subject, template) -> answers, in the order of the rows."""
    told: dict[tuple[str, ...], list[str]] = {}
    for subject, answer, relation, language, template in rows:
        answers = told.setdefault((relation, language, subject.strip(), template), [])
        if answer.strip() not in answers:
            answers.append(answer.strip())
    return told


def read(relations):
    """The same of relations that were read; templates of all facts alike belong to the relation."""
    return {
        (relation.name, fact.language, fact.subject, template): list(fact.answers)
        for relation in relations
        for fact in relation.facts
        for template in relation.templates_of(fact)
    }


def write(rows, path, encoding, quoting):
    """A table as a file, by the csv module, pandas or json."""
    frame = pandas.DataFrame(rows, columns=list(NAMES))
    kind = path.suffixes[0] + (path.suffix if len(path.suffixes) > 1 else "")
    if kind == ".parquet":
        frame.to_parquet(path)
    elif kind == ".jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in frame.to_dict("records"))
        path.write_bytes(lines.encode(encoding))
    elif kind.endswith(".json"):
        text = frame.to_json(orient=kind.split(".")[1], force_ascii=False)
        path.write_bytes(text.encode(encoding))
    else:
        delimiter = {".tsv": "\t", ".semicolon.csv": ";"}.get(kind, ",")
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
            writer.writerows([NAMES, *rows])


def compare(rows, suffix, encoding, quoting, compressed):
    """Write, read, compare, and deal: no difference, no leak, no other error than a line."""
    with tempfile.TemporaryDirectory(dir=disk.place()) as folder:
        path = Path(folder) / f"t{suffix}"
        write(rows, path, encoding, quoting)
        if compressed and suffix != ".parquet":
            path = path.rename(path.with_name(path.name + ".gz"))
            path.write_bytes(gzip.compress(path.read_bytes()))
        relations = sources.load_all([path])
    assert read(relations) == slowly(rows)
    for relation in relations:
        for language in relation.languages:
            try:
                frame = prompts.prompts([relation], language=language, templates="all", test_size=4)
            except InputError as error:
                assert "\n" not in str(error)
            else:
                assert not leaked(frame, relation)


@settings(deadline=None, max_examples=150)
@given(
    ROWS,
    st.sampled_from(SUFFIXES),
    st.sampled_from(ENCODINGS),
    st.sampled_from(QUOTING),
    st.booleans(),
)
def test_a_table_is_read_as_a_slow_reader_does(rows, suffix, encoding, quoting, compressed):
    compare(rows, suffix, encoding, quoting, compressed)


def drawn(generator):
    """A table as Hypothesis draws it, which takes as long for that as reading does."""

    def word(allowed):
        while True:
            text = "".join(generator.choices(LETTERS, k=generator.randint(1, 9)))
            if allowed(text):
                return text

    def one_of(some, allowed):
        return generator.choice(some) if generator.random() < 0.5 else word(allowed)

    rows = [
        (
            one_of(SUBJECTS, is_word),
            one_of(OBJECTS, is_answer),
            *map(generator.choice, (RELATIONS, LANGUAGES, TEMPLATES)),
        )
        for _ in range(generator.choice((1, 2, 3, 5, 8, 30)))
    ]
    return rows, *map(generator.choice, (SUFFIXES, ENCODINGS, QUOTING, (False, True)))


@deep.only
@pytest.mark.parametrize("seed", range(10))
def test_fifty_thousand_tables_are_read_as_a_slow_reader_does(seed):
    generator = random.Random(seed)
    for _ in range(5_000):
        table = drawn(generator)
        try:
            compare(*table)
        except Exception as error:
            error.add_note(repr(table))
            raise

"""Generated tables, written as others write them, against a reader that knows the rows: no row differs."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from pathlib import Path

import pandas
import pytest
from helpers.facts import leaked
from hypothesis import given, settings
from hypothesis import strategies as st

from relact.errors import InputError
from relact.relations import prompts, sources
from relact.relations.identity import same

NAMES = ("subject", "object", "relation", "language", "template")
LETTERS = "Aab é\u0301ß\"'|,;\t\n\r日\u00a0\u200b{0}[X]#\\/"
WORDS = st.text(LETTERS, min_size=1, max_size=9).filter(lambda text: same(text).strip() and text.strip())
ANSWERS = WORDS.filter(lambda text: text.strip()[0] not in "[{")  # those are lists and records
ROWS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["Avala", "AVALA", " avala", "Avala\u00a0", "Borun", "Cidra"]), WORDS),
        st.one_of(st.sampled_from(["Nirel", "Kesta"]), ANSWERS),
        st.sampled_from(["town", "river"]),
        st.sampled_from(["en", "de"]),
        st.sampled_from(["{} has", "{} has", "The {} of"]),
    ),
    min_size=1,
    max_size=30,
)
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
    with tempfile.TemporaryDirectory() as folder:
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


TABLES = (
    ROWS,
    st.sampled_from(SUFFIXES),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)


@settings(deadline=None, max_examples=150)
@given(*TABLES)
def test_a_table_is_read_as_a_slow_reader_does(rows, suffix, encoding, quoting, compressed):
    compare(rows, suffix, encoding, quoting, compressed)


@pytest.mark.slow
@settings(deadline=None, max_examples=50_000)
@given(*TABLES)
def test_fifty_thousand_tables_are_read_as_a_slow_reader_does(rows, suffix, encoding, quoting, compressed):
    compare(rows, suffix, encoding, quoting, compressed)

"""One subject, however it is written: never in two roles, whatever the data arrives as."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path

import pandas
import pytest
from helpers.facts import leaked
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relact.errors import InputError
from relact.relations import prompts, sources
from relact.relations.facts import Fact, Relation
from relact.relations.identity import same, united
from relact.relations.options import ReadingOptions

LANGUAGES = ("en", "de", "zh")
TEMPLATES = ("The town of {} is", "{} has the town")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Avala", "AVALA"),
        ("Avala", " avala\t"),
        ("New Borun", "New\u00a0 Borun"),
        ("Éskar", unicodedata.normalize("NFD", "éskar")),
        ("Straße", "STRASSE"),
        ("ﬁnnu", "Finnu"),
        ("Kal\u00addi", "Kaldi"),
        ("\u200bKaldi", "Kaldi\ufeff"),
        ("İzka", unicodedata.normalize("NFD", "İzka")),
    ],
)
def test_spellings_of_one_subject_are_the_same(one, other):
    assert same(one) == same(other)


@pytest.mark.parametrize(
    ("one", "other"), [("Avala", "Aval"), ("New Borun", "Newborun"), ("\u00ad", "\u200b")]
)
def test_other_subjects_are_not(one, other):
    assert same(one) != same(other)


def test_keys_of_one_subject_become_the_first_one():
    """By subject, in whatever language, by a key that is shared, by a prompt that reads the same."""
    facts = (
        Fact("1", "Avala", "x"),
        Fact("2", "AVALA", "y", (), "de"),
        Fact("2", "Other", "z"),
        Fact("3", "town of Borun", "x", templates=("The {}",)),
        Fact("4", "Borun", "y", templates=("The town of {}",)),
        Fact("5", "Cidra", "z"),
    )
    made = united(Relation("r", {"en": ("{} is",), "de": ("{} ist",)}, facts))
    assert [fact.key for fact in made.facts] == ["1", "1", "1", "3", "3", "5"]
    assert [fact.subject for fact in made.facts] == [fact.subject for fact in facts]
    assert united(made) is made


def spellings(name):
    """Ways to write a subject."""
    return [name, name.upper(), f" {name} ", unicodedata.normalize("NFD", name), name.replace(" ", "\u00a0 ")]


@st.composite
def told(draw):
    """Rows of a table: several spellings, answers, languages and templates of a subject."""
    names = [f"Éska {letter}or" for letter in "bcdfghjklmnpqrstvw"]
    rows = []
    for at, name in enumerate(names):
        for _ in range(draw(st.integers(1, 3))):
            rows.append(
                {
                    "subject": draw(st.sampled_from(spellings(name))),
                    "object": f"Nirel{draw(st.sampled_from([at, 0]))}",
                    "language": draw(st.sampled_from(LANGUAGES)),
                    "template": draw(st.sampled_from(TEMPLATES)),
                }
            )
    return draw(st.permutations(rows))


def written(rows, kind, folder):
    """The rows in a file of some kind, as its writers have it."""
    path = Path(folder) / f"r{kind}"
    if kind == ".lre.json":
        path = Path(folder) / "r.json"
        samples = [{"subject": row["subject"], "object": row["object"]} for row in rows]
        path.write_text(json.dumps({"prompt_templates": TEMPLATES, "samples": samples}))
    elif kind == ".parquet":
        pandas.DataFrame(rows).to_parquet(path)
    elif kind == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    elif kind == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@settings(deadline=None, max_examples=60)
@given(
    told(),
    st.sampled_from([".csv", ".jsonl", ".parquet", ".json", ".lre.json"]),
    st.sampled_from(LANGUAGES),
    st.sampled_from(["first", "all"]),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([None, 14]),
)
def test_no_subject_and_no_prompt_is_in_two_roles(rows, kind, language, templates, shots, own_keys, limit):
    """Through any reader, in any language, with any templates and number of examples."""
    rows = [{**row, "key": str(at)} if own_keys else row for at, row in enumerate(rows)]
    if kind == ".lre.json":
        language = "en"
    with tempfile.TemporaryDirectory() as folder:
        path = written(rows, kind, folder)
        (relation,) = sources.load_all([path], ReadingOptions(limit=limit))
    try:
        frame = prompts.prompts([relation], language=language, templates=templates, shots=shots, test_size=6)
    except InputError:
        assume(False)  # too few to be dealt
    assert not leaked(frame, relation)

"""Other people's files: what is read, what is refused, and that every refusal names file and line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from helpers import deep

from relact.errors import InputError
from relact.relations import prompts, sources, table

FACTS = [("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome")]


def save_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def lre(path, samples=FACTS, templates=("The capital of {} is",), **more):
    pairs = [{"subject": subject, "object": answer} for subject, answer in samples]
    return save_json(path, {"name": "a name", "prompt_templates": list(templates), "samples": pairs, **more})


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        sources.load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- LRE


def test_an_lre_file_and_a_folder_of_them(tmp_path):
    zero_shot = ["Which is the capital of {}? It is", "The capital of {} is"]
    lre(tmp_path / "factual" / "capital.json", prompt_templates_zs=zero_shot, properties={"symmetric": False})
    lre(tmp_path / "other.json", [("a", "b")])
    capital, other = sources.load(tmp_path)
    assert (capital.name, other.name) == ("capital", "other")
    assert capital.templates == {"en": ("The capital of {} is", zero_shot[0])}
    assert [(fact.subject, fact.object) for fact in capital.facts] == FACTS
    assert "LRE" in capital.source and capital.licence == "MIT"
    assert sources.load(tmp_path / "other.json") == [other]


def test_letters_that_lre_escaped_twice_are_letters(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(
        '{"prompt_templates": ["{} is"], "samples": [{"subject": "Brazil", "object": "Bras\\\\u00edlia"}]}'
    )
    assert sources.load(path)[0].facts[0].object == "Brasília"


def test_a_broken_sample_is_named_or_skipped(tmp_path):
    samples = [{"subject": "a", "object": "b"}, {"subject": "c"}, {"subject": "d", "object": ""}, "e", None]
    path = save_json(tmp_path / "r.json", {"prompt_templates": ["{} is"], "samples": samples})
    assert f"{path}: sample 2: " in refused(path)
    skipped: list[str] = []
    (relation,) = sources.load(path, skip_bad=True, skipped=skipped)
    assert len(relation.facts) == 1 and len(skipped) == 4
    assert all(f"{path}: sample {at}" in line for at, line in zip((2, 3, 4, 5), skipped, strict=True))


def test_a_template_without_its_slot_is_refused(tmp_path):
    assert "no single {}" in refused(lre(tmp_path / "r.json", templates=["The capital is"]))


def test_a_foreign_json_in_the_folder_is_named_or_skipped(tmp_path):
    lre(tmp_path / "good.json")
    save_json(tmp_path / "notes.json", {"author": "me"})
    (tmp_path / "torn.json").write_text('{"samples": [')
    assert "notes.json" in refused(tmp_path)
    skipped: list[str] = []
    assert [one.name for one in sources.load(tmp_path, skip_bad=True, skipped=skipped)] == ["good"]
    assert len(skipped) == 2


def test_a_folder_without_json_says_what_to_give(tmp_path):
    assert "holds no .json" in refused(tmp_path)


# --- concept data sets


def concept(path, name, positive, negative, group="g"):
    sentences = {"positive": positive, "negative": negative}
    return save_json(path, {"concept": name, "group": group, "sentences": sentences, "source": "ignored"})


def test_a_concept_file_gives_its_positives_and_the_negatives(tmp_path):
    path = concept(tmp_path / "de.json", "german", ["Guten Tag", "Wie geht es"], ["Hello", "Hello", "Salut"])
    german, negative = sources.load(path)
    assert (german.name, negative.name) == ("german", "negative")
    assert [fact.subject for fact in german.facts] == ["Guten Tag", "Wie geht es"]
    assert [fact.subject for fact in negative.facts] == ["Hello", "Salut"]
    frame = prompts.prompts([german, negative])
    assert list(frame["text"]) and set(frame["split"]) == {"identify"}


@pytest.mark.parametrize("below", ["", "json"])
def test_a_concept_list_names_the_files(tmp_path, below):
    concept(tmp_path / below / "lang" / "de.json", "de", ["Tag"], ["Hello", "Salut"], "lang")
    concept(tmp_path / below / "lang" / "fr.json", "fr", ["Salut"], ["Hello", "Tag"], "lang")
    concept(tmp_path / below / "lang" / "unlisted.json", "xx", ["nope"], [], "lang")
    (tmp_path / "concept_list.csv").write_text("group,concept\r\nlang,de\r\nlang,fr\r\n")
    by_name = {one.name: {fact.subject for fact in one.facts} for one in sources.load(tmp_path)}
    assert by_name == {"de": {"Tag"}, "fr": {"Salut"}, "negative": {"Hello"}}
    assert sources.load(tmp_path / "concept_list.csv") == sources.load(tmp_path)
    (tmp_path / "concept_list.csv").write_text("group,concept\nlang,de\nlang,es\n")
    assert f"{tmp_path / 'concept_list.csv'}:3: no file lang/es.json" in refused(tmp_path)


def test_one_concept_in_two_groups_gets_two_names(tmp_path):
    concept(tmp_path / "a" / "bank.json", "bank", ["a river bank"], [], "a")
    concept(tmp_path / "b" / "bank.json", "bank", ["a savings bank"], [], "b")
    assert [one.name for one in sources.load(tmp_path)] == ["a/bank", "b/bank"]


def test_a_sentence_that_is_no_text_is_named(tmp_path):
    path = concept(tmp_path / "c.json", "c", ["good", 7], ["fine"])
    assert "positive sentence 2: 7 is not a text" in refused(path)


# --- tables


def write_table(path, records):
    if path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8"
        )
    elif path.suffix == ".parquet":
        pandas.DataFrame(records).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(records)
    return path


KINDS = [".jsonl", ".csv", ".tsv", ".parquet", ".json"]


@pytest.mark.parametrize("suffix", KINDS)
def test_facts_in_a_table(tmp_path, suffix):
    records = [
        {
            "relation": "capital",
            "subject": "Japan",
            "object": "東京",
            "aliases": "Tokyo|Tōkyō",
            "template": "{} —",
        },
        {"relation": "capital", "subject": "France", "object": "Paris", "aliases": "", "template": "{} —"},
        {
            "relation": "river",
            "subject": 'Paris, "on"\nwhat',
            "object": "Seine",
            "aliases": "",
            "template": "{} lies on",
        },
    ]
    capital, river = sources.load(write_table(tmp_path / f"t{suffix}", records))
    assert [fact.answers for fact in capital.facts] == [("東京", "Tokyo", "Tōkyō"), ("Paris",)]
    assert capital.templates == {"en": ("{} —",)}
    assert river.facts[0].subject == 'Paris, "on"\nwhat'


@pytest.mark.parametrize("suffix", KINDS)
def test_ready_prompts_with_any_label(tmp_path, suffix):
    records = [{"prompt": f"text {at}", "Toxicity": at % 2, "language": "de"} for at in range(6)]
    path = write_table(tmp_path / f"t{suffix}", records)
    clean, toxic = sources.load(path, label_column="Toxicity")
    assert (clean.name, toxic.name) == ("Toxicity=0", "Toxicity=1")
    assert clean.languages == ("de",) and clean.templates == {"de": ("{}",)}
    (one,) = sources.load(path)
    assert one.name == "t" and len(one.facts) == 6
    message = refused(path, label_column="toxicity")
    assert "no column 'toxicity'" in message and "Toxicity" in message


def test_a_prompt_table_can_be_a_source_again(tmp_path):
    first = prompts.prompts(sources.load("country_capital"), shots=2)
    path = table.write(first, tmp_path / "p.parquet")
    (relation,) = sources.load(path)
    assert relation.name == "country_capital"
    assert set(prompts.prompts([relation], shots=2)["template"]) == set(first["template"])


def test_answers_as_lists_and_extra_columns(tmp_path):
    record = {
        "id": 7,
        "relation": "r",
        "subject": "a",
        "object": ["x", "y"],
        "template": "{} is",
        "note": {"deep": 1},
    }
    assert sources.load(write_table(tmp_path / "t.jsonl", [record]))[0].facts[0].answers == ("x", "y")


def test_a_byte_order_mark_crlf_and_other_delimiters(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffsubject;object\r\nFrance;Paris\r\n\r\nÉgypte;Le Caire\r\n".encode())
    (relation,) = sources.load(path, template="{} :", language="fr")
    assert [(fact.subject, fact.object) for fact in relation.facts] == [
        ("France", "Paris"),
        ("Égypte", "Le Caire"),
    ]
    lines = tmp_path / "t.jsonl"
    lines.write_bytes('\ufeff{"text": "one"}\r\n\r\n{"text": "two"}\r\n'.encode())
    assert [fact.subject for fact in sources.load(lines)[0].facts] == ["one", "two"]


def test_duplicate_subjects_become_aliases(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("subject,object\nAnn,guitar\nAnn,piano\nAnn,guitar\n")
    assert [fact.answers for fact in sources.load(path, template="{} plays")[0].facts] == [
        ("guitar", "piano")
    ]


@pytest.mark.parametrize(
    ("name", "content", "where", "problem"),
    [
        ("t.csv", "subject,object\na,b\nc\nd,e\n", ":3: ", "column 'object' has no text"),
        ("t.csv", "subject,object\na,b\nc,d,e\nf,g\n", ":3: ", "more cells than the header"),
        ("t.csv", "subject,object\na,b\n ,d\ne,f\n", ":3: ", "column 'subject' has no text"),
        ("t.csv", "subject,object\né,b\ncaf".encode() + b"\xe9,d\ne,f\n", ":3: ", "is not UTF-8"),
        (
            "t.jsonl",
            '{"subject": "a", "object": "b"}\n{"subject": \n{"subject": "c", "object": "d"}\n',
            ":2: ",
            "not a record",
        ),
        (
            "t.jsonl",
            '{"subject": "a", "object": "b"}\n[1]\n{"subject": "c", "object": "d"}\n',
            ":2: ",
            "not a record",
        ),
        (
            "t.jsonl",
            '{"subject": "a", "object": "b"}\n{"subject": 3, "object": "d"}\n',
            ":2: ",
            "column 'subject'",
        ),
        ("t.jsonl", '{"subject": "a", "object": "b"}\n{"object": "d"}\n', ":2: ", "column 'subject'"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n', ":2: ", "column 'label'"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line_or_skipped(tmp_path, name, content, where, problem):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(path, template="{} is")
    assert message.startswith(f"{path}{where}") and problem in message
    skipped: list[str] = []
    (relation,) = sources.load(path, template="{} is", skip_bad=True, skipped=skipped)
    assert skipped == [message]
    assert relation.facts


def test_a_template_in_a_table_needs_its_slot(tmp_path):
    records = [
        {"subject": "a", "object": "b", "template": "x {}"},
        {"subject": "c", "object": "d", "template": "x"},
    ]
    assert ": row 2: template 'x'" in refused(write_table(tmp_path / "t.parquet", records))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.json", "t.tsv"])
def test_an_empty_file_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert str(tmp_path / name) in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", "subject,object\n", "holds no facts"),
        ("t.jsonl", "\n\n", "holds no facts"),
        ("t.csv", "a,b\n1,2\n", "neither facts nor prompts among the columns a, b"),
        ("t.parquet", "nonsense", "not readable as Parquet"),
        ("t.json", "[]", "holds no facts"),
        ("t.json", "{", "not readable as JSON"),
        ("t.xlsx", "x", "unknown kind of file '.xlsx'"),
    ],
)
def test_a_file_with_nothing_in_it_is_one_line(tmp_path, name, content, problem):
    (tmp_path / name).write_text(content)
    message = refused(tmp_path / name)
    assert problem in message and message.startswith(str(tmp_path / name))


@pytest.mark.slow
@pytest.mark.parametrize("rows", deep.more(200_000, 1_000_000))
def test_many_rows_of_parquet_stream_in_bounded_memory(tmp_path, rows):
    path, chunk = tmp_path / "big.parquet", 50_000
    schema = pyarrow.schema(
        [("text", pyarrow.string()), ("toxic", pyarrow.bool_()), ("junk", pyarrow.string())]
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, chunk):
            number = np.arange(start, start + chunk)
            texts = np.char.add(np.char.add("sentence ", number.astype(str)), " of a corpus")
            columns = [texts, number % 4 == 0, pyarrow.repeat("x" * 1000, chunk)]
            writer.write_table(pyarrow.table(columns, schema=schema))
    code = f"""
import pyarrow.parquet
from pathlib import Path
from relact.relations import sources
def load(limit):
    return sources.load({str(path)!r}, label_column="toxic", limit=limit)
def most():  # ru_maxrss would be that of the process which started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = most()
found = load(1000)
print((most() - before) // 1024, *(f"{{one.name}}:{{len(one.facts)}}" for one in found))
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    print(
        f"grown by {shown[0]} MiB; the columns read are {rows * 28 >> 20} MiB, "
        f"the whole table {rows * 1030 >> 20} MiB"
    )
    assert int(shown[0]) < 64
    assert sorted(shown[1:]) == ["toxic=False:1000", "toxic=True:1000"]

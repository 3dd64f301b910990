"""Prompt tables as files."""

from __future__ import annotations

import json

import pandas
import pytest
from helpers.facts import relation

from relact.errors import InputError
from relact.relations import prompts, table
from relact.relations.facts import Fact, Relation


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_table_comes_back_as_it_was_written(tmp_path, suffix):
    made = relation(20, languages=("en", "zh"))
    odd = Fact("odd", 'null "quoted", 1e5\r\nline', "007", ("NA", "naïve 日本"), "en")
    frame = prompts.prompts([Relation("r", made.templates, (*made.facts, odd))], shots=2, test_size=5)
    path = table.write(frame, tmp_path / "deep" / f"p{suffix}")
    back = table.read(path)
    assert list(back.columns) == list(table.COLUMNS)
    pandas.testing.assert_frame_equal(back, frame)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": None}, "column 'relation' is missing"),
        ({"text": ["a", " ", "c"]}, "row 2, column 'text': ' '"),
        ({"split": ["identify", "test", "train"]}, "row 3, column 'split': 'train'"),
        ({"shots": [0, "many", 0]}, "row 2, column 'shots': 'many'"),
        ({"answers": [["x"], "Paris", ["y"]]}, "row 2, column 'answers'"),
        ({"answers": [["x"], [1], ["y"]]}, "row 2, column 'answers'"),
        ({"subject": ["a", None, "c"]}, "row 2, column 'subject'"),
        ({"relation": ["r", "intact", "r"]}, "row 2, column 'relation': 'intact'. Choose another name"),
        ({"relation": ["r", "r", "random-7"]}, "row 3, column 'relation': 'random-7'. Choose another name"),
    ],
)
def test_a_wrong_cell_is_named_with_file_row_and_column(tmp_path, change, message):
    rows = {"text": ["a", "b", "c"], "relation": ["r"] * 3, **change}
    path = tmp_path / "p.jsonl"
    columns = {name: values for name, values in rows.items() if values is not None}
    with path.open("w") as file:
        for at in range(3):
            file.write(json.dumps({name: values[at] for name, values in columns.items()}) + "\n")
    with pytest.raises(InputError) as caught:
        table.read(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_texts_and_labels_gets_the_other_columns(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("\ufefftext,relation,object\r\nHello,en,\r\nSalut,fr,x\r\n", encoding="utf-8")
    frame = table.read(path)
    assert frame["answers"].tolist() == [[], ["x"]]
    assert frame["split"].tolist() == ["identify"] * 2 and frame["shots"].tolist() == [0, 0]


@pytest.mark.parametrize("content", [b"", b"\x00not a table"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".xlsx"])
def test_an_unreadable_table_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        table.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    frame = prompts.prompts([relation()])
    for path in (tmp_path / "file" / "p.parquet", tmp_path / "p.xlsx"):
        with pytest.raises(InputError):
            table.write(frame, path)
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    with pytest.raises(InputError, match="no such prompt file"):
        table.read(tmp_path / "none.parquet")


def test_the_preview_shows_prompt_and_answers():
    made = Relation("r", {"en": ("{} is",)}, tuple(Fact(str(at), f"s{at}", "x", ("y",)) for at in range(9)))
    assert "is  ->  x | y" in table.preview(prompts.prompts([made]))


@pytest.mark.parametrize("name", ["Intact", "intact_verbs", "Random", "randomness", "not random-1"])
def test_a_name_that_only_resembles_a_condition_is_kept(name):
    frame = pandas.DataFrame({"text": ["a", "b"], "relation": name})
    assert table.check(frame)["relation"].tolist() == [name, name]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_prompt_table_is_told_from_a_table_of_facts(tmp_path, suffix):
    path = table.write(prompts.prompts([relation()]), tmp_path / f"p{suffix}")
    assert table.recognised(path)
    facts = pandas.DataFrame({"subject": ["a"], "object": ["b"], "template": ["{} is"]})
    other = tmp_path / f"f{suffix}"
    {
        ".parquet": facts.to_parquet,
        ".csv": facts.to_csv,
        ".jsonl": lambda to: facts.to_json(to, orient="records", lines=True),
    }[suffix](other)
    (tmp_path / f"torn{suffix}").write_bytes(b"\xff\x00")
    for no in (other, tmp_path / f"torn{suffix}", tmp_path, tmp_path / "none.csv"):
        assert not table.recognised(no)


def test_half_a_letter_in_a_prompt_table_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    for row in (
        {"text": "half \ud83d", "relation": "r"},
        {"text": "a", "relation": "r", "answers": ["\ud83d"]},
    ):
        path.write_text(json.dumps({"text": "a", "relation": "r", "answers": []}) + "\n" + json.dumps(row))
        with pytest.raises(InputError, match=r"row 2, column '(text|answers)'") as caught:
            table.read(path)
        assert str(caught.value).isascii()

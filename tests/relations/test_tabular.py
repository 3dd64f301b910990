"""Tables as people have them: quotes, encodings, compression, lists in cells, names of columns."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from relact.errors import InputError
from relact.relations import prompts, sources
from relact.relations.cells import texts
from relact.relations.options import ReadingOptions

NAMES = ["Avala", "Borun", "Cidra", "Dolma", "Eskér", "Fannu", "Gelbo", "Hintu"]
TOWNS = [f"Town {name}" for name in NAMES]
FRAME = pandas.DataFrame({"subject": NAMES, "object": TOWNS, "relation": "town", "template": "{} has"})
LINES = FRAME.to_csv(index=False)


def told(path, **options):
    """Subject and answers of every fact of a file with one relation."""
    (relation,) = sources.load(path, **options)
    return [(fact.subject, *fact.answers) for fact in relation.facts]


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        sources.load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


EXPECTED = list(zip(NAMES, TOWNS, strict=True))


# --- encodings, compression, endings


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.txt", "t.jsonl", "t.json"])
def test_an_encoding_is_recognised(tmp_path, encoding, name):
    made = {".jsonl": FRAME.to_json(orient="records", lines=True, force_ascii=False)}
    made[".json"] = FRAME.to_json(orient="records", force_ascii=False)
    path = tmp_path / name
    path.write_bytes(made.get(path.suffix, LINES.replace("\n", "\r\n")).encode(encoding))
    assert told(path) == EXPECTED


def zstd(data):
    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("ending", "compress"),
    [(".gz", gzip.compress), (".zst", zstd), (".bz2", bz2.compress), (".XZ", lzma.compress)],
)
@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".json"])
def test_a_compressed_file_is_read(tmp_path, ending, compress, kind):
    plain = LINES if kind == ".csv" else FRAME.to_json(orient="records", lines=kind == ".jsonl")
    path = tmp_path / f"t{kind}{ending}"
    path.write_bytes(compress(plain.encode()))
    assert told(path) == EXPECTED
    path.write_bytes(compress(plain.encode())[:-9])
    assert refused(path).startswith(f"{path}: not readable")


def test_a_file_of_many_bytes_is_utf8_though_one_is_broken(tmp_path):
    """Read as another encoding, every letter beyond ASCII would be two wrong ones."""
    path = tmp_path / "t.csv"
    path.write_bytes(LINES.encode().replace(b"Hintu", b"Hint\xfc"))
    assert f"{path}:9: is not UTF-8" in refused(path)
    assert [subject for subject, _ in told(path, skip_bad=True)] == NAMES[:-1]


def test_utf16_that_is_torn_is_one_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(LINES.encode("utf-16")[:-1])
    assert "not readable" in refused(path)


def test_a_folder_of_shards_is_read(tmp_path):
    FRAME[:3].to_parquet(tmp_path / "train-00000-of-00002.parquet")
    FRAME[3:5].to_parquet(tmp_path / "train-00001-of-00002.parquet")
    FRAME[5:].to_json(tmp_path / "more.jsonl", orient="records", lines=True)
    (tmp_path / "README.txt").write_text("text of the readme")
    assert sorted(told(tmp_path)) == EXPECTED


# --- CSV


def test_the_nameless_index_of_pandas_is_no_fact(tmp_path):
    FRAME.to_csv(tmp_path / "t.csv")
    assert told(tmp_path / "t.csv") == EXPECTED


@pytest.mark.parametrize(
    "cells",
    [
        ['"an open quote', "plain", '"another'],
        ['he said "no"', '"no" he said', "plain"],
        ['a 5" pipe', 'a 6" pipe', "plain"],
        ['"starts', "middle", 'ends"'],
    ],
)
def test_quotes_that_are_letters_swallow_no_line(tmp_path, cells):
    path = tmp_path / "t.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{cell}\tx\n" for cell in cells))
    assert [subject for subject, *_ in told(path)] == cells


def test_quotes_that_enclose_cells_are_none_of_them(tmp_path):
    texts_ = ["with\ttab", "with\nline", 'with "quotes"', "plain"]
    path = tmp_path / "t.tsv"
    pandas.DataFrame({"text": texts_, "label": "x"}).to_csv(path, sep="\t", index=False)
    assert [subject for subject, *_ in told(path)] == texts_


@pytest.mark.parametrize("line", ['"open,b', '"closed" too early,b'])
def test_a_bad_quote_in_a_csv_is_named(tmp_path, line):
    path = tmp_path / "t.csv"
    path.write_text(f"subject,object\na,b\n{line}\nc,d\n")
    assert refused(path, template="{} is").startswith(f"{path}:3: not a record")


# --- JSON


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
def test_orientations_of_pandas(tmp_path, orient):
    FRAME.to_json(tmp_path / "t.json", orient=orient)
    assert told(tmp_path / "t.json") == EXPECTED


def test_other_shapes_of_json(tmp_path):
    path = tmp_path / "t.json"
    for shape in ({"version": 1, "data": FRAME.to_dict("records")}, FRAME.to_dict("list")):
        path.write_text(json.dumps(shape))
        assert told(path) == EXPECTED
    path.write_text(json.dumps(FRAME.values.tolist()))
    assert "entry 1: not a record" in refused(path)


def test_half_a_letter_is_named_and_the_rest_is_read(tmp_path):
    samples = [{"subject": name, "object": town} for name, town in EXPECTED]
    samples[2]["object"] = "Town \ud83d"
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"prompt_templates": ["{} has"], "samples": samples}))
    assert refused(path).startswith(f"{path}: sample 3: half a letter")
    assert len(told(path, skip_bad=True)) == len(NAMES) - 1
    lines = tmp_path / "t.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("fine", "half \udc00", "good")))
    assert refused(lines).startswith(f"{lines}:2: half a letter")


# --- cells


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['Nirel', \"Nir'el\"]", ["Nirel", "Nir'el"]),
        ('["Nirel", "Kesta"]', ["Nirel", "Kesta"]),
        ("['Nirel' 'New Kesta']", ["Nirel", "New Kesta"]),
        ("['Nirel'\n 'Kesta']", ["Nirel", "Kesta"]),
        ("array(['Nirel', 'Kesta'], dtype=object)", ["Nirel", "Kesta"]),
        ([["Nirel", "Nirelia"], ["Kesta"], None], ["Nirel", "Nirelia", "Kesta"]),
        ({"text": np.array(["Nirel", "Nirel"]), "answer_start": np.array([3])}, ["Nirel"]),
        ("{'text': ['Nirel'], 'answer_start': [3]}", ["Nirel"]),
        ({"str": "Nirel", "id": "Q7"}, ["Nirel"]),
        ({"value": "Nirel", "aliases": ["Kesta"], "type": "town"}, ["Nirel", "Kesta"]),
        (float("nan"), []),
        (None, []),
        ([], []),
        ("[]", []),
        (1969.0, ["1969"]),
        (12, ["12"]),
        ("[MASK]", ["[MASK]"]),
        ("[1]", ["[1]"]),
        ("[x, y]", ["[x, y]"]),
        ("{}", ["{}"]),
    ],
)
def test_what_a_cell_says(cell, expected):
    assert texts(cell) == expected


@pytest.mark.parametrize(
    "cell",
    [
        "{'id': 7}",
        {"id": 7},
        "<thing.Object at 0x7f00>",
        b"Nirel",
        "{'text': array(['a'], dtype=object), 'n': 1}",
    ],
)
def test_what_is_nobodys_text_is_refused(tmp_path, cell):
    with pytest.raises(ValueError, match=r"is no text|the text of an object"):
        texts(cell)
    path = tmp_path / "t.parquet"
    FRAME.assign(object=[cell] * len(FRAME)).to_parquet(path)
    assert refused(path).startswith(f"{path}: row 1: ")


def test_an_answer_that_is_not_there_is_no_nan(tmp_path):
    path = tmp_path / "t.parquet"
    FRAME.assign(object=[1969.0, float("nan"), *[7.0] * 6]).to_parquet(path)
    assert "row 2: column 'object' has no text" in refused(path)
    assert told(path, skip_bad=True)[0] == ("Avala", "1969")
    labels = FRAME.assign(text=FRAME["subject"], label=[1.0, float("nan"), *[1.0] * 6])
    labels[["text", "label"]].to_parquet(path)
    assert "row 2: column 'label' has no text" in refused(path)


# --- columns


def test_columns_can_be_named_and_the_choice_is_told(tmp_path):
    odd = FRAME.rename(columns={"subject": "who", "object": "what", "relation": "kind", "template": "how"})
    path = tmp_path / "t.csv"
    odd.assign(text="not this").to_csv(path, index=False)
    named = {
        "subject_column": "who",
        "object_column": "what",
        "label_column": "kind",
        "template_column": "how",
    }
    chosen: list[str] = []
    assert told(path, **named, chosen=chosen) == EXPECTED
    assert chosen == [f"{path}: relation from kind, subject from who, object from what, template from how"]
    assert [subject for subject, *_ in told(path, text_column="who")] == NAMES
    assert "no template to fill" in refused(path, text_column="who", template_column="how")
    with pytest.raises(InputError, match="none of them is a table, so there is no column 'who'"):
        sources.load_all(["country_capital"], ReadingOptions(subject_column="who"))
    assert "no column 'whom'. Columns are who, what" in refused(path, subject_column="whom")
    odd.to_csv(path, index=False)
    assert "--subject-column" in refused(path)


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("names", "answers"),
    [
        (("sub_label", "obj_label"), True),
        (("input", "output"), True),
        (("subject", "attribute"), True),
        (("Subject", "ground_truth"), True),
        (("statement", "label"), False),
        (("sentence", "label"), False),
    ],
)
def test_well_known_names_are_found(tmp_path, names, answers, kind):
    path = tmp_path / f"t{kind}"
    made = pandas.DataFrame({names[0]: NAMES, names[1]: TOWNS if answers else "x"})
    made.to_csv(path, index=False) if kind == ".csv" else made.to_parquet(path)
    assert told(path, template="{} has") == (EXPECTED if answers else [(name, "x") for name in NAMES])
    if not answers:
        assert told(path) == [(name,) for name in NAMES]


def test_a_column_called_language_is_one_thing_only(tmp_path):
    """The label, where it is asked for; a language where it holds codes; otherwise nothing."""
    path = tmp_path / "t.csv"
    code = pandas.DataFrame({"text": NAMES, "language": ["C", "Python"] * 4, "label": [0, 1] * 4})
    code.to_csv(path, index=False)
    for column, names in (("label", ["label=0", "label=1"]), ("language", ["C", "Python"])):
        frame = prompts.prompts(sources.load(path, label_column=column))
        assert frame["relation"].unique().tolist() == names and set(frame["language"]) == {"en"}
    code.assign(language=["en", "de"] * 4).to_csv(path, index=False)
    assert [one.languages for one in sources.load(path)] == [("en",), ("de",)]
    frame = prompts.prompts(sources.load(path, label_column="language"))
    assert frame["relation"].unique().tolist() == ["en", "de"] and len(frame) == 8


# --- templates


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        ("{} has", "Avala has"),
        ("{subject} has", "Avala has"),
        ("{0} has", "Avala has"),
        ("[X] has", "Avala has"),
        ("[X] has [Y] .", "Avala has"),
        ("{subject} has {object}", "Avala has"),
        ("The town of {0} is “{1}”.", "The town of Avala is"),
    ],
)
def test_marks_of_the_subject_and_of_the_answer(tmp_path, template, asked):
    FRAME.assign(template=template).to_csv(tmp_path / "t.csv", index=False)
    FRAME.drop(columns="template").to_csv(tmp_path / "bare.csv", index=False)
    for relation in (
        sources.load(tmp_path / "t.csv")[0],
        sources.load(tmp_path / "bare.csv", template=template)[0],
    ):
        assert asked in set(prompts.prompts([relation])["text"])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("[Y] is the town of [X] .", "goes on after [Y]"),
        ("[X] has [Y] as its town", "goes on after [Y]"),
        ("{} and [X]", "no single {}"),
        ("[Y]", "no single {}"),
        ("{name} has", "no single {}"),
    ],
)
def test_a_template_that_cannot_be_asked_is_named_with_its_row(tmp_path, template, problem):
    path = tmp_path / "t.csv"
    FRAME.assign(template=[*["{} has"] * 7, template]).to_csv(path, index=False)
    assert refused(path).startswith(f"{path}:9: template ") and problem in refused(path)
    assert len(told(path, skip_bad=True)) == 7

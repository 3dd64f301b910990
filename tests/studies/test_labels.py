"""Texts with labels: through a study without an answer, and asked for their labels."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import relact
from relact.errors import InputError
from relact.relations import prompts, sources
from relact.relations.identity import same
from relact.relations.options import PromptOptions, ReadingOptions
from relact.scoring.options import ScoreOptions
from relact.scoring.roles import labels_of

GLAD = [f"pleasant text {at}" for at in range(14)]
GRIM = [f"grey words {at}" for at in range(11)]
COLUMNS = {"text_column": "said", "label_column": "mood"}
ASKED = {**COLUMNS, "template": "{} It is"}


@pytest.fixture
def labelled(tmp_path):
    """A table with numbers as labels."""
    rows = [*((text, 1) for text in GLAD), *((text, 0) for text in GRIM)]
    pd.DataFrame(rows, columns=["said", "mood"]).to_csv(tmp_path / "moods.csv", index=False)
    return tmp_path / "moods.csv"


def test_labels_without_answers_end_in_masks_and_a_report(labelled, command, tiny_folder, tmp_path):
    store, few = tmp_path / "s.zarr", ("--model", tiny_folder, "--k", 5, "--seeds", 1, "--sites", "mlp.up")
    columns = ("--text-column", "said", "--label-column", "mood")
    code, out, err = command("run", labelled, *columns, "--store", store, *few)
    assert code == 0, err
    assert f"{labelled}: relation from mood, text from said" in out
    assert "top-5, chosen as they tell" in out and "5 neurons of each relation" in out
    assert "Nothing was switched off: no prompt has an answer to test" in out and "--template" in out
    code, out, _ = command("compare", store)
    assert code == 0 and "mood=1" in out
    assert command("report", store, "-o", tmp_path / "page.html")[0] == 0
    assert "mood=0" in (tmp_path / "page.html").read_text()
    code, out, _ = command("run", labelled, *columns, "--store", store, *few, "--json")
    assert code == 0 and json.loads(out)["ablations"] == {}


def test_a_study_without_ablations_says_so(labelled, model, tmp_path):
    reading = ReadingOptions(**COLUMNS)
    study = relact.run([labelled], model=model, store=tmp_path / "s.zarr", k=3, reading=reading)
    assert study.masks == ("top-3",) and not study.ablations
    with pytest.raises(InputError, match="no prompt has an answer to test"):
        study.effects()


def test_a_label_that_is_asked_for_is_an_answer(labelled):
    """Under the name that it is given; a text that holds its own label is left out."""
    options = ReadingOptions(**ASKED, label_names={"1": "warm", "0": "words"})
    frame = prompts.build(sources.load_all([labelled], options), PromptOptions(test_size=3))
    assert frame.attrs["dropped"].keys() == {"words"}
    options = ReadingOptions(**ASKED, label_names={"1": "warm", "0": "cold"})
    frame = prompts.build(sources.load_all([labelled], options), PromptOptions(test_size=3))
    expected = {(f"{text} It is", "warm") for text in GLAD} | {(f"{text} It is", "cold") for text in GRIM}
    assert {
        (text, *answers) for text, answers in zip(frame["text"], frame["answers"], strict=True)
    } == expected
    assert frame.groupby(["relation", "split"]).size()[:, "test"].to_dict() == {"warm": 3, "cold": 3}


@pytest.mark.parametrize("examples", ["drawn", "shared"])
def test_examples_are_of_all_labels(labelled, examples):
    reading = ReadingOptions(**ASKED, label_names={"1": "warm", "0": "cold"})
    made = prompts.build(sources.load_all([labelled], reading), PromptOptions(shots=4, examples=examples))
    before = [text.split("\n")[:-1] for text in made["text"]]
    assert all(sum(line.endswith(" warm") for line in lines) == len(lines) / 2 == 2 for lines in before)
    tests = made[made["split"] == "test"]["text"]
    assert (
        len({text.rpartition("\n")[0] for text in tests}) == 1
    )  # of both labels, so that a prefix is run once
    last = [lines[-1].rpartition(" ")[2] for lines in before]
    assert examples == "shared" or {"warm", "cold"} == set(last)  # the order does not tell
    with pytest.raises(InputError, match="examples"):
        prompts.build(sources.load_all([labelled], reading), PromptOptions(shots=30, strict=True))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from(["x", "y", "z"])), min_size=9, max_size=60
    ),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_no_text_is_tested_and_shown(tmp_path_factory, rows, shots, seed):
    """However texts and labels fall: also a text under two labels, or written in another way."""
    path = tmp_path_factory.mktemp("t") / "t.csv"
    spelled = [
        (f"say {text}{text}".upper() if at % 3 else f"say  {text}{text}", label)
        for at, (text, label) in enumerate(rows)
    ]
    pd.DataFrame(spelled, columns=["said", "mood"]).to_csv(path, index=False)
    made = sources.load_all([path], ReadingOptions(**ASKED))
    try:
        frame = prompts.build(made, PromptOptions(shots=shots, seed=seed))
    except InputError:
        return
    identify, test = (frame[frame["split"] == split] for split in ("identify", "test"))
    shown = {same(line.rpartition(" It is")[0]) for text in frame["text"] for line in text.split("\n")[:-1]}
    asked = {same(subject) for subject in test["subject"]}
    assert not asked & (shown | {same(subject) for subject in identify["subject"]})


def test_what_is_said_of_sources_is_true_of_one(labelled, tmp_path):
    for options, problem in (
        ({"template": "{} is"}, "no prompt is made with the template '{} is'"),
        ({"label_names": {"0": "no"}}, "no label has another name"),
        ({"group_column": "who"}, "there is no column 'who'"),
    ):
        with pytest.raises(InputError, match=problem):
            sources.load_all(["country_capital"], ReadingOptions(**options))
    path = tmp_path / "c.json"
    path.write_text(
        json.dumps({"concept": "c", "sentences": {"positive": ["a b", "c d"], "negative": ["e"]}})
    )
    with pytest.raises(InputError, match="no prompt is made with the template"):
        sources.load_all([path], ReadingOptions(template="{} It is"))


def test_a_name_for_a_label_that_no_row_has_is_refused(labelled):
    """By either way in, and of several sources only where none of them has it."""
    options = ReadingOptions(**ASKED, label_names={"1": "warm", "good": "cold"})
    problem = r"no row has the label 'good'.*[Ll]abels are 0, 1"
    with pytest.raises(InputError, match=problem):
        sources.load_all([labelled], options)
    with pytest.raises(InputError, match=problem):
        sources.load(labelled, label_column="mood", text_column="said", label_names={"good": "cold"})
    other = labelled.with_name("other.csv")
    pd.DataFrame([(f"it {at}", "good") for at in range(4)], columns=["said", "mood"]).to_csv(
        other, index=False
    )
    names = {relation.name for relation in sources.load_all([labelled, other], options)}
    assert {"warm", "cold"} <= names


def test_groups_name_relations(tmp_path):
    rows = [(f"t{at}", at % 2, ["toxic", "formal"][at % 4 // 2]) for at in range(16)]
    pd.DataFrame(rows, columns=["said", "value", "question"]).to_csv(tmp_path / "g.csv", index=False)
    columns = {"text_column": "said", "label_column": "value", "group_column": "question"}
    found = sources.load(tmp_path / "g.csv", **columns, label_names={"1": "yes", "0": "no"})
    assert [each.name for each in found] == ["toxic=no", "toxic=yes", "formal=no", "formal=yes"]


@pytest.mark.slow
def test_a_concept_against_its_own_negatives(tmp_path, tiny_folder):
    """As scikit-learn has it of the two alone; the report's and `select`'s chance is of as many prompts."""
    for concept in ("happy", "rude"):
        sentences = {
            "positive": [f"{concept} line {at}" for at in range(6)],
            "negative": [f"un{concept} line {at}" for at in range(9)],
        }
        data = {"concept": concept, "group": "g", "sentences": sentences}
        (tmp_path / f"{concept}.json").write_text(json.dumps(data))
    table = prompts.build(sources.load_all([tmp_path], ReadingOptions(own_negatives=True)), PromptOptions())
    names = ["happy=positive", "happy=negative", "rude=positive", "rude=negative"]
    assert list(dict.fromkeys(table["relation"])) == names
    store = relact.capture(str(tiny_folder), table, tmp_path / "s.zarr", sites="mlp.up", dtype="float32")
    relact.score(store, own_negatives=True)
    values = np.concatenate(store.columns("mlp.up", 1, 0, 5))
    relation = store.prompts("identify")["relation"].to_numpy()
    stored = store.dataset("scores/mlp.up")["average_precision"].sel(layer=1).load()
    for name in names:
        own = np.char.startswith(relation.astype(str), name.split("=")[0])
        for neuron in range(5):
            expected = average_precision_score(relation[own] == name, values[own, neuron])
            assert stored.sel(relation=name)[neuron] == pytest.approx(expected, abs=1e-6)
    relact.score(store)
    assert not np.allclose(store.dataset("scores/mlp.up")["average_precision"].sel(layer=1), stored)
    relact.score(store, own_negatives=True)
    relact.select(store, fdr=0.4)
    assert relact.report(store, tmp_path / "page.html")


def test_a_group_of_one_label_has_no_negatives():
    names = ["a=1", "a=0", "b=1", "b=1"]
    with pytest.raises(InputError, match="relation b=1: group 'b' has this label alone"):
        labels_of(names, ["a=1", "b=1"], None, 0, own_negatives=True)
    assert labels_of(names, ["a=1"], None, 0, own_negatives=True).count(0).tolist() == [1]
    assert ScoreOptions.own_negatives is False

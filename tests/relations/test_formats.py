"""Public data of the field, each in its own shape, with invented content: all is read, with its counts."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest

from relact.errors import InputError
from relact.relations import prompts, sources

NAMES = [f"Aval{letter}" for letter in "bcdfghjklmnp"]
TOWNS = [f"Nirel{letter}" for letter in "bcdfghjklmnp"]
PAIRS = list(zip(NAMES, TOWNS, strict=True))


def lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def asked(path, **options):
    """Prompt -> answers of all that a source gives, whatever its role."""
    frame = prompts.prompts(sources.load(path, **options))
    return {text: list(answers) for text, answers in zip(frame["text"], frame["answers"], strict=True)}


def test_all_of_lre(tmp_path):
    """Factual, linguistic, commonsense and bias files, those too whose templates name their answers."""
    choices = {
        "factual/town": ["The town of {} is", "{} has the town"],
        "linguistic/past": ["The past of {} is"],
        "commonsense/mood": ["The mood of {} is"],
        "bias/trait": ["{} is usually"],
    }
    for stem, templates in choices.items():
        glad = stem.endswith(("mood", "trait"))
        samples = [{"subject": name, "object": "glad" if glad else town} for name, town in PAIRS]
        path = tmp_path / f"{stem}.json"
        path.parent.mkdir(exist_ok=True)
        zero_shot = [f"Is {{}} glad or sad in {stem}? It is"] if glad else ["What is the town of {}? It is"]
        about = {"name": stem, "prompt_templates": templates, "prompt_templates_zs": zero_shot}
        about["properties"] = {"relation_type": stem.split("/")[0], "symmetric": False}
        path.write_text(json.dumps({**about, "samples": samples}))
    frame = prompts.prompts([tmp_path], strict=True)
    assert frame.groupby("relation").size().to_dict() == {"town": 12, "past": 12, "mood": 12, "trait": 12}


def test_romes_known_facts(tmp_path):
    """Each with its own template, in one list."""
    templates = ["{} plays the", "The town of {} is"]
    records = [
        {
            "known_id": at,
            "subject": name,
            "attribute": town,
            "template": templates[at % 2],
            "prediction": f" {town}, which",
            "prompt": templates[at % 2].replace("{}", name),
            "relation_id": "P1",
        }
        for at, (name, town) in enumerate(PAIRS)
    ]
    path = tmp_path / "known_1000.json"
    path.write_text(json.dumps(records))
    assert asked(path) == {record["prompt"]: [record["attribute"]] for record in records}
    assert {one.name for one in sources.load(path)} == {"P1"}


def rewrite(name, town):
    """One of CounterFact's."""
    about = {"prompt": "The town of {} is", "relation_id": "P2", "subject": name}
    told = {"target_true": {"str": town, "id": "Q1"}, "target_new": {"str": "Kesta", "id": "Q2"}}
    return {"case_id": 7, "requested_rewrite": {**about, **told}, "paraphrase_prompts": [f"{name} and"]}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_counterfact(tmp_path, suffix):
    records = [rewrite(*pair) for pair in PAIRS]
    path = tmp_path / f"counterfact{suffix}"
    if suffix == ".parquet":
        pandas.DataFrame(records).to_parquet(path)
    elif suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        lines(path, records)
    assert asked(path) == {f"The town of {name} is": [town] for name, town in PAIRS}


def test_t_rex_of_lama(tmp_path):
    records = [
        {"uuid": "a", "sub_uri": "Q1", "sub_label": name, "obj_uri": "Q2", "obj_label": town}
        | {"predicate_id": "P3", "evidences": [{"sub_surface": name, "masked_sentence": "x [MASK]"}]}
        for name, town in PAIRS
    ]
    path = lines(tmp_path / "TREx" / "P3.jsonl", records)
    expected = {f"{name} has": [town] for name, town in PAIRS}
    assert asked(path, template="[X] has [Y] .") == asked(path.parent, template="{} has") == expected


def test_mlama_in_several_languages(tmp_path):
    """A row per language, of one fact that no split tears apart."""
    told = {"en": "The town of [X] is [Y] .", "de": "Die Stadt von [X] ist [Y] ."}
    rows = [
        {"uuid": "u", "lineid": at, "sub_uri": f"Q{at}", "sub_label": name, "obj_label": town}
        | {"template": template, "language": language, "predicate_id": "P4"}
        for language, template in told.items()
        for at, (name, town) in enumerate(PAIRS)
    ]
    path = tmp_path / "mlama.parquet"
    pandas.DataFrame(rows).to_parquet(path)
    tested = []
    for language, opening in (("en", "The town of"), ("de", "Die Stadt von")):
        frame = prompts.prompts(sources.load(path), language=language)
        assert len(frame) == 12 and frame["text"].str.startswith(opening).all()
        tested.append(set(frame[frame["split"] == "test"]["subject"]))
    assert tested[0] == tested[1]
    pandas.DataFrame(rows).assign(template="[Y] is the town of [X] .").to_parquet(path)
    with pytest.raises(InputError, match=r"row 1: template .* goes on after \[Y\]"):
        sources.load(path)


def test_lm_kbc(tmp_path):
    """Several objects, and several names of each."""
    records = [
        {"SubjectEntity": name, "Relation": "CountryTown", "ObjectEntities": [[town, f"{town}ia"], ["Kesta"]]}
        for name, town in PAIRS
    ]
    path = lines(tmp_path / "train.jsonl", records)
    assert asked(path, template="{} has") == {
        f"{name} has": [town, f"{town}ia", "Kesta"] for name, town in PAIRS
    }


def test_bats(tmp_path):
    """Pairs of words, a tab between, no header."""
    path = tmp_path / "E01 [country - town].txt"
    path.write_text("".join(f"{name.lower()}\t{town.lower()}/kesta\n" for name, town in PAIRS))
    (relation,) = sources.load(path, template="{} has")
    assert relation.name == "E01 [country - town]"
    assert [fact.answers for fact in relation.facts] == [(town.lower(), "kesta") for town in TOWNS]


def test_glue_with_its_bare_quotes(tmp_path):
    path = tmp_path / "train.tsv"
    texts = [f'"{name} said' if at % 5 == 0 else f'{name} " said' for at, name in enumerate(NAMES)]
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{at % 2}\n" for at, text in enumerate(texts)))
    frame = prompts.prompts(sources.load(path))
    assert sorted(frame["text"]) == sorted(texts) and set(frame["relation"]) == {"label=0", "label=1"}


def test_hate_speech_and_pairs_of_sentences(tmp_path):
    """Exports of pandas with a nameless index, and columns of their own."""
    tweets = pandas.DataFrame(
        {"count": 3, "class": [0, 1, 2] * 4, "tweet": [f'"@{name}:\n, no' for name in NAMES]}
    )
    tweets.to_csv(tmp_path / "tweets.csv")
    found = sources.load(tmp_path / "tweets.csv", label_column="class")
    assert {one.name: len(one.facts) for one in found} == {"class=0": 4, "class=1": 4, "class=2": 4}
    assert {fact.subject for one in found for fact in one.facts} == set(tweets["tweet"])
    pairs = pandas.DataFrame({"sent_more": NAMES, "sent_less": TOWNS, "bias_type": ["age", "job"] * 6})
    pairs.assign(annotations="[['age'], ['job']]").to_csv(tmp_path / "crows.csv")
    found = sources.load(tmp_path / "crows.csv", text_column="sent_more", label_column="bias_type")
    assert {one.name: len(one.facts) for one in found} == {"age": 6, "job": 6}


def test_squad_as_it_was_published_and_as_a_table(tmp_path):
    questions = [
        {
            "id": name,
            "question": f"Which is the town of {name}?",
            "answers": [{"text": town, "answer_start": 3}] * 2,
        }
        for name, town in PAIRS
    ]
    article = {
        "title": "Towns",
        "paragraphs": [{"context": "x", "qas": questions[:5]}, {"qas": questions[5:]}],
    }
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"version": "1.1", "data": [article]}))
    expected = {f"Which is the town of {name}?": [town] for name, town in PAIRS}
    assert asked(path) == expected
    table = pandas.DataFrame(questions).assign(title="Towns", context="x")
    table["answers"] = [{"text": np.array([town, town]), "answer_start": np.array([3, 3])} for town in TOWNS]
    table.to_parquet(tmp_path / "dev.parquet")
    table.to_csv(tmp_path / "dev.csv", index=False)
    assert asked(tmp_path / "dev.parquet") == expected
    with pytest.raises(InputError, match="the text of an object"):  # what pandas writes of it cannot be read
        sources.load(tmp_path / "dev.csv")


def test_a_concept_set_and_its_list(tmp_path):
    for concept in ("glad", "formal"):
        path = tmp_path / "sense" / f"{concept}.json"
        path.parent.mkdir(exist_ok=True)
        sentences = {"positive": [f"{concept} {name}" for name in NAMES], "negative": TOWNS}
        path.write_text(json.dumps({"concept": concept, "group": "sense", "sentences": sentences}))
    (tmp_path / "concept_list.csv").write_text("group,concept\nsense,glad\nsense,formal\n")
    frame = prompts.prompts(sources.load(tmp_path))
    assert frame.groupby("relation").size().to_dict() == {"glad": 12, "formal": 12, "negative": 12}

"""Relations to prompts: the texts."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas
import pytest
from helpers.facts import TEMPLATES, relation

from relact.errors import InputError
from relact.relations import prompts, sources, table
from relact.relations.assembly import assemble
from relact.relations.facts import Fact, Relation
from relact.relations.row import Row
from relact.studies import presets


def shown_before(text):
    """The numbers of a prompt's examples, and the prompt itself."""
    *lines, last = text.split("\n")
    return [line.split("object")[1] for line in lines], last


@pytest.mark.parametrize("template", TEMPLATES["en"])
def test_test_prompts_of_one_template_share_one_prefix_of_examples(template):
    frame = prompts.prompts([relation()], shots=3, templates="all")
    assert set(frame["shots"]) == {3}
    rows = frame[(frame["template"] == template) & (frame["split"] == "test")]
    (head,) = {text.rpartition("\n")[0] for text in rows["text"]}
    numbers, _ = shown_before(rows["text"].iloc[0])
    assert head.split("\n") == [f"{template.replace('{}', f'subject{at}')} object{at}" for at in numbers]
    assert len(set(numbers)) == 3 and not {f"subject{at}" for at in numbers} & set(frame["subject"])
    for text, subject in zip(rows["text"], rows["subject"], strict=True):
        assert shown_before(text)[1] == template.replace("{}", subject)


def test_examples_of_identification_prompts_are_drawn_and_never_tested():
    frame = prompts.prompts([relation()], shots=3)
    tested = set(frame[frame["split"] == "test"]["subject"])
    rows = frame[frame["split"] == "identify"]
    heads = set()
    for text, subject in zip(rows["text"], rows["subject"], strict=True):
        numbers, _ = shown_before(text)
        shown = {f"subject{at}" for at in numbers}
        assert len(shown) == 3 and not shown & tested and subject not in shown
        heads.add(tuple(numbers))
    assert len(heads) > len(rows) / 2
    shared = prompts.prompts([relation()], shots=3, examples="shared")
    assert len({text.rpartition("\n")[0] for text in shared["text"]}) == 1
    assert shared[shared["split"] == "test"].equals(frame[frame["split"] == "test"])


def test_the_paper_form_and_unspaced_languages():
    paper = prompts.prompts([relation()], form="paper", shots=1)["text"][0]
    example, prompt = paper.split("\n")
    assert "? Answer: object" in example and prompt.endswith("? Answer:")
    chinese = prompts.prompts([relation(languages=("en", "zh"))], language="zh", shots=1)["text"][0]
    assert "的意思是object" in chinese.split("\n")[0]


def test_a_paraphrase_asks_the_same_subjects_differently():
    plain, other = (prompts.prompts([relation()], paraphrase=flag) for flag in (False, True))
    assert plain[plain["split"] == "identify"].equals(other[other["split"] == "identify"])
    tests = [frame[frame["split"] == "test"] for frame in (plain, other)]
    assert list(tests[0]["subject"]) == list(tests[1]["subject"])
    assert set(tests[0]["template"]) == {TEMPLATES["en"][0]} and set(tests[1]["template"]) == {
        TEMPLATES["en"][1]
    }
    with pytest.raises(InputError, match="only one template"):
        prompts.prompts([relation(languages=("zh",))], language="zh", paraphrase=True)


def test_all_templates_and_the_cap_on_identification_prompts():
    frame = prompts.prompts([relation()], templates="all", per_relation=25)
    assert table.summary(frame).loc[0, ["identify", "test", "templates"]].tolist() == [25, 40, 2]


def test_braces_in_a_subject_are_left_alone():
    made = Relation(
        "code", {"en": ("{}",)}, tuple(Fact(str(at), f"f() {{}} {{{at}}}", "") for at in range(4))
    )
    assert sorted(prompts.prompts([made])["text"]) == [f"f() {{}} {{{at}}}" for at in range(4)]


def test_texts_without_answers_all_identify():
    made = Relation("toxic", {"en": ("{}",)}, tuple(Fact(str(at), f"text {at}", "") for at in range(9)))
    frame = prompts.prompts([made])
    assert set(frame["split"]) == {"identify"} and list(frame["answers"]) == [[]] * 9
    assert "no answers" in table.summary(frame).loc[0, "note"]
    with pytest.raises(InputError, match="no answers to show"):
        prompts.prompts([made], shots=2)


def test_the_paper_holds_out_fifty_facts_of_each_relation_and_keeps_the_rest(tmp_path):
    counts = {}
    for at, stem in enumerate(sources.PAPER):
        samples = [{"subject": f"s{n}", "object": f"o{n}"} for n in range(170 + at)]
        samples += [{"subject": f"s{n}", "object": f"p{n}"} for n in range(0, 60, 7)]  # second answers
        samples.append({"subject": "Intel 8086", "object": "Intel"})  # gives itself away, and stays
        counts[sources.PAPER[stem]] = len(samples)
        data = {
            "prompt_templates": [f"{{}}, {stem}, is"],
            "prompt_templates_zs": ["What is {}? It is"],
            "samples": samples,
        }
        (tmp_path / f"{stem}.json").write_text(json.dumps(data))
    frame = prompts.published([tmp_path], presets.PAPER.prompts)
    shown = table.summary(frame).set_index("relation")
    assert list(shown.index) == list(counts)
    assert set(shown["test"]) == {50}
    assert (shown["identify"] + 50).to_dict() == counts
    assert frame["text"].str.endswith(" is? Answer:").all()
    for _, rows in frame.groupby("relation"):
        assert not set(rows[rows["split"] == "test"]["subject"]) & set(
            rows[rows["split"] == "identify"]["subject"]
        )
    again = prompts.published([tmp_path], replace(presets.PAPER.prompts, paraphrase=True))
    assert again[again["split"] == "test"]["text"].str.endswith("It is? Answer:").all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "fr"}, "no facts in language 'fr'. Languages there are: en"),
        ({"templates": "some"}, "templates: unknown choice"),
        ({"form": "letter"}, "form: unknown form"),
        ({"shots": -1}, "shots: -1"),
        ({"per_relation": 1}, "per_relation: 1 is too small"),
        ({"shots": 60}, "too few"),
    ],
)
def test_arguments_that_cannot_work_are_told_in_one_line(options, message):
    with pytest.raises(InputError) as caught:
        prompts.prompts([relation()], **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_empty_relation_and_one_with_a_single_prompt_are_refused(count):
    with pytest.raises(InputError, match="relation r:"):
        prompts.prompts([relation(count)])
    with pytest.raises(InputError, match="no relations"):
        prompts.prompts([])


@pytest.mark.parametrize("name", ["intact", "random-", "random-walks"])
def test_a_relation_with_the_name_of_a_condition_is_refused(name):
    with pytest.raises(InputError, match=f"'{name}' cannot name a relation. Choose another name"):
        prompts.prompts([relation(), replace(relation(), name=name)])


# --- templates of rows


def of_rows(rows):
    """The relation that these (subject, object, template) make."""
    (made,) = assemble([Row("r", subject, answer, templates=(text,)) for subject, answer, text in rows])
    return made


@pytest.mark.parametrize("templates", ["first", "all"])
@pytest.mark.parametrize("shots", [0, 3])
def test_every_row_is_asked_with_its_own_template(templates, shots):
    """The examples, too, and the same subject's other facts."""
    rows = {
        (f"s{at}", f"town{at}" if "town" in text else f"tool{at}", text)
        for at in range(12)
        for text in ("The town of {} is", "{} plays the")[: 1 + at % 2]
    }
    right = {(text.replace("{}", subject), answer) for subject, answer, text in rows}
    frame = prompts.prompts([of_rows(sorted(rows))], templates=templates, shots=shots, test_size=4)
    asked = {
        (text.split("\n")[-1], answer) for text, answer in zip(frame["text"], frame["object"], strict=True)
    }
    assert asked <= right and len(frame) == len(asked) >= len(rows) - 2 * shots
    for text in frame["text"]:
        shown = [tuple(line.rsplit(" ", 1)) for line in text.split("\n")[:-1]]
        assert len(shown) == shots and set(shown) <= right


def test_templates_that_every_subject_has_are_the_relations():
    """A table of all templates for all subjects is what a relation with several templates is."""
    texts = ("The town of {} is", "{} has the town")
    made = of_rows([(f"s{at}", f"o{at}", text) for at in range(9) for text in texts])
    assert made.templates == {"en": texts} and len(made.facts) == 9
    assert not any(fact.templates for fact in made.facts)
    assert len(prompts.prompts([made])) == 9 and len(prompts.prompts([made], templates="all")) == 18
    assert set(prompts.prompts([made], paraphrase=True)["template"]) == set(texts)
    with pytest.raises(InputError, match="only one template"):
        prompts.prompts([of_rows([(f"s{at}", f"o{at}", texts[at % 2]) for at in range(9)])], paraphrase=True)


# --- what is left out, and what is dropped


def test_only_templates_that_are_asked_give_an_answer_away():
    """LRE's choices: a template of another use names the answers."""
    facts = tuple(Fact(str(at), f"s{at}", ("glad", "sad")[at % 2]) for at in range(12))
    made = Relation("mood", {"en": ("The mood of {} is", "Is {} glad or sad? It is")}, facts)
    frame = prompts.prompts([made])
    assert len(frame) == 12 and not frame.attrs["notes"]["mood"].count("left out")
    every = prompts.prompts([made], templates="all")
    assert list(every["text"]) == list(frame["text"]) and "12 left out" in every.attrs["notes"]["mood"]
    other = prompts.prompts([made], paraphrase=True)
    assert list(other["text"]) == list(frame[frame["split"] == "identify"]["text"])
    assert len(prompts.prompts([made], templates="all", keep_leaks=True)) == 24
    named = replace(made, templates={"en": ("Is {} glad or sad? It is",)})
    with pytest.raises(InputError, match="all 12 facts in 'en' have their answer inside the prompt"):
        prompts.prompts([named])


@pytest.mark.parametrize(
    ("odd", "options", "why"),
    [
        (relation(1, "odd"), {}, "1 usable facts are too few"),
        (relation(40, "odd", ("de",)), {}, "no facts in language 'en'"),
        (relation(4, "odd"), {"shots": 3}, "too few for 3 examples"),
        (
            replace(relation(40, "odd"), templates={"en": ("{} is",)}),
            {"paraphrase": True},
            "only one template",
        ),
    ],
)
def test_an_unusable_relation_is_dropped_and_named_or_refused(odd, options, why):
    with pytest.warns(UserWarning, match=f"relation odd is dropped: .*{why}"):
        frame = prompts.prompts([odd, relation()], **options)
    pandas.testing.assert_frame_equal(frame, prompts.prompts([relation()], **options))
    assert why in frame.attrs["dropped"]["odd"]
    shown = table.summary(frame).set_index("relation")
    assert list(shown.index) == ["r", "odd"] and shown.loc["odd", ["identify", "test"]].tolist() == [0, 0]
    assert shown.loc["odd", "note"].startswith("dropped: ") and why in shown.loc["odd", "note"]
    with pytest.raises(InputError, match=f"relation odd: .*{why}"):
        prompts.prompts([odd, relation()], **options, strict=True)
    with pytest.raises(
        InputError, match=f"relation odd: none of 2 relations is usable; of the first: .*{why}"
    ):
        prompts.prompts([odd, replace(odd, name="other")], **options)


def test_a_prompt_that_ends_in_a_blank_is_named():
    made = Relation("r", {"en": ("The town of {} is ",)}, relation(12).facts)
    assert "end in a blank" in table.summary(prompts.prompts([made])).loc[0, "note"]
    assert "blank" not in table.summary(prompts.prompts([relation(12)])).loc[0, "note"]


def test_a_table_with_a_subject_in_both_splits_is_refused():
    frame = prompts.prompts([relation(12)])
    tested = frame.index[frame["split"] == "test"][0]
    frame.loc[tested, "subject"] = f" {frame['subject'][0].upper()}"
    with pytest.raises(InputError, match=rf"row {tested + 1}: ' SUBJECT\d+' of r is in both splits"):
        table.check(frame)

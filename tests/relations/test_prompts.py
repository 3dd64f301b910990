"""Relations to prompts: the split, the texts, the rule for correct, the files."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relact.errors import InputError
from relact.relations import facts, prompts, sources, split, table, verdict
from relact.relations.facts import Fact, Relation
from relact.studies import presets

LANGUAGES = ("en", "de", "zh")
TEMPLATES = {
    "en": ("The word for {} is", "{} means"),
    "de": ("Das Wort für {} ist", "{} heißt"),
    "zh": ("{}的意思是",),
}


def relation(count=60, name="r", languages=("en",), **changes):
    told = tuple(
        Fact(str(at), f"subject{at}", f"object{at}", (), language)
        for at in range(count)
        for language in languages
    )
    return Relation(name, {one: TEMPLATES[one] for one in languages}, told, **changes)


@st.composite
def relations(draw):
    keys = draw(st.lists(st.integers(0, 99), min_size=12, max_size=60, unique=True))
    told = []
    for key in keys:
        for language in draw(st.lists(st.sampled_from(LANGUAGES), min_size=1, max_size=3, unique=True)):
            told += [Fact(str(key), f"s{key}", f"o{key}", (), language)] * draw(st.sampled_from([1, 1, 1, 2]))
    return Relation("r", TEMPLATES, tuple(told))


# --- the split


@settings(deadline=None)
@given(relations(), st.integers(0, 3), st.integers(0, 20), st.integers(0, 5))
def test_no_key_has_two_roles_and_none_is_lost(made, shots, test_size, seed):
    dealt = split.split(made, shots=shots, test_size=test_size, seed=seed)
    roles = [*dealt.examples, *dealt.test, *dealt.identify]
    assert len(roles) == len(set(roles))
    assert set(roles) == {fact.key for fact in made.facts}
    for language in made.languages:
        held_out = sum(len(dealt.usable.get((language, key), ())) for key in dealt.test)
        told = len(made.told_in(language))
        assert held_out >= min(test_size, told // 3) - 1  # a key of two facts may not fit


@settings(deadline=None)
@given(st.integers(20, 90), st.integers(0, 4))
def test_adding_a_fact_moves_at_most_one_key_into_or_out_of_the_test(count, seed):
    before = split.split(relation(count), test_size=20, seed=seed, shots=3)
    after = split.split(relation(count + 1), test_size=20, seed=seed, shots=3)
    assert len(set(before.test) - set(after.test)) <= 1
    assert len(set(before.identify) & set(after.test)) <= 1


def test_languages_agree_on_who_is_tested():
    country = sources.load("country_capital")[0]
    key = {(fact.language, fact.subject): fact.key for fact in country.facts}
    roles: dict[str, set[str]] = {}
    for language in country.languages:
        frame = prompts.prompts([country], language=language, shots=5)
        for subject, role in zip(frame["subject"], frame["split"], strict=True):
            roles.setdefault(key[language, subject], set()).add(role)
        assert (frame["split"] == "test").sum() == 50
    assert all(len(found) == 1 for found in roles.values())


def test_the_test_set_does_not_depend_on_shots():
    few, many = (prompts.prompts([relation()], shots=shots) for shots in (0, 5))
    assert list(few[few["split"] == "test"]["subject"]) == list(many[many["split"] == "test"]["subject"])


def test_another_seed_deals_anew_and_the_same_seed_the_same():
    first, again, other = (prompts.prompts([relation()], seed=seed) for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


def test_a_small_relation_holds_out_a_third_and_says_so():
    frame = prompts.prompts([relation(30), relation(300, "large")])
    shown = table.summary(frame).set_index("relation")
    assert (shown.loc["r", "test"], shown.loc["r", "identify"]) == (10, 20)
    assert (shown.loc["large", "test"], shown.loc["large", "identify"]) == (50, 250)
    assert "a third" in shown.loc["r", "note"] and not shown.loc["large", "note"]


def test_facts_that_give_their_answer_away_are_left_out_and_counted():
    made = relation(30)
    made = Relation("r", made.templates, (*made.facts, Fact("sg", "Singapore", "Singapore")))
    frame = prompts.prompts([made])
    assert "Singapore" not in set(frame["subject"])
    assert "1 left out" in table.summary(frame).loc[0, "note"]
    assert "Singapore" in set(prompts.prompts([made], keep_leaks=True)["subject"])
    inherent = Relation("r", made.templates, made.facts, leaks="the answer is part of the subject")
    assert "Singapore" in set(prompts.prompts([inherent])["subject"])


# --- the texts


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
            "prompt_templates": ["{} is"],
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


# --- correct or not


@pytest.mark.parametrize(
    ("generated", "answers", "prefix", "exact", "paper"),
    [
        (" Paris", ["Paris"], True, True, True),
        (" Par", ["Paris"], True, False, True),
        ("PARIS", ["paris"], True, True, True),
        ("", ["Paris"], False, False, False),
        (" \n ", ["Paris"], False, False, False),
        ("\ufffd", ["Paris"], False, False, False),
        ("B\n", ["B"], True, True, True),
        ("B\nL", ["B"], True, True, False),
        ("Bo", ["B"], False, False, False),
        ("Paris.", ["Paris"], True, True, False),
        ("Paris, the", ["Paris"], True, False, False),
        ("London", ["Paris", "London"], True, True, True),
        ("Lyon", ["Paris"], False, False, False),
        ("巴", ["巴黎"], True, False, True),
        ("巴\ufffd", ["巴黎"], True, False, True),
        ("巴黎。", ["巴黎"], True, True, False),
        ("中国人", ["中国"], False, False, False),
        ("パリです", ["パリ"], True, False, False),
        ("São", ["Sa\u0303o Paulo"], True, False, True),
        ("Washington", ["Washington, D.C."], True, False, True),
        ("Washington, D.C.", ["Washington, D.C."], True, True, True),
        ("Washington, D.C!", ["Washington, D.C."], False, True, False),
        ("Paris", [], False, False, False),
        ("Paris", [""], False, False, False),
    ],
)
def test_the_rule_for_correct(generated, answers, prefix, exact, paper):
    assert verdict.is_correct(generated, answers) is prefix
    assert verdict.is_correct(generated, answers, "exact") is exact
    assert verdict.is_correct(generated, answers, "paper") is paper


few_letters = st.text("abB. ,!é日の\n", max_size=6) | st.text(max_size=6)


@st.composite
def questions(draw):
    """What a model said and what would be right: often a beginning of that and something behind it."""
    answers = draw(st.lists(few_letters, min_size=1, max_size=3))
    answer = draw(st.sampled_from(answers))
    return answer[: draw(st.integers(0, len(answer)))] + draw(few_letters), answers


@settings(max_examples=400)
@given(questions())
def test_paper_is_never_more_lenient_than_prefix(question):
    if verdict.is_correct(*question, "paper"):
        assert verdict.is_correct(*question, "prefix")


@settings(max_examples=400)
@given(questions())
def test_exact_is_never_more_lenient_than_prefix_unless_an_answer_ends_in_a_dot(question):
    """The dot of "Washington, D.C." may be missing, whatever else follows then."""
    generated, answers = question
    if verdict.is_correct(generated, answers, "exact"):
        dotted = any(facts.plain(answer).endswith(".") for answer in answers)
        assert verdict.is_correct(generated, answers, "prefix") or dotted


@given(st.lists(few_letters, max_size=3), st.sampled_from(verdict.RULES))
def test_saying_nothing_is_never_right(answers, rule):
    assert not any(verdict.is_correct(nothing, answers, rule) for nothing in ("", " \n", "\ufffd"))


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="match: unknown rule 'naive'"):
        verdict.is_correct("a", ["a"], "naive")


# --- files


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

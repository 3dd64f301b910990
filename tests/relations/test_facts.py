"""Facts, relations, and where they come from."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relact.errors import InputError
from relact.relations import facts, sources
from relact.relations.assembly import assemble
from relact.relations.facts import Fact, Relation
from relact.relations.options import ReadingOptions
from relact.relations.row import Row


def rows(*pairs, relation="r", templates=("{} is",)):
    return [Row(relation, subject, answer, templates=templates) for subject, answer in pairs]


def test_bundled_names_load_alone_and_together():
    assert sources.load("country_capital")[0].name == "country_capital"
    assert [relation.name for relation in sources.load("starter")] == list(sources.STARTER)
    assert [relation.name for relation in sources.load("all")] == list(sources.bundled())
    assert sources.bundled() == tuple(sorted(sources.bundled()))


def test_a_relation_knows_its_languages():
    relation = sources.load("country_capital")[0]
    assert relation.languages == ("en", "de", "fr", "es", "zh", "ja")
    germany = {fact.language: fact for fact in relation.facts if fact.key == "DE"}
    assert germany["fr"].subject == "l’Allemagne" and germany["ja"].answers == ("ベルリン",)


def test_an_unknown_name_points_to_the_nearest():
    with pytest.raises(InputError, match="Did you mean country_capital") as caught:
        sources.load("country_capitol")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="neither a bundled relation nor a file"):
        sources.load("nothing/like/it.jsonl")


def test_a_second_answer_of_a_subject_becomes_an_alias():
    (relation,) = assemble(rows(("Ann", "guitar"), ("Ben", "drums"), ("Ann", "piano"), ("Ann", "guitar")))
    assert [fact.answers for fact in relation.facts] == [("guitar", "piano"), ("drums",)]


def test_keeping_duplicates_keeps_every_row_under_one_key():
    (relation,) = assemble(rows(("Ann", "guitar"), ("Ann", "piano")), ReadingOptions(duplicates="keep"))
    assert [fact.object for fact in relation.facts] == ["guitar", "piano"]
    assert len({fact.key for fact in relation.facts}) == 1


def test_spellings_share_a_key_but_stay_two_facts():
    (relation,) = assemble(rows(("polish", "clean"), ("Polish", "Poland"), ("  polish ", "x")))
    assert len({fact.key for fact in relation.facts}) == 1
    assert len(relation.facts) == 3


def test_facts_without_a_template_need_one():
    bare = rows(("Ann", "guitar"), templates=())
    with pytest.raises(InputError, match="without a template"):
        assemble(bare)
    (relation,) = assemble(bare, ReadingOptions(template="{} plays the", language="de"))
    assert relation.templates == {"de": ("{} plays the",)}
    for wrong in ("no slot", "{} and {}"):
        with pytest.raises(InputError, match="no single"):
            assemble(bare, ReadingOptions(template=wrong))


@given(st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=60), st.integers(1, 8))
def test_a_limit_keeps_what_comes_first_in_the_seeded_order(subjects, limit):
    everything = assemble(rows(*((subject, "x") for subject in subjects)))[0].facts
    kept = assemble(rows(*((subject, "x") for subject in subjects)), ReadingOptions(limit=limit, seed=3))[
        0
    ].facts
    first = sorted(everything, key=lambda fact: facts.order(3, "r", fact.key))[:limit]
    assert {fact.key for fact in kept} == {fact.key for fact in first}


def test_a_limit_and_kept_duplicates_exclude_each_other():
    with pytest.raises(InputError, match="duplicates"):
        assemble(rows(("a", "b")), ReadingOptions(limit=3, duplicates="keep"))


def test_two_sources_of_one_name_are_refused_unless_they_agree(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, answer in ((one, "x"), (two, "y")):
        folder.mkdir()
        text = {"prompt_templates": ["{} is"], "samples": [{"subject": "a", "object": answer}]}
        (folder / "r.json").write_text(json.dumps(text))
    assert len(sources.load_all([one, one, "country_capital"])) == 2
    with pytest.raises(InputError, match="two sources"):
        sources.load_all([one, two])


def test_the_paper_relations_come_under_their_names_and_miss_none(tmp_path):
    for stem in sources.PAPER:
        samples = [{"subject": f"s{at}", "object": "x"} for at in range(3)] + [
            {"subject": "s0", "object": "y"}
        ]
        (tmp_path / f"{stem}.json").write_text(
            json.dumps({"prompt_templates": ["{} is"], "samples": samples})
        )
    loaded = sources.load_paper(tmp_path)
    assert [relation.name for relation in loaded] == list(sources.PAPER.values())
    assert all(len(relation.facts) == 4 for relation in loaded)
    (tmp_path / "person_father.json").unlink()
    with pytest.raises(InputError, match=r"person_father\.json"):
        sources.load_paper(tmp_path)


def test_a_broken_relation_file_is_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(
        '{"name": "r", "templates": {"en": ["{} is"]}, "facts": [{"key": "a", "subject": {"en": "A"}}]}'
    )
    with pytest.raises(InputError, match=r"r\.json: fact 1"):
        sources.read_relation(path)
    path.write_text('{"name": "r", "templates": {"en": ["{} is"]}, "facts": []}')
    with pytest.raises(InputError, match="holds no facts"):
        sources.read_relation(path)


@pytest.mark.parametrize(
    ("answers", "text", "language", "found"),
    [
        (["Singapore"], "The capital of Singapore is", "en", True),
        (["Mexico City"], "The capital of Mexico is", "en", False),
        (["B"], "BEND starts with the letter", "en", False),
        (["Rome", "roma"], "In ROMA people", "en", True),
        (["日本円"], "日本の通貨は", "ja", False),
        (["香港"], "香港的首都是", "zh", True),
        (["C++"], "a book on C++ by", "en", True),
        ([], "anything", "en", False),
    ],
)
def test_an_answer_in_its_prompt_is_seen(answers, text, language, found):
    assert facts.leaks(answers, text, language) is found


def test_facts_are_light_to_import_and_need_no_tables():
    code = (
        "import sys, relact.relations.facts, relact.relations.sources; "
        "print([name for name in ('pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_fact_without_an_object_has_no_answers():
    assert Fact("k", "some text", "").answers == ()
    assert Relation("r", {"en": ("{}",)}, (Fact("k", "some text", ""),)).languages == ("en",)

"""The same facts asked otherwise: subjects, form and examples are those of the store's own test prompts."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from helpers import tiny
from helpers.facts import relation

import relact as package
from relact.capturing.capture import capture
from relact.errors import InputError
from relact.relations import prompts as tables
from relact.relations import sources
from relact.relations.facts import Fact, Relation
from relact.relations.options import PromptOptions
from relact.relations.prompts import build
from relact.relations.table import check
from relact.store import local
from relact.studies import presets
from relact.studies.other_tests import asked_otherwise

MADE = relation(40, "first", ("en", "de", "zh")), relation(30, "second", ("en", "de"))


def stored(folder, table, name="s.zarr"):
    """A captured store of these prompts."""
    return capture(str(folder), table, folder.parent / name, sites="mlp.down")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that takes long prompts."""
    return tiny.save(tmp_path_factory.mktemp("asked") / "model", max_position_embeddings=1024)


@pytest.mark.parametrize(
    "options", [{}, {"shots": 3}, {"shots": 2, "form": "paper"}, {"shots": 1, "seed": 7}]
)
@pytest.mark.parametrize(("language", "paraphrase"), [("en", True), ("de", False), ("de", True)])
def test_they_are_the_prompts_that_the_same_choices_would_have_made(folder, options, language, paraphrase):
    """Here sources and choices are at hand; a store knows neither, and reads them off."""
    chosen = {"test_size": 6, **options}
    store = stored(
        folder,
        build(MADE, PromptOptions(**chosen)),
        "-".join(map(str, [*chosen.values(), language, paraphrase])),
    )
    expected = build(MADE, PromptOptions(**chosen, language=language, paraphrase=paraphrase))
    expected = expected[expected["split"] == "test"].reset_index(drop=True)
    found = asked_otherwise(store, language=language, paraphrase=paraphrase, sources=MADE)
    pd.testing.assert_frame_equal(found, expected, check_like=True)


def test_a_language_that_one_relation_has_asks_about_that_alone(folder):
    store = stored(folder, build(MADE, PromptOptions(shots=2, test_size=5)), "zh.zarr")
    found = asked_otherwise(store, language="zh", sources=MADE)
    assert set(found["relation"]) == {"first"} and len(found) == 5
    assert (
        found["text"].str.endswith("的意思是").all()
        and (found["text"].str.count("的意思是object") == 2).all()
    )
    with pytest.raises(InputError, match="none of first, second has prompts in 'fr'"):
        asked_otherwise(store, language="fr", sources=MADE)


def test_subjects_are_the_stores_own_whatever_case_and_blanks(folder):
    """The store was made from another choice of facts than any seed would hold out."""
    table = build([MADE[1]], PromptOptions(test_size=4))
    tested = {f"subject{at}" for at in (3, 8, 11)}
    split = ["test" if subject in tested else "identify" for subject in table["subject"]]
    odd = table.assign(split=split).sort_values("split")
    odd["text"] = odd["text"].str.replace("subject8 ", " Subject8  ")
    odd["subject"] = odd["subject"].replace("subject8", " Subject8 ")
    store = stored(folder, odd, "odd.zarr")
    assert set(asked_otherwise(store, paraphrase=True, sources=[MADE[1]])["subject"]) == tested
    german = asked_otherwise(store, language="de", sources=[MADE[1]])
    assert set(german["subject"]) == tested and set(german["language"]) == {"de"}


def test_a_fact_that_identified_neurons_under_another_name_is_never_asked(folder):
    facts = [
        *(Fact(str(at), f"s{at}", f"o{at}", (), language) for at in range(12) for language in ("en", "de")),
        Fact("3", "also s3", "o3"),
    ]
    made = Relation("r", {"en": ("{} is",), "de": ("{} ist",)}, tuple(facts))
    rows = [
        {"text": f"{subject} is", "relation": "r", "subject": subject, "object": f"o{subject[-1]}"}
        | {"template": "{} is", "split": "test" if subject in ("s1", "s2", "s3") else "identify"}
        for subject in ("s1", "s2", "s3", "also s3", "s4", "s5")
    ]
    store = stored(folder, check(pd.DataFrame(rows)), "twice.zarr")
    assert asked_otherwise(store, language="de", sources=[made])["subject"].tolist() == ["s1", "s2"]


def test_examples_that_the_language_lacks_are_others_that_are_not_tested(folder):
    store = stored(folder, build([MADE[1]], PromptOptions(shots=3, test_size=5)), "lacking.zarr")
    shown = store.prompts("test")["text"][0].split("\n")[0].split("object")[1]
    fewer = tuple(fact for fact in MADE[1].facts if (fact.language, fact.key) != ("de", shown))
    made = Relation("second", MADE[1].templates, fewer)
    found = asked_otherwise(store, language="de", sources=[made])
    assert (found["shots"] == 3).all()
    (head,) = {text.rpartition("\n")[0] for text in found["text"]}
    numbers = [line.split("object")[1] for line in head.split("\n")]
    assert shown not in numbers and not {f"subject{at}" for at in numbers} & set(found["subject"])


def test_an_answer_that_the_other_prompt_gives_away_is_not_asked_for(folder):
    facts = [
        Fact(str(at), f"s{at}", "Oslo" if at < 2 else "Rom", (), language)
        for at in range(12)
        for language in ("en", "de")
    ]
    made = Relation("r", {"en": ("{} is in",), "de": ("Oslo oder Turin? {} in",)}, tuple(facts))
    rows = [
        {"text": f"s{at} is in", "relation": "r", "subject": f"s{at}", "object": "x", "template": "{} is in"}
        | {"split": "test" if at < 4 else "identify"}
        for at in range(8)
    ]
    store = stored(folder, check(pd.DataFrame(rows)), "leaks.zarr")
    assert set(asked_otherwise(store, language="de", sources=[made])["subject"]) == {"s2", "s3"}
    kept = asked_otherwise(store, language="de", sources=[made], preset="paper")
    assert set(kept["subject"]) == {"s0", "s1", "s2", "s3"}


def test_what_cannot_be_read_off_is_refused_in_a_line(folder):
    table = build([MADE[1]], PromptOptions(test_size=4))
    ready = stored(folder, table.assign(text="Q: " + table["text"]), "ready.zarr")
    with pytest.raises(InputError, match=r"relation second: its test prompts are not one template, filled"):
        asked_otherwise(ready, paraphrase=True, sources=MADE)
    store = stored(folder, build(MADE, PromptOptions(test_size=4)), "plain.zarr")
    with pytest.raises(InputError, match=r"relation first: not a bundled relation. Say with --source"):
        asked_otherwise(store, paraphrase=True)
    with pytest.raises(InputError, match=r"relation second: in none of the sources"):
        asked_otherwise(store, paraphrase=True, sources=MADE[:1])
    bare = [relation(40, name, ("en",)) for name in ("first", "second")]
    used = stored(folder, build(bare, PromptOptions(test_size=4, templates="all")), "all.zarr")
    with pytest.raises(InputError, match="no template in 'en' but those that the store's prompts have"):
        asked_otherwise(used, paraphrase=True, sources=bare)


def lre(folder):
    """A folder of invented LRE files with the published method's names."""
    folder.mkdir()
    for at, stem in enumerate(sources.PAPER):
        samples = [{"subject": f"{stem} {n}", "object": f"o{n} {at}"} for n in range(9)]
        samples.append({"subject": f"{stem} 0", "object": "another"})
        data = {
            "prompt_templates": ["The thing of {} is"],
            "prompt_templates_zs": ["What is the thing of {}? It is"],
            "samples": samples,
        }
        (folder / f"{stem}.json").write_text(json.dumps(data))
    return folder


def test_the_presets_store_is_asked_its_own_subjects_in_its_form(folder, tmp_path):
    data = lre(tmp_path / "lre")
    options = PromptOptions(form="paper", test_size=3, keep_leaks=True)
    store = stored(folder, tables.published([data], options), "paper.zarr")
    with pytest.raises(InputError, match=r"relation company_ceo: not a bundled relation"):
        asked_otherwise(store, paraphrase=True)
    with pytest.raises(InputError, match=r"relation landmark_continent: in none of .*--preset paper"):
        asked_otherwise(store, paraphrase=True, sources=[data])
    found = asked_otherwise(store, paraphrase=True, sources=[data], preset="paper")
    own = store.prompts("test")
    for name in sources.PAPER.values():
        asked, before = (table[table["relation"] == name] for table in (found, own))
        assert asked["subject"].tolist() == before["subject"].tolist()
        assert asked["object"].tolist() == before["object"].tolist()
    question = "What is the thing of " + found["subject"] + "? It is? Answer:"
    assert found["text"].tolist() == question.tolist() and set(found["shots"]) == {0}


def test_a_bundled_store_needs_no_source(study):
    found = asked_otherwise(study, paraphrase=True)
    expected = package.prompts(study.relations(), shots=3, per_relation=12, test_size=6, paraphrase=True)
    expected = expected[expected["split"] == "test"].reset_index(drop=True)
    assert found["text"].tolist() == expected["text"].tolist()


@pytest.mark.slow
def test_the_command_reads_the_source_and_names_the_result(command, folder, tmp_path):
    data = lre(tmp_path / "lre")
    table = tables.published([data], presets.PAPER.prompts)
    store = package.score(stored(folder, table, "command.zarr"))
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store.path, copy)
    asked = ("ablate", copy, "--k", 5, "--seeds", 1, "--keep-super-units")
    command(*asked, "--paraphrase", "--preset", "paper", "--source", data)
    (name,) = local.open(copy).children("ablations")
    assert name == "top-5-neurons-super-uniform-paraphrase"
    result = local.open(copy).dataset(f"ablations/{name}")
    assert all(str(text).endswith("It is? Answer:") for text in result["text"].values)
    code, _, err = command(*asked, "--paraphrase")
    assert code == 1 and "relation company_ceo: not a bundled relation. Say with --source" in err
    code, _, err = command(*asked, "--source", data)
    assert code == 2 and "give --language or --paraphrase too" in err


@pytest.mark.parametrize("options", [{}, {"shots": 3, "seed": 5, "templates": "all"}])
def test_no_subject_that_identified_is_tested_in_another_language(folder, options):
    """A store of other choices than the defaults; by the facts' keys, whatever a language calls them."""
    (made,) = sources.load("country_capital")
    key_of = {(fact.language, fact.subject): fact.key for fact in made.facts}
    table = build([made], PromptOptions(test_size=9, **options))
    store = stored(folder, table, f"capital-{len(options)}.zarr")
    tested, identified = (
        {key_of["en", subject] for subject in store.prompts(split)["subject"]}
        for split in ("test", "identify")
    )
    for language in made.languages:
        found = asked_otherwise(store, language=language, paraphrase=language == "en" and not options)
        asked = {key_of[language, subject] for subject in found["subject"]}
        assert asked and asked <= tested - identified
        assert set(found["shots"]) == {options.get("shots", 0)}
        answers = {fact.object: fact.key for fact in made.told_in(language)}
        for text in found["text"]:
            shown = {
                answers[answer]
                for line in text.split("\n")[:-1]
                for answer in answers
                if line.endswith(answer)
            }
            assert not shown & tested


def test_rows_with_their_own_templates_are_asked_with_their_own(folder):
    told = {"en": ("The town of {} is", "{} plays the"), "de": ("Die Stadt von {} ist", "{} spielt")}
    facts = tuple(
        Fact(str(at), f"s{at}", f"o{at}", (), language, (texts[at % 2],))
        for at in range(24)
        for language, texts in told.items()
    )
    made = Relation("r", told, facts)
    store = stored(folder, build([made], PromptOptions(shots=3, test_size=6)), "own.zarr")
    found = asked_otherwise(store, language="de", sources=[made])
    expected = build([made], PromptOptions(shots=3, test_size=6, language="de"))
    expected = expected[expected["split"] == "test"].reset_index(drop=True)
    assert set(found["template"]) == set(told["de"])
    pd.testing.assert_frame_equal(found, expected, check_like=True)
    with pytest.raises(InputError, match="no template in 'en' but those"):
        asked_otherwise(store, paraphrase=True, sources=[made])

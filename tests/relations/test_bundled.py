"""The checker of the bundled relations: every file is complete, clean, and what the build script makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from relact.relations import facts, prompts, sources

ROOT = Path(facts.__file__).parents[2]
FOLDER = Path(facts.__file__).parent
SIX = {"en", "de", "fr", "es", "zh", "ja"}
LOADED = {relation.name: relation for relation in sources.load("all")}


def test_there_are_enough_relations_languages_and_facts():
    print()
    for name, relation in LOADED.items():
        print(
            f"{name:24}",
            *(f"{language} {len(relation.told_in(language))}" for language in relation.languages),
        )
    assert len(LOADED) >= 24
    assert sum(set(relation.languages) == SIX for relation in LOADED.values()) >= 6
    assert sum(len(relation.told_in("en")) >= 100 for relation in LOADED.values()) >= 24
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 1_500_000


@pytest.mark.parametrize("name", LOADED)
def test_a_file_is_complete(name):
    relation = LOADED[name]
    assert relation.name == name
    assert relation.description and relation.source and relation.licence
    assert set(relation.templates) == set(relation.languages) <= SIX
    assert "en" in relation.languages
    assert all(len(relation.told_in(language)) >= 60 for language in relation.languages)
    for texts in relation.templates.values():
        assert len(texts) >= 2 and len(set(texts)) == len(texts)
        assert all(text.count("{}") == 1 and text == text.strip() and "  " not in text for text in texts)


@pytest.mark.parametrize("name", LOADED)
def test_subjects_are_unique_and_every_fact_is_told_in_english(name):
    relation = LOADED[name]
    english = {fact.key for fact in relation.told_in("en")}
    for language in relation.languages:
        told = relation.told_in(language)
        assert len({facts.plain(fact.subject) for fact in told}) == len(told)
        assert len({fact.key for fact in told}) == len(told)
        assert {fact.key for fact in told} <= english


@pytest.mark.parametrize("name", LOADED)
def test_answers_and_aliases_are_clean(name):
    relation = LOADED[name]
    for fact in relation.facts:
        for text in (fact.subject, *fact.answers):
            assert text and text == text.strip() and len(text) <= 80, fact
            assert not set(text) & set("|\t\n{}\u00ad"), fact
        assert len({facts.plain(answer) for answer in fact.answers}) >= 1
        assert len(set(fact.answers)) == len(fact.answers), fact
        if fact.language in ("zh", "ja") and not fact.object.isascii():
            assert any(ord(letter) > 0x2E80 for letter in fact.object), fact


@pytest.mark.parametrize("name", LOADED)
def test_no_prompt_gives_its_answer_away(name):
    relation = LOADED[name]
    assert not relation.leaks, "the reason must be inherent to the relation"
    for fact in relation.facts:
        for text in relation.templates[fact.language]:
            assert not facts.leaks(fact.answers, text.replace("{}", fact.subject), fact.language), fact


@pytest.mark.parametrize("name", LOADED)
def test_a_file_has_one_fact_a_line(name):
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    lines = text.split('"facts": [\n')[1].splitlines()[:-1]
    assert len(lines) == len(json.loads(text)["facts"])
    assert all(json.loads(line.removesuffix(","))["key"] for line in lines)


def test_the_starter_relations_split_with_five_shots_and_never_share_a_subject():
    assert len(sources.STARTER) >= 12
    frame = prompts.prompts(sources.load("starter"), shots=5)
    for _, rows in frame.groupby("relation"):
        by_split = {role: set(part["subject"]) for role, part in rows.groupby("split")}
        assert not by_split["identify"] & by_split["test"]
        assert len(by_split["test"]) >= 35 and len(by_split["identify"]) >= 70


@pytest.mark.slow
def test_the_build_script_reproduces_the_files():
    script = ROOT / "tools" / "build_relations.py"
    shown = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("relation", "language", "subject", "answer"),
    [
        ("country_capital", "en", "France", "Paris"),
        ("country_capital", "de", "China", "Peking"),
        ("country_capital", "fr", "le Royaume-Uni", "Londres"),
        ("country_capital", "es", "Egipto", "El Cairo"),
        ("country_capital", "zh", "日本", "东京"),
        ("country_capital", "ja", "韓国", "ソウル"),
        ("country_language", "de", "der Schweiz", "Deutsch"),
        ("country_language", "en", "Brazil", "Portuguese"),
        ("country_currency", "en", "Bulgaria", "euro"),
        ("country_currency", "en", "Japan", "yen"),
        ("country_continent", "es", "Perú", "Sudamérica"),
        ("country_code", "en", "Switzerland", "CH"),
        ("country_calling_code", "en", "Germany", "49"),
        ("city_country", "en", "Melbourne", "Australia"),
        ("currency_code", "en", "Swiss franc", "CHF"),
        ("language_script", "en", "Russian", "Cyrillic"),
        ("unit_quantity", "fr", "kilomètres", "longueur"),
        ("element_symbol", "en", "gold", "Au"),
        ("element_number", "en", "iron", "26"),
        ("verb_past_tense", "en", "go", "went"),
        ("book_author", "en", "Dune", "Frank Herbert"),
    ],
)
def test_some_facts_are_as_everyone_knows_them(relation, language, subject, answer):
    found = [fact for fact in LOADED[relation].told_in(language) if fact.subject == subject]
    assert [fact.object for fact in found] == [answer]


def test_the_docs_list_every_relation_with_its_count():
    text = (ROOT / "docs" / "relations.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `") and line.count("|") == 7
    ]
    told = {cells[0].strip(" `*"): cells for cells in rows}
    assert set(told) == set(LOADED)
    for name, cells in told.items():
        assert int(cells[2]) == len(LOADED[name].told_in("en"))
        assert (cells[3].strip() == "all six") == (set(LOADED[name].languages) == SIX)
        assert ("*" in cells[0]) == (name in sources.STARTER)
        assert name not in sources.STARTER or float(cells[5]) >= 0.4

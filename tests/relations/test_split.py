"""Who is tested, who identifies, who serves as an example."""

from __future__ import annotations

from helpers.facts import LANGUAGES, TEMPLATES, relation
from hypothesis import given, settings
from hypothesis import strategies as st

from relact.relations import prompts, sources, split, table
from relact.relations.facts import Fact, Relation


@st.composite
def relations(draw):
    keys = draw(st.lists(st.integers(0, 99), min_size=12, max_size=60, unique=True))
    told = []
    for key in keys:
        for language in draw(st.lists(st.sampled_from(LANGUAGES), min_size=1, max_size=3, unique=True)):
            told += [Fact(str(key), f"s{key}", f"o{key}", (), language)] * draw(st.sampled_from([1, 1, 1, 2]))
    return Relation("r", TEMPLATES, tuple(told))


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


def test_examples_are_found_where_every_subject_has_several_facts():
    """A row per language, template or answer of each; no key has as few facts as examples are asked for."""
    facts = [
        Fact(str(at), f"s{at}", f"o{at} {n}", templates=(f"{n} {{}}",)) for at in range(12) for n in range(4)
    ]
    made = Relation("r", {"en": tuple(f"{n} {{}}" for n in range(4))}, tuple(facts))
    dealt = split.split(made, shots=3, test_size=8)
    assert (len(dealt.examples), len(dealt.test), len(dealt.identify)) == (1, 2, 9)
    frame = prompts.prompts([made], shots=3, test_size=8)
    assert set(frame["shots"]) == {3} and (frame["split"] == "test").sum() == 8

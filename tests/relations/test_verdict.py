"""The rule for correct."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relact.errors import InputError
from relact.relations import facts, verdict


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

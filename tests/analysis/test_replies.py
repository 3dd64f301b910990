"""What was said instead: every reply has one type, and the table counts the broken prompts and no others."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import sample

import relact
from relact import schema
from relact.ablating.ablate import ablate
from relact.analysis.replies import TYPES, Question, error_types, type_of
from relact.errors import InputError
from relact.exchange.formats import FORMATS, export
from relact.store import local

OTHERS = frozenset({"london", "rome", "the hague", "new york", "austria", "43"})


def capital(answer="paris", subject="france", examples=()):
    """A question about a country."""
    question = f"the capital city of {subject} is"
    return Question(subject, question, tuple(examples), (answer,), OTHERS - {answer})


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("", "nothing"),
        ("  ", "nothing"),
        ("\nParis", "nothing"),
        (" \n", "nothing"),
        (" France", "repeated"),
        (" Fra", "repeated"),
        (" France, of", "repeated"),
        (" the capital city", "repeated"),
        (" the capital city\nParis", "repeated"),
        (" London", "other object"),
        (" Lon", "other object"),
        (" London, England", "other object"),
        (" NEW York.", "other object"),
        (" 43\n", "other object"),
        (" Par\n", "form of the answer"),
        (" P\n", "form of the answer"),
        (" Parisian", "form of the answer"),
        (" Pariser", "form of the answer"),
        (" 44", "no word"),
        (" ____", "no word"),
        (" ...", "no word"),
        (" the", "something else"),
        (" Lo", "something else"),
        (" city", "something else"),
        (" Londonderry", "something else"),
        (" a large town", "something else"),
        (" Parma", "something else"),
    ],
)
def test_a_reply_has_the_first_type_that_fits(reply, kind):
    assert type_of(reply, capital()) == kind


def test_what_comes_first_decides():
    mexico = capital("mexico city", "mexico")
    assert type_of(" Mexico\n", mexico) == "repeated"  # and it begins the answer
    australia = Question("sydney", "sydney is in the country of", (), ("australia",), OTHERS)
    assert type_of(" Austria", australia) == "other object"  # and it shares half of the letters
    assert type_of(" Australian", australia) == "form of the answer"
    assert type_of(" 4\n", Question("x", "x is", (), ("49",), OTHERS)) == "form of the answer"


def test_a_word_of_the_subject_and_the_answer_of_an_example():
    sudan = capital("juba", "south sudan", ["the capital city of chile is santiago"])
    assert type_of(" Sudan", sudan) == "repeated"
    assert type_of(" Santiago", sudan) == "other object"
    assert type_of(" Chile", sudan) == "something else"
    assert type_of(" is", sudan) == "something else"  # one word of the question is no repetition


def test_a_text_without_a_subject_is_compared_all_the_same():
    bare = Question("", "who is it?", (), ("anna",), frozenset())
    assert [type_of(reply, bare) for reply in (" who is", " Bob")] == ["repeated", "something else"]


def broken(result, kind):
    """(condition, prompt) pairs that intact answers and a condition of this kind does not, plainly."""
    for condition in result["condition"].values:
        of = str(result["kind"].sel(condition=condition).values)
        for prompt in result["prompt"].values:
            relation = str(result["relation_of"].sel(prompt=prompt).values)
            whose = "own" if str(condition) == relation else "other"
            right, still = (
                bool(result["correct"].sel(condition=name, prompt=prompt)) for name in ("intact", condition)
            )
            if right and not still and (of if of != "own" else whose) == kind:
                yield relation, str(result["generated"].sel(condition=condition, prompt=prompt).values)


def test_every_broken_prompt_is_counted_once_where_it_broke(study):
    table = error_types(study, "top-200")
    assert list(table) == ["relation", "kind", "type", "prompts", "share"]
    assert len(table) == 3 * 3 * len(TYPES) and tuple(dict.fromkeys(table["type"])) == TYPES
    result = study.dataset("ablations/top-200").load()
    for kind in ("own", "other", "random"):
        lost = pd.Series([relation for relation, _ in broken(result, kind)]).value_counts()
        counted = table[table["kind"] == kind].groupby("relation")["prompts"].sum()
        assert counted[counted > 0].to_dict() == lost.to_dict()
    assert table["prompts"].sum() > 0
    shares = table.groupby(["relation", "kind"])["share"].sum(min_count=1)
    counts = table.groupby(["relation", "kind"])["prompts"].sum()
    np.testing.assert_allclose(shares[counts > 0], 1)
    assert shares[counts == 0].isna().all()


@pytest.fixture
def copied(study, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(study.path, tmp_path / "s.zarr")
    return local.open(tmp_path / "s.zarr")


def said(store, name, reply):
    """Put a wrong reply into every cell of a stored ablation but the intact ones, which are right."""
    with sample.edited(store.path, f"ablations/{name}") as group:
        texts, verdicts = group[schema.GENERATED][:], group[schema.CORRECT][:]
        texts[..., 1:, :], verdicts[...] = reply, False
        verdicts[..., 0, :] = True
        group[schema.GENERATED][:], group[schema.CORRECT][:] = texts, verdicts


def test_replies_are_compared_with_their_own_prompt(copied):
    prompts = copied.prompts(schema.TEST)
    said(copied, "top-200", f" {prompts['object'][0]}")
    found = error_types(local.open(copied.path), "top-200")
    own = found[(found["relation"] == prompts["relation"][0]) & (found["kind"] == "own")].set_index("type")
    n = int((prompts["relation"] == prompts["relation"][0]).sum())
    accepted = sum(prompts["object"][0] in answers for answers in prompts[schema.ANSWERS][:n])
    assert own.loc["other object", "prompts"] == n - accepted


def test_a_sweep_other_prompts_and_identification_prompts_are_sorted_too(copied, model):
    ablate(copied, k=[50, 200], model=model, seeds=[0], name="sweep")
    table = error_types(copied, "sweep")
    assert table.columns[0] == "k" and table["k"].unique().tolist() == [50, 200]
    alone = error_types(copied, "top-200")
    own = [each[each["kind"] == "own"].drop(columns="k", errors="ignore") for each in (alone, table)]
    pd.testing.assert_frame_equal(own[0].reset_index(drop=True), own[1].iloc[-18:].reset_index(drop=True))
    other = relact.prompts(["country_capital"], shots=3, per_relation=12, test_size=6, paraphrase=True)
    ablate(copied, mask="top-200", model=model, seeds=[0], tests=other, name="foreign")
    said(copied, "foreign", " \n")
    foreign = error_types(local.open(copied.path), "foreign")
    assert set(foreign.loc[foreign["prompts"] > 0, "type"]) == {"nothing"}
    ablate(copied, mask="top-200", model=model, seeds=[0], part="identify", name="identify")
    said(copied, "identify", " 1234 5")
    found = error_types(local.open(copied.path), "identify")
    assert set(found.loc[found["prompts"] > 0, "type"]) == {"no word"}
    assert found.loc[(found["kind"] == "own"), "prompts"].sum() == 36


def test_refusals(copied):
    with pytest.raises(InputError, match=r"no ablation 'best', there are: top-200"):
        error_types(copied, "best")
    with sample.edited(copied.path, "ablations/top-200") as group:
        group.attrs.update({schema.ATTRIBUTE: {**group.attrs[schema.ATTRIBUTE], "prompts": "0" * 32}})
    with pytest.raises(InputError, match=r"their texts are not stored. Ablate them again"):
        error_types(local.open(copied.path), "top-200")


def test_the_export(command, study, tmp_path):
    assert "errors" in FORMATS
    (path,) = export(study, tmp_path / "new" / "errors.parquet", "errors")
    pd.testing.assert_frame_equal(pd.read_parquet(path), error_types(study, "top-200"))
    code, out, _ = command("export", study.path, tmp_path / "errors.csv", "--format", "errors")
    assert code == 0 and "errors.csv" in out
    assert pd.read_csv(tmp_path / "errors.csv")["prompts"].sum() > 0

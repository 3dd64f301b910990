"""Verdicts made again from stored texts, and settings that were registered before a run."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import relact
from relact import schema
from relact.ablating import result
from relact.ablating.ablate import ablate, ablate_with
from relact.ablating.options import AblateOptions
from relact.errors import InputError
from relact.relations.verdict import is_correct
from relact.store import local


@pytest.fixture
def copied(study, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(study.path, tmp_path / "s.zarr")
    return local.open(tmp_path / "s.zarr")


def stored(store, name="top-200"):
    return store.dataset(f"ablations/{name}").load()


def test_judging_again_by_the_same_rule_changes_nothing(copied):
    before = stored(copied)
    table = relact.judge(copied)
    assert table.to_dict("records") == [
        {
            "ablation": "top-200",
            "match": "prefix",
            "texts": before["generated"].size,
            "undecided": 0,
            "changed": 0,
            "written": False,
        }
    ]
    xr.testing.assert_identical(stored(copied), before)


def test_another_rule_is_applied_to_the_texts_as_ablating_again_would(copied, model):
    before = stored(copied)
    table = relact.judge(copied, "top-200", match="exact")
    after = stored(copied)
    expected = ablate(copied, mask="top-200", model=model, seeds=[0, 1], match="exact", name="again").load()
    xr.testing.assert_equal(after["correct"], expected["correct"])
    xr.testing.assert_equal(after["accuracy"], expected["accuracy"])
    assert after.attrs["match"] == "exact"
    assert table["changed"].item() == int((after["correct"] != before["correct"]).sum())
    relact.judge(copied, match="prefix")
    xr.testing.assert_identical(stored(copied), before)


def with_texts(store, change, **record):
    """Write the ablation anew with other texts and another record, as an older version left it."""
    dataset = stored(store)
    answers = store.prompts(schema.TEST)[schema.ANSWERS].tolist()
    former = result.read(store.ablation_record("top-200"), dataset, answers)
    texts = change(former.generated.copy(), answers)
    replace(former, generated=texts, record=replace(former.record, **record)).write(store, "top-200")


def test_texts_that_end_before_the_verdict_are_left_to_a_model(copied):
    def cut(texts, answers):
        texts[0, 2, 5] = f" {answers[5][0]}"  # whether the answer ends there is not known
        return texts

    with_texts(copied, cut, rule=1)
    before = stored(copied)
    table = relact.judge(copied)
    assert table["undecided"].item() >= 1 and not table["written"].item()
    xr.testing.assert_identical(stored(copied), before)


def test_old_verdicts_on_texts_that_suffice_are_mended(copied):
    def said(texts, answers):
        texts[:] = "no\\n"
        for prompt, accepted in enumerate(answers):
            texts[0, 0, prompt] = f" {accepted[0][:1]}\\n" if prompt % 2 else f" {accepted[0]}\\n"
        return texts

    with_texts(copied, said, rule=1)
    broken = stored(copied)
    table = relact.judge(copied)
    mended = stored(copied)
    answers = copied.prompts(schema.TEST)[schema.ANSWERS].tolist()
    expected = [
        is_correct(str(text), accepted)
        for text, accepted in zip(mended["generated"].values[0], answers, strict=True)
    ]
    assert mended["correct"].values[0].tolist() == expected
    assert copied.ablation_record("top-200").rule > 1 and table["undecided"].item() == 0
    assert (mended["generated"] == broken["generated"]).all()


def test_two_tokens_cannot_be_had_from_texts_that_were_read_on(copied):
    table = relact.judge(copied, match="paper")
    assert table["undecided"].item() == stored(copied)["generated"].size and not table["written"].item()
    assert stored(copied).attrs["match"] == "prefix"


@pytest.mark.parametrize(
    ("arguments", "options", "line"),
    [(("nothing",), {}, "no ablation 'nothing'.*top-200"), ((), {"match": "naive"}, "unknown rule 'naive'")],
)
def test_what_cannot_be_judged_is_a_line(copied, arguments, options, line):
    with pytest.raises(InputError, match=line):
        relact.judge(copied, *arguments, **options)


def test_the_command_says_what_changed(relact, copied):
    code, out, _ = relact("judge", copied.path, "--match", "exact")
    assert code == 0 and "top-200" in out and "exact" in out


# registrations


def test_settings_and_hypotheses_are_written_before_the_run(copied, model):
    options = AblateOptions(seeds=(0,), part=schema.DEV)
    said = ["Own neurons cost at least ten points."]
    found = ablate_with(options, copied, mask="top-200", model=model, hypotheses=said).load()
    attributes = copied.attributes("registrations/top-200-dev")
    assert attributes["hypotheses"] == said and attributes["settings"]["part"] == "dev"
    assert found.attrs["relact"]["registration"] == attributes["digest"]
    again = ablate_with(options, copied, mask="top-200", model=model, hypotheses=said).load()
    xr.testing.assert_identical(again, found)
    with pytest.raises(InputError, match="another registration is called 'top-200-dev'"):
        ablate_with(options, copied, mask="top-200", model=model, hypotheses=["Something else."])


def test_a_registration_after_the_run_is_refused(copied, model):
    with pytest.raises(InputError, match=r"'top-200' has been run already.*comes before its result"):
        ablate_with(AblateOptions(seeds=(0, 1)), copied, mask="top-200", model=model, hypotheses=[])


# parts of the test prompts


def test_parts_divide_the_subjects_and_their_results_are_those_of_all(copied, model):
    whole = stored(copied)
    parts = {}
    for part in (schema.DEV, schema.TEST):
        found = ablate(copied, mask="top-200", model=model, seeds=[0, 1], part=part).load()
        assert set(found["part"].values) == {part}
        parts[part] = found
        for name in ("correct", "generated", "log_probability", "logit_difference"):
            xr.testing.assert_equal(found[name], whole[name].sel(prompt=found["prompt"]))
    rows = [set(found["prompt"].values.tolist()) for found in parts.values()]
    assert rows[0] | rows[1] == set(range(18)) and not rows[0] & rows[1] and len(rows[0]) == 6
    tests = copied.prompts(schema.TEST)
    subjects = [set(zip(tests.relation[list(some)], tests.subject[list(some)], strict=True)) for some in rows]
    assert not subjects[0] & subjects[1]


def test_identification_prompts_are_an_exception_that_says_so(copied, model):
    found = ablate(copied, mask="top-200", model=model, seeds=[], part=schema.IDENTIFY).load()
    assert set(found["part"].values) == {"identify"} and found.sizes["prompt"] == 36
    assert found.attrs["part"] == "identify" and copied.has("ablations/top-200-identify")
    assert np.isfinite(found["log_probability"].values).all()

"""Prompts that a model answers, against plain transformers."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from helpers import deep, tiny

from relact.ablating import answers
from relact.errors import InputError
from relact.relations import prompts as tables
from relact.relations import sources, verdict
from relact.relations.table import summary as tables_summary
from relact.studies import run
from relact.studies.known_prompts import known
from relact.studies.presets import Recipe


@pytest.mark.parametrize(
    ("name", "per_relation"), [("model", 14), pytest.param("smollm2", 7, marks=deep.only)]
)
def test_kept_prompts_are_those_that_generate_answers(request, name, per_relation):
    model = request.getfixturevalue(name)
    relations = [sources.load(each)[0] for each in ("noun_plural", "country_currency")]
    frame = tables.prompts(relations, shots=2, per_relation=per_relation, test_size=3)
    if name == "model":
        frame = tiny.knowing(model, frame, "identify")
    kept = known(frame, model)
    texts = kept[kept.split == "identify"].text.tolist()
    for row in frame[frame.split == "identify"].itertuples():
        encoded = model.tokenizer(row.text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            most = verdict.most_tokens(row.answers)
            output = model.model.generate(encoded, max_new_tokens=most, do_sample=False)
        said = model.tokenizer.decode(output[0, encoded.shape[1] :], skip_special_tokens=True)
        assert (row.text in texts) == verdict.is_correct(said, row.answers)
    assert 4 <= len(texts) < 2 * per_relation
    assert kept[kept.split == "test"].text.tolist() == frame[frame.split == "test"].text.tolist()
    assert f"of {per_relation} known by {model.id}" in kept.attrs["notes"]["noun_plural"]
    few = known(frame, model, per_relation=2)
    assert (few[few.split == "identify"].groupby("relation").size() == 2).all()
    assert few.text.isin(kept.text).all()


def test_a_relation_that_the_model_does_not_know_is_dropped_and_named(model):
    """The others stay; with none left, or where that is asked, it is refused."""
    relations = [sources.load(each)[0] for each in ("noun_plural", "country_currency")]
    frame = tables.prompts(relations, shots=2, per_relation=6, test_size=3)
    frame = tiny.knowing(model, frame, "identify")
    unknown = frame["relation"] == "country_currency"
    frame.loc[unknown, "answers"] = pd.Series([["nothing like it"]] * len(frame))[unknown]
    kept = known(frame, model)
    assert set(kept["relation"]) == {"noun_plural"}
    why = f"{model.id} answers 0 of its 6 identification prompts"
    assert kept.attrs["dropped"] == {"country_currency": why}
    assert why in tables_summary(kept).set_index("relation").loc["country_currency", "note"]
    for table, strict in ((frame, True), (frame[unknown], False)):
        with pytest.raises(InputError, match=r"relation country_currency: .* answers 0 of its 6"):
            known(table, model, strict=strict)


def test_an_interrupted_filter_goes_on_where_it_stopped(model, monkeypatch, tmp_path):
    """Under its own name in progress; what was answered is not asked again."""
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path))
    frame = tables.prompts(sources.load("noun_plural"), shots=2, per_relation=14, test_size=3)
    frame = tiny.knowing(model, frame, "identify")
    stages, rows, decode = [], [], answers.decode

    def counting(*args, todo, batch_tokens, **options):
        rows.append(int(todo.sum()))
        return decode(*args, todo=todo, batch_tokens=60, **options)

    def stopping(stage, done, total, unit):
        stages.append(stage)
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(answers, "decode", counting)
    with pytest.raises(KeyboardInterrupt):
        known(frame, model, progress=stopping)
    again = known(frame, model)
    known(frame, model)
    assert set(stages) == {"known"} and rows[0] == 14 > rows[1] > rows[2] == 0
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "other"))
    pd.testing.assert_frame_equal(known(frame, model), again)


def test_a_preset_refuses_what_it_would_ignore(command, tmp_path):
    for given in (
        ("--shots", 3),
        ("--language", "de"),
        ("--sites", "attn"),
        ("--negatives", 2),
        ("--attribution",),
    ):
        code, _, err = command("run", tmp_path, "--preset", "paper", "--store", tmp_path / "s.zarr", *given)
        assert code == 2 and "a preset is as published" in err, given
    for given in (("--shots", 3), ("--form", "paper"), ("--per-relation", 4), ("--template", "{} is")):
        code, _, err = command("prompts", tmp_path, "--preset", "paper", *given)
        assert code == 2 and "a preset is as published" in err, given


def test_the_plan_begins_with_the_filter(model, tiny_prompts):
    recipe = Recipe(known=True)
    plans = run.forecast(recipe, model, tiny_prompts)
    asked = int((tiny_prompts["split"] == "identify").sum())
    assert [plan.what for plan in plans] == ["known", "capture", "score", "ablate", "look"]
    assert plans[0].seconds and plans[0].bytes == asked * 192

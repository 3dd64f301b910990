"""Splits of an ablation's prompts, against the effects of those prompts alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.ablated import study as made_up

from relact import schema
from relact.ablating.ablate import ablate
from relact.analysis import splits
from relact.analysis.effects import effects
from relact.analysis.evidence import evidence
from relact.errors import InputError
from relact.relations import prompts as tables
from relact.relations import sources
from relact.store import local


def test_effects_of_every_label_are_those_of_its_prompts():
    dataset = made_up(np.random.default_rng(0), [20, 30], n_random=2, own=1.0)
    labels = np.where(np.random.default_rng(1).random(50) < 0.3, "few", "many")
    found = effects(dataset, labels)
    assert list(found) == list(dict.fromkeys(labels.tolist()))
    relation_of = dataset["relation_of"].values
    for label, summary in found.items():
        drops = [
            float(
                dataset[name].sel(condition="intact")[rows].mean()
                - dataset[name].sel(condition=own)[rows].mean()
            )
            for name in ("correct", "log_probability")
            for own in ("r0", "r1")
            if (rows := (labels == label) & (relation_of == own)).any()
        ]
        assert summary.own == pytest.approx(100 * np.mean(drops[:2]), abs=1e-4)
        assert summary.log_own == pytest.approx(np.mean(drops[2:]), abs=1e-5)
    assert effects(dataset, ["all"] * 50)["all"].other == effects(dataset).other
    with pytest.raises(InputError, match="3 labels of 50 prompts"):
        effects(dataset, ["a"] * 3)


def test_answers_are_seen_where_the_relation_identified_with_them(study):
    known, tests = study.prompts(schema.IDENTIFY), study.prompts(schema.TEST)
    labels = splits.split_of(study, "top-200", "answers")
    for label, relation, answers in zip(labels, tests["relation"], tests["answers"], strict=True):
        objects = {text.casefold() for text in known.loc[known["relation"] == relation, "object"]}
        assert label == ("seen" if answers[0].casefold() in objects else "unseen")
    assert set(labels) == {"seen", "unseen"}
    assert splits.split_of(study, "top-200", "language").tolist() == ["en"] * len(tests)
    assert splits.split_of(study, "top-200", "template").tolist() == tests["template"].tolist()


def test_the_table_has_the_means_and_intervals_of_evidence(study):
    table = splits.effect_table(study)
    found = evidence(study.dataset("ablations/top-200").load())
    assert table["ablation"].unique().tolist() == ["top-200"] and table["split"].unique().tolist() == ["all"]
    assert table["group"].tolist() == found["group"].values.tolist()
    for name in ("drop", "low", "high", "log_drop", "log_low", "log_high"):
        stored = f"mean_{name}"
        np.testing.assert_array_equal(table[name], found[stored])
    np.testing.assert_array_equal(table["size"], found["mean_size"])
    assert set(table["match"]) == {"prefix"}
    split = splits.effect_table(study, "top-200", split="answers")
    sizes = split.drop_duplicates("split").set_index("split")["prompts"]
    assert sizes.sum() == table["prompts"][0] == 18
    summaries = effects(
        study.dataset("ablations/top-200").load(), splits.split_of(study, "top-200", "answers")
    )
    own = split[split["group"] == "own"].set_index("split")["drop"]
    assert own.to_dict() == pytest.approx({label: each.own for label, each in summaries.items()}, abs=1e-4)


def test_foreign_prompts_tell_their_templates_and_a_sweep_every_k(study, model, tmp_path):
    shutil.copytree(study.path, tmp_path / "s.zarr")
    copied = local.open(tmp_path / "s.zarr")
    other = tables.prompts(
        [sources.load("country_capital")[0]], shots=3, per_relation=12, test_size=6, paraphrase=True
    )
    ablate(copied, k=[50, 200], model=model, seeds=[], tests=other, name="words")
    table = splits.effect_table(copied, "words", split="template")
    asked = other[other["split"] == "test"]
    assert set(table["split"]) == set(asked["template"]) and sorted(set(table["k"])) == [50, 200]
    assert set(splits.split_of(copied, "words", "answers")) <= {"seen", "unseen"}


def test_what_cannot_be_split_is_refused(study):
    with pytest.raises(InputError, match=r"unknown split 'x'.*answers, language, template"):
        splits.split_of(study, "top-200", "x")
    with pytest.raises(InputError, match=r"no ablation 'x'.*top-200"):
        splits.effect_table(study, "x")

"""Drops, parts, kinds and cumulativity, against counting by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers.ablated import ablated, study

from relact.analysis import effects
from relact.errors import InputError

CONDITIONS = ["intact", "a", "b", "random-0", "random-1", "random-2"]
RELATIONS = ["a", "b"]
ROWS = [[1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("kinds", [None, False])
def test_drops_by_hand(kinds):
    found = effects.effects(ablated(ROWS, [*"aabb"], CONDITIONS, kinds=kinds))
    assert (found.own, found.other) == (75.0, 25.0)  # a: 100, b: 50; b under a: 0, a under b: 50
    assert found.random == pytest.approx((50 + 0 + 0 - 50 + 0 + 50) / 6)
    assert found.drops.dims == ("condition", "relation") and "intact" not in found.drops["condition"]
    assert found.relative.sel(condition="b", relation="b") == 1.0  # all of what it knew
    assert found.relative.sel(condition="b", relation="a") == 0.5
    assert found.log_drops is None and np.isnan([found.log_own, found.log_other, found.log_random]).all()


def test_nats_lost_by_hand():
    logs = -np.array(
        [[1, 1, 2, 2], [2, 4, 2, 2], [1, 1, 3, 7], [1, 2, 2, 4], [1, 1, 2, 2], [1, 1, np.inf, 2.0]]
    )
    found = effects.effects(ablated(ROWS, [*"aabb"], CONDITIONS, logs=logs))
    assert found.log_drops.sel(condition="a").values.tolist() == [2.0, 0.0]
    assert found.log_drops.sel(condition="b").values.tolist() == [
        0.0,
        5.0,
    ]  # the prompt that is finite in all
    assert (found.log_own, found.log_other) == (3.5, 0.0)
    assert found.log_random == pytest.approx((0.5 / 3 + 2 / 3) / 2)


def test_kinds_decide_whose_neurons_are_off_not_names():
    """A relation may be called like a control, and a control like anything."""
    dataset = ablated([[1, 1], [0, 1], [1, 0]], ["random-0", "b"], ["intact", "random-0", "shuffled"])
    dataset = dataset.assign_coords(kind=("condition", ["intact", "own", "random"]))
    found = effects.effects(dataset)
    assert (found.own, found.other, found.random) == (100.0, 0.0, 50.0)
    assert effects.kinds_of(dataset) == ["intact", "own", "random"]
    masks = effects.cells(["random-0", "shuffled"], ["random-0", "b"], ["own", "random"])
    assert masks["own"].tolist() == [[True, False], [False, False]]
    assert masks["other"].tolist() == [[False, True], [False, False]]
    assert masks["random"].tolist() == [[False, False], [True, True]]


def test_every_relation_weighs_the_same():
    """b has no neurons of its own here, and so one more of other relations'."""
    dataset = ablated([[1, 1], [0, 0], [1, 1]], ["a", "b"], ["intact", "a", "a without b"])
    assert effects.effects(dataset).other == (0 + (100 + 0) / 2) / 2


def test_what_is_not_there_is_nan():
    found = effects.effects(ablated([[1, 1], [0, 1]], ["a", "b"], ["intact", "a without b"]))
    assert np.isnan(found.own) and np.isnan(found.random) and found.other == 50.0


def test_without_intact_there_are_no_effects():
    with pytest.raises(InputError, match="intact"):
        effects.effects(ablated([[1, 1]], ["a", "b"], ["a"]))


def test_a_part_is_its_prompts_and_its_relations():
    parts = ["dev", "test", "test", "test"]
    dataset = ablated(ROWS, [*"abaa"], CONDITIONS, parts=parts)
    dataset["digest"] = (("condition", "relation"), np.array([[f"{c}{r}" for r in "ab"] for c in CONDITIONS]))
    test, dev = effects.of_part(dataset, "test"), effects.of_part(dataset, "dev")
    assert effects.of_part(dataset, "all") is dataset
    assert test["correct"].values.tolist() == [[bool(x) for x in row[1:]] for row in ROWS]
    expected = [[np.mean(row[2:]), row[1]] for row in ROWS]  # of a and of b
    np.testing.assert_array_equal(test["accuracy"], np.array(expected, np.float32))
    assert test["accuracy"].dtype == np.float32 and test["accuracy"].dims == dataset["accuracy"].dims
    assert dev["relation"].values.tolist() == ["a"] and dev["digest"].shape == (6, 1)
    assert dev["condition"].values.tolist() == CONDITIONS and dev["accuracy"].values[:, 0].tolist() == [
        row[0] for row in ROWS
    ]


def test_a_part_of_a_sweep_keeps_its_steps():
    one = ablated(ROWS, [*"aabb"], CONDITIONS, parts=["dev", "test", "dev", "test"])
    chosen = effects.of_part(
        xr.concat([one, one], dim=pd.Index([1, 2], name="k"), data_vars=["correct", "accuracy"]), "dev"
    )
    assert chosen["accuracy"].dims == ("k", "condition", "relation")
    assert chosen["accuracy"].sel(k=2, condition="a").values.tolist() == [0.0, 1.0]


def test_older_results_are_all_test():
    dataset = ablated(ROWS, [*"aabb"], CONDITIONS, kinds=False)
    xr.testing.assert_identical(effects.of_part(dataset, "test"), dataset)
    with pytest.raises(InputError, match=r"'dev'.*Choose of test, all"):
        effects.of_part(dataset, "dev")


def test_a_part_of_a_whole_study_has_the_effects_of_its_prompts():
    generator = np.random.default_rng(0)
    dataset = study(generator, [20, 30], n_random=2, own=1.0)
    parts = np.where(generator.random(50) < 0.3, "dev", "test")
    found = effects.effects(effects.of_part(dataset.assign_coords(part=("prompt", parts)), "test"))
    shown = dataset.isel(prompt=np.flatnonzero(parts == "test"))
    own = [
        shown.sel(condition=name).isel(prompt=shown["relation_of"].values == name) for name in ("r0", "r1")
    ]
    intact = [
        shown.sel(condition="intact").isel(prompt=shown["relation_of"].values == name)
        for name in ("r0", "r1")
    ]
    for measure, factor, value in (("correct", 100, found.own), ("log_probability", 1, found.log_own)):
        drops = [float(a[measure].mean() - b[measure].mean()) for a, b in zip(intact, own, strict=True)]
        assert value == pytest.approx(factor * np.mean(drops), abs=1e-4)


def test_cumulativity_needs_a_sweep():
    with pytest.raises(InputError, match="several k"):
        effects.cumulativity(ablated(ROWS, [*"aabb"], CONDITIONS))


def test_cumulativity_by_hand():
    """Two relations, three k; prompts 0 to 3 are of a, 4 and 5 of b."""
    correct = np.ones((3, 3, 6), bool)  # [k, intact a b, prompt]
    correct[1, 1] = [0, 0, 1, 1, 0, 1]  # of a: two more are wrong at the second k; prompt 4 is not its own
    correct[2, 1] = [0, 0, 0, 1, 1, 1]
    correct[2, 2, 5] = False
    step = np.ones((3, 6), bool)
    step[1, 0] = False  # already wrong when only what the second k adds is off
    step[2, 2] = False
    sweep = xr.Dataset(
        {
            "correct": (("k", "condition", "prompt"), correct),
            "step_correct": (("k", "prompt"), step),
            "relation_of": ("prompt", [*"aaaabb"]),
        },
        coords={"k": [10, 50, 200], "condition": ["intact", "a", "b"], "relation": RELATIONS},
    )
    table = effects.cumulativity(sweep)
    expected = pd.DataFrame(
        [
            ("a", 10, 50, 2, 1, 0.5),
            ("b", 10, 50, 0, 0, np.nan),
            ("a", 50, 200, 1, 1, 0.0),
            ("b", 50, 200, 1, 0, 1.0),
            ("macro", 10, 50, 2, 1, 0.5),
            ("macro", 50, 200, 2, 1, 0.5),
            ("micro", 10, 50, 2, 1, 0.5),
            ("micro", 50, 200, 2, 1, 0.5),
        ],
        columns=["relation", "k1", "k2", "total", "affected", "cumulativity"],
    )
    pd.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize(("broken", "expected"), [(1, 0.0), (0, np.nan)])
def test_cumulativity_of_one_prompt_that_breaks_and_of_none(broken, expected):
    """One relation; the second k breaks a prompt that what it adds breaks alone, too."""
    correct, step = np.ones((2, 2, 3), bool), np.ones((2, 3), bool)  # [k, intact a, prompt], [k, prompt]
    correct[1, 1, :broken] = step[1, :broken] = False
    sweep = xr.Dataset(
        {
            "correct": (("k", "condition", "prompt"), correct),
            "step_correct": (("k", "prompt"), step),
            "relation_of": ("prompt", [*"aaa"]),
        },
        coords={"k": [1, 2], "condition": ["intact", "a"], "relation": ["a"]},
    )
    table = effects.cumulativity(sweep).set_index("relation")
    assert (table["total"] == broken).all()
    np.testing.assert_array_equal(table.loc[["a", "macro", "micro"], "cumulativity"], [expected] * 3)

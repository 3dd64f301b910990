"""Drops, cumulativity and evidence, against counting by hand and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from scipy.stats import bootstrap

from relact.analysis import effects, evidence

CONDITIONS = ["intact", "a", "b", "random-0", "random-1", "random-2"]
RELATIONS = ["a", "b"]


def ablation(correct, relation_of, conditions=CONDITIONS):
    """A dataset as `relact ablate` stores it."""
    correct, relation_of = np.asarray(correct, bool), np.asarray(relation_of)
    accuracy = [[row[relation_of == name].mean() for name in RELATIONS] for row in correct]
    return xr.Dataset(
        {
            "correct": (("condition", "prompt"), correct),
            "accuracy": (("condition", "relation"), accuracy),
            "relation_of": ("prompt", relation_of),
        },
        coords={"condition": conditions, "relation": RELATIONS},
    )


@pytest.fixture
def noisy():
    """40 prompts of each relation; a loses much under its own neurons, b nothing, b gains under a's."""
    generator = np.random.default_rng(0)
    relation_of = np.repeat(RELATIONS, 40)
    chance = {"intact": (0.8, 0.4), "a": (0.2, 0.8), "b": (0.75, 0.4)}
    rows = [generator.random(80) < np.repeat(chance.get(name, (0.78, 0.42)), 40) for name in CONDITIONS]
    return ablation(rows, relation_of)


def test_drops_by_hand():
    relation_of = ["a", "a", "b", "b"]
    rows = [[1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    found = effects.effects(ablation(rows, relation_of))
    assert (found.own, found.other) == (75.0, 25.0)  # a: 100, b: 50; b under a: 0, a under b: 50
    assert found.random == pytest.approx((50 + 0 + 0 - 50 + 0 + 50) / 6)
    assert found.drops.dims == ("condition", "relation") and "intact" not in found.drops["condition"]
    assert found.relative.sel(condition="b", relation="b") == 1.0  # all of what it knew
    assert found.relative.sel(condition="b", relation="a") == 0.5


def test_what_is_not_there_is_nan():
    found = effects.effects(ablation([[1, 1], [0, 1]], ["a", "b"], ["intact", "a without b"]))
    assert np.isnan(found.own) and np.isnan(found.random) and found.other == 50.0


def test_mcnemar_is_the_binomial_test(noisy):
    before, after = noisy["correct"].values[0], noisy["correct"].values[1:]
    for p, row in zip(evidence.mcnemar(before, after), after, strict=True):
        lost, gained = int((before & ~row).sum()), int((~before & row).sum())
        assert p == pytest.approx(scipy.stats.binomtest(lost, lost + gained).pvalue)
    assert evidence.mcnemar(before, before[None]).tolist() == [1.0]


def test_evidence_by_hand_and_by_scipy(noisy):
    found = evidence.evidence(noisy)
    drops = effects.effects(noisy).drops
    np.testing.assert_allclose(found["drop"].values, drops.values)
    correct, relation_of = noisy["correct"].values, noisy["relation_of"].values
    majority = correct[3:].sum(axis=0) >= 2
    for row, name in enumerate(CONDITIONS[1:], 1):
        for relation in RELATIONS:
            own = relation_of == relation
            cell = found.sel(condition=name, relation=relation)
            loss = correct[0, own].astype(float) - correct[row, own]
            assert cell["lost"] - cell["gained"] == loss.sum()
            assert cell["p_intact"] == pytest.approx(
                evidence.mcnemar(correct[0, own], correct[row : row + 1, own])[0]
            )
            assert cell["p_random"] == pytest.approx(
                evidence.mcnemar(majority[own], correct[row : row + 1, own])[0]
            )
            other = bootstrap(
                (loss,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
            )
            low, high = other.confidence_interval
            assert cell["low"] == pytest.approx(100 * low, abs=2.6)  # one prompt is 2.5 points
            assert cell["high"] == pytest.approx(100 * high, abs=2.6)
    four = found["p_intact"].sel(condition=["a", "b"]).values
    expected = scipy.stats.false_discovery_control(four.ravel()).reshape(2, 2)
    np.testing.assert_allclose(found["q_intact"].sel(condition=["a", "b"]).values, expected)
    assert np.isnan(found["q_intact"].sel(condition="random-0")).all()


def test_group_means_have_joint_intervals(noisy):
    found = evidence.evidence(noisy)
    summary = effects.effects(noisy)
    assert found["group"].values.tolist() == ["own", "other", "random"]
    np.testing.assert_allclose(found["mean_drop"].values, [summary.own, summary.other, summary.random])
    assert (found["mean_low"] <= found["mean_drop"]).all() and (
        found["mean_drop"] <= found["mean_high"]
    ).all()
    # random: the mean over the controls, then prompts drawn per relation, is the same statistic
    correct, relation_of = noisy["correct"].values.astype(float), noisy["relation_of"].values
    per_prompt = 100 * (correct[0] - correct[3:].mean(axis=0))
    generator = np.random.default_rng(7)
    parts = [per_prompt[relation_of == name] for name in RELATIONS]
    drawn = [np.mean([generator.choice(part, part.size).mean() for part in parts]) for _ in range(5000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    random = found.sel(group="random")
    assert float(random["mean_low"]) == pytest.approx(low, abs=0.6)
    assert float(random["mean_high"]) == pytest.approx(high, abs=0.6)


def test_evidence_is_seeded(noisy):
    first, again, other = (evidence.evidence(noisy, seed=seed, resamples=500) for seed in (1, 1, 2))
    xr.testing.assert_identical(first, again)
    assert not first["low"].equals(other["low"])


def test_who_hurts_and_helps_whom(noisy):
    table = evidence.influences(evidence.evidence(noisy)).set_index("switched_off")
    assert table.index.tolist() == ["a", "b"]
    assert table.loc["a", "own"] > 30 and table.loc["a", "own_clear"]
    assert table.loc["a", "helps"].startswith("b ") and table.loc["a", "interference"] == 1
    assert table.loc["a", "versatility"] == 0 and not table.loc["b", "own_clear"]
    assert table.loc["b", ["hurts", "helps"]].tolist() == ["", ""]


def test_without_controls_intact_alone_decides(noisy):
    found = evidence.evidence(noisy.isel(condition=[0, 1, 2]))
    assert np.isnan(found["p_random"]).all() and found["group"].values.tolist() == ["own", "other"]
    assert evidence.influences(found)["own_clear"].tolist() == [True, False]


def test_nothing_is_found_where_nothing_is_there():
    """Identical models that are right by coin flips: hardly ever a significant cell."""
    generator = np.random.default_rng(3)
    relation_of = np.repeat(RELATIONS, 50)
    clear = 0
    for _ in range(40):
        intact = generator.random(100) < 0.5
        flips = generator.random((5, 100)) < 0.2
        table = evidence.evidence(ablation([intact, *(intact ^ flips)], relation_of), resamples=10)
        clear += int((table["q_intact"].sel(condition=["a", "b"]) < 0.05).any())
    assert clear <= 6


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

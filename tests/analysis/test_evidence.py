"""Evidence of made-up ablations: by hand, against scipy, and how often it finds what is not there."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from helpers import deep
from helpers.ablated import ablated, study

from relact.analysis.claims import summary
from relact.analysis.effects import effects
from relact.analysis.evidence import claims, evidence, influences
from relact.analysis.hypotheses import beyond_random, mcnemar
from relact.analysis.intervals import newcombe
from relact.errors import InputError


@pytest.fixture(scope="module")
def made():
    """Three relations; own neurons of each cost much, those of others and twelve random sets a little."""
    return study(np.random.default_rng(0), [30, 40, 50], n_random=12, own=1.5, damage=0.2)


@pytest.fixture(scope="module")
def found(made):
    return evidence(made, resamples=2000)


def test_cells_by_hand(made, found):
    correct, relation_of = made["correct"].values, made["relation_of"].values
    logs, logits = made["log_probability"].values.astype(float), made["logit_difference"].values.astype(float)
    np.testing.assert_allclose(found["drop"], effects(made).drops, atol=1e-4)
    np.testing.assert_allclose(found["log_drop"], effects(made).log_drops)
    for condition, name in enumerate(made["condition"].values[1:], 1):
        for relation in made["relation"].values:
            rows, cell = relation_of == relation, found.sel(condition=name, relation=relation)
            before, after = correct[0, rows], correct[condition, rows]
            counts = [(before & after), (before & ~after), (~before & after), (~before & ~after)]
            low, high = newcombe(*(np.array(count.sum()) for count in counts))
            assert (cell["low"], cell["high"]) == pytest.approx((100 * low, 100 * high))
            assert (cell["lost"], cell["gained"]) == (counts[1].sum(), counts[2].sum())
            assert cell["p_intact"] == mcnemar(before, after[None])[0]
            lost = logs[0, rows] - logs[condition, rows]
            assert cell["p_log_intact"] == pytest.approx(scipy.stats.wilcoxon(lost, correction=True).pvalue)
            assert cell["log_low"] < cell["log_drop"] < cell["log_high"]
            assert cell["logit_drop"] == pytest.approx((logits[0, rows] - logits[condition, rows]).mean())


def test_two_families_of_chosen_neurons(found):
    own = np.eye(3, dtype=bool)
    for log in ("", "log_"):
        p, q = (found[f"{letter}_{log}intact"].values for letter in "pq")
        for family in (own, ~own):
            expected = scipy.stats.false_discovery_control(p[:3][family])
            np.testing.assert_allclose(q[:3][family], expected)
        assert np.isnan(q[3:]).all() and not np.isnan(p).any()
        p, q = (found[f"{letter}_{log}random"].values for letter in "pq")
        np.testing.assert_allclose(q[:3][own], scipy.stats.false_discovery_control(p[:3][own]))
        assert np.isnan(p[3:]).all() and np.isnan(p[:3][~own]).all() and np.isnan(q[:3][~own]).all()


def test_own_cells_against_random_sets(made, found):
    drops = found["drop"].values
    expected = beyond_random(np.diag(drops), drops[3:].T, 100 / np.array([30, 40, 50]))
    np.testing.assert_allclose(np.diag(found["p_random"].values), expected)
    logs, relation_of = made["log_probability"].values.astype(float), made["relation_of"].values
    losses = logs[:1] - logs[1:]
    floors = []
    for at, name in enumerate(made["relation"].values):
        table = losses[[at, *range(3, 15)]][:, relation_of == name]  # two-way analysis of variance by hand
        fitted = table.mean(axis=1, keepdims=True) + table.mean(axis=0, keepdims=True) - table.mean()
        mean_square = ((table - fitted) ** 2).sum() / (12 * (table.shape[1] - 1))
        floors.append(np.sqrt(mean_square / table.shape[1]))
    nats = found["log_drop"].values
    expected = beyond_random(np.diag(nats), nats[3:].T, np.array(floors))
    np.testing.assert_allclose(np.diag(found["p_log_random"].values), expected)


def test_groups_are_the_effects_and_their_differences(made, found):
    summary = effects(made)
    assert found["group"].values.tolist() == ["own", "other", "random", "own_minus_other", "own_minus_random"]
    by_hand = [summary.own, summary.other, summary.random]
    by_hand += [summary.own - summary.other, summary.own - summary.random]
    np.testing.assert_allclose(found["mean_drop"], by_hand, rtol=1e-5)
    logs = [summary.log_own, summary.log_other, summary.log_random]
    logs += [logs[0] - logs[1], logs[0] - logs[2]]
    np.testing.assert_allclose(found["mean_log_drop"], logs, rtol=1e-5)
    for log in ("", "log_"):
        assert (found[f"mean_{log}low"] < found[f"mean_{log}drop"]).all()
        assert (found[f"mean_{log}drop"] < found[f"mean_{log}high"]).all()
        drops = found[f"{log}drop"].values
        own, other = np.diag(drops), (drops[:3].sum(axis=0) - np.diag(drops)) / 2
        for name, against in (("other", other), ("random", drops[3:].mean(axis=0))):
            expected = scipy.stats.wilcoxon(own - against).pvalue
            assert found.attrs[f"wilcoxon_{log}{name}"] == pytest.approx(expected)
    sizes = {name: found.attrs[name] for name in ("n_relations", "n_prompts", "n_random")}
    assert sizes == {"n_relations": 3, "n_prompts": 120, "n_random": 12}


def slow_pooled(correct, relation_of, first, second):
    """Newcombe's interval of all prompts, pair by pair; sides are names of conditions, means over them."""
    counts = [0.0] * 4
    for at, relation in enumerate(relation_of):
        one, two = ([relation] if side == "own" else side for side in (first, second))
        one, two = ([name for name in side if side == [relation] or name != relation] for side in (one, two))
        for a in one:
            for b in two:
                which = 2 * (not correct[a][at]) + (not correct[b][at])
                counts[which] += 1 / (len(one) * len(two))
    return 100 * np.ravel(newcombe(*(np.array(count) for count in counts)))


@pytest.mark.parametrize("own", ["stays", "breaks"])
def test_verdicts_that_change_alike_leave_an_interval(own):
    """Nothing breaks, or every relation wholly by its own neurons: three relations of four prompts."""
    relation_of, intact = [*"aaaabbbbcccc"], np.array([1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1], bool)
    if own == "breaks":
        intact[:] = True
    names = ["intact", *"abc", "random-0", "random-1"]
    rows = np.array([intact] * len(names))
    for at, name in enumerate("abc" if own == "breaks" else "", 1):
        rows[at, np.array(relation_of) == name] = False
    found = evidence(ablated(rows, relation_of, names), resamples=50)
    correct = dict(zip(names, rows, strict=True))
    chosen, random = ["a", "b", "c"], ["random-0", "random-1"]
    sides = [
        (["intact"], "own"),
        (["intact"], chosen),
        (["intact"], random),
        (chosen, "own"),
        (random, "own"),
    ]
    for at, (first, second) in enumerate(sides):
        bounds = slow_pooled(correct, relation_of, first, second)
        assert (found["mean_low"][at], found["mean_high"][at]) == pytest.approx(bounds)
        assert bounds[1] - bounds[0] > 10
    drop = 100.0 if own == "breaks" else 0.0
    np.testing.assert_allclose(found["mean_drop"], [drop, 0, 0, drop, drop])
    assert ("not established" in " ".join(claims(found))) == (own == "stays")


def test_one_prompt_has_bounds_of_verdicts_and_none_of_nats():
    found = evidence(ablated([[1], [1]], ["a"], ["intact", "a"], logs=[[-1.0], [-3.0]]), resamples=50)
    assert found["mean_low"][0] < -50 and found["mean_high"][0] > 50
    assert np.isnan(found["mean_log_low"][0]) and found["mean_log_drop"][0] == 2


def test_what_others_lose_and_gain_does_not_cancel():
    """a's neurons take b and give c as much: nothing on average, and 33 points either way."""
    relation_of = np.repeat([*"abc"], 40)
    rows = np.zeros((6, 120), bool)
    rows[:, 40:80] = True
    rows[1, 40:80], rows[1, 80:] = False, True
    rows[5, 80:84] = True  # one of two random sets gives 10 points of c
    found = evidence(ablated(rows, relation_of, ["intact", *"abc", "random-0", "random-1"]), resamples=50)
    sizes = dict(zip(found["group"].values.tolist(), found["mean_size"].values.tolist(), strict=True))
    line = summary(found)
    assert "(33.3 either way), random ones" in line and line.count("either way") == 2
    assert float(found["mean_drop"].sel(group="other")) == pytest.approx(0)
    assert sizes["other"] == pytest.approx(100 / 3) and sizes["own"] == 0  # of b and c one of two cells each
    assert sizes["random"] == pytest.approx(5 / 3) and np.isnan(sizes["own_minus_other"])
    line = next(line for line in claims(found) if line.startswith("other relations"))
    assert line == (
        "other relations change by 33.3 points on average, losses and gains alike (random sets: 1.7); "
        "2 of 6 cells beyond chance (1 lose, 1 gain)"
    )


def test_ranks_and_verdicts(found):
    for suffix, log in (("", ""), ("_log", "log_")):
        drops = found[f"{log}drop"].values
        expected = [1 + sum(drops[3 + at, r] >= drops[r, r] for at in range(12)) for r in range(3)]
        assert found[f"rank{suffix}"].values.tolist() == expected
        tests = (found[f"q_{log}intact"], found[f"q_{log}random"])
        clear = [all(float(q[r, r]) < 0.05 for q in tests) for r in range(3)]
        assert found[f"separates{suffix}"].values.tolist() == clear
        assert all(clear)


def test_a_tie_with_a_random_set_counts_against():
    rows = [[1] * 8, [0, 0] + [1] * 6, [0, 0] + [1] * 6, [1] * 8]
    found = evidence(ablated(rows, ["a"] * 8, ["intact", "a", "random-0", "random-1"]), resamples=50)
    assert found["rank"].values.tolist() == [2.0]


def test_a_set_that_does_less_than_random_ones_does_not_separate():
    """Beyond random sets on the harmless side: far from them, and with a loss beyond chance all the same."""
    rows = [[1] * 100, [0] * 20 + [1] * 80] + [[0] * (90 + at) + [1] * (10 - at) for at in (0, 1, 2, 0, 1, 2)]
    found = evidence(
        ablated(rows, ["a"] * 100, ["intact", "a", *(f"random-{at}" for at in range(6))]), resamples=50
    )
    assert found["q_intact"].values[0, 0] < 0.05 and found["q_random"].values[0, 0] < 0.05
    assert not found["separates"].values[0]


def test_cause_and_isolation_by_hand():
    rows = [
        [1, 1, 1, 1, 0, 1, 1, 0, 1, 1],  # intact: of a 4 of 5, of b 2 of 3, of c 2 of 2
        [0, 0, 0, 1, 1, 1, 0, 1, 1, 1],  # a: takes 3 of 4; leaves 1 of 2 of b, all of c
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    found = evidence(ablated(rows, [*"aaaaabbbcc"], ["intact", *"abc"]), resamples=50)
    assert found["cause"].values.tolist() == [0.75, 1.0, 0.0]
    assert found["isolation"].values.tolist() == [0.75, 0.75, 1.0]
    np.testing.assert_allclose(found["disentanglement"], [0.75, 0.875, 0.5])
    nothing = evidence(ablated([[0, 1], [0, 1], [0, 1]], [*"ab"], ["intact", *"ab"]), resamples=50)
    assert np.isnan(nothing["cause"].values).tolist() == [True, False]  # intact answers nothing of a
    assert np.isnan(nothing["isolation"].values).tolist() == [False, True]


def test_evidence_is_seeded(made):
    first, again, other = (evidence(made, seed=seed, resamples=200) for seed in (1, 1, 2))
    xr.testing.assert_identical(first, again)
    assert not first["log_low"].equals(other["log_low"]) and not first["mean_low"].equals(other["mean_low"])


def test_older_results_need_neither_kinds_nor_graded_effects(made, found):
    older = made.drop_vars(["kind", "log_probability", "logit_difference"])
    without = evidence(older, resamples=200)
    assert not [name for name in without if "log" in str(name)]
    xr.testing.assert_equal(without["q_intact"], found["q_intact"])
    assert without["kind"].values.tolist() == ["own"] * 3 + ["random"] * 12
    assert np.isnan(without.attrs["wilcoxon_log_other"])
    table = influences(without)
    assert table["own_log"].isna().all() and not table["own_log_clear"].any()
    assert not any("log" in line for line in claims(without))


def test_without_random_sets_intact_alone_decides(made):
    bare = evidence(made.isel(condition=slice(4)), resamples=200)
    assert np.isnan(bare["p_random"]).all() and np.isnan(bare["rank"]).all()
    assert bare["group"].values.tolist() == ["own", "other", "own_minus_other"]
    assert bare["separates"].all() and np.isnan(bare.attrs["wilcoxon_random"])
    assert claims(bare)[-1].startswith("separate beyond chance: 3 of 3")


def test_one_random_set_decides_nothing(made):
    one = evidence(made.isel(condition=slice(5)), resamples=200)
    assert np.isnan(one["p_random"]).all() and not one["separates"].any() and not one["separates_log"].any()
    assert "one random set" in claims(one)[-2]


def test_prompts_without_a_number_are_left_out(made):
    broken = made.copy(deep=True)
    broken["log_probability"].values[3, 0] = -np.inf
    broken["logit_difference"].values[:, 1:30] = np.nan
    found = evidence(broken, resamples=200)
    rest = evidence(broken.isel(prompt=slice(1, None)), resamples=200)
    np.testing.assert_allclose(found["log_drop"], rest["log_drop"])
    lost = broken["logit_difference"].values[0, 0] - broken["logit_difference"].values[1:, 0]
    np.testing.assert_allclose(found["logit_drop"].values[:, 0], lost, rtol=1e-5)


def test_relations_without_prompts_and_without_neurons(made):
    """r1 has no prompts, r2 no condition: r1's neurons are another's to all."""
    some = made.isel(prompt=made["relation_of"].values != "r1").drop_sel(condition="r2")
    found = evidence(some, resamples=200)
    assert found["relation"].values.tolist() == ["r0", "r2"]
    assert np.isnan(found["rank"].values).tolist() == [False, True] and not found["separates"].values[1]
    assert found.attrs["n_relations"] == 2 and np.isfinite(found["mean_low"]).all()
    assert np.isnan(found.attrs["wilcoxon_other"])  # one relation has neurons of its own
    assert influences(found)["own"].isna().tolist() == [False, True]
    assert "1 of 1 by accuracy" in claims(found)[-2]
    with pytest.raises(InputError, match="without prompts"):
        evidence(some.isel(prompt=slice(0)))


def test_several_k_at_once_are_refused(made):
    with pytest.raises(InputError, match="several k"):
        evidence(made.expand_dims(k=[1, 2]))


def test_who_hurts_and_helps_whom():
    """a's neurons hurt a and c and help b; random sets, which do much, have no say about others."""
    generator = np.random.default_rng(0)
    relation_of = np.repeat([*"abc"], 40)
    chance = {"intact": (0.8, 0.3, 0.9), "a": (0.1, 0.9, 0.2), "b": (0.8, 0.3, 0.9), "c": (0.8, 0.3, 0.9)}
    conditions = [*chance, "random-0", "random-1", "random-2"]
    draws = generator.random(120)
    rows = [draws < np.repeat(chance.get(name, (0.75, 0.35, 0.2)), 40) for name in conditions]
    table = influences(evidence(ablated(rows, relation_of, conditions), resamples=50)).set_index(
        "switched_off"
    )
    assert table.index.tolist() == ["a", "b", "c"] and table["own_clear"].tolist() == [True, False, False]
    assert table.loc["a", "own"] == pytest.approx(
        100 * ((draws[:40] < 0.8).mean() - (draws[:40] < 0.1).mean())
    )
    assert table.loc["a", "hurts"].startswith("c ") and table.loc["a", "helps"].startswith("b ")
    assert table.loc["a", ["versatility", "interference"]].tolist() == [1, 1]
    assert table.loc["b", ["hurts", "helps"]].tolist() == ["", ""]


def test_claims_say_what_the_numbers_are(found):
    lines = claims(found)
    own = found.sel(group="own")
    mean, low, high = (float(own[f"mean_{name}"]) for name in ("drop", "low", "high"))
    assert lines[0].startswith(f"own neurons cost {mean:.1f} points [{low:.1f}, {high:.1f}], ")
    assert " more than another relation's and " in lines[0] and " more than matched random ones (" in lines[0]
    assert lines[0].endswith("over relations and prompts; Wilcoxon p = 0.25 and 0.25)")
    log = float(own["mean_log_drop"])
    assert lines[-4].startswith(f"own neurons cost {log:.2f} nats of the answer's log-probability [")
    first = float(found["drop"].values[0, 0])
    assert lines[-2].startswith(
        f"separate beyond chance and random sets: 3 of 3 by accuracy (r0 {first:.0f}, r1 "
    )
    assert lines[-1].startswith(
        "rank of the own drop among 12 random sets, 1 if larger than all: 1 in 3 of 3 by acc"
    )


def test_claims_do_not_establish_what_one_of_interval_and_test_does_not():
    """An interval that just leaves out 0 hangs on the draws of its bootstrap."""
    found = evidence(study(np.random.default_rng(0), [40] * 8, n_random=5, own=0.5), resamples=1000)
    assert not any("not established" in line for line in claims(found))
    doubted = claims(found.assign_attrs(wilcoxon_random=0.08))
    assert doubted[1].endswith("that they cost more than matched random ones")


def test_claims_do_not_establish_what_the_interval_does_not():
    """Own neurons that do what any do: a loss, and no difference."""
    generator = np.random.default_rng(1)
    same = study(generator, [40] * 8, n_random=5, own=0.0, damage=0.7)
    lines = claims(evidence(same, resamples=1000))
    doubt = "that they cost more than another relation's and more than matched random ones"
    assert lines[1] == lines[3] == f"not established by interval and test: {doubt}"
    assert lines[4].startswith("other relations change by ")
    assert lines[5].startswith("separate beyond chance and random sets: 0 of 8 by accuracy, 0 of 8 by log-")
    assert "0.0 [" not in lines[0].replace("-0.0", "0.0 [")  # no negative zero


DAMAGE = {
    "the same": lambda generator: 0.5,
    "normal": lambda generator: lambda shape: generator.normal(0.5, 0.25, shape),
    "a little skewed": lambda generator: lambda shape: generator.gamma(4.0, 0.2, shape),
    "skewed": lambda generator: lambda shape: generator.gamma(1.0, 0.5, shape),
    "rarely all": lambda generator: lambda shape: 0.2 + 3.0 * (generator.random(shape) < 0.05),
}


@pytest.mark.parametrize("studies", deep.more(50, 400))
@pytest.mark.parametrize("damage", DAMAGE)
def test_nothing_separates_where_nothing_is_there(damage, studies):
    """Studies with a kind of damage, in which a relation's own set is one more random set and all do harm.

    A set hits the prompts of a relation together. Wherever any relation separates, the study errs.
    """
    generator = np.random.default_rng(len(damage))
    harm = DAMAGE[damage](generator)
    errs = np.zeros(2, int)
    for _ in range(studies):
        found = evidence(study(generator, [20] * 5, n_random=20, damage=harm, noise=0.4), resamples=2)
        errs += [bool(found["separates"].any()), bool(found["separates_log"].any())]
    assert (errs <= scipy.stats.binom.ppf(0.999, studies, 0.05)).all()


@pytest.mark.slow
def test_what_is_there_is_found():
    """The other error: half a unit of margin is seen by log-probability, in most relations."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(40):
        found = evidence(study(generator, [45] * 6, n_random=40, own=0.5, damage=0.2), resamples=2)
        shares.append([found["separates"].mean(), found["separates_log"].mean()])
    accuracy, log = np.mean(shares, axis=0)
    assert log > 0.9 and log > accuracy > 0.3

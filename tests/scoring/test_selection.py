"""Sets of arrays by hand and against slow twins: ends, hidden units, ties, what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from relact.errors import InputError
from relact.scoring import selection
from relact.scoring.selection import Numbering, Rules, Sets, choose, flatten, top_k, unflatten

NEURON = Rules(counted="neuron")


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    return {
        "mlp.gate": generator.integers(0, 6, (3, 4, 10)).astype(np.float32),  # plenty of ties
        "mlp.up": generator.integers(0, 6, (3, 4, 10)).astype(np.float32),
        "mlp.down": generator.integers(0, 6, (3, 4, 5)).astype(np.float32),
    }


def units_of(row, numbering):
    """Of a flat set, (layer, index) of hidden units and flat numbers of others."""
    found = []
    for site, _, layers, indices in numbering.places(np.flatnonzero(row)):
        hidden = site in ("mlp.gate", "mlp.up")
        found += [(hidden or site, *place) for place in zip(layers.tolist(), indices.tolist(), strict=True)]
    return found


@pytest.mark.parametrize("k", [1, 7, 99, 100])
def test_exactly_k_neurons_and_none_left_out_is_better(scores, k):
    for sign, kind in ((1, "top"), (-1, "bottom")):
        for values, row in zip(flatten(scores), flatten(choose(scores, k, kind, NEURON).sets), strict=True):
            assert row.sum() == k
            assert (sign * values[row]).min() >= (sign * values[~row]).max(initial=-9)


@pytest.mark.parametrize("kind", ["top", "bottom", "both"])
@pytest.mark.parametrize("k", [1, 7, 30, 59, 60])
def test_k_distinct_units_and_the_best_neuron_stands_for_each(scores, kind, k):
    numbering = Numbering.of(scores)
    for values, row in zip(flatten(scores), flatten(choose(scores, k, kind).sets), strict=True):
        units = units_of(row, numbering)
        assert len(units) == len(set(units)) == k
        if kind != "both":
            sign = 1 if kind == "top" else -1
            gate, up = (sign * values[part] for part in numbering.shared)
            best = np.r_[np.maximum(gate, up), sign * values[80:]]  # of 40 units and 20 others
            assert sorted(sign * values[row]) == sorted(best)[-k:]
            for own, other, part in ((gate, up, slice(0, 40)), (up, gate, slice(40, 80))):
                assert (own[row[part]] >= other[row[part]]).all()


def test_of_equal_neurons_of_a_unit_the_first_site_stands(scores):
    same = {"mlp.up": scores["mlp.up"], "mlp.gate": scores["mlp.up"]}
    chosen = top_k(same, 40)
    assert chosen["mlp.up"].all() and not chosen["mlp.gate"].any()


@pytest.mark.parametrize(("k", "free", "rules"), [(0, 60, Rules()), (61, 60, Rules()), (101, 100, NEURON)])
def test_k_outside_the_neurons_is_refused(scores, k, free, rules):
    with pytest.raises(InputError, match=f"k = {k} of {free} neurons"):
        top_k(scores, k, rules)


def test_flatten_is_undone_by_unflatten(scores):
    again = unflatten(flatten(scores), scores)
    assert all(np.array_equal(again[site], scores[site]) for site in scores)


@pytest.mark.parametrize("rules", [Rules(), NEURON])
def test_both_is_half_of_each_and_never_one_neuron_twice(scores, rules):
    high = flatten(top_k(scores, 9, rules))
    both = flatten(choose(scores, 18, "both", rules).sets)
    assert (high & ~both).sum() == 0 and both.sum(axis=1).tolist() == [18] * 3
    assert flatten(choose(scores, 7, "both", rules).sets).sum(axis=1).tolist() == [7, 7, 7]
    one = flatten(choose(scores, 1, "both", rules).sets)
    assert np.array_equal(one, flatten(top_k(scores, 1, rules)))
    constant = {"mlp.down": np.ones((1, 2, 4), np.float32)}
    assert flatten(choose(constant, 8, "both").sets).all()


def test_ties_are_counted_and_go_by_margin(scores):
    """The twin: a stable sort by score, then margin."""
    margins = np.random.default_rng(1).permutation(300).reshape(3, 100).astype(float)
    asked = []

    def known(numbers):
        asked.append(numbers)
        return margins[:, numbers]

    for k in (5, 13, 22):
        choice = choose(scores, k, "top", Rules("neuron", margins=known))
        flat, chosen = flatten(scores), flatten(choice.sets)
        for values, row, (shared, taken), of_row in zip(flat, chosen, choice.ties, margins, strict=True):
            order = sorted(range(100), key=lambda n, v=values, m=of_row: (-v[n], -m[n]))
            assert set(np.flatnonzero(row)) == set(order[:k])
            edge = values[order[k - 1]]
            assert (shared, taken) == ((values == edge).sum(), k - (values > edge).sum())
            assert set(asked[-1]) >= set(np.flatnonzero(values == edge) if shared > taken else ())
    low = choose(scores, 13, "bottom", Rules("neuron", margins=known))
    for values, row, of_row in zip(flatten(scores), flatten(low.sets), margins, strict=True):
        order = sorted(range(100), key=lambda n, v=values, m=of_row: (v[n], m[n]))
        assert set(np.flatnonzero(row)) == set(order[:13])


def test_without_margins_a_seeded_hash_decides_and_no_order():
    equal = {"mlp.down": np.zeros((1, 40, 50), np.float32), "attn.o": np.zeros((1, 40, 50), np.float32)}
    first, again, other = (top_k(equal, 400, Rules(seed=seed)) for seed in (0, 0, 1))
    turned = top_k(dict(reversed(equal.items())), 400)
    for site, sets in first.items():
        assert np.array_equal(sets, again[site]) and np.array_equal(sets, turned[site])
        assert not np.array_equal(sets, other[site])
        assert 150 < sets.sum() < 250  # of 400 in two sites: 200 +- 10
        halves = sets[0, :, :25].sum(), sets[0, :20].sum()
        assert all(70 < half < 130 for half in halves)
    # one site alone: the same neurons come first
    alone = top_k({"attn.o": equal["attn.o"]}, int(first["attn.o"].sum()))
    assert np.array_equal(alone["attn.o"], first["attn.o"])


def test_what_is_left_out_is_never_chosen_nor_the_rest_of_its_unit(scores):
    without = {"mlp.up": np.zeros((4, 10), bool), "mlp.down": np.zeros((4, 5), bool)}
    without["mlp.up"][1, 3] = without["mlp.down"][2, 2] = True
    chosen = top_k(scores, 58, Rules(without=without))
    assert not (chosen["mlp.up"][:, 1, 3] | chosen["mlp.gate"][:, 1, 3] | chosen["mlp.down"][:, 2, 2]).any()
    chosen = top_k(scores, 98, Rules("neuron", without=without))
    assert chosen["mlp.gate"][:, 1, 3].all() and not chosen["mlp.up"][:, 1, 3].any()
    with pytest.raises(InputError, match="k = 59 of 58 neurons"):
        top_k(scores, 59, Rules(without=without))


@pytest.mark.parametrize("kind", ["top", "bottom"])
def test_nan_is_the_worst_score_of_both_ends(scores, kind):
    scores["mlp.down"][0, 1] = np.nan
    chosen = choose(scores, 95, kind, NEURON).sets["mlp.down"]
    assert not chosen[0, 1].any() and chosen[0].sum() == 15


class OneByOne:
    """What reads a relation's scores when it is asked for them."""

    def __init__(self, values):
        self._values, self.shape = values, values.shape

    def __len__(self):
        return len(self._values)

    def __getitem__(self, relation):
        return self._values[relation].copy()


def whole(scores, k, kind, rules):
    """The twin: all scores, margins and hashes in memory, one sort by all three; bool [relation, neurons]."""
    flat, numbering = flatten(scores), Numbering.of(scores)
    every = np.arange(flat.shape[1])
    out = np.concatenate([rules.without[site].ravel() for site in scores])
    out = numbering.spread(out) if rules.counted == "unit" else out
    chosen = np.zeros(flat.shape, bool)
    for row, values, margins in zip(chosen, flat, rules.margins(every), strict=True):
        for sign, size in {"top": [(1, k)], "bottom": [(-1, k)], "both": [(1, k - k // 2), (-1, k // 2)]}[
            kind
        ]:
            signed = np.where(np.isnan(values), -np.inf, sign * values)
            taken = numbering.spread(row) if rules.counted == "unit" else row
            free = ~out & ~taken & (numbering.best(signed) if rules.counted == "unit" else True)
            order = np.lexsort((numbering.hashes(every, rules.seed), -sign * margins, -signed))
            row[[number for number in order if free[number]][:size]] = True
    return chosen


@pytest.mark.parametrize("counted", ["unit", "neuron"])
@pytest.mark.parametrize("kind", ["top", "bottom", "both"])
def test_relations_one_by_one_have_the_sets_of_whole_arrays(kind, counted, monkeypatch):
    monkeypatch.setattr(selection, "MARGINS_TOGETHER", 15)  # five neurons of three relations
    for seed in range(8):
        random = np.random.default_rng(seed)
        scores = {
            site: random.integers(0, 4, (3, 2, width)).astype(np.float32)
            for site, width in (("mlp.gate", 9), ("mlp.up", 9), ("mlp.down", 6))
        }
        scores["mlp.down"][random.random((3, 2, 6)) < 0.1] = np.nan
        without = {site: random.random(values.shape[1:]) < 0.1 for site, values in scores.items()}
        margins = random.integers(0, 3, (3, 48)).astype(float)
        rules = Rules(counted, seed, without, lambda numbers, of=margins: of[:, numbers])
        for k in (1, 6, 13):
            found = choose({site: OneByOne(values) for site, values in scores.items()}, k, kind, rules)
            assert np.array_equal(flatten(found.sets), whole(scores, k, kind, rules))
            again = Sets.of(found.sets)
            assert all(map(np.array_equal, again.numbers, found.chosen.numbers))
            assert found.chosen.sizes.tolist() == [k] * 3

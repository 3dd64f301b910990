"""Top-k sets and their random twins."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score

from relact.errors import InputError
from relact.scoring import masks
from relact.store import local


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    return {
        "mlp.gate": generator.integers(0, 6, (3, 4, 10)).astype(np.float32),  # plenty of ties
        "mlp.down": generator.integers(0, 6, (3, 4, 5)).astype(np.float32),
    }


@pytest.mark.parametrize("k", [1, 7, 59, 60])
def test_exactly_k_neurons_and_none_left_out_is_better(scores, k):
    flat, chosen = masks.flatten(scores), masks.flatten(masks.top_k(scores, k))
    for values, row in zip(flat, chosen, strict=True):
        assert row.sum() == k
        assert values[row].min() >= values[~row].max(initial=-1)
        edge = values[row].min()  # of the neurons that tie at the edge, the first ones are in
        ties = np.flatnonzero(values == edge)
        assert row[ties[: row[ties].sum()]].all()


@pytest.mark.parametrize("k", [0, 61])
def test_k_outside_the_neurons_is_refused(scores, k):
    with pytest.raises(InputError, match=f"k = {k} of 60 neurons"):
        masks.top_k(scores, k)


def test_flatten_is_undone_by_unflatten(scores):
    again = masks.unflatten(masks.flatten(scores), scores)
    assert all(np.array_equal(again[site], scores[site]) for site in scores)


def test_random_sets_match_the_average_counts_of_every_layer_and_are_seeded(scores):
    chosen = masks.top_k(scores, 20)
    first, again, other = (masks.random_matched(chosen, seed) for seed in (5, 5, 6))
    assert sum(mask.sum() for mask in first.values()) == 20
    for site, mask in chosen.items():
        assert np.array_equal(first[site], again[site])
        assert np.abs(first[site].sum(axis=1) - mask.sum(axis=2).mean(axis=0)).max() < 1
    assert any(not np.array_equal(first[site], other[site]) for site in chosen)


def test_stored_masks_hold_the_best_scores_of_the_study(study):
    relations, chosen = masks.read(study, "top-200")
    assert relations == study.relations()
    stored = {site: study.dataset(f"scores/{site}")["average_precision"].values for site in study.layouts}
    flat, picked = masks.flatten(stored), masks.flatten(chosen)
    for values, row in zip(flat, picked, strict=True):
        assert row.sum() == 200
        assert values[row].min() >= np.sort(values)[-200]


def test_an_unknown_mask_is_named_with_the_known_ones(study):
    with pytest.raises(InputError, match="no mask 'best', there are: top-200"):
        masks.read(study, "best")


def test_bottom_and_both_are_the_other_end_and_half_of_each(scores):
    flat = masks.flatten(scores)
    low, high = masks.flatten(masks.bottom_k(scores, 9)), masks.flatten(masks.top_k(scores, 9))
    for values, row in zip(flat, low, strict=True):
        assert row.sum() == 9 and values[row].max() <= values[~row].min()
    assert np.array_equal(masks.flatten(masks.both_k(scores, 18)), low | high)
    assert masks.flatten(masks.both_k(scores, 7)).sum(axis=1).tolist() == [7, 7, 7]
    assert np.array_equal(masks.flatten(masks.both_k(scores, 1)), masks.flatten(masks.top_k(scores, 1)))


@pytest.fixture
def copied(study, tmp_path):
    shutil.copytree(study.path, tmp_path / "s.zarr")
    return local.open(tmp_path / "s.zarr")


def test_names_tell_kind_and_sites(copied):
    assert masks.select(copied, k=30, kind="bottom", sites="mlp.up,mlp.gate") == "bottom-30-mlp.up-mlp.gate"
    assert set(copied.attributes("masks/bottom-30-mlp.up-mlp.gate")["sites"]) == {"mlp.up", "mlp.gate"}
    assert masks.select(copied, k=30, kind="both") == "both-30"
    relations, chosen = masks.read(copied, "both-30")
    assert relations == copied.relations() and masks.flatten(chosen).sum(axis=1).tolist() == [30] * 3


@pytest.mark.slow
def test_neurons_that_beat_chance_follow_scipys_correction_of_a_permutation_test(copied):
    """The null by permuting labels with scikit-learn, the bound by scipy: nearly the same set."""
    name = masks.select(copied, fdr=0.05)
    assert name == "fdr-0.05"
    relations, chosen = masks.read(copied, name)
    labels = copied.prompts("identify")["relation"].to_numpy() == relations[0]
    generator = np.random.default_rng(5)
    permuted = np.stack([generator.permutation(labels) for _ in range(4000)], axis=1)
    ranks = np.repeat(np.arange(len(labels))[:, None], 4000, axis=1)
    null = average_precision_score(permuted, -ranks, average=None)
    stored = {site: copied.dataset(f"scores/{site}")["average_precision"].values for site in copied.layouts}
    values = masks.flatten(stored)[0]
    p = (1 + (null[None] >= values[::2, None] - 1e-7).sum(axis=1)) / (1 + len(null))
    picked = masks.flatten(chosen)[0]
    edge = values[picked].min()
    assert values[~picked].max() < edge  # a threshold
    share = picked.mean()
    expected = (scipy.stats.false_discovery_control(p) <= 0.05).mean()
    assert 0 < share < 1 and abs(share - expected) < 0.03
    assert copied.attributes(f"masks/{name}")["k"] == round(masks.flatten(chosen).sum(axis=1).mean())


def test_set_algebra_between_relations(copied):
    relations, chosen = masks.read(copied, "top-200")
    sets = [set(np.flatnonzero(row)) for row in masks.flatten(chosen)]
    a, _, c = relations
    only = masks.read(copied, masks.combine(copied, "top-200"))
    assert only[0] == relations
    got = [set(np.flatnonzero(row)) for row in masks.flatten(only[1])]
    assert got == [sets[i] - sets[(i + 1) % 3] - sets[(i + 2) % 3] for i in range(3)]
    name = masks.combine(copied, "top-200", (c, a))
    assert name == f"top-200-{c}-{a}"
    labels, rows = masks.read(copied, name)
    assert labels == [f"{c} and {a}", f"{c} without {a}", f"{a} without {c}"]
    got = [set(np.flatnonzero(row)) for row in masks.flatten(rows)]
    assert got == [sets[2] & sets[0], sets[2] - sets[0], sets[0] - sets[2]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: masks.select(s), "exactly one"),
        (lambda s: masks.select(s, k=3, fdr=0.1), "exactly one"),
        (lambda s: masks.select(s, k=3, kind="middle"), "unknown kind 'middle'"),
        (lambda s: masks.select(s, k=3, name="a/b"), "cannot name a mask"),
        (lambda s: masks.select(s, k=3, sites="attn"), "none of the sites attn is captured"),
        (lambda s: masks.combine(s, "top-200", ("country_capital", "birds")), "no relation 'birds'"),
        (lambda s: masks.combine(s, "top-200", ("country_capital", "country_capital")), "twice"),
        (lambda s: masks.combine(s, "none"), "no mask 'none'"),
    ],
)
def test_what_cannot_be_selected_is_told(copied, call, message):
    with pytest.raises(InputError, match=message):
        call(copied)

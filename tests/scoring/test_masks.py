"""Stored masks: what is in them, what they are called, what their records say."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import average_precision_score

from relact import schema
from relact.errors import InputError
from relact.scoring import masks
from relact.scoring.magnitudes import write_super_units
from relact.scoring.score import score
from relact.scoring.selection import Numbering
from relact.scoring.ties import margins_of
from relact.store import local


def test_stored_masks_hold_the_best_scores_of_the_study(study):
    relations, chosen = masks.read(study, "top-200")
    assert relations == study.relations()
    stored = {site: study.dataset(f"scores/{site}")["average_precision"].values for site in study.layouts}
    flat, picked, numbering = masks.flatten(stored), masks.flatten(chosen), Numbering.of(stored)
    gate, up = numbering.shared
    for values, row in zip(flat, picked, strict=True):
        units = np.r_[np.maximum(values[gate], values[up]), values[up.stop :]]
        assert row.sum() == 200 and not (row[gate] & row[up]).any()
        assert sorted(values[row]) == sorted(units)[-200:]


def test_an_unknown_mask_is_named_with_the_known_ones(study):
    with pytest.raises(InputError, match="no mask 'best', there are: top-200"):
        masks.read(study, "best")


@pytest.fixture
def copied(study, tmp_path):
    shutil.copytree(study.path, tmp_path / "s.zarr")
    return local.open(tmp_path / "s.zarr")


def test_the_record_tells_ties_and_they_go_by_margin(copied):
    """The twin: all margins from the activations as they are stored, a stable sort by score, then margin."""
    assert masks.select(copied, k=31, counted="neuron") == "top-31-neurons"
    record = copied.mask_record("top-31-neurons")
    assert (record.counted, record.ties_by, record.seed, record.without) == ("neuron", "margin", 0, ())
    names = copied.prompts("identify")["relation"].to_numpy()
    parts = {site: copied.dataset(f"activations/{site}")["activation"].values for site in copied.layouts}
    values = masks.flatten(parts).astype(np.float64)
    groups = [values[names == name] for name in copied.relations()]
    means = np.stack([group.mean(axis=0) for group in groups])
    within = sum(len(group) * group.var(axis=0) for group in groups) / len(values)
    scores = {site: copied.dataset(f"scores/{site}")["average_precision"].values for site in copied.layouts}
    flat, picked = masks.flatten(scores), masks.flatten(masks.read(copied, "top-31-neurons")[1])
    contested = 0
    for at, (score_of, row, (share, taken)) in enumerate(zip(flat, picked, record.ties, strict=True)):
        margin = (means[at] - np.delete(means, at, axis=0).max(axis=0)) / np.sqrt(within)
        order = np.lexsort((-margin, -score_of))
        assert set(np.flatnonzero(row)) == set(order[:31].tolist())
        edge = score_of[order[30]]
        assert (share, taken) == ((score_of == edge).sum(), 31 - (score_of > edge).sum())
        contested += share > taken
    assert contested


def test_margins_of_scattered_neurons_are_those_of_all(copied):
    numbering = Numbering({site: (lay.n_layers, lay.width) for site, lay in copied.layouts.items()})
    relations = copied.relations()[::-1][:2]
    margins = margins_of(copied, relations, numbering, "average_precision")
    some = np.sort(np.random.default_rng(0).choice(numbering.size, 500, replace=False))
    every = margins(np.arange(numbering.size))
    assert every.shape == (2, numbering.size)
    np.testing.assert_array_equal(margins(some), every[:, some])


def test_without_activations_the_hash_decides_and_the_record_says_so(copied, monkeypatch):
    monkeypatch.setattr(type(copied), "missing_blocks", lambda self: [0])
    masks.select(copied, k=31)
    assert copied.mask_record("top-31").ties_by == "hash"
    first = masks.read(copied, "top-31")[1]
    assert masks.select(copied, k=31, seed=1) == "top-31-seed-1"
    assert not np.array_equal(masks.flatten(first), masks.flatten(masks.read(copied, "top-31-seed-1")[1]))


def test_super_units_are_left_out_and_recorded(copied):
    scores = copied.dataset("scores/mlp.up")["average_precision"].values
    layer, neuron = np.argwhere(scores[0] == scores[0].max())[0].tolist()
    frame = pd.DataFrame(
        {
            "site": ["mlp.up"],
            "layer": [layer],
            "neuron": [neuron],
            "magnitude": 9.0,
            "ratio": 99.0,
            "cost": 2.0,
        }
    )
    masks.select(copied, k=400)
    before = masks.read(copied, "top-400")[1]
    assert (before["mlp.up"] | before["mlp.gate"])[0, layer, neuron]
    write_super_units(copied, frame, schema.SuperUnitsRecord("m", "p", 50.0, 0.5))
    assert masks.select(copied, k=400) == "top-400"
    assert copied.mask_record("top-400").without == (("mlp.up", layer, neuron),)
    after = masks.read(copied, "top-400")[1]
    assert not (after["mlp.up"] | after["mlp.gate"])[:, layer, neuron].any()
    assert masks.select(copied, k=400, keep_super_units=True) == "top-400-super"
    kept = masks.read(copied, "top-400-super")[1]
    assert all(np.array_equal(kept[site], before[site]) for site in before)
    masks.select(copied, fdr=0.5)
    rate = masks.read(copied, "fdr-0.5")[1]
    assert not (rate["mlp.up"] | rate["mlp.gate"])[:, layer, neuron].any()
    assert masks.select(copied, k=40, sites="mlp.down") == "top-40-mlp.down"
    assert copied.mask_record("top-40-mlp.down").without == ()
    masks.select(copied, k=40, sites="mlp.gate")
    assert copied.mask_record("top-40-mlp.gate").without == (("mlp.up", layer, neuron),)


def test_old_records_mean_what_they_were(copied):
    new = copied.mask_record("top-200")
    raw = new.to_attributes()
    old = {name: raw[name] for name in ("k", "statistic", "sites", "scores")}
    record = schema.MaskRecord.from_attributes(old, "here")
    assert (record.counted, record.ties, record.ties_by, record.seed) == ("neuron", None, None, None)
    assert record.without is None and record.min_ap is None
    assert schema.MaskRecord.from_attributes(raw, "here") == new and new.counted == "unit"


def test_fdr_with_a_smallest_average_precision(copied):
    assert masks.select(copied, fdr=0.05, min_ap=0.8) == "fdr-0.05-ap-0.8"
    record = copied.mask_record("fdr-0.05-ap-0.8")
    assert (record.min_ap, record.ties, record.seed) == (0.8, None, None)
    masks.select(copied, fdr=0.05)
    all_of, some = (masks.read(copied, name)[1] for name in ("fdr-0.05", "fdr-0.05-ap-0.8"))
    assert not (all_of["mlp.gate"] & all_of["mlp.up"]).any() and masks.flatten(some).any()
    for site in all_of:
        scores = copied.dataset(f"scores/{site}")["average_precision"].values
        assert np.array_equal(some[site], all_of[site] & (scores >= 0.8))


def test_a_mask_by_another_statistic(copied):
    score(copied, statistics=["average_precision", "d_prime", "margin", "auroc"])
    assert masks.select(copied, k=20, statistic="margin", counted="neuron") == "margin-top-20-neurons"
    stored = {site: copied.dataset(f"scores/{site}")["margin"].values for site in copied.layouts}
    picked = masks.flatten(masks.read(copied, "margin-top-20-neurons")[1])
    for values, row in zip(masks.flatten(stored), picked, strict=True):
        assert set(np.flatnonzero(row)) == set(np.argsort(-values)[:20].tolist())


def test_names_tell_kind_and_sites(copied):
    assert masks.select(copied, k=30, kind="bottom", sites="mlp.up,mlp.gate") == "bottom-30-mlp.up-mlp.gate"
    assert set(copied.attributes("masks/bottom-30-mlp.up-mlp.gate")["sites"]) == {"mlp.up", "mlp.gate"}
    assert masks.select(copied, k=30, kind="both") == "both-30"
    relations, chosen = masks.read(copied, "both-30")
    assert relations == copied.relations() and masks.flatten(chosen).sum(axis=1).tolist() == [30] * 3


@pytest.mark.slow
def test_neurons_that_beat_chance_follow_scipys_correction_of_a_permutation_test(copied):
    """The null by permuting labels with scikit-learn, the bound by scipy: nearly the same set."""
    name = masks.select(copied, fdr=0.05, counted="neuron")
    assert name == "fdr-0.05-neurons"
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
        (lambda s: masks.select(s, k=3, counted="heads"), "unknown counted 'heads'"),
        (lambda s: masks.select(s, k=3, min_ap=0.3), "Give --fdr with it"),
        (lambda s: masks.select(s, fdr=0.1, min_ap=3), "--min-ap: 3 is not between 0 and 1"),
        (lambda s: masks.select(s, fdr=0.1, kind="bottom"), "of the top average precisions"),
        (
            lambda s: masks.select(s, k=3, statistic="z"),
            "no statistic 'z' is stored, there are: average",
        ),
        (lambda s: masks.select(s, k=3, name="a/b"), "cannot name a mask"),
        (lambda s: masks.select(s, k=3, sites="attn"), "none of the sites attn has average_precision"),
        (lambda s: masks.combine(s, "top-200", ("country_capital", "birds")), "no relation 'birds'"),
        (lambda s: masks.combine(s, "top-200", ("country_capital", "country_capital")), "twice"),
        (lambda s: masks.combine(s, "none"), "no mask 'none'"),
    ],
)
def test_what_cannot_be_selected_is_told(copied, call, message):
    with pytest.raises(InputError, match=message):
        call(copied)

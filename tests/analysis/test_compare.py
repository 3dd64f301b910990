"""Overlaps against Python's sets, agreement of stores against SciPy and pandas."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from helpers import sample
from scipy.stats import spearmanr

from relact.analysis import compare, query
from relact.capturing.capture import capture
from relact.errors import BudgetError, InputError
from relact.scoring import masks
from relact.scoring.score import score, scores_of
from relact.store import local

NEURONS = 6_272  # of the study's model
UNITS = 3_200  # gate and up of a hidden unit counted once


def sets_of(study, mask):
    """Per relation the set of (site, layer, neuron)."""
    relations, chosen = masks.read(study, mask)
    return {
        name: {(site, *place) for site, own in chosen.items() for place in np.argwhere(own[at]).tolist()}
        for at, name in enumerate(relations)
    }


def test_overlap_is_that_of_sets(study):
    sets = sets_of(study, "top-200")
    found = compare.overlap(study)
    for a in sets:
        for b in sets:
            one = found.sel(relation=a, other=b)
            assert int(one["shared"]) == len(sets[a] & sets[b])
            assert float(one["jaccard"]) == pytest.approx(len(sets[a] & sets[b]) / len(sets[a] | sets[b]))
            assert float(one["expected"]) == pytest.approx(200 * 200 / NEURONS)


@pytest.mark.parametrize(("by", "key"), [("site", 0), ("layer", 1)])
def test_overlap_in_every_site_or_layer(study, by, key):
    sets = sets_of(study, "top-200")
    found = compare.overlap(study, "top-200", by=by)
    for a in sets:
        for b in sets:
            for value in found[by].values.tolist():
                shared = {place for place in sets[a] & sets[b] if place[key] == value}
                assert int(found["shared"].sel({"relation": a, "other": b, by: value})) == len(shared)
    whole = compare.overlap(study, "top-200")
    np.testing.assert_array_equal(found["shared"].sum(by), whole["shared"])
    n_layers, widths = 4, {"mlp.gate": 768, "mlp.up": 768, "mlp.down": 32}
    for value in found[by].values.tolist():
        n_neurons = n_layers * widths[value] if by == "site" else sum(widths.values())
        counts = {name: sum(place[key] == value for place in places) for name, places in sets.items()}
        expected = np.outer(list(counts.values()), list(counts.values())) / n_neurons
        np.testing.assert_allclose(found["expected"].sel({by: value}), expected)


def test_chance_is_what_random_sets_share():
    random = np.random.default_rng(0)
    shared = []
    for _ in range(400):
        flat = np.zeros((2, 500), bool)
        for row in flat:
            row[random.choice(500, 60, replace=False)] = True
        found = compare.overlap_of(["a", "b"], {"mlp.down": flat[:, None]})
        shared.append(int(found["shared"][0, 1]))
    # 7.2, standard error 0.12
    assert np.mean(shared) == pytest.approx(float(found["expected"][0, 1]), abs=0.5)


def test_overlap_over_k_grows_and_matches_a_mask(study):
    found = compare.overlap(study, k=[20, 200, 2000, UNITS])
    assert (found["shared"].diff("k") >= 0).all()
    xr_equal = found.sel(k=200, drop=True)
    assert xr_equal.equals(compare.overlap(study, "top-200"))
    assert xr_equal.equals(compare.overlap(study, k=200))
    assert compare.overlap(study, k=200, by="layer").equals(compare.overlap(study, "top-200", by="layer"))
    assert (np.diag(found["shared"].sel(k=UNITS)) == UNITS).all()


def test_pairs_name_every_two_relations_once(study):
    table = compare.pairs(compare.overlap(study, "top-200", by="site"))
    assert len(table) == 3 * 3 and table["shared"].is_monotonic_decreasing
    assert len(table[["relation", "other"]].drop_duplicates()) == 3 and (table.relation != table.other).all()


def test_sampled_negatives_stand_beside_the_stored_scores(study, tmp_path):
    found = compare.overlap(study, k=1500, negatives=1)
    assert found["shared"].dims == ("relation", "other", "negatives")
    assert found["negatives"].values.tolist() == ["rest", "1"] and found.attrs["negatives"] == "rest"
    stored = compare.overlap(study, k=1500)
    assert found.sel(negatives="rest", drop=True).equals(stored) and "negatives" not in stored.dims
    copy = tmp_path / "sampled.zarr"
    shutil.copytree(study.path, copy)
    sampled = score(copy, negatives=1)
    again = compare.overlap(sampled, k=1500)
    assert found.sel(negatives="1", drop=True).equals(again) and again.attrs["negatives"] == "1"
    assert not again.equals(stored)
    assert study.scores_record().negatives is None  # nothing was stored
    with pytest.raises(InputError, match="have 1 sampled negatives per positive already"):
        compare.overlap(sampled, k=1500, negatives=1)


@pytest.mark.parametrize("statistic", ["average_precision", "auroc"])
def test_scores_in_memory_are_those_that_would_be_stored(study, tmp_path, statistic):
    copy = tmp_path / "sampled.zarr"
    shutil.copytree(study.path, copy)
    stored = score(copy, negatives=1, seed=3, statistics=[statistic])
    told: list[int] = []
    found = scores_of(
        study, 1, seed=3, statistic=statistic, progress=lambda _, done, *more: told.append(done)
    )
    assert told[-1] == NEURONS
    for site, values in found.items():
        np.testing.assert_array_equal(values, stored.dataset(f"scores/{site}")[statistic].values)
    with pytest.raises(BudgetError, match="the budget is"):
        scores_of(study, 1, memory=2**20)


def test_scores_of_some_relations_are_compared_in_their_order(study, tmp_path):
    copy = tmp_path / "some.zarr"
    shutil.copytree(study.path, copy)
    shutil.rmtree(copy / "scores")
    names = study.relations()[:0:-1]
    some = score(copy, relations=names)
    found = compare.overlap(some, k=1500, negatives=1)
    assert found["relation"].values.tolist() == names
    whole = compare.overlap(study, k=1500, negatives=1)["shared"].sel(negatives="1")
    assert (found["shared"].sel(negatives="1") == whole.sel(relation=names, other=names)).all()


@pytest.fixture
def other(study, tmp_path):
    """The study with other scores for one relation: a neuron raised, all others as before."""
    path = tmp_path / "other.zarr"
    shutil.copytree(study.path, path)
    with sample.edited(path, "scores") as scores:
        values = np.asarray(scores["mlp.up/average_precision"][0])
        values[1, 11], values[2, 12] = values[1, 11] / 4, 1.0
        values[3] += np.random.default_rng(0).normal(0, 0.01, values[3].shape).astype(np.float32)
        scores["mlp.up/average_precision"][0] = values
    return path


def test_agreement_of_two_stores(study, other):
    table = compare.agreement(study, other, k=300).set_index("relation")
    _, mine = compare.all_scores(study)
    _, theirs = compare.all_scores(local.open(other))
    for at, name in enumerate(study.relations()):
        first = np.concatenate([values[at].ravel() for values in mine.values()])
        second = np.concatenate([values[at].ravel() for values in theirs.values()])
        assert table.loc[name, "correlation"] == pytest.approx(spearmanr(first, second).statistic)
        best = [set(pd.Series(values).nlargest(300, keep="first").index) for values in (first, second)]
        assert table.loc[name, "shared"] == len(best[0] & best[1])
    assert table["correlation"].iloc[0] < 1 and table["shared"].iloc[1:].tolist() == [300, 300]


def test_what_moved(study, other):
    relation = study.relations()[0]
    table = compare.moved(study, other, relation=relation, n=2)
    assert set(zip(table.site, table.layer, table.neuron, strict=True)) == {
        ("mlp.up", 1, 11),
        ("mlp.up", 2, 12),
    }
    assert (
        np.allclose(table.after - table.before, table.change) and table.change.abs().is_monotonic_decreasing
    )
    before = query.neuron(study, "mlp.up", 2, 12).set_index("relation").loc[relation, "average_precision"]
    assert (
        table.set_index("neuron").loc[12, "before"] == pytest.approx(before)
        and table.set_index("neuron").loc[12, "after"] == 1
    )


def test_refusals(study, tiny_folder, tiny_prompts, tmp_path):
    with pytest.raises(InputError, match=r"no mask 'best', there are: top-200"):
        compare.overlap(study, "best")
    with pytest.raises(InputError, match="both a mask and k"):
        compare.overlap(study, "top-200", k=3)
    with pytest.raises(InputError, match="cannot count by 'head'"):
        compare.overlap(study, by="head")
    for choices in ({}, {"k": [1, 2]}, {"k": 2, "by": "site"}):
        with pytest.raises(InputError, match="beside the top of one k"):
            compare.overlap(study, negatives=4, **choices)
    with pytest.raises(InputError, match="0 negatives per positive"):
        compare.overlap(study, k=2, negatives=0)
    with pytest.raises(InputError, match="several k and by layer"):
        compare.overlap(study, k=[1, 2], by="layer")
    tiny = score(capture(str(tiny_folder), tiny_prompts, tmp_path / "tiny.zarr"))
    with pytest.raises(InputError, match="no mask in this store"):
        compare.overlap(tiny)
    with pytest.raises(InputError, match=r"no relation in common: country_capital.* and size, colour"):
        compare.agreement(study, tiny, k=3)
    renamed = tiny_prompts.assign(relation=tiny_prompts.relation.replace("size", "country_capital"))
    shaped = score(capture(str(tiny_folder), renamed, tmp_path / "shaped.zarr"))
    with pytest.raises(InputError, match=r"mlp.gate is 4 x 768 in one store and 3 x 44 in the other"):
        compare.agreement(study, shaped, k=3)


def test_the_command(command, study, other, tmp_path):
    code, out, _ = command("compare", study.path)
    assert code == 0 and "200" in out and "expected of two random sets of these sizes: 6.4" in out
    assert "(--k K --negatives 4 shows them beside)" in " ".join(out.split())
    code, out, err = command("compare", study.path, "--k", "300", "--negatives", "4")
    assert code == 0 and "shared neurons by negatives" in out and "rest" in out, err
    shared = compare.overlap(study, k=300, negatives=4)["shared"].values[0, 1]
    (line,) = (line.split() for line in out.splitlines() if line.startswith("country_capital & adj"))
    assert line[-2:] == [str(number) for number in shared]
    code, out, _ = command("compare", study.path, "--k", "300", "--negatives", "4", "--json")
    assert {row["negatives"] for row in json.loads(out)} == {"rest", "4"}
    assert command("compare", study.path, other, "--k", "300", "--negatives", "4")[0] == 2
    code, out, _ = command("compare", study.path, "--k", "100,1000")
    assert code == 0 and len([line for line in out.splitlines() if " & " in line]) == 3
    assert command("compare", study.path, "--by", "layer", "-o", tmp_path / "t.parquet")[0] == 0
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 3 * 4
    code, out, _ = command("compare", study.path, other, "--k", "300", "--json")
    assert [row["shared"] for row in json.loads(out)][1:] == [300, 300]
    code, out, _ = command(
        "compare", study.path, other, "--relation", study.relations()[0], "-n", 1, "--json"
    )
    assert code == 0 and len(json.loads(out)) == 1
    assert command("compare", study.path, "--k", "4,x")[0] == 2

"""The commands that ask whether a claim is robust, as a user types them."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def store(tiny_study, tmp_path):
    """A copy of a finished study that may be changed."""
    shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_several_factors_are_one_command(relact, store):
    ablated = ("ablate", store, "--mask", "top-12", "--seeds", 1)
    code, out, err = relact(*ablated, "--scale", "0.5,2", "--json")
    rows = json.loads(out)
    assert code == 0 and "ablate:" in err
    assert [row["factor"] for row in rows] == [0, 0.5, 2]  # and what is stored already
    assert [row["ablation"] for row in rows] == ["top-12", "top-12-x0.5", "top-12-x2"]
    assert {"own", "other", "random", "log_own", "log_other", "log_random"} <= rows[0].keys()
    code, out, _ = relact(*ablated, "--scale", 3, "--name", "more")
    assert code == 0 and "more-x3" in out and "top-12-x2" in out
    code, out, _ = relact(*ablated, "--scale", "1.5,2", "--dry-run", "--json")
    assert code == 0 and len(json.loads(out)) == 2
    for wrong in (("--scale", "half"), ("--scale", "2", "--k", "3,5")):
        assert relact("ablate", store, *wrong)[0] == 2
    assert relact(*ablated, "--scale", 2, "--mode", "mean")[0] == 1


def test_effects_are_printed_whole_and_split(relact, store):
    code, out, _ = relact("effects", store)
    assert code == 0 and "top-12" in out and "own" in out and "log_random" in out
    code, out, _ = relact("effects", store, "--ablation", "top-12", "--split", "template", "--json")
    rows = json.loads(out)
    assert code == 0 and {row["split"] for row in rows} == {"size of {} is", "colour of {} is"}
    assert {row["group"] for row in rows} >= {"own", "other", "random"} and rows[0]["k"] == 12
    code, out, _ = relact("effects", store, "--split", "answers", "-o", store.parent / "split.csv")
    assert code == 0 and "unseen" in (store.parent / "split.csv").read_text()
    for wrong in (("--split", "colour"), ("--ablation", "top-1")):
        code, _, err = relact("effects", store, *wrong)
        assert code == 1 and wrong[1] in err


def test_another_rule_is_said_where_effects_are(relact, store):
    assert "match" not in relact("effects", store)[1]
    code, out, _ = relact("judge", store, "--match", "exact")
    assert code == 0 and "exact" in out
    code, out, _ = relact("effects", store)
    assert code == 0 and "match" in out and "exact" in out
    _, out, _ = relact("judge", "--help")
    assert "the place of the former" in " ".join(out.split())


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--mask", "top-12", "--k", 12),
        ("--mask", "top-12", "--scale", 0.5, "--mode", "mean"),
        ("--mask", "top-12", "--k", 0),
        ("--k", 12, "--sites", "mlp.act"),
        ("--k", 12, "--statistic", "auroc"),
        ("--k", 12, "--by", "attribution"),
    ],
)
def test_a_dry_run_refuses_what_the_run_does(relact, store, wrong):
    planned, done = relact("ablate", store, *wrong, "--dry-run"), relact("ablate", store, *wrong)
    assert planned[0] == done[0] == 1 and planned[2] == done[2]


def test_a_dry_run_counts_what_is_stored(relact, store):
    def planned(*options):
        """Files of every plan."""
        return [
            step["files"] for step in json.loads(relact("ablate", store, *options, "--dry-run", "--json")[1])
        ]

    there = ("--k", 12, "--seeds", 2)
    assert planned(*there) == planned("--mask", "top-12", "--seeds", 2) == [0]
    code, _, err = relact("ablate", store, *there, "--dry-run")
    assert code == 0 and "ablations/top-12 is stored already" in err
    for other in (
        ("--seeds", 3),
        ("--match", "exact"),
        ("--name", "again"),
        ("--register",),
        ("--perplexity",),
    ):
        assert planned(*there, *other)[0] > 0
    assert relact("ablate", store, *there, "--scale", 0.5)[0] == 0
    zero, more = planned(*there, "--scale", "0.5,2")
    assert zero == 0 and more > 0


def test_a_patch_is_a_row_per_relation(relact, store):
    patched = ("patch", store, "--mask", "top-12", "--per-relation", 2, "--seeds", 1)
    code, out, err = relact(*patched, "--json")
    rows = json.loads(out)
    assert code == 0 and "means:" in err and [row["relation"] for row in rows] == ["size", "colour", "mean"]
    assert {"prompts", "intact", "patched", "random", "gain", "gain_low", "over_random_high"} <= rows[
        0
    ].keys()
    code, out, _ = relact(*patched, "--tokens", "last", "--identify", 3)
    assert code == 0 and "over_random" in out
    code, _, err = relact("patch", store, "--mask", "top-1")
    assert code == 1 and "top-12" in err


def test_stability_of_units_and_of_their_function(relact, store):
    halved = ("stability", store, "--k", 12, "--splits", 2)
    code, out, err = relact(*halved, "--json")
    rows = json.loads(out)
    assert code == 0 and "halves:" in err and [row["split"] for row in rows] == [0, 0, 1, 1]
    assert all(0 <= row["shared"] <= 1 and 0 < row["chance"] < 1 for row in rows)
    code, out, err = relact(*halved, "--statistic", "z", "--ablate", "--seeds", 1)
    assert code == 0 and "own_first" in out and "log_random_second" in out and "ablate:" in err
    code, out, _ = relact("info", store)
    assert "z-half-12-1b" in out
    assert relact("stability", store, "--k", 12, "--statistic", "attribution_z")[0] == 1

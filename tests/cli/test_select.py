"""`relact select`: what it prints of a choice, and of the equals at its edge."""

from __future__ import annotations

import json
import shutil

import pytest

from relact.store import local


@pytest.fixture
def store(tiny_study, tmp_path):
    """A copy of a study whose average precisions are full of ties."""
    return shutil.copytree(tiny_study.path, tmp_path / "s.zarr")


def test_ties_at_the_edge_are_printed(relact, store):
    code, out, err = relact("select", store, "--k", 7, "--count-neurons")
    assert code == 0, err
    record = local.open(store).mask_record("top-7-neurons")
    contested = {
        name: {"share": share, "taken": taken}
        for name, (share, taken) in zip(record.scores.relations, record.ties, strict=True)
        if share > taken
    }
    assert contested and record.counted == "neuron"
    for name, edge in contested.items():
        line = f"{edge['share']} neurons share the last score of {name}, {edge['taken']} are in, by margin"
        assert line in out
    said = json.loads(relact("select", store, "--k", 7, "--count-neurons", "--json")[1])
    assert said["ties"] == contested and set(said["neurons"].values()) == {7}


def test_options_reach_the_selection(relact, store):
    assert relact("score", store, "--statistics", "average_precision,margin,z")[0] == 0
    arguments = ("--k", 5, "--statistic", "z", "--keep-super-units", "--seed", 3)
    assert "z-top-5-super-seed-3" in relact("select", store, *arguments)[1]
    assert "fdr-0.3-ap-0.5" in relact("select", store, "--fdr", 0.3, "--min-ap", 0.5)[1]
    code, _, err = relact("select", store, "--k", 5, "--min-ap", 0.5)
    assert code == 1 and "Give --fdr with it" in err
    assert "only" in relact("select", store, "--of", "z-top-5-super-seed-3", "--only")[1]

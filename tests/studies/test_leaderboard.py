"""Criteria against each other: chosen on one part of the test prompts, shown on the other."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

import relact
from relact.ablating import ablate
from relact.analysis.leaderboard import chosen
from relact.errors import InputError
from relact.store import local

CRITERIA = ["average_precision", "margin"]


@pytest.fixture(scope="module")
def made(study, model, tmp_path_factory):
    """A copy of the finished study with its leaderboard."""
    path = tmp_path_factory.mktemp("board") / "s.zarr"
    shutil.copytree(study.path, path)
    return path, relact.leaderboard(path, CRITERIA, k=[20, 60], seeds=2, model=model)


def test_every_cell_is_chosen_on_dev_and_the_best_is_shown_on_test(made):
    _, board = made
    dev, shown = (board[board["part"] == part] for part in ("dev", "test"))
    assert sorted(zip(dev["criterion"], dev["k"], strict=True)) == [
        (name, k) for name in CRITERIA for k in (20, 60)
    ]
    assert (
        sorted(shown["criterion"]) == CRITERIA
        and set(dev["prompts"]) == {6}
        and set(shown["prompts"]) == {12}
    )
    for row in shown.itertuples():
        of = dev[dev["criterion"] == row.criterion]
        effect = of[["own_minus_other", "own_minus_random"]].min(axis=1)
        assert row.k in of.loc[effect == effect.max(), "k"].tolist()


def test_its_numbers_are_those_of_the_stored_ablations(made):
    path, board = made
    store = relact.open_store(path)
    for row in board.itertuples():
        result = store.dataset(f"ablations/{row.ablation}").load()
        assert set(result["part"].values) == {row.part}
        summary = relact.effects(result)
        assert row.own == pytest.approx(summary.own, abs=1e-4)
        assert row.random == pytest.approx(summary.random, abs=1e-4)
        assert row.log_other == pytest.approx(summary.log_other, abs=1e-4)
        assert row.own_low <= row.own <= row.own_high
        assert store.ablation_record(row.ablation).masks[0].statistic == row.criterion


def test_the_area_is_a_mean_over_the_logarithm_of_k(made):
    _, board = made
    of = board[(board["part"] == "dev") & (board["criterion"] == "margin")].sort_values("k")
    assert of["area"].to_numpy() == pytest.approx(of["own_minus_other"].mean())


def test_what_is_there_is_not_computed_again(made, model, monkeypatch):
    path, board = made
    monkeypatch.setattr(ablate, "generate", lambda *_, **__: pytest.fail("computed"))
    again = relact.leaderboard(path, CRITERIA, k=[20, 60], seeds=2, model=model)
    pd.testing.assert_frame_equal(again, board)


def test_of_equals_by_accuracy_the_log_probability_decides():
    table = pd.DataFrame(
        {
            "criterion": ["a", "a", "b"],
            "k": [1, 2, 1],
            "own_minus_other": [3.0, 3.0, 9.0],
            "own_minus_random": [3.0, 4.0, 1.0],
            "log_own_minus_other": [0.1, 0.5, 0.0],
            "log_own_minus_random": [0.1, 0.4, np.nan],
        }
    )
    assert chosen(table)[["criterion", "k"]].to_numpy().tolist() == [["a", 2], ["b", 1]]


def test_the_command_prints_and_writes_it(made, relact, tmp_path):
    path, board = made
    local.open(path)
    arguments = ("leaderboard", path, "--criteria", ",".join(CRITERIA), "--k", "20,60", "--seeds", 2)
    code, out, err = relact(*arguments, "--model", "nowhere")
    assert code == 0, err  # nothing is left to be computed, so no model is needed
    assert "average_precision" in out and "chose nothing" in out
    code, _, err = relact(*arguments, "-o", tmp_path / "board.parquet")
    assert code == 0, err
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "board.parquet"), board, check_dtype=False)


def test_an_unknown_criterion_is_a_line(made, model):
    with pytest.raises(InputError, match="no statistic 'nothing'"):
        relact.leaderboard(made[0], ["nothing"], k=[20], model=model)

"""Criteria against each other: chosen on one part of the test prompts, shown on the other."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import relact
from relact import schema
from relact.ablating import ablate
from relact.analysis.leaderboard import called, chosen, method_of
from relact.errors import IdentityError, InputError
from relact.store import local
from relact.studies.leaderboard import CRITERIA as board_criteria
from relact.studies.leaderboard import _cells
from relact.studies.repeat import prompts_of

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


# Several stores


@pytest.fixture(scope="module")
def peers(made, model, tmp_path_factory):
    """The study's store, one with attributions from its prompts, and one of another method."""
    folder, study = tmp_path_factory.mktemp("peers"), local.open(made[0])
    prompts, taken = prompts_of(study), study.manifest.capture
    alike = {"sites": taken.sites, "pool": taken.pool, "dtype": taken.dtype}
    stores = [made[0]]
    for method in ("gradient", "direct"):
        path = folder / f"{method}.zarr"
        relact.capture(model, prompts, path, **alike, attribution=True, attribution_method=method)
        stores.append(path)
    return stores


@pytest.mark.slow
def test_several_stores_are_one_board_that_tells_methods_apart(peers, model):
    board = relact.leaderboard(peers, ["margin", "attribution_z"], k=[20], seeds=1, model=model)
    dev = board[board["part"] == "dev"].set_index("criterion")
    costs = {
        "margin": "1 forward",
        "attribution_z (gradient)": "1 forward, 1 backward",
        "attribution_z (direct)": "1 forward",
    }
    assert dict(dev["cost"]) == costs
    assert dev.loc[list(costs), "store"].tolist() == list(map(str, peers))
    for row in board.itertuples():
        store = relact.open_store(row.store)
        effects = relact.effects(store.dataset(f"ablations/{row.ablation}").load())
        assert row.own == pytest.approx(effects.own, abs=1e-4)
        assert row.criterion.startswith(store.ablation_record(row.ablation).masks[0].statistic)
    again = relact.leaderboard_of(peers, part="dev")
    assert set(dev.index) <= set(again["criterion"])


def test_stores_of_other_prompts_or_models_or_one_method_twice_are_refused(peers, model, tmp_path):
    copied = shutil.copytree(peers[1], tmp_path / "copy.zarr")
    with pytest.raises(InputError, match=r"attributed as .*: gradient"):
        relact.leaderboard_of([peers[1], copied])
    table = prompts_of(local.open(peers[0]))
    other = relact.capture(model, table[table["split"] == "identify"], tmp_path / "other.zarr")
    with pytest.raises(IdentityError, match="test prompts not those of"):
        relact.leaderboard([peers[0], other.path])
    changed = replace(model, fingerprint="other")
    unlike = relact.capture(changed, table, tmp_path / "unlike.zarr")
    with pytest.raises(IdentityError, match="weights not those of"):
        relact.leaderboard([peers[0], unlike.path])
    with pytest.raises(InputError, match="no store"):
        relact.leaderboard_of([])


def test_by_default_all_that_a_store_can_be_scored_by(peers):
    stores = [local.open(path) for path in peers[1:]]
    names = list(_cells(stores, None))
    assert names[:6] == [*board_criteria] and names[5] == "probe"
    assert names[6:9] == [f"{name} (gradient)" for name in schema.ATTRIBUTION_STATISTICS]
    assert names[9:] == [f"{name} (direct)" for name in schema.ATTRIBUTION_STATISTICS]


def test_activations_that_are_captured_otherwise_are_another_criterion(peers, model, tmp_path):
    first = local.open(peers[0])
    other = relact.capture(model, prompts_of(first), tmp_path / "max.zarr", sites="mlp.up", pool="max")
    assert called(other, "z", first) == "z (max of mlp.up, float16)"
    assert called(local.open(peers[1]), "z", first) == called(other, "z", other) == "z"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "gradient"),
        ({"attribution_pool": "last", "target": "contrast"}, "gradient, last, contrast"),
        ({"attribution_steps": 5}, "integrated, 5 steps"),
        ({"attribution_path": "layer", "attribution_pool": "last"}, "integrated, 20 steps by layer, last"),
        ({"attribution_method": "increase"}, "increase"),
    ],
)
def test_what_a_method_is_called(options, name):
    assert method_of(relact.CaptureOptions(attribution=True, **options).record().attribution) == name

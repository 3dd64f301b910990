"""Scores checked against scikit-learn on request, and a wrong one found."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers import sample

import relact
from relact.errors import InputError, NumericError, StoreError
from relact.scoring.check import TOLERANCE, check
from relact.store import local


@pytest.mark.parametrize("negatives", [None, 1])
def test_stored_scores_are_scikit_learns(tiny_study, tmp_path, negatives):
    shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    relact.score(tmp_path / "s.zarr", negatives=negatives, seed=5)
    seen = []
    checked = check(tmp_path / "s.zarr", 40, seed=3, progress=lambda *told: seen.append(told))
    assert (checked.neurons, checked.relations) == (40, 2) and checked.largest <= TOLERANCE
    assert seen[-1] == ("check", 40, 40, "neurons")


def test_a_wrong_score_is_named(tiny_study, tmp_path):
    shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    store = local.open(tmp_path / "s.zarr")
    with sample.edited(store.path, "scores") as group:
        for site in store.layouts:
            scores = group[f"{site}/average_precision"]
            scores[:] = np.asarray(scores[:]) * np.float32(0.999)
    with pytest.raises(
        NumericError, match=r"site \S+, layer \d: neuron \d+ has 0\.\d+ for size, scikit-learn says"
    ):
        check(store, 5)


def test_what_cannot_be_checked_is_refused(tiny_study, tmp_path, tiny_folder, tiny_prompts):
    with pytest.raises(InputError, match="--check: 0 neurons"):
        check(tiny_study, 0)
    with pytest.raises(StoreError, match="no scores in this store"):
        check(relact.capture(str(tiny_folder), tiny_prompts, tmp_path / "s.zarr"), 1)


def test_the_command_says_the_largest_difference(command, tiny_study, tmp_path):
    shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    code, out, _ = command("score", tmp_path / "s.zarr", "--check", 7)
    assert code == 0 and "7 neurons x 2 relations as scikit-learn has them, largest difference " in out

"""Probes against scikit-learn on the whole matrix of a store."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers import sample, victims
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from relact import kernels
from relact.capturing.capture import capture
from relact.errors import InputError
from relact.scoring import masks, probes
from relact.scoring.forecast import forecast
from relact.scoring.options import ScoreOptions
from relact.scoring.score import score, scores_of
from relact.store import local

SITES = ("mlp.gate", "mlp.down")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("probed") / "s.zarr"
    options = {"sites": ",".join(SITES), "block": 5, "attribution": True}
    return score(capture(victims.loaded(), victims.prompts(16), path, **options), statistics=["probe"])


def matrix_of(store):
    """float64 [prompt, neurons of both sites], and who is of the relation ``size``."""
    values = [sample.read(store, site).astype(np.float64).reshape(store.n_prompts, -1) for site in SITES]
    return np.concatenate(values, axis=1), store.prompts("identify")["relation"].to_numpy() == "size"


def flat_of(store, relation="size"):
    parts = [store.dataset(f"scores/{site}")["probe"].sel(relation=relation).values.ravel() for site in SITES]
    return np.concatenate(parts)


def d_prime_of(values, positive):
    labels = kernels.Labels.one_vs_rest(["a" if one else "b" for one in positive], ["a"])
    return kernels.rank_statistics([values.astype(np.float32)], labels, ["d_prime"])["d_prime"][0]


def test_scores_are_coefficients_and_then_the_order_of_the_prefilter(made):
    values, positive = matrix_of(made)
    found = flat_of(made)
    fitted = LogisticRegression(
        l1_ratio=1.0, solver="liblinear", class_weight="balanced", random_state=0, max_iter=1000
    ).fit(StandardScaler().fit_transform(values), positive)
    expected = fitted.coef_[0]  # all 228 neurons are candidates
    assert 0 < (expected > 0).sum() < 20
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found[found > 0], expected[expected > 0], rtol=1e-4)
    filled = np.flatnonzero(found <= 0)
    assert found.min() > -1 and len(np.unique(found[filled])) == len(filled)
    d_prime = d_prime_of(values, positive)[filled[np.argsort(-found[filled])]]
    assert (np.diff(d_prime) <= 1e-6).all()


def test_only_the_best_by_the_prefilter_are_candidates(made, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "CANDIDATES", 10)
    copied = local.open(shutil.copytree(made.path, tmp_path / "s.zarr"))
    score(copied, statistics=["average_precision"])
    score(copied, statistics=["average_precision", "probe"])
    values, positive = matrix_of(copied)
    best = np.argsort(-d_prime_of(values, positive))[:10]
    assert set(np.flatnonzero(flat_of(copied) > 0)) <= set(best.tolist())
    assert copied.statistics() == ["average_precision", "probe"]


def test_the_top_k_are_chosen_and_filled(made, tmp_path):
    copied = local.open(shutil.copytree(made.path, tmp_path / "s.zarr"))
    name = masks.select(copied, k=30, statistic="probe", counted="neuron")
    relations, sets = masks.read(copied, name)
    chosen = masks.flatten(sets)[relations.index("size")]
    np.testing.assert_array_equal(np.flatnonzero(chosen), np.sort(np.argsort(-flat_of(copied))[:30]))
    assert name == "probe-top-30-neurons" and (flat_of(copied) > 0).sum() < 30


def test_sampled_negatives_and_added_relations_and_seeds(made, tmp_path):
    copied = local.open(shutil.copytree(made.path, tmp_path / "s.zarr"))
    whole = flat_of(copied)
    score(copied, statistics=["probe"], relations=["colour"])
    score(copied, statistics=["probe"])
    np.testing.assert_array_equal(flat_of(copied), whole)
    score(copied, statistics=["probe"], negatives=1, seed=3)
    values, positive = matrix_of(copied)
    labels = kernels.Labels.one_vs_rest(["size" if one else "colour" for one in positive]).sampled(1, 3)
    told = labels.roles[labels.classes][:, list(labels.relations).index("size")]
    weights = probes.coefficients(values[told >= 0], told[told >= 0] == 1, 3)
    np.testing.assert_allclose(flat_of(copied)[weights > 0], weights[weights > 0], rtol=1e-4)


def test_the_plan_counts_them(made):
    planned = forecast(ScoreOptions(statistics=("probe",)), made)
    files = [file for file in (made.path / "scores").rglob("*") if file.is_file()]
    assert planned.files >= len(files) and planned.bytes >= sum(file.stat().st_size for file in files)


def test_constant_neurons_have_no_weight():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [8.0, 5.0], [9.0, 5.0]])
    weights = probes.coefficients(values, np.array([False, False, True, True]), 0)
    assert weights[0] > 0 and weights[1] == 0


def test_what_cannot_be_probed(made):
    with pytest.raises(InputError, match="probes are of activations"):
        score(made, statistics=["attribution_probe"])
    with pytest.raises(InputError, match="Score the store by it"):
        scores_of(made, 4, statistic="probe")

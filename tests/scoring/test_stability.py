"""What two halves of the prompts choose, against scikit-learn and the formula of z; and what it costs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers import victims
from sklearn.metrics import average_precision_score

from relact.ablating import ablate
from relact.analysis.effects import effects
from relact.capturing.capture import capture
from relact.errors import InputError
from relact.scoring import masks
from relact.scoring.selection import flatten
from relact.scoring.stability import halves_of
from relact.store import local
from relact.studies.stability import stability


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    path, sites = tmp_path_factory.mktemp("s") / "s.zarr", ["mlp.gate", "mlp.up", "attn.k"]
    options = {"dtype": "float32", "block": 5, "sites": sites, "attribution": True}
    return capture(victims.loaded(), victims.prompts(18), path, **options)


def values_of(store, kind, sites):
    n = store.n_prompts
    arrays = [store.dataset(f"{kind}s/{site}")[kind].values.reshape(n, -1) for site in sites]
    return np.concatenate(arrays, axis=1)


def test_halves_choose_what_scikit_learn_ranks_highest(captured):
    k, names = 20, captured.prompts("identify").relation.to_numpy()
    values = values_of(captured, "activation", captured.layouts)
    drawn = list(halves_of(captured, k=k, splits=2, seed=3))
    assert not np.array_equal(drawn[0].rows[0], drawn[1].rows[0])
    for found in drawn:
        assert sorted(np.concatenate(found.rows).tolist()) == list(range(len(names)))
        for rows, choice in zip(found.rows, found.choices, strict=True):
            assert list(choice.sets) == list(captured.layouts)
            for at, relation in enumerate(found.relations):
                assert abs((names[rows] == relation).sum() - 4.5) == 0.5
                truths = np.repeat((names[rows] == relation)[:, None], values.shape[1], axis=1)
                scores = average_precision_score(truths, values[rows], average=None).astype(np.float32)
                # of a hidden unit the better neuron stands for it
                gate, up, rest = np.split(scores, [(width := 44 * 3), 2 * width])
                edge = np.sort(np.concatenate([np.maximum(gate, up), rest]))[-k]
                chosen = flatten(choice.sets)[at]
                assert chosen.sum() == k and scores[chosen].min() >= edge
                assert (scores > edge).sum() - ((gate > edge) & (up > edge)).sum() <= k


def test_attributions_of_halves_by_the_formula(captured):
    k, names = 10, captured.prompts("identify").relation.to_numpy()
    values = values_of(captured, "attribution", ["mlp.hidden"]).astype(np.float64)
    (found,) = halves_of(captured, k=k, statistic="attribution_z", splits=1)
    for rows, choice in zip(found.rows, found.choices, strict=True):
        assert list(choice.sets) == ["mlp.hidden"]
        parts = [values[rows][names[rows] == relation] for relation in found.relations]
        (m1, v1), (m2, v2) = ((part.mean(axis=0), part.var(axis=0) / len(part)) for part in parts)
        z = (m1 - m2) / np.sqrt(v1 + v2 + 1e-10)
        for sign, row in zip((1, -1), flatten(choice.sets), strict=True):
            assert set(np.flatnonzero(row)) == set(np.argsort(-sign * z)[:k])


def test_shared_units_are_counted_by_hand(captured):
    (found,) = halves_of(captured, k=25, splits=1)

    def units(choice, at):
        return {
            ("mlp" if site.startswith("mlp") else site, *place)
            for site, of in choice.sets.items()
            for place in np.argwhere(of[at]).tolist()
        }

    first, second = found.choices
    expected = [[len(units(first, a) & units(second, b)) / 25 for b in range(2)] for a in range(2)]
    np.testing.assert_allclose(found.shared, expected)
    assert found.chance == 25 / (3 * (44 + 16))  # units and keys of three layers
    table = stability(captured, k=25, splits=1)
    assert table["shared"].tolist() == pytest.approx([expected[0][0], expected[1][1]])
    assert table["others"].tolist() == pytest.approx([expected[0][1], expected[1][0]])


def test_all_units_are_always_shared_and_choices_are_checked(captured):
    everything = 3 * (44 + 16)
    table = stability(captured, k=everything, splits=2)
    assert (table[["shared", "others", "chance"]] == 1).all(axis=None) and set(table["split"]) == {0, 1}
    for wrong, message in (
        ({"k": everything + 1}, "--k"),
        ({"k": 3, "splits": 0}, "0 splits"),
        ({"k": 3, "statistic": "attribution_x"}, "x"),
    ):
        with pytest.raises(InputError, match=message):
            stability(captured, **wrong)


def test_both_halves_are_ablated_and_not_again(study, model, tmp_path, monkeypatch):
    copied = local.open(shutil.copytree(study.path, tmp_path / "s.zarr"))
    asked = {"k": 30, "splits": 1, "ablate": True, "seeds": [0], "model": model}
    table = stability(copied, **asked).set_index("relation")
    for half, letter in (("first", "a"), ("second", "b")):
        name = f"average_precision-half-30-0{letter}"
        record, stored = copied.mask_record(name), copied.dataset(f"ablations/{name}").load()
        assert (record.kind, record.k) == (
            "half",
            30,
        ) and record.scores.prompts != study.manifest.prompts_digest("identify")
        summary = effects(stored)
        for log in ("", "log_"):
            for group in ("own", "other", "random"):
                mean = table[f"{log}{group}_{half}"].mean()
                assert mean == pytest.approx(getattr(summary, f"{log}{group}"), abs=1e-4)
        relation = study.relations()[1]
        own = float(summary.drops.sel(condition=relation, relation=relation))
        assert table.loc[relation, f"own_{half}"] == pytest.approx(own)
    digests = {copied.mask_record(f"average_precision-half-30-0{letter}").scores.prompts for letter in "ab"}
    assert len(digests) == 2
    monkeypatch.setattr(ablate, "generate", lambda *_, **__: pytest.fail("computed"))
    assert stability(copied, **asked).set_index("relation").equals(table)
    assert len(masks.read(copied, "average_precision-half-30-0a")[0]) == 3

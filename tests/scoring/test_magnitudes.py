"""Sizes of activations against NumPy on all of them; super-units are stored and read back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from relact import schema
from relact.scoring import magnitudes
from relact.store import local


@pytest.fixture
def copied(tiny_study, tmp_path):
    """A study in which nobody looked for super-units."""
    shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    local.drop(tmp_path / "s.zarr", schema.SUPER_UNITS)
    return local.open(tmp_path / "s.zarr")


def test_means_of_absolute_values(tiny_study):
    for site in tiny_study.layouts:
        values = tiny_study.dataset(f"activations/{site}")["activation"].values.astype(np.float64)
        np.testing.assert_allclose(
            magnitudes.magnitudes(tiny_study, site), np.abs(values).mean(axis=0), rtol=1e-12
        )


def test_candidates_are_the_largest_beside_their_site(tiny_study):
    found = magnitudes.candidates(tiny_study, n=12, ratio=2)
    every = []
    for site in tiny_study.layouts:
        sizes = magnitudes.magnitudes(tiny_study, site)
        every += [
            (size / np.median(sizes), site, layer, neuron)
            for (layer, neuron), size in np.ndenumerate(sizes)
            if size / np.median(sizes) >= 2
        ]
    expected = sorted(every, reverse=True)[:12]
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found["ratio"], [ratio for ratio, *_ in expected])
    places = found[["site", "layer", "neuron"]].itertuples(index=False, name=None)
    assert list(places) == [tuple(place) for _, *place in expected]
    for row in found.itertuples():
        assert row.magnitude == magnitudes.magnitudes(tiny_study, row.site)[row.layer, row.neuron]
    assert magnitudes.candidates(tiny_study, ratio=1e6).empty


def test_super_units_are_read_as_they_were_written(copied):
    assert magnitudes.super_units(copied).empty and magnitudes.super_units_record(copied) is None
    found = magnitudes.candidates(copied, n=3, ratio=1)
    record = schema.SuperUnitsRecord("f", "d", 1.0, 0.5)
    magnitudes.write_super_units(copied, found.assign(cost=[3.0, 2.0, 1.0]), record)
    again = magnitudes.super_units(copied)
    assert list(again) == ["site", *magnitudes.DTYPES]
    assert {name: str(again[name].dtype) for name in magnitudes.DTYPES} == magnitudes.DTYPES
    for name in ("site", "layer", "neuron"):
        assert again[name].tolist() == found[name].tolist()
    np.testing.assert_allclose(again["ratio"], found["ratio"], rtol=1e-6)
    assert magnitudes.super_units_record(copied) == record
    magnitudes.write_super_units(copied, found.assign(cost=1.0)[:0], record)  # looked for, none found
    assert magnitudes.super_units(copied).empty and magnitudes.super_units_record(copied) == record


def test_all_neurons_of_a_super_units_hidden_unit_are_left_out(copied):
    frame = magnitudes.candidates(copied, n=2, ratio=0).assign(
        site=["mlp.gate", "attn.o"], layer=[1, 0], neuron=[5, 3], cost=1.0
    )
    magnitudes.write_super_units(copied, frame, schema.SuperUnitsRecord("f", "d", 1.0, 0.5))
    found = magnitudes.super_unit_masks(copied, ["mlp.up", "mlp.down", "attn.o"])
    assert {site: np.argwhere(mask).tolist() for site, mask in found.items()} == {
        "mlp.up": [[1, 5]],
        "mlp.down": [],
        "attn.o": [[0, 3]],
    }

"""Random sets: matched to one relation's own, seeded by relation, without super-units and doubled units."""

from __future__ import annotations

import numpy as np
import pytest

from relact.errors import InputError
from relact.scoring import controls

SHAPES = {"mlp.gate": (4, 100), "mlp.up": (4, 100), "mlp.down": (4, 30)}


@pytest.fixture
def own():
    """A set of distinct hidden units: in layer 3 thirty of a gate, and as many of an up."""
    generator = np.random.default_rng(3)
    drawn = {site: generator.random(shape) < 0.1 for site, shape in SHAPES.items()}
    drawn["mlp.up"] &= ~drawn["mlp.gate"]
    drawn["mlp.gate"][3], drawn["mlp.up"][3] = np.arange(100) < 30, np.arange(100) >= 70
    return drawn


@pytest.fixture
def without():
    generator = np.random.default_rng(4)
    out = {site: generator.random(shape) < 0.05 for site, shape in SHAPES.items()}
    return {**out, "mlp.up": out["mlp.gate"]}


SIZES = {site: np.random.default_rng(5).lognormal(size=shape) for site, shape in SHAPES.items()}
DRAWS = {
    "matched": controls.random_matched,
    "magnitude": lambda own, *rest: controls.random_like_magnitude(own, SIZES, *rest),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("counted", ["unit", "neuron"])
def test_as_many_in_every_site_and_layer_and_none_of_what_is_left_out(own, without, name, counted):
    doubled = 0
    for seed in range(30):
        drawn = DRAWS[name](own, seed, "a", without, counted)
        for site, mask in own.items():
            assert np.array_equal(drawn[site].sum(axis=1), mask.sum(axis=1))
            assert not (drawn[site] & without[site]).any()
        doubled += (drawn["mlp.gate"] & drawn["mlp.up"]).sum()
    assert (doubled == 0) == (counted == "unit")


@pytest.mark.parametrize("name", DRAWS)
def test_seed_and_relation_make_the_draw(own, name):
    first, again, seeded, named = (
        DRAWS[name](own, seed, relation) for seed, relation in ((5, "a"), (5, "a"), (6, "a"), (5, "b"))
    )
    for site in own:
        assert np.array_equal(first[site], again[site])
        assert not np.array_equal(first[site], seeded[site])
        assert not np.array_equal(first[site], named[site])


def test_every_free_neuron_is_as_likely(own):
    total = sum(controls.random_matched(own, seed, "a")["mlp.up"][3].astype(int) for seed in range(600))
    share = total / 600
    assert np.abs(share - 0.3).max() < 0.1  # standard error 0.019


def test_magnitudes_are_those_of_the_set_decile_by_decile(own):
    drawn = controls.random_like_magnitude(own, SIZES, 0, "a", counted="neuron")
    for site, mask in own.items():
        for layer, values in enumerate(SIZES[site]):
            edges = np.sort(values)[:: len(values) // 10]  # each decile's smallest
            deciles = np.searchsorted(edges, values, side="right") - 1
            wanted, got = (
                np.bincount(deciles[chosen[layer]], minlength=10) for chosen in (mask, drawn[site])
            )
            assert np.array_equal(wanted, got)


def test_an_exhausted_decile_borrows_from_its_neighbours():
    sizes = {"mlp.down": np.arange(100.0)[None]}
    own = {"mlp.down": (np.arange(100) >= 90)[None]}  # the whole last decile
    without = {"mlp.down": (np.arange(100) >= 95)[None]}
    drawn = controls.random_like_magnitude(own, sizes, 1, "a", without)["mlp.down"][0]
    assert drawn[90:95].all() and drawn[80:90].sum() == 5 and drawn.sum() == 10


def test_more_than_there_are_free_is_refused(own):
    own["mlp.up"][3, 20:] = True
    with pytest.raises(InputError, match="80 neurons of a layer are to be drawn, 70 are free"):
        controls.random_matched(own, 0, "a")
    assert controls.random_matched(own, 0, "a", counted="neuron")["mlp.up"][3].sum() == 80


def test_the_average_of_every_layer_for_relations_without_a_set(own, without):
    masks = {site: np.stack([mask, mask & (np.arange(mask.shape[1]) % 2 == 0)]) for site, mask in own.items()}
    drawn = controls.random_average(masks, 7, without)
    total = sum(mask.sum() for mask in masks.values()) / 2
    assert sum(mask.sum() for mask in drawn.values()) == round(total)
    for site, mask in masks.items():
        assert np.abs(drawn[site].sum(axis=1) - mask.sum(axis=2).mean(axis=0)).max() < 1
        assert not (drawn[site] & without[site]).any()


def test_the_published_control_is_drawn_from_all_neurons_alike(own):
    masks = {site: mask[None] for site, mask in own.items()}
    sets = [controls.random_uniform(masks, seed) for seed in range(200)]
    k = sum(mask.sum() for mask in own.values())
    assert {int(sum(mask.sum() for mask in drawn.values())) for drawn in sets} == {int(k)}
    shares = {site: np.mean([drawn[site].mean() for drawn in sets]) for site in SHAPES}
    assert shares == pytest.approx(dict.fromkeys(SHAPES, k / 920), rel=0.05)

"""Scores of attributions: the kernels of activations, on other columns; and what reads them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr
from helpers import sample, victims
from sklearn.metrics import average_precision_score

import relact
from relact import kernels, schema
from relact.analysis import compare, query
from relact.capturing.capture import capture
from relact.errors import InputError, NumericError, StoreError
from relact.packed import shortlist
from relact.packed.store import open_store
from relact.scoring import controls, masks
from relact.scoring.criteria import MEANINGS, meaning, named
from relact.scoring.forecast import forecast
from relact.scoring.magnitudes import magnitudes
from relact.scoring.options import ScoreOptions, SelectOptions
from relact.scoring.quantities import wanted
from relact.scoring.score import score, scores_of
from relact.scoring.ties import margins_of
from relact.sharing.pack import pack
from relact.sharing.unpack import unpack
from relact.store import local
from relact.studies import run

HIDDEN, DOWN = "mlp.hidden", "mlp.down"  # both attributed, the second captured too
STREAMS = {site: f"attributions/{site}" for site in (HIDDEN, DOWN)}
OPTIONS = {
    "sites": "mlp.up,mlp.down",
    "block": 5,
    "attribution": True,
    "attribution_sites": f"{HIDDEN},{DOWN}",
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    path = tmp_path_factory.mktemp("attributed") / "s.zarr"
    return score(capture(victims.loaded(), victims.prompts(16), path, **OPTIONS))


@pytest.fixture
def copied(scored, tmp_path):
    return local.open(shutil.copytree(scored.path, tmp_path / "s.zarr"))


def relation_of(store):
    return store.prompts("identify")["relation"].to_numpy()


def test_every_site_has_the_statistics_of_what_is_captured_of_it(scored):
    assert scored.sites == ("mlp.up", DOWN, HIDDEN)
    arrays = {site: set(scored.dataset(f"scores/{site}").data_vars) for site in scored.sites}
    activation, attribution = set(schema.STATISTICS), set(schema.ATTRIBUTION_STATISTICS)
    assert arrays == {"mlp.up": activation, DOWN: activation | attribution, HIDDEN: attribution}
    assert scored.scored("attribution_z") == (DOWN, HIDDEN)
    assert scored.scored("average_precision") == ("mlp.up", DOWN)
    assert scored.statistics() == [*schema.STATISTICS, *schema.ATTRIBUTION_STATISTICS]


@pytest.mark.parametrize("site", STREAMS)
def test_scores_of_attributions_are_their_definitions(scored, site):
    values = sample.read(scored, STREAMS[site]).astype(np.float64)  # [prompt, layer, neuron]
    stored, of = scored.dataset(f"scores/{site}"), relation_of(scored)
    groups = {name: values[of == name] for name in ("size", "colour")}
    for name, other in (("size", "colour"), ("colour", "size")):
        on, off = groups[name], groups[other]
        found = stored.sel(relation=name)
        np.testing.assert_allclose(found["attribution_mean"], on.mean(axis=0), rtol=1e-5, atol=1e-9)
        error = np.sqrt(on.var(axis=0) / len(on) + off.var(axis=0) / len(off) + 1e-10)
        z = (on.mean(axis=0) - off.mean(axis=0)) / error
        np.testing.assert_allclose(found["attribution_z"], z, rtol=1e-5, atol=1e-6)
        for layer, neuron in ((0, 3), (2, 17), (1, values.shape[2] - 1)):
            expected = average_precision_score(of == name, values[:, layer, neuron])
            precision = found["attribution_average_precision"][layer, neuron]
            assert float(precision) == pytest.approx(expected, abs=1e-6)


def test_activations_are_scored_as_without_attributions(scored, tmp_path):
    plain = score(
        capture(victims.loaded(), victims.prompts(16), tmp_path / "p.zarr", sites="mlp.up", block=5)
    )
    assert plain.statistics() == list(schema.STATISTICS) and plain.sites == ("mlp.up",)
    for name in ("average_precision", "off_mean"):
        ours, theirs = (store.dataset("scores/mlp.up")[name].values for store in (scored, plain))
        np.testing.assert_allclose(ours, theirs, atol=0.02)  # prefixes are shared without attributions
    with pytest.raises(InputError, match="no attributions for attribution_z"):
        score(plain, statistics=["average_precision", "attribution_z"])


def test_chosen_statistics_alone_and_any_other_of_attributions(copied):
    score(copied, statistics=["attribution_auroc", "attribution_z", "auroc"])
    assert copied.statistics() == ["attribution_z", "attribution_auroc", "auroc"]
    values = [sample.read(copied, STREAMS[HIDDEN])[:, 1]]
    labels = kernels.Labels.one_vs_rest(list(relation_of(copied)))
    expected = kernels.rank_statistics(values, labels, ["auroc"])["auroc"]
    stored = copied.dataset(f"scores/{HIDDEN}")
    np.testing.assert_allclose(stored["attribution_auroc"][:, 1], expected, atol=1e-6)
    with pytest.raises(InputError, match="nothing"):
        score(copied, statistics=["attribution_nothing"])


def test_relations_are_added_to_what_is_stored(copied):
    whole = {site: copied.dataset(f"scores/{site}").load() for site in copied.sites}
    score(copied, relations=["colour"])
    assert copied.scores_record().relations == ("colour",)
    score(copied)
    for site, expected in whole.items():
        found = copied.dataset(f"scores/{site}").load()
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_nan_is_named_with_its_quantity(copied):
    buffer = copied.buffer()
    copied.load_block(1, buffer)
    buffer.put(STREAMS[HIDDEN], 2, np.array([3]), np.full((1, 44), np.nan, np.float32))
    with local.writing(copied), pytest.raises(NumericError, match="the attribution of neuron 0 on prompt 8"):
        copied.write_block(1, buffer)


def test_the_plan_covers_both(copied, tmp_path):
    planned = forecast(ScoreOptions(), copied)
    files = [file for file in (copied.path / "scores").rglob("*") if file.is_file()]
    assert planned.files >= len(files) and planned.bytes >= sum(file.stat().st_size for file in files)
    assert planned.files <= len(files) + 2


def test_wanted_keeps_a_site_together():
    streams = ["a", "b", "attributions/b", "attributions/c"]
    found = wanted(streams, ["auroc", "attribution_z", "attribution_mean"])
    assert [each.stream for each in found] == ["a", "b", "attributions/b", "attributions/c"]
    assert found[2].statistics == ("z", "on_mean") and found[1].names == ("auroc",)
    reordered = wanted(["a", "b", "attributions/a"], ["auroc", "attribution_z"])
    assert [each.site for each in reordered] == ["a", "a", "b"]


# Who reads them


def test_select_by_attribution_chooses_among_the_sites_that_have_it(copied):
    name = masks.select(copied, statistic="attribution_z", k=9)
    relations, sets = masks.read(copied, name)
    assert name == "attribution_z-top-9" and set(sets) == {DOWN, HIDDEN}
    scores = {site: copied.dataset(f"scores/{site}")["attribution_z"].values for site in (DOWN, HIDDEN)}
    np.testing.assert_array_equal(masks.flatten(sets), masks.flatten(masks.top_k(scores, 9)))
    assert copied.mask_record(name).ties_by == "margin"
    hidden = masks.select(copied, statistic="attribution_z", k=9, sites=HIDDEN)
    assert set(masks.read(copied, hidden)[1]) == {HIDDEN} and relations == ["size", "colour"]
    assert set(masks.read(copied, masks.select(copied, k=9))[1]) == {"mlp.up", DOWN}
    with pytest.raises(InputError, match=r"none of the sites mlp\.up has attribution_z"):
        masks.select(copied, statistic="attribution_z", k=9, sites="mlp.up")
    with pytest.raises(InputError, match=r"no statistic 'attribution_auroc' is stored.*attribution_mean"):
        masks.select(copied, statistic="attribution_auroc", k=9)


def test_margins_of_ties_are_of_attributions(scored):
    numbering = masks.Numbering({HIDDEN: (3, 44)})
    margins = margins_of(scored, ["size", "colour"], numbering, "attribution_average_precision")
    labels = kernels.Labels.one_vs_rest(list(relation_of(scored)))
    values = sample.read(scored, STREAMS[HIDDEN])
    for number, layer, neuron in ((5, 0, 5), (2 * 44 + 3, 2, 3)):
        expected = kernels.rank_statistics([values[:, layer, neuron : neuron + 1]], labels, ["margin"])
        np.testing.assert_allclose(margins(np.array([number]))[:, 0], expected["margin"][:, 0])


def test_queries_offer_a_statistic_for_the_sites_that_have_it(scored):
    by_attribution = query.top(scored, relation="size", n=8, statistic="attribution_z")
    assert (
        set(by_attribution["site"]) <= {DOWN, HIDDEN}
        and by_attribution["attribution_z"].is_monotonic_decreasing
    )
    assert by_attribution.loc[by_attribution.site == HIDDEN, "average_precision"].isna().all()
    by_activation = query.top(scored, relation="size", n=200)
    assert set(by_activation["site"]) == {"mlp.up", DOWN}
    assert by_activation.loc[by_activation.site == "mlp.up", "attribution_z"].isna().all()
    with pytest.raises(InputError, match=r"none of the sites mlp\.up is scored by attribution_z"):
        query.top(scored, relation="size", sites="mlp.up", statistic="attribution_z")
    with pytest.raises(InputError, match="no statistic 'attribution_d_prime'"):
        query.top(scored, relation="size", statistic="attribution_d_prime")
    names, scores = compare.all_scores(scored, "attribution_z")
    assert names == ["size", "colour"] and list(scores) == [DOWN, HIDDEN]
    assert list(compare.all_scores(scored)[1]) == ["mlp.up", DOWN]


def test_a_neuron_that_has_attributions_alone(scored):
    found = query.neuron(scored, HIDDEN, 1, 7)
    usual, *rest = sorted(schema.ATTRIBUTION_STATISTICS, key=lambda name: name != "attribution_z")
    assert list(found) == ["relation", usual, *rest, *query.QUANTILES]
    values = query.activations(scored, HIDDEN, 1, 7)
    stored = sample.read(scored, STREAMS[HIDDEN])[:, 1, 7]
    np.testing.assert_array_equal(values["attribution"], stored)
    driven = query.extremes(scored, HIDDEN, 1, 7, n=2)
    np.testing.assert_array_equal(driven["attribution"], np.sort(stored)[::-1][[0, 1, -2, -1]])
    with pytest.raises(StoreError, match=r"no activations of mlp\.hidden"):
        query.activations(scored, HIDDEN, 1, 7, by="activation")
    with pytest.raises(InputError, match=r"no activations of mlp\.hidden"):
        magnitudes(scored, HIDDEN)
    both = query.neuron(scored, DOWN, 1, 7)
    assert {"average_precision", "attribution_z", "p50"} <= set(both)
    assert both.columns[1] == "average_precision"
    assert query.neuron(scored, DOWN, 1, 7, by="attribution").columns[1] == "attribution_z"
    assert list(query.activations(scored, DOWN, 1, 7)).count("activation") == 1


def test_scores_in_memory(scored):
    found = scores_of(scored, None, statistic="attribution_average_precision")
    assert set(found) == {DOWN, HIDDEN}
    stored = scored.dataset(f"scores/{HIDDEN}")["attribution_average_precision"].values
    np.testing.assert_array_equal(found[HIDDEN], stored)


def test_a_package_answers_the_same(scored, tmp_path):
    pack(scored.path, tmp_path / "p.zarr.zip")
    shared = open_store(tmp_path / "p.zarr.zip")
    for options in ({"n": 20}, {"n": 20, "statistic": "attribution_z"}, {"n": 3, "sites": "mlp.up"}):
        ours, theirs = (query.top(store, relation="size", **options) for store in (shared, scored))
        assert ours.equals(theirs.astype(ours.dtypes.to_dict()))
    assert unpack(tmp_path / "p.zarr.zip", tmp_path / "u.zarr").statistics() == scored.statistics()
    few = local.open(shutil.copytree(scored.path, tmp_path / "few"))
    local.drop(few.path, "scores")
    score(few, statistics=["attribution_z"])
    pack(few.path, tmp_path / "few.zarr")
    assert unpack(tmp_path / "few.zarr", tmp_path / "v.zarr").statistics() == ["attribution_z"]


def test_a_package_lists_the_best_by_either_choice(scored, tmp_path):
    pack(scored.path, tmp_path / "p.zarr", stages=["masks"])
    shared = open_store(tmp_path / "p.zarr")
    assert list(shortlist.lengths(shared)) == ["average_precision", "attribution_z"]
    assert not shared.has(schema.SCORES)
    for by in ("activation", "attribution"):
        ours, theirs = (query.top(store, relation="size", n=7, by=by) for store in (shared, scored))
        assert ours.equals(theirs.astype(ours.dtypes.to_dict()))
    groups = set(xr.open_datatree(tmp_path / "p.zarr", engine="zarr").groups)
    assert {"/top", "/top-attribution_z"} <= groups


def test_their_neurons_are_ablated_where_they_were_attributed(copied):
    mask = masks.select(copied, statistic="attribution_z", k=6, sites=HIDDEN)
    result = relact.ablate(copied, mask=mask, model=victims.loaded(), seeds=[0])
    assert copied.ablation_record(mask).masks[0].sites == (HIDDEN,)
    assert set(result["kind"].values) == {"intact", "own", "random"}
    own = masks.read(copied, mask)[1][HIDDEN][0]
    drawn = controls.random_matched({HIDDEN: own}, 0, "size")
    assert drawn[HIDDEN].sum(axis=1).tolist() == own.sum(axis=1).tolist()


def test_the_commands(copied, relact):
    code, shown, told = relact("select", copied.path, "--statistic", "attribution_z", "--k", 4)
    assert code == 0 and "attribution_z-top-4" in shown, told
    code, shown, told = relact("top", copied.path, "--relation", "size", "--statistic", "attribution_mean")
    assert code == 0 and "attribution_mean" in shown, told
    code, shown, told = relact("neuron", copied.path, HIDDEN, 0, 3)
    assert code == 0 and "attribution_z" in shown, told
    code, shown, told = relact("score", copied.path, "--statistics", "attribution_z,attribution_margin")
    assert code == 0, told
    assert copied.statistics() == ["attribution_z", "attribution_margin"]
    code, shown, _ = relact("info", copied.path)
    assert code == 0 and "target answer, pool sum, float32" in shown


@pytest.mark.parametrize(
    ("by", "statistic", "expected"),
    [
        (None, None, "average_precision"),
        ("activation", None, "average_precision"),
        ("attribution", None, "attribution_z"),
        (None, "attribution_mean", "attribution_mean"),
        ("attribution", "attribution_mean", "attribution_mean"),
        ("attribution", "average_precision", "attribution_average_precision"),
        ("attribution", "on_mean", "attribution_mean"),
        ("activation", "z", "z"),
    ],
)
def test_a_quantity_and_a_statistic_name_what_is_stored(by, statistic, expected):
    assert named(by, statistic) == expected


def test_choosing_by_a_quantity_is_choosing_by_its_usual_statistic(copied, study):
    for by, statistic in (("activation", "average_precision"), ("attribution", "attribution_z")):
        usual = query.top(copied, relation="size", n=9, statistic=statistic)
        assert query.top(copied, relation="size", n=9, by=by).equals(usual)
        assert relact.select(copied, k=5, by=by) == masks.name_of(SelectOptions(5, statistic=statistic))
        assert meaning(statistic) == MEANINGS[by]
    for wrong in ({"by": "gradient"}, {"by": "activation", "statistic": "attribution_z"}):
        with pytest.raises(InputError, match=r"(?i)--by attribution|choose from activation, attribution"):
            relact.select(copied, k=5, **wrong)
    with pytest.raises(InputError, match=r"(?i)relact capture .* --attribution"):
        relact.select(study, k=5, by="attribution")


def test_what_two_masks_of_other_sites_have_in_common(copied):
    relact.select(copied, k=30)
    relact.select(copied, k=40, by="attribution")
    table = relact.in_common(copied, "top-30", "attribution_z-top-40")
    units = {}
    for name in ("top-30", "attribution_z-top-40"):
        relations, sets = masks.read(copied, name)
        for at, relation in enumerate(relations):
            units[name, relation] = {
                ("hidden" if site in schema.HIDDEN else site, int(layer), int(neuron))
                for site, mask in sets.items()
                for layer, neuron in np.argwhere(mask[at])
            }
    for row in table.itertuples():
        first, second = units["top-30", row.relation], units["attribution_z-top-40", row.relation]
        assert (row.size, row.other_size, row.shared) == (len(first), len(second), len(first & second))
        assert row.jaccard == pytest.approx(len(first & second) / len(first | second))
        n_units = 3 * (copied.shape("mlp.up")[1] + copied.shape(DOWN)[1])
        assert row.expected == pytest.approx(len(first) * len(second) / n_units)
    assert table["shared"].sum() > 0
    shared = compare.overlap(copied, k=10, statistic="attribution_z")
    relact.select(copied, k=10, by="attribution")
    assert shared.equals(compare.overlap(copied, "attribution_z-top-10"))


def test_a_run_takes_them_along_and_is_repeated(tiny_folder, tiny_prompts, tmp_path):
    capture_options = relact.CaptureOptions(
        sites="mlp.up", attribution=True, target="token", target_token="#84"
    )
    recipe = run.recipe_of(k=5, capture=capture_options, ablate=relact.AblateOptions(seeds=(0,)))
    planned = run.forecast(recipe, str(tiny_folder), tiny_prompts)
    made = relact.run(
        tiny_prompts,
        model=str(tiny_folder),
        store=tmp_path / "s.zarr",
        k=5,
        capture=capture_options,
        ablate=recipe.ablate,
    )
    study = made.store
    assert [plan.what.split(":")[0] for plan in planned].count("ablate") == 2
    names = ["top-5", "attribution_z-top-5"]
    assert list(made.ablations) == names and sorted(names) == study.children(schema.ABLATIONS)
    first, second, both = made.found()
    assert first.startswith(f"{names[0]}, {MEANINGS['activation']}: points lost by own neurons")
    assert second.startswith(f"{names[1]}, {MEANINGS['attribution']}: ")
    shared = relact.in_common(study, *names)["shared"].mean()
    assert both.startswith(f"both choose {shared:.1f} of 5 hidden units on average")
    assert study.scored("attribution_z") == (HIDDEN,)
    capture_files = [name for name in sample.files(study.path) if name.split("/")[0] in schema.ARRAYS]
    assert len(capture_files) < planned[0].files < len(capture_files) + 60
    again = relact.repeat(study, tmp_path / "again.zarr", model=str(tiny_folder)).store
    assert again.manifest.capture == study.manifest.capture
    assert again.children(schema.ABLATIONS) == sorted(names)
    np.testing.assert_array_equal(sample.read(again, STREAMS[HIDDEN]), sample.read(study, STREAMS[HIDDEN]))


def test_a_preset_stays_as_published(relact):
    code, _, told = relact("run", "folder", "--store", "s.zarr", "--preset", "paper", "--attribution")
    assert code == 2 and "as published" in told

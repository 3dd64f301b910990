"""The tables behind a report against the store, the figures as files, and text that must stay text."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import ablated

import relact
from relact import colours, kernels
from relact.analysis import compare, query
from relact.errors import InputError, StoreError
from relact.reporting import figures, looks, matrices, page
from relact.reporting import gather as gathering
from relact.reporting import neurons as listing
from relact.reporting.ablations import MEAN, ablations_of
from relact.reporting.page import render
from relact.store import local


@pytest.fixture(scope="module")
def gathered(study):
    return gathering.gather(study)


@pytest.fixture(scope="module")
def plain(study):
    """The study as plain xarray sees it."""
    return xr.open_datatree(study.path, engine="zarr", consolidated=False).load()


def test_accuracies_are_those_of_the_store(gathered, plain):
    accuracy = plain["ablations/top-200"]["accuracy"] * 100
    table = gathered.accuracy.set_index(["condition", "relation"])
    for relation in gathered.relations:
        intact = float(accuracy.sel(condition="intact", relation=relation))
        for condition in gathered.relations:
            found = float(accuracy.sel(condition=condition, relation=relation))
            assert table.loc[(condition, relation), "accuracy"] == pytest.approx(found, abs=1e-4)
            assert table.loc[(condition, relation), "drop"] == pytest.approx(intact - found, abs=1e-4)
        random = float(accuracy.sel(condition=["random-0", "random-1"], relation=relation).mean())
        assert table.loc[("random", relation), "accuracy"] == pytest.approx(random, abs=1e-4)
    assert len(table) == 3 * 4


def test_several_k_in_one_group_are_a_sweep():
    random = np.random.default_rng(0)
    parts = [ablated.study(random, [8, 9], n_random=2, own=own) for own in (0.1, 2.0)]
    sweep_of_two = xr.concat(
        parts, dim=xr.DataArray([10, 100], dims="k", name="k"), data_vars="different", compat="equals"
    )

    class Fake:
        def children(self, group):
            return ["sweep"]

        def dataset(self, group):
            return sweep_of_two

        def prompts(self, split):
            raise AssertionError("nothing was said to them")

    choices, table, sweep = ablations_of(Fake())
    assert {name: found.k for name, found in choices.items()} == {"sweep, k = 10": 10, "sweep, k = 100": 100}
    gaps = [found.gap for found in choices.values()]
    assert gaps == sorted(gaps, reverse=True)
    accuracy = sweep_of_two["accuracy"]
    drop = 100 * (accuracy.sel(condition="intact", drop=True) - accuracy)
    rows = sweep.set_index(["k", "relation", "whose"])["drop"]
    for k in (10, 100):
        of_k = drop.sel(k=k)
        assert rows[k, "r0", "own"] == pytest.approx(float(of_k.sel(condition="r0", relation="r0")))
        assert rows[k, "r1", "other"] == pytest.approx(float(of_k.sel(condition="r0", relation="r1")))
        control = of_k.sel(condition=["random-0", "random-1"]).mean()
        assert rows[k, MEAN, "random"] == pytest.approx(float(control), abs=1e-4)
    assert len(table) == 2 * 3 * 2 and table["log_drop"].notna().all()


def test_a_wall_of_zeros_is_said_in_words(gathered):
    apart = gathered.overlap["relation"] != gathered.overlap["other"]
    assert not gathered.overlap.loc[apart, "shared"].any()  # it is so in this study
    text = render(gathered)
    assert re.search(r"No two relations share a neuron: none of 200, chance \d+\.\d", text)
    assert 'id="f-overlap"' not in text and "overlap" in figures.charts(gathered)
    shared = render(replace(gathered, overlap=gathered.overlap.assign(shared=3)))
    assert "No two relations share" not in shared and 'id="f-overlap"' in shared


def test_a_path_is_never_in_the_heading(gathered):
    capture = {**gathered.provenance["capture"]}
    capture["model"] = {**capture["model"], "id": "/home/somebody/models/mine-7b"}
    told = replace(gathered, provenance={**gathered.provenance, "capture": capture})
    heads = re.findall(r"<h1>.*?</h1>|<title>.*?</title>", render(told), re.S)
    assert len(heads) == 2 and all("mine-7b" in head and "somebody" not in head for head in heads)


def test_every_figure_names_its_model_and_how_many_neurons(gathered):
    for name, chart in figures.charts(gathered).items():
        title = str(chart.to_dict()["title"])
        assert "talker" in title, name
        counted = re.search(r"k = 200|over k|6,272 neurons|without its own", title)
        assert counted, name


def test_layers_and_overlaps_count_the_mask(gathered, plain, study):
    masks = {site: plain[f"masks/top-200/{site}"]["mask"].values for site in study.layouts}
    for site in ("all", *masks):
        chosen = list(masks.values()) if site == "all" else [masks[site]]
        counts = sum(mask.sum(axis=2) for mask in chosen)
        table = gathered.layers[gathered.layers.site == site].pivot(
            index="relation", columns="layer", values="neurons"
        )
        np.testing.assert_array_equal(table.loc[gathered.relations], counts)
    whole = gathered.overlap[gathered.overlap.site == "all"].pivot(
        index="relation", columns="other", values="shared"
    )
    shared = compare.overlap(study, "top-200")["shared"]
    np.testing.assert_array_equal(whole.loc[gathered.relations, gathered.relations], shared)


def test_histograms_hold_every_neuron_and_the_null_is_that_of_the_counts(gathered, plain):
    values = np.concatenate(
        [plain[f"scores/{site}"]["average_precision"].values.reshape(3, -1) for site in gathered.sites], 1
    )
    null = kernels.average_precision_null(12, 36, gathering.DRAWS, seed=0)
    for at, relation in enumerate(gathered.relations):
        table = gathered.histogram[
            (gathered.histogram.relation == relation) & (gathered.histogram.site == "all")
        ]
        counts = np.histogram(values[at], np.linspace(0, 1, gathering.BINS + 1))[0]
        np.testing.assert_array_equal(table.neurons, counts)
        assert table.neurons.sum() == 6_272 and table.chance.sum() == pytest.approx(6_272, abs=1)
        row = gathered.nulls.iloc[at]
        assert (row.positives, row.prompts) == (12, 36) and row.chance == pytest.approx(null.mean())
        found = kernels.false_discovery(kernels.p_values(values[at], null), gathering.FALSE).sum()
        assert row.found == found


def test_listed_neurons_are_the_best_and_their_prompts_the_extremes(gathered, study):
    for relation in gathered.relations:
        best = query.top(study, relation=relation, n=listing.LISTED)
        listed = gathered.neurons.sort_values(relation, ascending=False, kind="stable").head(listing.LISTED)
        np.testing.assert_allclose(listed[relation], best.average_precision, atol=1e-4)
        down = query.top(study, relation=relation, n=listing.LISTED_BY_SITE, sites="mlp.down")
        keys = set(zip(gathered.neurons.site, gathered.neurons.layer, gathered.neurons.neuron, strict=True))
        assert keys >= set(zip(down.site, down.layer, down.neuron, strict=True))
    for detail in gathered.details[:5]:
        site, layer, neuron = gathered.neurons.loc[detail["row"], ["site", "layer", "neuron"]]
        expected = query.extremes(study, site, int(layer), int(neuron), n=listing.PROMPTS)
        assert detail["most"] + detail["least"] == expected.prompt.tolist()
        texts = [gathered.prompts[at]["text"] for at in detail["most"] + detail["least"]]
        assert texts == expected.text.tolist()


@pytest.mark.slow
def test_figures_are_written_in_every_format(gathered, tmp_path):
    names = ["own", "ablation", "log_ablation", "overlap", "growth", "layers", "distribution"]
    drawn = figures.charts(gathered)
    assert list(drawn) == names
    written = figures.save({"ablation": drawn["ablation"]}, tmp_path / "new" / "figures")
    assert [path.name for path in written] == ["ablation.png", "ablation.svg", "ablation.pdf"]
    starts = (b"\x89PNG", b"<svg", b"%PDF")
    assert all(path.read_bytes().startswith(start) for path, start in zip(written, starts, strict=True))
    texts = "".join(ET.fromstring(written[1].read_bytes()).itertext())
    for relation in gathered.relations:
        assert texts.count(relation) >= 2  # a row and a column
    table = gathered.accuracy.query("condition == relation")
    assert all(matrices._signed(-drop) in texts for drop in table["drop"])


@pytest.mark.parametrize("look", [looks.LIGHT, looks.DARK], ids=["light", "dark"])
def test_values_in_cells_can_be_read(look):
    for colour in (look.loss, look.gain):
        turn = looks.turn(look, colour)
        for share in np.linspace(0, 1, 101):
            text = look.strong if share >= turn else look.plain
            assert colours.contrast(colours.mix(look.even, colour, share), text) >= 4.4, (colour, share)
    assert colours.contrast(look.ink, look.paper) > 12


def test_a_notebook_draws_the_charts(study):
    drawn = relact.charts(study)["overlap"]
    assert drawn._repr_mimebundle_(None, None)["image/svg+xml"].startswith("<svg")


class Tags(HTMLParser):
    """Collects (tag, attributes) and the text of the page's scripts and the rest."""

    def __init__(self):
        super().__init__()
        self.tags, self.scripts, self.text, self.inside = [], [], [], None

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


@pytest.mark.slow
def test_the_page_is_one_file(gathered):
    text = render(gathered)
    tags = Tags()
    tags.feed(text)
    assert len(text.encode()) < 2_000_000
    outside = [a for _, a in tags.tags if "src" in a or ("href" in a and not a["href"].startswith("#"))]
    assert not outside and len(tags.scripts) == 3
    data = json.loads(tags.scripts[0])
    assert data["relations"] == gathered.relations and set(data["uses"]) == set(data["columns"]) - {
        "sweep",
        "board",
        "overlap",
        "experts",
    }
    assert "one false discovery in 100 is allowed" in " ".join(tags.text)
    assert re.search(r"Own neurons cost -?\d+\.\d points \[", " ".join(tags.text))


@pytest.mark.slow
def test_the_command(command, study, tmp_path):
    code, out, _ = command("report", study.path, "-o", tmp_path / "r.html", "--json")
    assert code == 0 and json.loads(out)["written"] == [str(tmp_path / "r.html")]
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert command("report", study.path)[0] == 2
    code, _, err = command("report", study.path, "-o", tmp_path / "nowhere" / "r.html")
    assert code == 1 and "cannot be written" in err and err.count("\n") == 1
    code, _, err = command("report", study.path, "-o", tmp_path / "r.html", "--mask", "best")
    assert code == 1 and "no mask 'best', there are: top-200" in err


@pytest.mark.slow
def test_a_store_that_is_only_scored_has_a_report(tiny_folder, tiny_prompts, tmp_path):
    store = relact.score(relact.capture(str(tiny_folder), tiny_prompts, tmp_path / "s.zarr"))
    gathered = gathering.gather(store)
    assert not gathered.choices and gathered.mask == "top 228"
    text = render(gathered)
    assert "none was switched off yet" in text and 'id="f-ablation"' not in text and 'id="f-layers"' in text


def test_a_package_without_scores_is_reported_by_its_short_list(gathered, study, tmp_path):
    relact.pack(study, tmp_path / "p.zarr.zip", stages=["masks", "ablations"])
    contents, whole = gathering.gather(tmp_path / "p.zarr.zip"), gathered
    assert contents.relations == whole.relations and contents.sites == whole.sites
    assert contents.n_neurons == whole.n_neurons and contents.mask == whole.mask
    for name in ("accuracy", "overlap", "layers"):
        pd.testing.assert_frame_equal(getattr(contents, name), getattr(whole, name))
    for relation in contents.relations:
        best = relact.top(study, relation=relation, n=listing.LISTED)
        listed = contents.neurons.dropna(subset=[relation]).set_index(["site", "layer", "neuron"])[relation]
        expected = best.set_index(["site", "layer", "neuron"])["average_precision"]
        np.testing.assert_allclose(listed[expected.index], expected, atol=1e-4)
        assert len(listed) == listing.LISTED
    assert contents.growth.empty and contents.histogram.empty and contents.nulls.empty
    drawn = figures.charts(contents)
    assert "distribution" not in drawn and {"own", "ablation", "layers"} <= set(drawn)
    page = render(contents)
    assert "Beyond chance" not in page and '"ap":[[' in page


def test_a_store_without_scores_is_refused(tiny_folder, tiny_prompts, tmp_path):
    store = relact.capture(str(tiny_folder), tiny_prompts, tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="relact score"):
        gathering.gather(store)
    with pytest.raises(InputError, match="no mask"):
        gathering.gather(relact.score(store), mask="none")


def test_of_many_relations_a_page_tells_of_some(gathered, study, monkeypatch):
    monkeypatch.setattr(gathering, "AT_MOST", 2)
    assert gathering._scores(study, None)[1] == gathered.relations[:2]
    some = gathering.gather(study, relations=[gathered.relations[2], gathered.relations[0]])
    assert some.relations == [gathered.relations[0], gathered.relations[2]]
    assert page._counted(some)[1:] == [("relations", "2 of 3 are shown here")] != page._counted(gathered)[1:]
    for name in ("overlap", "growth", "layers", "histogram", "nulls", "accuracy"):
        every, own = getattr(gathered, name), getattr(some, name)
        there = {*some.relations, "random"}
        for column in {"relation", "other", "condition"} & {*every}:
            every = every[every[column].isin(there)]
        order = [
            column for column in every if every[column].dtype == object or column in ("layer", "low", "k")
        ]
        tables = [table.sort_values(order).reset_index(drop=True) for table in (every, own)]
        pd.testing.assert_frame_equal(*tables)
    with pytest.raises(InputError, match="no relation 'none'"):
        gathering.gather(study, relations=["none"])


def test_tables_have_the_columns_that_are_documented(gathered):
    for name in ("accuracy", "sweep", "overlap", "growth", "layers", "histogram", "nulls"):
        documented = re.search(rf"^ +{name}: ([^.;]*)", gathering.Contents.__doc__, re.M).group(1)
        columns = [part.split(" (")[0].strip() for part in re.sub(r"\([^)]*\)", "", documented).split(",")]
        table: pd.DataFrame = getattr(gathered, name)
        assert list(table.columns) == columns, name


def test_what_is_significant_in_nats_has_a_star(gathered):
    table = gathered.accuracy.reset_index(drop=True)
    told = table.assign(log_clear=table.index == 4, log_drop=table.index / 8 - 0.5)
    chart = matrices.log_ablation(replace(gathered, accuracy=told)).to_dict()
    labels = (
        [row["label"] for row in next(iter(chart["datasets"].values()))]
        if "datasets" in chart
        else [row["label"] for row in chart["layer"][0]["data"]["values"]]
    )
    assert labels[:6] == ["+0.5", "+0.4", "+0.2", "+0.1", "0.0*", "\u22120.1"]


def test_criteria_stand_side_by_side_with_the_figures_of_the_head(study, model, tmp_path):
    store = local.open(shutil.copytree(study.path, tmp_path / "s.zarr"))
    relact.ablate(store, k=20, statistic="on_p90", seeds=[0], model=model)
    contents = gathering.gather(store)
    rows = {row["criterion"]: row for row in page._criteria(contents)}
    made = {of.statistic: of for of in contents.choices.values()}
    made_by = {of.statistic: name for name, of in contents.choices.items()}
    assert set(rows) == set(made) == {"average_precision", "on_p90"}
    for name, row in rows.items():
        interval = row["own"].partition(" ")[2]
        assert row["prompts"] == "18" and row["own"].startswith(f"{made[name].own:.1f} [")
        assert made[name].said[0].startswith(f"own neurons cost {made[name].own:.1f} points {interval}")
        for whose in ("other", "random"):
            either = relact.evidence(store.dataset(f"ablations/{made_by[name]}"))["mean_size"].sel(
                group=whose
            )
            assert row[whose].endswith(f" ({float(either):.1f})")


def test_of_several_k_the_prompts_that_chose_none_are_shown(everything):
    board = gathering._board(everything)
    assert board["criterion"].duplicated().any()
    assert board["prompts"].max() < everything.prompts("test").shape[0]

"""Questions to a store against plain xarray, and what the commands print and write."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from helpers import sample
from rich.console import Console

import relact
from relact import colours, schema
from relact.analysis import query, tables
from relact.cli import console, drawing, terminal
from relact.errors import InputError, StoreError
from relact.schema import STATISTICS
from relact.store import local


@pytest.fixture(scope="module")
def plain(study):
    """The study as plain xarray sees it."""
    return xr.open_datatree(study.path, engine="zarr", consolidated=False).load()


def best_by_pandas(plain, relation, n, statistic="average_precision"):
    """The n best neurons from a full sort of every site's table."""
    parts = []
    for site in ("mlp.gate", "mlp.up", "mlp.down"):
        series = plain[f"scores/{site}"].to_dataset().sel(relation=relation).to_dataframe().reset_index()
        parts.append(series.assign(site=site))
    return (
        pd.concat(parts).sort_values(statistic, ascending=False, kind="stable").head(n).reset_index(drop=True)
    )


@pytest.mark.parametrize("n", [1, 7, 300])
@pytest.mark.parametrize("statistic", ["average_precision", "on_p90"])
def test_top_is_a_full_sort(study, plain, n, statistic):
    found = query.top(study, relation="country_capital", n=n, statistic=statistic)
    every = best_by_pandas(plain, "country_capital", 10**9, statistic)
    assert found[statistic].tolist() == every[statistic].head(n).tolist()
    place = ["site", "layer", "neuron"]
    assert not found.duplicated(place).any()
    merged = found[place].merge(every, on=place)  # in the order of what was found
    pd.testing.assert_frame_equal(found, merged[found.columns], check_dtype=False)


def test_equal_scores_are_not_in_the_order_of_the_store(study, tmp_path):
    """Half of all scores are made equal: the first of them are spread over sites and layers."""
    shutil.copytree(study.path, tmp_path / "s.zarr")
    copied = local.open(tmp_path / "s.zarr")
    with sample.edited(copied.path, "scores") as scores:
        for site in copied.layouts:
            scores[f"{site}/average_precision"][:, :, ::2] = 1.0
    found = query.top(copied, relation="country_capital", n=60)
    assert set(found.average_precision) == {1.0} and found.site.nunique() == 3 and found.layer.nunique() == 4
    pd.testing.assert_frame_equal(found, query.top(copied, relation="country_capital", n=60))
    with sample.edited(copied.path, "scores") as scores:
        for site, lay in copied.layouts.items():
            margin = np.random.default_rng(0).random((3, 4, lay.width), np.float32)
            scores[site].create_array("margin", data=margin, dimension_names=schema.BY_NEURON)
    found = query.top(copied, relation="country_capital", n=60)
    assert found.margin.is_monotonic_decreasing


def test_top_of_some_sites_and_of_more_than_there_are(study, plain):
    found = query.top(study, relation="adj_comparative", n=10**9, sites="mlp.down")
    assert (
        len(found)
        == plain["activations/mlp.down"].sizes["layer"] * plain["activations/mlp.down"].sizes["neuron"]
    )
    assert set(found.site) == {"mlp.down"} and found.average_precision.is_monotonic_decreasing


def test_a_neuron_in_every_relation(study, plain):
    found = query.neuron(study, "mlp.up", 2, 100)
    assert list(found) == ["relation", *STATISTICS, "min", "p10", "p50", "p90", "max"]
    assert found["average_precision"].is_monotonic_decreasing and found.index.tolist() == [0, 1, 2]
    found = found.set_index("relation")
    scores = plain["scores/mlp.up"].isel(layer=2, neuron=100)
    values = plain["activations/mlp.up"]["activation"].isel(layer=2, neuron=100).values
    names = np.array([str(name) for name in plain["prompts/identify"]["relation"].values])
    for relation in study.relations():
        for statistic in ("average_precision", "on_p50", "off_mean"):
            assert found.loc[relation, statistic] == float(scores[statistic].sel(relation=relation))
        own = values[names == relation]
        assert found.loc[relation, "min"] == own.min() and found.loc[relation, "max"] == own.max()
        assert found.loc[relation, "p10"] == pytest.approx(np.quantile(own, 0.1))


def test_the_prompts_that_drive_a_neuron(study, plain):
    every = query.activations(study, "mlp.gate", 3, 5)
    np.testing.assert_array_equal(
        every.activation, plain["activations/mlp.gate"]["activation"].isel(layer=3, neuron=5).values
    )
    assert every.text.tolist() == plain["prompts/identify"]["text"].values.tolist()
    found = query.extremes(study, "mlp.gate", 3, 5, n=4)
    order = np.argsort(-every.activation.to_numpy(), kind="stable")
    assert found.prompt.tolist() == [*order[:4], *order[-4:]]
    assert found.drive.tolist() == ["most"] * 4 + ["least"] * 4
    assert len(query.extremes(study, "mlp.gate", 3, 5, n=10**6)) == len(every)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: query.top(s, relation="country"), "no relation 'country'. Choose from country_capital"),
        (
            lambda s: query.top(s, relation="country_capital", sites="attn"),
            "none of the sites attn is scored",
        ),
        (
            lambda s: query.top(s, relation="country_capital", statistic="ap"),
            "no statistic 'ap'. Choose from average_p",
        ),
        (lambda s: query.top(s, relation="country_capital", n=0), "give at least 1"),
        (lambda s: query.neuron(s, "mlp.gate", 4, 0), "layer 4 of 4"),
        (lambda s: query.neuron(s, "mlp.gate", 0, -1), "neuron -1 of 768"),
        (lambda s: query.neuron(s, "attn.q", 0, 0), "no site 'attn.q' in this store"),
        (lambda s: query.neuron(s, "mlp", 0, 0), "no site 'mlp' in this store"),
    ],
)
def test_refusals_name_what_there_is(study, ask, message):
    with pytest.raises(InputError, match=r"(?i)" + message):
        ask(study)


def test_a_store_without_scores_names_the_command(study, tmp_path):
    copy = tmp_path / "s.zarr"
    shutil.copytree(study.path, copy)
    shutil.rmtree(copy / "scores")
    for ask in (
        lambda: query.top(copy, relation="country_capital"),
        lambda: query.neuron(copy, "mlp.up", 0, 0),
    ):
        with pytest.raises(StoreError, match="relact score"):
            ask()


FRAME = pd.DataFrame(
    {"name": ["a|b", "c_d & e", "é\nf"], "count": [1, 2, 3], "value": [0.123456789, 1.0, -2.5]}
)


@pytest.mark.parametrize(
    ("suffix", "read"), [(".parquet", pd.read_parquet), (".csv", pd.read_csv), (".json", pd.read_json)]
)
def test_tables_come_back_as_they_were(tmp_path, suffix, read):
    pd.testing.assert_frame_equal(
        read(tables.write_table(FRAME, tmp_path / f"t{suffix}")), FRAME, check_dtype=False
    )


def test_tables_for_reading(tmp_path):
    text = tables.write_table(FRAME, tmp_path / "t.md").read_text()
    lines = text.splitlines()
    assert len(lines) == 5 and lines[1] == "| :-- | --: | --: |" and lines[2] == "| a\\|b | 1 | 0.1235 |"
    latex = tables.write_table(FRAME, tmp_path / "t.tex").read_text()
    assert r"c\_d \& e" in latex and r"\toprule" in latex and "0.1235" in latex


def test_a_table_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"cannot write a table as '\.xls'\. Use \.parquet"):
        tables.write_table(FRAME, tmp_path / "t.xls")
    with pytest.raises(StoreError, match="cannot be written"):
        tables.write_table(FRAME, tmp_path / "nowhere" / "t.csv")


def test_what_the_commands_print_and_write(command, study, tmp_path):
    code, out, _ = command("top", study.path, "--relation", "country_capital", "-n", 3)
    assert code == 0 and len(out.splitlines()) == 4 and "\x1b" not in out
    code, out, _ = command(
        "top", study.path, "--relation", "country_capital", "-n", 3, "-o", tmp_path / "t.csv"
    )
    assert (
        code == 0 and out == f"written: {tmp_path / 't.csv'}\n" and len(pd.read_csv(tmp_path / "t.csv")) == 3
    )
    code, out, _ = command("neuron", study.path, "mlp.gate", 3, 5, "-n", 2)
    assert (
        code == 0
        and "distribution" in out
        and "█" in out
        and out.count("most") == 2
        and out.count("least") == 2
    )
    code, out, _ = command("neuron", study.path, "mlp.gate", 3, 5, "-n", 2, "--json")
    found = json.loads(out)
    assert len(found["relations"]) == 3 and len(found["prompts"]) == 4
    assert command("neuron", study.path, "mlp.gate", 3, 5, "-o", tmp_path / "n.md")[0] == 0
    assert len((tmp_path / "n.md").read_text().splitlines()) == 5


def test_a_wide_table_is_whole_in_a_pipe_and_coloured_on_a_terminal(capsys, monkeypatch):
    frame = pd.DataFrame({f"column_{number}": [0.0, 0.5, 1.0] for number in range(30)})
    terminal.table(frame, heat=["column_3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == list(frame.columns) and "\x1b" not in lines[2]
    with monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(terminal, "is_coloured", lambda stream: True)
        patch.setattr(console, "out", Console(force_terminal=True, color_system="truecolor", width=2000))
        terminal.table(frame, heat=["column_3"])
    coloured = capsys.readouterr().out.splitlines()
    # the highest deep orange, the lowest plain
    assert "48;2;143;59;0" in coloured[3] and "48;2" not in coloured[1]


def test_shades_keep_text_readable():
    assert terminal.shade(0.0) == terminal.shade(0.04) == terminal.shade(float("nan")) == ""
    for fraction in np.linspace(-1, 1, 201):
        if style := terminal.shade(fraction):
            ink, _, ground = style.partition(" on ")
            assert colours.contrast(ink, ground) >= 4.5, fraction


def test_contrast_is_that_of_the_standard():
    assert colours.contrast("#000000", "#ffffff") == pytest.approx(21)
    # the best known near miss
    assert colours.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert colours.mix("#000000", "#ff8000", 0.5) == "#804000"


def test_a_sparkline_counts():
    shown = drawing.sparkline(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), 0, 1)
    assert len(shown) == 16 and shown[0] == "█" and shown[-1] == "▂" and set(shown[1:-1]) == {" "}
    assert drawing.sparkline(np.array([2.0, 2.0]), 2, 2)[0] == "█"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["top", "{store}", "--relation", "country_capital", "-n", "100"]]
)
def test_asking_imports_neither_torch_nor_what_it_does_not_need(study, arguments):
    code = (
        "import sys; from relact.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
        "heavy = ('torch', 'transformers', 'numba', 'dask', 'xarray', 'altair'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    filled = [part.format(store=study.path) for part in arguments]
    shown = subprocess.run(
        [sys.executable, "-c", code, *filled], capture_output=True, text=True, check=True
    ).stdout
    assert shown.splitlines()[-1] == "[]"


def test_stores_show_themselves_in_notebooks(study, tmp_path):
    shown = study._repr_html_()
    assert f"<td>{study.manifest.model.id} (llama, float32)</td>" in shown and "top-200" in shown


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda path: relact.evidence(path), r"str is no stored ablation. Give relact\.open\(STORE\)"),
        (lambda path: relact.effects(path), "str is no stored ablation"),
        (lambda path: relact.of_part(path, "test"), "str is no stored ablation"),
        (lambda path: relact.cumulativity(path), "str is no stored ablation"),
        (lambda path: relact.claims(path), r"str is no evidence. Give what relact\.evidence"),
        (lambda path: relact.influences(relact.open(path)["scores"].to_dataset()), "Dataset is no evidence"),
        (lambda path: relact.neuron(path, "mlp.up", "1", 0), "layer: '1' is no whole number"),
        (lambda path: relact.activations(path, "mlp.up", 0, 1.5), "index: 1.5 is no whole number"),
        (lambda path: relact.extremes(path, "mlp.up", 0, 1, n=0), "n: the 0 prompts"),
    ],
)
def test_what_is_of_another_kind_is_told_by_what_it_should_be(tiny_study, ask, said):
    with pytest.raises(InputError, match=said):
        ask(str(tiny_study.path))

"""The documentation is true: its examples run, its reference is up to date,
and nothing public is missing from it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from helpers import deep, scripts

import relact
from relact.analysis import query
from relact.cli import app
from relact.kernels import statistics

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.M | re.S)


def run_page(name, command):
    """Run a page's blocks in order; returns what its Python left behind and the output of its commands."""
    names: dict = {}
    printed = []
    for kind, text in BLOCK.findall((DOCS / name).read_text()):
        if kind == "python":
            exec(compile(text, f"docs/{name}", "exec"), names)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
            assert program == "relact", line
            code, out, err = command(*arguments)
            assert code == 0, f"{line}\n{err}"
            printed.append(out)
    return names, printed


@pytest.fixture
def here(embedded_study, tmp_path, monkeypatch):
    """A folder with a study and a second one, to run a page in."""
    (tmp_path / "study.zarr").symlink_to(embedded_study.path)
    shutil.copytree(embedded_study.path, tmp_path / "other.zarr")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_queries(here, embedded_study, command):
    study = embedded_study
    names, printed = run_page("queries.md", command)
    assert all(out.strip() for out in printed)
    assert {path.name for path in here.iterdir()} >= {
        "shared.csv",
        "capital.parquet",
        "capital.tex",
        "best.md",
    }
    best = query.top(study, relation="country_capital", n=10, sites="mlp.gate")
    np.testing.assert_array_equal(names["ten"].to_numpy(), best.average_precision)
    place = names["ten_shared"].index[0]
    worst = query.neuron(study, "mlp.gate", *place).set_index("relation")["average_precision"]
    assert names["ten_shared"].iloc[0] == worst[["country_capital", "adj_comparative"]].min()
    assert names["profile"].sum() == int(study.dataset("masks/top-200/mlp.gate")["mask"][0].sum())
    assert names["alike"].shape == (30,) and abs(names["alike"]).max() <= 1
    spread = query.neuron(study, "mlp.gate", 12, 345).set_index("relation")
    np.testing.assert_allclose(names["by_relation"]["50%"][spread.index], spread["p50"], rtol=1e-6)
    own = float(names["drop"].sel(condition="country_capital", relation="country_capital"))
    tests = study.prompts("test")
    assert len(names["questions"]) >= round(own * (tests.relation == "country_capital").sum())
    assert set(names["questions"]) <= set(tests.text)
    assert names["same"]["correlation"].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.slow
def test_looking(here, command):
    names, printed = run_page("looking.md", command)
    assert all(out.strip() for out in printed) and "promotes" in printed[4]
    np.testing.assert_allclose(
        names["seen"]["mlp.gate"]["activation"].mean("token").values,
        relact.open("study.zarr")["activations/mlp.gate"]["activation"][3].values,
        rtol=1e-3,
        atol=1e-4,
    )
    assert names["words"].groupby("relation").size().tolist() == [20, 20, 20]
    assert names["text"].startswith("The capital of France is")


@pytest.mark.slow
def test_the_report_page(here, command):
    run_page("report.md", command)
    assert (here / "report.html").stat().st_size > 900_000
    documented = re.search(
        r"writes every figure as PNG, SVG and PDF: (.*)\.", (DOCS / "report.md").read_text()
    ).group(1)
    figures = {name.strip("`") for name in documented.split(", ")}
    # one k and one criterion only in this study
    assert {path.stem for path in (here / "figures").iterdir()} == figures - {"sweep", "board"}


def test_the_notebook_was_executed_and_asks_for_nothing():
    notebook = json.loads((DOCS / "example.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = [
        "".join(text) for cell in cells for out in cell["outputs"] for text in out.get("data", {}).values()
    ]
    assert any(text.startswith("<svg") for text in shown) and any("<table" in text for text in shown)
    assert not any(re.search(r"<script|(?:src|href)=|@import", text) for text in shown)


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    module = scripts.tool("build_notebook")
    stored = json.loads((DOCS / "example.ipynb").read_text())
    made = module.executed(stored)
    for before, after in zip(stored["cells"], made["cells"], strict=True):
        kinds = [
            [sorted(out.get("data", {"stdout": ""})) for out in cell.get("outputs", ())]
            for cell in (before, after)
        ]
        assert kinds[0] == kinds[1], after["source"]


def run_code(name, **changes):
    """Run the Python of a page alone, with some texts changed; returns what it left behind."""
    names: dict = {}
    for kind, text in BLOCK.findall((DOCS / name).read_text()):
        if kind == "python":
            for before, after in changes.items():
                text = text.replace(before.replace("_", "-"), after)
            exec(compile(text, f"docs/{name}", "exec"), names)
    return names


def test_the_code_about_relations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"text": [f"comment {number}" for number in range(12)], "toxicity": [0, 1] * 6}
    pd.DataFrame(rows).to_parquet("comments.parquet")
    names = run_code("relations.md")
    assert set(names["frame"]["relation"]) == {"toxicity=0", "toxicity=1"}
    assert (tmp_path / "prompts.parquet").is_file()


@pytest.mark.slow
def test_the_code_about_ablations(here):
    names = run_code("ablation.md", top_400="top-200")
    assert dict(names["cells"]["drop"].sizes) == {"condition": 5, "relation": 3}


@pytest.mark.slow
def test_the_code_about_languages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_code("paper.md")
    languages = pd.read_parquet("languages.parquet")
    assert sorted(set(languages["relation"])) == ["de", "en", "es", "fr", "ja", "zh"]


@deep.only  # some minutes on the embedded model
def test_the_tutorial(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    names, printed = run_page("tutorial.md", command)
    assert all(out.strip() for out in printed)
    assert names["best"].average_precision > 0.9
    assert set(names["without"].index) == {"country_capital", "country_currency", "adj_comparative"}
    assert (tmp_path / "report.html").is_file()


@pytest.fixture(scope="module")
def reference():
    return scripts.tool("build_reference")


def test_the_reference_is_up_to_date(reference):
    assert (DOCS / "reference.md").read_text() == reference.build(), "run `python tools/build_reference.py`"


def test_every_command_and_option_has_help():
    for name, found in typer.main.get_command(app.app).commands.items():
        assert (found.help or "").strip().endswith("."), name
        bare = [parameter.name for parameter in found.params if not (parameter.help or "").strip()]
        assert not bare, f"relact {name} says nothing about {', '.join(bare)}"


def test_every_public_name_is_documented():
    for name in relact.__all__:
        found = getattr(relact, name)
        assert len(found.__doc__ or "") > 40, name


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    missing = [name for name in typer.main.get_command(app.app).commands if f"relact {name}" not in text]
    assert not missing


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_sites_contents():
    lines = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].splitlines()
    listed = [name for line in lines if (name := line.strip().removeprefix("- ")).endswith(".md")]
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize(
    "text, asks",
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ("<link rel=stylesheet href=//fonts.example/css>", True),
        ("<style>@import url(https://fonts.example/css)</style>", True),
        ('<img alt="" src="http://example/x.png">', True),
        ('<a href="https://example/">read on</a><link rel="canonical" href="https://example/">', False),
        ('<script src="assets/x.js"></script><img src="figures/own.svg">', False),
    ],
)
def test_a_page_of_the_site_that_asks_a_network_is_found(tmp_path, text, asks):
    module = scripts.tool("build_site")
    (tmp_path / "index.html").write_text(text)
    assert bool([*module.fetched(tmp_path)]) == asks


def test_the_code_about_criteria(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(study.path, tmp_path / "study.zarr")
    try:
        names = run_code("howto/criterion.md")
    finally:
        del statistics.STATISTICS["gap"]
    assert names["name"] == "gap-top-100"
    assert {"gap", "average_precision"} <= set(relact.open("study.zarr")["scores/mlp.gate"].data_vars)


def test_the_table_of_types_has_a_row_of_every_one():
    """What a row says is tested where the type is (tests/models/test_families.py)."""
    families = scripts.tool("build_families")
    page = (DOCS / "models.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert page == families.placed(page, families.table(rows)), "run `python tools/build_families.py`"

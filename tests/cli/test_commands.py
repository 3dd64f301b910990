"""The commands as a user types them: what they print, their exit codes, and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer

from relact.cli import app

ROOT = Path(__file__).parents[2]


def one_line(text):
    assert text.count("\n") == 1 and "Traceback" not in text
    return text


def test_every_step_alone(relact, tiny_folder, prompt_file, tmp_path):
    store = tmp_path / "s.zarr"
    assert relact("capture", tiny_folder, prompt_file, store, "--sites", "all", "--block", 5)[0] == 0
    code, out, err = relact("score", store)
    assert code == 0 and "score:" in err
    assert relact("select", store, "--k", 12, "--name", "twelve")[0] == 0
    code, out, err = relact("ablate", store, "--mask", "twelve", "--seeds", 2)
    assert code == 0 and "ablate:" in err and "own neurons cost" in out
    code, out, _ = relact("top", store, "--relation", "size", "-n", 3, "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 3 and {"site", "layer", "neuron", "average_precision"} <= set(rows[0])
    code, out, _ = relact("neuron", store, rows[0]["site"], rows[0]["layer"], rows[0]["neuron"], "--json")
    best = {row["relation"]: row for row in json.loads(out)["relations"]}
    assert best["size"]["average_precision"] == rows[0]["average_precision"]
    code, out, _ = relact("info", store, "--json")
    about = json.loads(out)
    assert about["blocks"] == {"committed": 4, "all": 4} and about["masks"] == ["twelve"]
    assert about["relations"] == ["size", "colour"] and about["captured"] == about["bytes"] > 0
    assert {"identify", "test"} == set(about["prompts"]) and "average_precision" in about["scores"]
    assert "4 of 4 committed" in relact("info", store)[1]
    code, out, _ = relact("compare", store, "--mask", "twelve", "--json")
    pair = json.loads(out)[0]
    assert {pair["relation"], pair["other"]} == {"size", "colour"} and 0 <= pair["shared"] <= 12


def test_run_is_the_steps_and_reuses_what_is_there(relact, tiny_folder, tmp_path):
    facts = tmp_path / "facts.csv"
    rows = [(name, f"thing{n}", f"{name}{n}") for name in ("colour", "shape") for n in range(9)]
    pd.DataFrame(rows, columns=["relation", "subject", "object"]).assign(template="{} is").to_csv(
        facts, index=False
    )
    store = tmp_path / "s.zarr"
    command = (
        "run",
        facts,
        "--model",
        tiny_folder,
        "--store",
        store,
        "--k",
        10,
        "--seeds",
        1,
        "--test-size",
        3,
    )
    code, first, err = relact(*command)
    assert code == 0 and "capture:" in err
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    code, again, err = relact(*command)
    assert (code, again) == (0, first) and "capture:" not in err and "ablate:" not in err
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "no-such-model"), "no-such-model"),
        (("capture", "no-such-model", "{prompts}", "{tmp}/s.zarr"), "no-such-model"),
        (("capture", "{model}", "{tmp}/none.parquet", "{tmp}/s.zarr"), "no such prompt file"),
        (("capture", "{model}", "{prompts}", "{tmp}/photos"), "not a relact store"),
        (("capture", "{model}", "{prompts}", "{tmp}/photos/cat.jpg/s.zarr"), "is a file"),
        (("capture", "{model}", "{prompts}", "/proc/s.zarr"), "/proc"),
        (("run", "capital", "--model", "{model}", "--store", "{tmp}/s.zarr"), "capital"),
        (("score", "{tmp}/s.zarr"), "no such store"),
        (("run", "{tmp}/empty.csv", "--model", "{model}", "--store", "{tmp}/s.zarr"), "empty.csv"),
        (("run", "{tmp}/single.csv", "--model", "{model}", "--store", "{tmp}/s.zarr"), "too few"),
    ],
)
def test_bad_input_is_one_line_and_exit_1_and_nothing_is_written(
    relact, tiny_folder, prompt_file, tmp_path, arguments, message
):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    (tmp_path / "empty.csv").write_text("relation,subject,object,template\n")
    (tmp_path / "single.csv").write_text("relation,subject,object,template\nsize,a,b,{} is\n")
    before = sorted(tmp_path.rglob("*"))
    filled = [str(part).format(model=tiny_folder, prompts=prompt_file, tmp=tmp_path) for part in arguments]
    code, _out, err = relact(*filled)
    assert code == 1 and message in one_line(err)
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_usage_is_exit_2(relact):
    assert relact("select")[0] == 2
    assert relact("nonsense")[0] == 2


def test_debug_shows_the_traceback(relact, tmp_path):
    with pytest.raises(OSError, match="no such store"):
        relact("score", tmp_path / "none", "--debug")


def test_the_checkout_runs_the_same_command():
    shown = subprocess.run(
        [sys.executable, "cli.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("relact ")


def test_prompts_from_a_table_with_its_own_columns(relact, tmp_path):
    table = tmp_path / "comments.csv"
    lines = [f"text {n},{'toxic' if n % 2 else 'fine'}" for n in range(12)]
    table.write_text("text,toxicity\n" + "\n".join([*lines, ",toxic"]) + "\n")
    code, _, err = relact("prompts", table, "--label-column", "toxicity")
    assert code == 1 and "comments.csv" in err and "14" in err
    code, out, _ = relact("prompts", table, "--label-column", "toxicity", "--skip-bad", "--json")
    told = json.loads(out)
    assert code == 0 and len(told["skipped"]) == 1
    assert {row["relation"]: row["identify"] for row in told["relations"]} == {"fine": 6, "toxic": 6}


def test_prompts_prints_its_columns_and_what_it_drops(relact, tmp_path):
    table = tmp_path / "export.csv"
    rows = [(f"s{n}", f"o{n}", "town" if n else "tiny", "[X] has [Y] .") for n in range(9)]
    pd.DataFrame(rows, columns=["who", "what", "kind", "how"]).to_csv(table)
    named = ("--subject-column", "who", "--object-column", "what", "--template-column", "how")
    asked = ("prompts", table, *named, "--relation-column", "kind")
    code, out, _ = relact(*asked)
    assert code == 0 and "relation from kind, subject from who, object from what, template from how" in out
    assert "dropped: 1 usable facts are too few" in out
    told = json.loads(relact(*asked, "--json")[1])
    assert len(told["columns"]) == 1 and [row["relation"] for row in told["relations"]] == ["town", "tiny"]
    code, _, err = relact(*asked, "--strict")
    assert code == 1 and "relation tiny: 1 usable facts are too few" in err


def test_the_paper_preset_wants_one_folder(relact, tmp_path):
    code, _, err = relact("prompts", "country_capital", "adj_comparative", "--preset", "paper")
    assert code == 1 and "Give the folder of LRE" in err
    code, _, err = relact("prompts", "country_capital", "--preset", "papper")
    assert code == 1 and "unknown preset 'papper'" in err


def test_the_list_of_commands_says_what_their_docstrings_begin_with(relact):
    for name, (place, line) in app.COMMANDS.items():
        found = app.Loaded()[name]
        assert found.name == name and found.get_short_help_str(1000) == line, place
    code, out, _ = relact("--help")
    assert code == 0 and all(f"\n  {name} " in out for name in app.COMMANDS)
    code, _, err = relact("tops")
    assert code == 2 and "No such command 'tops'" in err


@pytest.mark.parametrize(
    ("given", "value"),
    [("20", 20), ("+3", 3), (" 3", 3), ("٣", None), ("-2", -2), ("x", None), ("1.5", None)],
)
def test_a_number_is_read_as_typer_reads_it(given, value):
    parameter = next(each for each in app.Loaded()["top"].params if each.name == "n")
    context = typer.Context(app.Loaded()["top"])
    app._sparing([parameter])
    try:
        found = parameter.process_value(context, given)
    except Exception as error:
        found = None
        assert "valid integer" in str(error)
    assert found == value

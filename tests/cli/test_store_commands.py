"""The commands about a store itself, as a user types them: capture's options, verify, plans."""

from __future__ import annotations

import json

import pytest
from helpers import sample

from relact.relations import table
from relact.store import local


@pytest.fixture
def captured(relact, tiny_folder, prompt_file, tmp_path):
    """A store made by the command, and the command."""
    command = ("capture", tiny_folder, prompt_file, tmp_path / "s.zarr", "--block", 5)
    assert relact(*command)[0] == 0
    return tmp_path / "s.zarr", command


def test_what_a_package_cannot_show_of_a_neuron_is_said(relact, tiny_study, tmp_path):
    assert relact("pack", tiny_study.path, tmp_path / "p.zarr.zip")[0] == 0
    for place, lacks in ((tiny_study.path, False), (tmp_path / "p.zarr.zip", True)):
        code, out, err = relact("neuron", place, "mlp.gate", 1, 3, "--json")
        assert code == 0 and ("prompts" in json.loads(out)) != lacks
        assert ("no activations of mlp.gate in this store" in err) == lacks


def test_an_upgrade_of_a_store_of_today_says_that_nothing_was_missing(relact, captured):
    store, _ = captured
    code, out, _ = relact("upgrade", store)
    assert code == 0 and "nothing: it is as this version writes it" in out
    assert json.loads(relact("upgrade", store, "--json")[1])["put in"] == []


def damage(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 3] ^= 4
    file.write_bytes(raw)


def test_verify_says_what_is_damaged_and_capture_repairs_it(relact, captured):
    path, command = captured
    before = sample.without_time(sample.files(path))
    code, out, err = relact("verify", path)
    assert code == 0 and "0 damaged; 4 of 4 blocks captured" in out and "verify:" in err
    damage(path / "activations" / "mlp.up" / "activation" / "c.2.1.0")
    code, out, _ = relact("verify", path)
    assert code == 1 and "activation/c.2.1.0: damaged" in out and "(site mlp.up, block 2, layer 1)" in out
    assert f"to repair: relact capture MODEL PROMPTS {path} --repair" in out
    assert relact(*command)[0] == 0 and relact("verify", path)[0] == 1  # a plain resume trusts the commits
    assert relact(*command, "--repair")[0] == 0
    assert relact("verify", path)[0] == 0 and sample.without_time(sample.files(path)) == before


def test_verify_tells_machines_the_same(relact, captured):
    path, _ = captured
    (path / "commits" / "record" / "c.3.0").unlink()
    damage(path / "activations" / "mlp.up" / "activation" / "c.0.0.0")
    code, out, _ = relact("verify", path, "--json")
    told = json.loads(out)
    assert code == 1 and not told["ok"] and told["missing"] == [3] and told["blocks"] == 4
    assert [(one["site"], one["block"], one["layer"]) for one in told["problems"]] == [("mlp.up", 0, 0)]


def test_verify_drops_damaged_results(relact, captured):
    path, _ = captured
    assert relact("score", path)[0] == 0 and relact("select", path, "--k", 4)[0] == 0
    damage(path / "scores" / "mlp.up" / "off_mean" / "zarr.json")
    code, out, _ = relact("verify", path)
    assert code == 1 and "scores/mlp.up/off_mean/zarr.json: damaged" in out and local.open(path).has("scores")
    code, out, _ = relact("verify", path, "--drop")
    assert code == 1 and "deleted: scores" in out
    assert not local.open(path).has("scores") and local.open(path).children("masks") == ["top-4"]
    assert relact("verify", path)[0] == 0


def test_verify_without_a_store_is_one_line(relact, tmp_path):
    code, out, err = relact("verify", tmp_path / "none.zarr")
    assert code == 1 and out == "" and err.count("\n") == 1 and "no such store" in err


def test_append_adds_the_rows_that_are_new(relact, tiny_folder, tiny_prompts, captured, tmp_path):
    path, _ = captured
    more = tiny_prompts[tiny_prompts.relation == "size"].assign(relation="mass", text=tiny_prompts.text + "?")
    file = table.write(more, tmp_path / "more.parquet")
    code, _, err = relact("capture", tiny_folder, file, path)
    assert code == 1 and "prompts.identify" in err
    planned = json.loads(relact("capture", tiny_folder, file, path, "--append", "--dry-run", "--json")[1])
    assert planned[0]["files"] > 0 and len(local.open(path).relations()) == 2
    assert relact("capture", tiny_folder, file, path, "--append")[0] == 0
    assert local.open(path).relations() == ["size", "colour", "mass"] and relact("verify", path)[0] == 0


def test_a_compressed_store_is_one(relact, tiny_folder, prompt_file, tmp_path):
    assert relact("capture", tiny_folder, prompt_file, tmp_path / "s.zarr", "--compress")[0] == 0
    assert local.open(tmp_path / "s.zarr").compressed


def test_too_little_memory_is_one_line(relact, tiny_folder, prompt_file, tmp_path):
    code, _, err = relact("capture", tiny_folder, prompt_file, tmp_path / "s.zarr", "--memory", "1MB")
    assert code == 1 and "the budget is 1 MB" in err and err.count("\n") == 1
    assert not (tmp_path / "s.zarr").exists()


def test_the_plan_of_a_capture_is_what_it_then_writes(relact, tiny_folder, prompt_file, tmp_path):
    path = tmp_path / "s.zarr"
    command = ("capture", tiny_folder, prompt_file, path, "--block", 5)
    code, out, _ = relact(*command, "--dry-run", "--json")
    (planned,) = json.loads(out)
    assert code == 0 and not path.exists() and planned["exact"]
    code, out, err = relact(*command, "--dry-run")
    known, unknown = "about 0:00:" in out, "time is not known on this device yet" in err
    assert code == 0 and f"{planned['files']:,}" in out and known != unknown
    assert relact(*command)[0] == 0
    sizes = [len(raw) for raw in sample.files(path).values()]
    assert (planned["files"], planned["bytes"]) == (len(sizes), sum(sizes))
    (planned,) = json.loads(relact(*command, "--dry-run", "--json")[1])
    assert (planned["files"], planned["bytes"]) == (0, 0)
    (path / "commits" / "record" / "c.1.0").unlink()
    (planned,) = json.loads(relact(*command, "--dry-run", "--json")[1])
    assert planned["files"] == 3 * 3 + 1


def test_dry_run_and_repair_exclude_each_other(relact, captured):
    _, command = captured
    code, _, err = relact(*command, "--dry-run", "--repair")
    assert code == 2 and "relact verify" in err


def test_the_plan_of_a_score_is_exact_in_files_and_a_bound_in_bytes(relact, captured):
    path, _ = captured
    before = set(sample.files(path))
    code, out, _ = relact("score", path, "--dry-run", "--json")
    (planned,) = json.loads(out)
    assert code == 0 and set(sample.files(path)) == before and not planned["exact"]
    assert relact("score", path)[0] == 0
    sizes = [len(raw) for name, raw in sample.files(path).items() if name not in before]
    assert planned["files"] == len(sizes) and sum(sizes) <= planned["bytes"] <= 6 * sum(sizes)
    assert relact("score", path, "--dry-run", "--memory", "1MB")[0] == 1


def written(path, before):
    """Files and bytes of a store beyond those that were there."""
    sizes = [len(raw) for name, raw in sample.files(path).items() if name not in before]
    return len(sizes), sum(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("--k", "4"), ("--k", "2,4,6"), ("--k", "4", "--perplexity", "--seeds", "2")]
)
def test_the_plan_of_an_ablation_bounds_what_it_then_writes(relact, captured, options):
    path, _ = captured
    assert relact("score", path)[0] == 0
    before = set(sample.files(path))
    code, out, _ = relact("ablate", path, *options, "--dry-run", "--json")
    (planned,) = json.loads(out)
    assert code == 0 and set(sample.files(path)) == before and not planned["exact"]
    assert relact("ablate", path, *options)[0] == 0
    files, size = written(path, before)
    assert files <= planned["files"] <= 2 * files and size <= planned["bytes"] <= 20 * size
    (again,) = json.loads(relact("ablate", path, "--mask", "top-4", "--dry-run", "--json")[1])
    assert again["files"] < planned["files"] and again["bytes"] < planned["bytes"]


@pytest.mark.slow
def test_the_plan_of_a_whole_study_has_its_steps(relact, tiny_folder, tmp_path):
    path = tmp_path / "s.zarr"
    command = (
        "run",
        "country_capital",
        "element_symbol",
        "--model",
        tiny_folder,
        "--store",
        path,
        "--k",
        5,
        "--per-relation",
        20,
        "--test-size",
        8,
    )
    code, out, _ = relact(*command, "--dry-run", "--json")
    planned = json.loads(out)
    assert (
        code == 0
        and not path.exists()
        and [step["what"] for step in planned] == ["capture", "score", "ablate", "look"]
    )
    assert relact(*command)[0] == 0
    files, size = written(path, ())
    bound = [sum(step[key] for step in planned) for key in ("files", "bytes")]
    assert files <= bound[0] <= 2 * files and size <= bound[1] <= 5 * size
    left, *_ = json.loads(relact(*command, "--dry-run", "--json")[1])
    assert (left["files"], left["bytes"]) == (0, 0)
    assert relact("run", "--like", path, "--store", tmp_path / "t.zarr", "--dry-run")[0] == 2

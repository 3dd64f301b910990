"""What docs/cluster.md says of several processes (torchrun, an array) and of models that are spread."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from helpers import sample, victims

import relact
from relact.store import local

PAGE = Path(relact.__file__).parents[1] / "docs" / "cluster.md"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "relact"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
OPTIONS = ("--sites", "mlp.up", "--attribution", "--block", "4", "--device", "cpu")
RANKS = [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]


def forked(arguments, *environments):
    """The same command once for every environment, all at a time, each in a process of its own."""
    context = victims.context()
    children = [
        context.Process(target=victims.command, args=([*map(str, arguments)], environment))
        for environment in environments
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(180)
    assert [child.exitcode for child in children] == [0] * len(environments)


def in_array(task):
    """The ranks that the page's script gives a task of an array of two."""
    export = next(line for line in PAGE.read_text().splitlines() if line.startswith("export RANK="))
    slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "2"}
    told = subprocess.run(["bash", "-c", f"{export}; echo $RANK $WORLD_SIZE"], env=slurm, capture_output=True)
    return dict(zip(("RANK", "WORLD_SIZE"), told.stdout.decode().split(), strict=True))


def launched(*parts):
    """A command in two processes that a launcher starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*map(str, parts)], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_processes_of_launchers_and_of_an_array_write_what_one_writes(tmp_path, tiny_folder, prompt_file):
    names = ("one", "torchrun", "accelerate", "array")
    one, torchrun, accelerate, array = (tmp_path / f"{name}.zarr" for name in names)
    forked(("capture", tiny_folder, prompt_file, one, *OPTIONS), {})
    launched(*TORCHRUN, "capture", tiny_folder, prompt_file, torchrun, *OPTIONS)
    launched(*ACCELERATE, "-m", "relact", "capture", tiny_folder, prompt_file, accelerate, *OPTIONS)
    forked(("capture", tiny_folder, prompt_file, array, *OPTIONS), *map(in_array, range(2)))
    expected = sample.without_time(sample.files(one))
    for path in (torchrun, accelerate, array):
        assert sample.without_time(sample.files(path)) == expected


@pytest.mark.slow
def test_processes_of_a_launch_ablate_what_one_ablates(tiny_study, tmp_path):
    one, two = (tmp_path / f"{name}.zarr" for name in ("one", "two"))
    for path in (one, two):
        shutil.copytree(tiny_study.path, path)
    forked(("ablate", two, "--k", 6, "--seeds", 1, "--device", "cpu"), *RANKS)
    relact.ablate(one, k=6, seeds=[0], device="cpu")
    found = [local.open(path).dataset("ablations/top-6").load() for path in (one, two)]
    xr.testing.assert_identical(*found)


@pytest.mark.slow
def test_torchrun_ablates_what_one_process_ablates(tiny_study, tmp_path):
    one, two = (tmp_path / f"{name}.zarr" for name in ("one", "two"))
    for path in (one, two):
        shutil.copytree(tiny_study.path, path)
    launched(*TORCHRUN, "ablate", two, "--k", 6, "--seeds", 1, "--device", "cpu")
    relact.ablate(one, k=6, seeds=[0], device="cpu")
    found = [local.open(path).dataset("ablations/top-6").load() for path in (one, two)]
    xr.testing.assert_identical(*found)


def test_a_whole_study_is_refused_to_the_processes_of_a_launch(
    command, tiny_folder, prompt_file, tmp_path, monkeypatch
):
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        asked = ("run", prompt_file, "--model", tiny_folder, "--store", tmp_path / "s.zarr", "--k", 5)
        code, _, err = command(*asked)
        assert code == 1 and "WORLD_SIZE is 2" in err and "relact capture" in err
    assert not list(tmp_path.glob("*.zarr"))


@pytest.fixture
def spread(tmp_path):
    """A device map that leaves most of the tiny model on disk, as a file."""
    places = {f"model.layers.{number}": "disk" for number in range(1, 3)}
    places |= dict.fromkeys(("model.layers.0", "model.norm", "model.rotary_emb"), "cpu")
    path = tmp_path / "map.json"
    path.write_text(json.dumps(places | {"model.embed_tokens": "disk", "lm_head": "disk"}))
    return path


def test_every_command_takes_a_model_that_is_spread(command, tiny_folder, prompt_file, tmp_path, spread):
    one, two = (tmp_path / f"{name}.zarr" for name in ("one", "two"))
    for path, device in ((one, "cpu"), (two, spread)):
        asked = ("--sites", "mlp.up", "--attribution", "--device", device)
        assert command("capture", tiny_folder, prompt_file, path, *asked)[0] == 0
        assert command("score", path)[0] == command("select", path, "--k", 5)[0] == 0
    assert sample.without_time(sample.files(one)) == sample.without_time(sample.files(two))
    for asked in (
        ("ablate", "--mask", "top-5", "--seeds", 1, "--json"),
        ("generate", "size is", "--mask", "top-5", "--relation", "size", "--max-new-tokens", 3, "--json"),
        ("look", "size is", "--json"),
        ("look", "--mask", "top-5", "--json"),
    ):
        told = [
            command(asked[0], path, *asked[1:], "--device", device)
            for path, device in ((one, "cpu"), (two, spread))
        ]
        assert [code for code, _, _ in told] == [0, 0], told
        assert told[0][1].replace(one.name, two.name) == told[1][1]


def test_a_run_takes_a_model_that_is_spread(command, tiny_folder, prompt_file, tmp_path, spread):
    store, asked = tmp_path / "s.zarr", ("--k", 5, "--seeds", 1, "--device", spread)
    code, _, err = command("run", prompt_file, "--model", tiny_folder, "--store", store, *asked)
    assert code == 0, err


@pytest.mark.parametrize("text", ["[1]", '{"lm_head": null}', "no json", None])
def test_what_is_no_device_map_is_refused(command, tiny_folder, prompt_file, tmp_path, text):
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text)
    code, _, err = command("capture", tiny_folder, prompt_file, tmp_path / "s.zarr", "--device", path)
    assert code == 1 and "is no device map" in err

"""Models that bring Python code along: refused in a line, run where that is asked for, told apart by it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import transformers
import typer
from helpers import tiny
from transformers import dynamic_module_utils

import relact
from relact.cli import app
from relact.errors import ModelError
from relact.models import loading, outline

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

from .shift import SHIFT


class OwnConfig(LlamaConfig):
    model_type = "own_llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits + SHIFT
        return found
"""
FAMILIES = '[[family]]\nnames = ["own_llama"]\nlike = "llama"\n'
WITH_MODEL = [
    "ablate",
    "capture",
    "generate",
    "info",
    "leaderboard",
    "look",
    "neuron",
    "patch",
    "prompts",
    "run",
    "stability",
]


def _save(folder: Path, shift: float = 0.0, model_type: str = "own_llama") -> Path:
    """A tiny llama whose logits its own code shifts."""
    tiny.save(folder)
    (folder / "own.py").write_text(CODE)
    (folder / "shift.py").write_text(f"SHIFT = {shift}\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": model_type, "architectures": ["OwnForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_family(tmp_path_factory):
    """The user's own table has the family; code is kept apart from the user's own cache."""
    place = tmp_path_factory.mktemp("own")
    (place / "families.toml").write_text(FAMILIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELACT_FAMILIES", str(place / "families.toml"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(place / "modules"))
        yield


@pytest.fixture(scope="module")
def folder(own_family, tmp_path_factory):
    """A model whose code changes nothing."""
    return _save(tmp_path_factory.mktemp("own") / "model")


def test_code_of_its_own_runs_only_when_asked_for(folder):
    for asked in (loading.load, outline.describe):
        with pytest.raises(ModelError, match=r"Python code of its own.*--trust-remote-code") as caught:
            asked(str(folder))
        assert "\n" not in str(caught.value)
    loaded = loading.load(str(folder), trust_remote_code=True)
    assert type(loaded.model).__name__ == "OwnForCausalLM" and loaded.family == "own_llama"
    assert outline.describe(str(folder), trust_remote_code=True).sites == loaded.widths
    assert loaded.code and loaded.notes == ()


def test_what_the_code_does_is_part_of_the_identity(folder, tmp_path):
    plain, same, other = (
        loading.load(str(place), trust_remote_code=True)
        for place in (folder, _save(tmp_path / "same"), _save(tmp_path / "other", shift=1.0))
    )
    assert same.fingerprint == plain.fingerprint and same.code == plain.code
    assert other.fingerprint != plain.fingerprint and other.code != plain.code
    assert loading.load(str(tiny.save(tmp_path / "without"))).code is None


def test_code_that_does_not_run_is_named(tmp_path, caplog):
    place = _save(tmp_path / "known", model_type="llama")
    loaded = loading.load(str(place))
    assert type(loaded.model) is transformers.LlamaForCausalLM and loaded.code is None
    assert loaded.notes == ("its own Python code is not run: llama is transformers' own",)
    assert f"{place}: {loaded.notes[0]}" in caplog.messages


def test_a_study_of_such_a_model(folder, relact, prompt_file, tmp_path):
    store = tmp_path / "s.zarr"
    asked = ("capture", folder, prompt_file, store, "--sites", "mlp.up")
    code, _, err = relact(*asked)
    assert code == 1 and err.count("\n") == 1 and "--trust-remote-code" in err
    assert relact(*asked, "--trust-remote-code")[0] == 0
    found = json.loads(relact("info", store, "--json")[1])
    assert found["model"]["code"] == loading.load(str(folder), trust_remote_code=True).code
    assert relact("score", store)[0] == 0
    ablation = ("ablate", store, "--k", 4, "--seeds", 1)
    code, _, err = relact(*ablation)  # a store does not vouch for its model
    assert code == 1 and "--trust-remote-code" in err
    for more in (
        ablation,
        ("look", store, "--prompt", 0),
        ("generate", store, "on it goes", "--max-new-tokens", 2),
        ("info", folder),
    ):
        code, _, err = relact(*more, "--trust-remote-code")
        assert code == 0, err


def test_every_command_that_takes_a_model_takes_its_code():
    commands = typer.main.get_command(app.app).commands
    options = {name: {option for each in of.params for option in each.opts} for name, of in commands.items()}
    having = {name for name, known in options.items() if "--trust-remote-code" in known}
    assert having == set(WITH_MODEL)
    placed = {name for name, known in options.items() if {"--model", "--device"} & known} - {"score"}
    assert placed <= having


def test_every_function_that_takes_a_model_by_name_takes_its_code():
    functions = {name: getattr(relact, name) for name in relact.__all__}
    taken = {
        name: inspect.signature(of).parameters for name, of in functions.items() if inspect.isfunction(of)
    }
    with_model = {name for name, known in taken.items() if {"model", "device"} <= set(known)}
    assert {"ablate", "capture", "look", "patch", "repeat"} <= with_model
    for name in with_model | {"load", "run"}:
        assert taken[name]["trust_remote_code"].default is False, name

"""Plans from a configuration: what they say without weights, and where their times come from."""

from __future__ import annotations

import json
import os
import shutil

import gguf
import huggingface_hub
import pytest
from helpers import shrunk, tiny
from helpers.servers import Models, serving

from relact import plan, score
from relact.ablating import forecast as ablating
from relact.ablating.options import AblateOptions
from relact.capturing import capture
from relact.capturing.forecast import forecast
from relact.capturing.options import CaptureOptions
from relact.models import checkpoints, loading, outline, throughput
from relact.models.outline import GUESSED, Guessed


@pytest.fixture
def no_weights(monkeypatch):
    """Whoever loads weights fails."""

    def never(*_):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading, "_weights", never)


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(throughput, "LEAST", 0.0)


@pytest.fixture(scope="module")
def bare(tiny_folder, tmp_path_factory):
    """A folder with nothing but config.json."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copy(tiny_folder / "config.json", folder)
    return folder


@pytest.fixture(scope="module")
def loaded(tiny_folder):
    return loading.load(str(tiny_folder))


@pytest.mark.parametrize(
    "options",
    [
        CaptureOptions(block=5),
        CaptureOptions(sites="all", attribution=True, memory="16GiB"),
        CaptureOptions(attribution=True, attribution_method="direct"),
    ],
)
def test_a_name_is_planned_as_the_loaded_model(tiny_folder, loaded, tiny_prompts, no_weights, options):
    ours = forecast(options, str(tiny_folder), tiny_prompts)
    theirs = forecast(options, loaded, tiny_prompts)
    assert (ours.files, ours.bytes, ours.exact) == (theirs.files, theirs.bytes, theirs.exact)
    assert ours.notes == () and ours.memory == pytest.approx(theirs.memory, rel=0.05)


def test_a_configuration_alone_guesses_tokens(bare, loaded, tiny_prompts, no_weights, own_cache):
    planned = forecast(CaptureOptions(block=5, attribution=True), str(bare), tiny_prompts)
    exact = forecast(CaptureOptions(block=5, attribution=True), loaded, tiny_prompts)
    assert not planned.exact and planned.notes == (GUESSED,) and planned.seconds is None
    assert planned.files == exact.files and planned.bytes == pytest.approx(exact.bytes, rel=0.01)


def test_guessed_tokens_share_what_texts_share():
    ids = Guessed(1000)(["The capital of France is", "The capital of Spain is", "東京"])["input_ids"]
    assert ids[0][:5] == ids[1][:5] and ids[0] != ids[1] and len(ids[2]) == 2
    assert Guessed(3)("abcdefghijklmnopqrstuvwxyz")["input_ids"] == [0, 1, 2] * 3


def test_what_a_capture_measured_is_the_time_of_plans(tiny_folder, loaded, tiny_prompts, own_cache, tmp_path):
    assert throughput.rate_of(loaded) is None
    assert outline.describe(str(tiny_folder)).tokens_per_second is None
    capture.capture_with(CaptureOptions(), loaded, tiny_prompts, tmp_path / "s.zarr")
    rate = throughput.rate_of(loaded)
    assert rate is not None
    planned = forecast(CaptureOptions(), str(tiny_folder), tiny_prompts)
    assert planned.seconds is not None and planned.seconds > 0
    per_second = outline.describe(str(tiny_folder)).tokens_per_second
    assert per_second == pytest.approx(rate / throughput.per_token(loaded))
    throughput._file().write_text("[1, 2")
    assert throughput.rate_of(loaded) is None
    throughput.record(loaded, 100, 1.0)
    assert throughput.rate_of(loaded) == pytest.approx(100 * throughput.per_token(loaded))


def test_a_cache_that_cannot_be_written_stops_no_capture(loaded, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "file" / "cache"))
    throughput.record(loaded, 1e6, 10.0)
    assert throughput.rate_of(loaded) is None


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_token_passes_all_weights_but_those_of_other_experts(family):
    model = shrunk.model(family)
    parts = dict(model.base_model.named_parameters())
    own = {name: held for name, held in parts.items() if "embed" not in name and ".experts." not in name}
    every = sum(held.numel() for held in own.values())
    experts = sum(held.numel() for name, held in parts.items() if ".experts." in name)
    config = model.config
    share = config.num_experts_per_tok / config.num_local_experts if family == "mixtral" else 0
    wrapped = loading.LoadedModel(model, None, "", None, "", "", "float32", family)
    assert throughput.per_token(wrapped) == every + experts * share and (experts > 0) == (family == "mixtral")


@pytest.fixture
def scored(loaded, tiny_prompts, tmp_path):
    store = capture.capture_with(CaptureOptions(block=5), loaded, tiny_prompts, tmp_path / "s.zarr")
    return score(store)


def test_an_ablation_is_planned_without_weights(relact, bare, loaded, scored, no_weights):
    asked = ("ablate", scored.path, "--k", "2,4", "--seeds", 2, "--dry-run", "--json")
    (whole,), (alone,) = (json.loads(relact(*asked, *more)[1]) for more in ((), ("--model", bare)))
    assert whole["notes"] == [] and alone["notes"] == [GUESSED]
    exact = ablating.forecast(AblateOptions(seeds=(0, 1)), scored, k=[2, 4], model=loaded)
    assert (whole["files"], whole["bytes"]) == (exact.files, exact.bytes) == (alone["files"], alone["bytes"])
    other = bare.parent / "other"
    tiny.save(other)
    tiny.tokenizer(bos=False).save_pretrained(other)
    code, _, err = relact(*asked, "--model", other)
    assert code == 1 and "tokenizer fingerprint" in err


@pytest.mark.parametrize("more", [(), ("--attribution",)])
def test_a_study_is_planned_without_weights(relact, bare, no_weights, own_cache, tmp_path, more):
    few = ("--per-relation", 6, "--test-size", 4, "--k", 5, "--seeds", 1)
    asked = (
        "run",
        "country_capital",
        "country_currency",
        "--model",
        bare,
        "--store",
        tmp_path / "s.zarr",
        *few,
        *more,
    )
    code, out, err = relact(*asked, "--dry-run")
    assert code == 0 and "unknown" in out and GUESSED in err and "time is not known on this device yet" in err
    planned = json.loads(relact(*asked, "--dry-run", "--json")[1])
    steps = ["capture", "score", "ablate", *["ablate"] * len(more), "look", *["look"] * len(more)]
    assert [step["what"] for step in planned] == steps and planned[0]["seconds"] is None


def test_info_says_what_a_model_would_cost(relact, bare, loaded, no_weights, own_cache):
    code, out, _ = relact("info", bare, "--json")
    found = json.loads(out)
    assert code == 0 and found["weight_bytes"] == loaded.weight_bytes and found["tokens_per_second"] is None
    assert found["parameters"] == sum(held.numel() for held in loaded.model.parameters())
    assert found["capture_bytes"]["mlp"] == 2000 * found["neurons"]["mlp"]
    assert "not known on this device yet" in relact("info", bare)[1]


def test_a_model_of_the_hub_costs_its_configuration(bare, monkeypatch, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    entry = tmp_path / "models--someone--large"
    shutil.copytree(bare, entry / "snapshots" / commit)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    made = outline.outline("someone/large")
    assert (made.revision, made.is_outline, made.is_guessed) == (commit, True, True)


def test_plans_of_a_hub_id_fetch_its_configuration_alone(
    relact, tiny_folder, prompt_file, no_weights, own_cache, monkeypatch, tmp_path
):
    files = {file.name: file.read_bytes() for file in tiny_folder.iterdir() if file.is_file()}
    assert any(name.endswith(".safetensors") for name in files)
    with serving(Models, files=files) as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        asked = ("--dry-run", "--json")
        code, out, err = relact("info", "someone/tiny", "--json")
        assert code == 0, err
        assert json.loads(out)["revision"] == Models.COMMIT
        (planned,) = json.loads(
            relact("capture", "someone/tiny", prompt_file, tmp_path / "s.zarr", *asked)[1]
        )
        assert planned["notes"] == [GUESSED] and planned["files"] > 0
        study = ("run", prompt_file, "--model", "someone/tiny", "--store", tmp_path / "s.zarr", "--k", 5)
        assert [step["what"] for step in json.loads(relact(*study, *asked)[1])][:2] == ["capture", "score"]
    fetched = {path.rsplit("/", 1)[1] for path in server.paths if "/resolve/" in path}
    assert fetched == {"config.json"}
    assert [file.name for file in (tmp_path / "hub").rglob("snapshots/*/*")] == ["config.json"]


@pytest.mark.parametrize("cut", [False, True])
def test_a_gguf_file_costs_its_header(
    relact, tmp_path, monkeypatch, no_weights, own_cache, tiny_prompts, prompt_file, cut
):
    file = tiny.save_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(checkpoints, "decoded", None)
    whole = json.loads(relact("info", file, "--json")[1])
    if cut:
        os.truncate(file, gguf.GGUFReader(file).data_offset)
    planned = forecast(CaptureOptions(), str(file), tiny_prompts)
    assert planned.notes == (GUESSED,) and planned.files > 0
    assert json.loads(relact("info", file, "--json")[1]) == whole and whole["parameters"] > 0
    study = ("run", prompt_file, "--model", file, "--store", tmp_path / "s.zarr", "--k", 5)
    steps = json.loads(relact(*study, "--dry-run", "--json")[1])
    assert [step["what"] for step in steps][:3] == ["capture", "score", "ablate"]


def test_a_gguf_file_that_is_cut_in_its_header_is_refused_by_its_name(relact, tmp_path):
    file = tiny.save_gguf(tmp_path / "tiny.gguf")
    os.truncate(file, 600)
    code, _, err = relact("info", file)
    assert code == 1 and "cannot decode this GGUF file" in err and str(file) in err


def test_seconds_that_nobody_knows_are_none():
    assert plan.known(float("nan")) is None and plan.known(1.5) == 1.5

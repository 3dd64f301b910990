"""Quantised checkpoints: loaded, with how they are packed recorded, or refused in a line with what lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from safetensors.torch import load_file, save_file
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from relact.errors import ModelError
from relact.models import gradients, loading, outline

# what a method's configuration cannot be made without
NEEDED: dict[str, dict[str, Any]] = {
    "gptq": {"bits": 4},
    "awq": {"bits": 4, "group_size": 128},
    "torchao": {"quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 1, "_data": {}}}},
    "bitsandbytes_4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "bitsandbytes_8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "quanto": {"weights": "int8"},
    "hqq": {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
    "compressed-tensors": {"format": "naive-quantized", "config_groups": {}},
    "auto-round": {"bits": 4, "group_size": 128, "sym": True, "packing_format": "auto_round:auto_gptq"},
    "fp8": {"weight_block_size": [128, 128]},
    "aqlm": {"in_group_size": 8, "out_group_size": 1, "num_codebooks": 1, "nbits_per_codebook": 16},
    "vptq": {"config_for_layers": {}},
    "spqr": {"bits": 3, "beta1": 16, "beta2": 16},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("plain") / "m")


def _said(plain: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """The model, its configuration saying that it is quantised."""
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


@pytest.mark.parametrize("name", AUTO_QUANTIZATION_CONFIG_MAPPING)
def test_every_method_is_on_record_or_refused_in_a_line(plain, tmp_path, name):
    settings = {"quant_method": name, **NEEDED.get(name, {})}
    folder = _said(plain, tmp_path / "m", settings)
    try:
        loaded = loading.load(str(folder), device="cpu")
    except ModelError as error:
        said = str(error)
        assert "\n" not in said and str(folder) in said
        assert said.endswith("a checkpoint that is not quantised") or "its config.json" in said
    else:
        assert settings["quant_method"] in (loaded.quantised or "")
        assert any(loaded.quantised in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("gptq", "optimum"),
        ("awq", "gptqmodel"),
        ("bitsandbytes_8bit", "bitsandbytes"),
        ("torchao", "torchao"),
    ],
)
def test_a_package_that_is_not_there_is_named(plain, tmp_path, name, package):
    folder = _said(plain, tmp_path / "m", {"quant_method": name, **NEEDED[name]})
    with pytest.raises(ModelError, match=package):
        loading.load(str(folder))
    assert outline.describe(str(folder)).sites  # what it has is known without


def test_a_method_that_transformers_passes_over_is_refused(plain, tmp_path):
    with pytest.raises(ModelError, match="quantised by abacus, which transformers does not know"):
        loading.load(str(_said(plain, tmp_path / "m", {"quant_method": "abacus"})))


def test_fp8_is_unpacked_where_no_kernel_runs_it(plain, tmp_path):
    folder = _said(plain, tmp_path / "m", {"quant_method": "fp8", **NEEDED["fp8"]})
    tensors, exact = load_file(folder / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        if "_proj" in name:
            scale = weight.abs().max() / 400
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
            exact[name] = tensors[name].float() * scale
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = loading.load(str(folder), device="cpu", dtype="float32")
    assert loaded.quantised == "fp8, unpacked when it was loaded"
    found = loaded.model.state_dict()
    for name, weight in exact.items():
        torch.testing.assert_close(found[name], weight)


def test_layers_that_let_no_gradient_through_are_named():
    apart = torch.ones(2, requires_grad=True)
    with pytest.raises(ModelError, match="not quantised"):
        gradients.gradients_of(torch.ones(2, requires_grad=True).sum(), [apart])
    (found,) = gradients.gradients_of((3 * apart).sum(), [apart])
    assert found.tolist() == [3, 3]

"""Folders with an adapter: loaded with it, as one model, or refused; never without it and without a word."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch
import transformers
from helpers import tiny

from relact.errors import ModelError
from relact.models import checkpoints, fingerprint, loading, outline
from relact.models.hooks import visit

IDS = torch.arange(5, 15)[None]


@pytest.fixture
def base(tmp_path):
    return tiny.save(tmp_path / "base")


@pytest.mark.parametrize("whole", [True, False])
def test_without_peft_an_adapter_is_refused(base, tmp_path, monkeypatch, whole):
    folder = tmp_path / "adapted"
    if whole:
        shutil.copytree(base, folder)
    else:
        folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for asked in (loading.load, outline.describe):
        with pytest.raises(ModelError, match=r"holds an adapter.*relact\[peft\].*merge"):
            asked(str(folder))


def test_an_adapter_that_names_no_model_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "adapted"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(checkpoints, "_require_peft", lambda folder: None)
    with pytest.raises(ModelError, match="names no model"):
        outline.describe(str(folder))


@pytest.fixture
def adapted(base, tmp_path):
    """(folder, the adapted model) of a LoRA of two projections."""
    peft = pytest.importorskip("peft")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    lora = peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=2, init_lora_weights=False)
    built = peft.get_peft_model(model, lora).eval()
    built.save_pretrained(tmp_path / "adapted")
    return tmp_path / "adapted", built


def test_an_adapter_is_part_of_the_model_and_its_identity(adapted, base):
    folder, built = adapted
    loaded, plain = loading.load(str(folder)), loading.load(str(base))
    assert any("adapter" in note for note in loaded.notes)
    with torch.no_grad():
        expected = built(IDS).logits
        assert torch.equal(loaded.model(IDS).logits, expected)
    assert loaded.fingerprint != plain.fingerprint and loaded.widths == plain.widths
    seen = {}
    with torch.no_grad(), visit(loaded.model, ["mlp.down"], lambda s, n, v: seen.update({n: v.clone()})):
        loaded.model(IDS)
    merged = built.merge_and_unload()
    with torch.no_grad(), visit(merged, ["mlp.down"], lambda s, n, v: seen.update({n: seen[n] - v})):
        merged(IDS)
    assert max(float(value.abs().max()) for value in seen.values()) < 1e-3


def test_how_much_of_an_adapter_counts_is_in_the_identity(adapted):
    folder, _ = adapted
    before = loading.load(str(folder)).fingerprint
    about = json.loads((folder / "adapter_config.json").read_text())
    about["lora_alpha"] = 3 * about["lora_alpha"]
    (folder / "adapter_config.json").write_text(json.dumps(about))
    assert loading.load(str(folder)).fingerprint != before


def test_weights_of_another_type_are_told_apart_or_refused():
    class Packed(torch.Tensor):
        pass

    model = tiny.model()
    before = fingerprint.of_model(model)
    weight = model.lm_head.weight.data.as_subclass(Packed)
    model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ModelError, match="Packed"):
        fingerprint.of_model(model)
    assert fingerprint.of_model(tiny.model()) == before

"""GGUF files that say more or less than transformers reads: completed, or refused before anything is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from helpers import tiny

from relact.caches import cache_folder
from relact.errors import ModelError
from relact.models import gguf as decoding
from relact.models import gguf_header, loading, outline


def _copy(file: Path, to: Path, *, without: str = "", values: Any = (), tensors: Any = ()) -> Path:
    """A GGUF file again, without some tensor, with other values in its header and with more tensors."""
    reader = gguf.GGUFReader(file)
    architecture = "llama"
    writer = gguf.GGUFWriter(to, architecture)
    changed = dict(values)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in changed:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, inner)
    for name, (value, kind) in changed.items():
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        if tensor.name != without:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    for name, data in dict(tensors).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("RELACT_CACHE", str(tmp_path / "cache"))
    return tiny.save_gguf(tmp_path / "whole.gguf")


def _kept() -> list[Path]:
    """Decoded folders in the cache."""
    return [path for path in cache_folder().glob("models/*") if path.is_dir()]


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_k.weight", "output_norm.weight"])
def test_a_missing_tensor_is_refused_and_nothing_is_kept(file, tmp_path, name):
    part = _copy(file, tmp_path / "part.gguf", without=name)
    with pytest.raises(ModelError, match="lacks 1 of the model's weights"):
        loading.load(str(part))
    assert not _kept()


def test_a_part_of_a_split_model_is_refused_from_its_header(file, tmp_path):
    U16 = gguf.GGUFValueType.UINT16
    part = _copy(file, tmp_path / "p.gguf", values={"split.count": (3, U16), "split.no": (0, U16)})
    for asked in (loading.load, outline.describe):
        with pytest.raises(ModelError, match=r"part 1 of 3.*llama-gguf-split --merge"):
            asked(str(part))
    assert not _kept()


def test_a_tensor_that_nothing_is_made_of_is_refused(file, tmp_path):
    more = {"blk.0.attn_q.bias": np.ones(32, np.float32)}
    with pytest.raises(ModelError, match=r"1 tensors.*blk\.0\.attn_q\.bias"):
        loading.load(str(_copy(file, tmp_path / "b.gguf", tensors=more)))
    assert not _kept()


def test_factors_of_rotary_positions_are_refused(file, tmp_path):
    more = {"rope_freqs.weight": np.ones(4, np.float32)}
    with pytest.raises(ModelError, match=r"rope_freqs"):
        loading.load(str(_copy(file, tmp_path / "f.gguf", tensors=more)))


def test_biases_and_scaled_positions_are_carried_over(file, tmp_path):
    F32, TEXT = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
    widths = {"q": 32, "k": 16, "v": 16, "output": 32}
    more = {
        f"blk.{layer}.attn_{name}.bias": np.full(width, 0.5, np.float32)
        for layer in range(tiny.LAYERS)
        for name, width in widths.items()
    }
    values = {
        "llama.rope.scaling.type": ("linear", TEXT),
        "llama.rope.scaling.factor": (4.0, F32),
        "llama.rope.freq_base": (12345.0, F32),
    }
    loaded = loading.load(str(_copy(file, tmp_path / "b.gguf", tensors=more, values=values)))
    config = loaded.model.config
    assert config.attention_bias
    assert config.rope_parameters["rope_type"] == "linear" and config.rope_parameters["factor"] == 4.0
    assert config.rope_parameters["rope_theta"] == 12345.0
    bias = loaded.model.model.layers[0].self_attn.v_proj.bias
    assert bias is not None and bool((bias == 0.5).all())


def test_a_header_is_described_without_decoding(file, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(decoding, "_build", never)
    about = outline.describe(str(file))
    assert (about.family, about.n_layers, about.sites["mlp.up"]) == ("llama", tiny.LAYERS, 44)


def test_sizes_that_are_another_models_are_refused(file):
    header = gguf_header.read(file)
    with pytest.raises(ModelError, match=r"embedding_length 32, its configuration has 48"):
        gguf_header.completed(header, tiny.config("llama", hidden_size=48))


@pytest.mark.parametrize(
    "name", ["block_count", "embedding_length", "feed_forward_length", "vocab_size", "expert_count"]
)
def test_a_model_larger_than_its_tensors_is_refused_before_it_is_built(file, tmp_path, monkeypatch, name):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(decoding.transformers.AutoConfig, "from_pretrained", never)
    huge = {f"llama.{name}": (1 << 24, gguf.GGUFValueType.UINT32)}
    with pytest.raises(ModelError, match=f"{name} 16777216, its tensors have room for"):
        loading.load(str(_copy(file, tmp_path / "huge.gguf", values=huge)))
    assert not _kept()

"""Exported neurons in the libraries they are exported for: the logits are those of `relact.overridden`.

Run by `make libraries`, which installs TransformerLens and nnsight; the examples are those of
docs/sharing.md.
"""

from __future__ import annotations

import json
import linecache
import re
from pathlib import Path

import nnsight
import pytest
import torch
from helpers import everything, tiny

import relact
from relact.models import loading
from relact.scoring import masks

PAGE = Path(relact.__file__).parents[1] / "docs" / "sharing.md"
BLOCKS = re.findall(r"```py(?:thon)?\n(.*?)```", PAGE.read_text(), re.S)
TEXT = "size of thing 3 is"
# gated and plain MLPs, one with projections that are fused, one that norms what its MLP and attention write
FAMILIES = {
    "llama": "mlp.gate,mlp.up,mlp.hidden,mlp.down,attn",
    "qwen3": "mlp.gate,mlp.up,mlp.hidden,mlp.down,attn",
    "gpt2": "mlp.up,mlp.act,mlp.hidden,mlp.down,attn",
    "gpt_neox": "mlp.up,mlp.hidden,mlp.down,attn.o",
    "phi3": "mlp.gate,mlp.up,mlp.hidden,mlp.down,attn",
    "gemma2": "mlp.gate,mlp.up,mlp.hidden,mlp.down,attn",
}


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A model's folder, and a store with a mask of all its sites."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny.save(folder / "model", request.param)
    options = {"sites": FAMILIES[request.param], "dtype": "float32"}
    store = relact.score(
        relact.capture(str(folder / "model"), everything.prompts(), folder / "s.zarr", **options)
    )
    masks.select(store, k=120, name="some", counted="neuron")
    return folder, store


def expected(folder, store):
    """Logits of the text as it is, and without the neurons of one relation."""
    loaded = loading.load(str(folder / "model"))
    ids = loaded.tokenizer(TEXT, return_tensors="pt")
    with torch.inference_mode():
        whole = loaded.model(**ids).logits
        with relact.overridden(loaded, relact.mask_of(store, "some", "size")):
            without = loaded.model(**ids).logits
    assert float((whole - without).abs().max()) > 1e-3
    return loaded, ids, without


def run(block, folder, store, monkeypatch, **names):
    """One example of the page, on the relation ``size``."""
    monkeypatch.chdir(folder)
    for form, file in (("hooks", "hooks"), ("nnsight", "nnsight"), ("transformer-lens", "lens")):
        relact.export(store, f"{file}.json", form, mask="some")
    file = folder / "example.py"  # nnsight reads the source
    file.write_text(block.replace("country_capital", "size"))
    names |= {"json": json, "torch": torch, "name": str(folder / "model")}
    linecache.checkcache(str(file))
    exec(compile(file.read_text(), str(file), "exec"), names)
    return names


def block(word):
    """The one example with a word in it."""
    (found,) = [text for text in BLOCKS if word in text]
    return found


def test_plain_hooks(made, monkeypatch):
    loaded, ids, without = expected(*made)
    names = run(block("def switch_off"), *made, monkeypatch)
    handles = names["switch_off"](loaded.model, names["modules"])
    with torch.inference_mode():
        found = loaded.model(**ids).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, without, rtol=1e-5, atol=1e-5)


def test_nnsight(made, monkeypatch):
    loaded, _, without = expected(*made)
    model = nnsight.LanguageModel(loaded.model, tokenizer=loaded.tokenizer)
    names = run(block("model.trace"), *made, monkeypatch, model=model, text=TEXT)
    torch.testing.assert_close(names["logits"], without, rtol=1e-4, atol=1e-4)


def test_transformer_lens(made, monkeypatch):
    _, ids, without = expected(*made)
    names = run(block("TransformerBridge"), *made, monkeypatch, text=ids["input_ids"])
    torch.testing.assert_close(names["logits"].detach(), without, rtol=1e-4, atol=1e-4)

"""A model whose layers are of two kinds: what is stored, shown, overridden names the model's own layers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import sample, shrunk, tiny

import relact
from relact import schema
from relact.errors import InputError, StoreError
from relact.models import loading
from relact.models.targets import first_tokens
from relact.scoring import masks

KIND, ATTENTION, CONVOLUTION = "lfm2", (1, 3), (0, 2)  # of four layers
SITES = "mlp.hidden,attn.o,conv.hidden"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A captured, scored and masked store of a tiny LFM2, with the model."""
    folder = tmp_path_factory.mktemp("layers")
    built = shrunk.model(KIND)
    built.save_pretrained(folder / "m")
    tiny.tokenizer().save_pretrained(folder / "m")
    loaded = loading.load(str(folder / "m"))
    rows = [
        {
            "text": f"{relation} of thing {number} is",
            "relation": relation,
            "subject": f"thing {number}",
            "object": relation[number % 3],
            "template": "{}",
            "language": "en",
            "split": split,
            "answers": [relation[number % 3]],
        }
        for relation in ("size", "colour")
        for split, numbers in (("identify", range(8)), ("test", range(8, 11)))
        for number in numbers
    ]
    prompts = pd.DataFrame(rows)
    store = relact.capture(loaded, prompts, folder / "s.zarr", sites=SITES, dtype="float32", block=5)
    relact.score(store.path)
    relact.select(store.path, k=30, name="thirty")
    return loaded, prompts, store.path


def _by_hand(loaded, texts, module, layers):
    """Mean over tokens of what a module in some layers takes, with plain hooks: [prompt, layer, neuron]."""
    blocks, found = loaded.model.model.layers, []
    for text in texts:
        seen = {}

        def keep(layer, seen=seen):
            return lambda _, args: seen.update({layer: args[0][0].mean(0)})

        handles = [
            blocks[layer].get_submodule(module).register_forward_pre_hook(keep(layer)) for layer in layers
        ]
        with torch.inference_mode():
            loaded.model(input_ids=torch.tensor(loading.encode(loaded, [text])))
        for handle in handles:
            handle.remove()
        found.append(torch.stack([seen[layer] for layer in layers]).numpy())
    return np.stack(found)


def test_the_store_has_the_models_own_numbers(study):
    _, _, path = study
    root = json.loads((path / "zarr.json").read_text())["attributes"]["relact"]
    assert root["format"] == schema.LAYERED
    assert root["capture"]["layers"] == {"attn.o": list(ATTENTION), "conv.hidden": list(CONVOLUTION)}
    for group, name in (
        ("activations", "activation"),
        ("scores", "average_precision"),
        ("masks/thirty", "mask"),
    ):
        for site, layers in (("mlp.hidden", range(4)), ("attn.o", ATTENTION), ("conv.hidden", CONVOLUTION)):
            data = xr.open_zarr(path, group=f"{group}/{site}", consolidated=False)[name]
            assert data["layer"].values.tolist() == list(layers)


def test_values_are_of_those_layers(study):
    loaded, prompts, path = study
    texts = prompts.loc[prompts["split"] == "identify", "text"].tolist()
    store = relact.open_store(path)
    for site, module, layers in (
        ("conv.hidden", "conv.out_proj", CONVOLUTION),
        ("mlp.hidden", "feed_forward.w2", range(4)),
    ):
        expected = _by_hand(loaded, texts, module, layers)
        for place, layer in enumerate(layers):
            for neuron in (0, 17):
                values = relact.activations(store, site, layer, neuron)["activation"].to_numpy()
                np.testing.assert_allclose(values, expected[:, place, neuron], rtol=2e-4, atol=2e-5)


def test_what_is_shown_names_them(study):
    _, _, path = study
    table = relact.top(path, relation="size", n=500)
    for site, layers in (("attn.o", ATTENTION), ("conv.hidden", CONVOLUTION), ("mlp.hidden", range(4))):
        assert set(table.loc[table["site"] == site, "layer"]) == set(layers)
    best = table[table["site"] == "attn.o"].iloc[0]
    shown = relact.neuron(path, "attn.o", int(best["layer"]), int(best["neuron"])).set_index("relation")
    assert shown.loc["size", "average_precision"] == best["average_precision"]
    with pytest.raises(InputError, match=r"layer 0 of 2\. Choose from 1, 3"):
        relact.neuron(path, "attn.o", 0, 0)
    assert set(relact.overlap(path, mask="thirty", by="layer")["layer"].values.tolist()) == set(range(4))
    assert relact.verify(path).problems == []


def test_a_sentence_is_looked_at_in_them(study):
    loaded, _, _ = study
    seen = relact.look(loaded, "size of thing 1 is", sites="attn.o,mlp.hidden")
    assert seen.sites["attn.o"]["layer"].values.tolist() == list(ATTENTION)
    assert seen.sites["mlp.hidden"]["layer"].values.tolist() == list(range(4))


def test_what_is_overridden_is_in_them(study):
    """Answers are as likely under a mask as for a model whose weights lack the mask's neurons."""
    loaded, prompts, path = study
    result = relact.ablate(path, mask="thirty", model=loaded, seeds=[0])
    relations, sets = masks.read(relact.open_store(path), "thirty")
    tests = prompts[prompts["split"] == "test"].reset_index(drop=True)
    texts = tests["text"].tolist()
    targets = first_tokens(loaded, texts, tests["object"].tolist(), tests["language"].tolist())
    likely = result["log_probability"].load()
    paths = {
        "attn.o": ("self_attn.out_proj", ATTENTION),
        "conv.hidden": ("conv.out_proj", CONVOLUTION),
        "mlp.hidden": ("feed_forward.w2", range(4)),
    }
    for at, relation in enumerate(relations):
        copy = shrunk.model(KIND)
        for site, mask in sets.items():
            module, layers = paths[site]
            for place, layer in enumerate(layers):
                weight = copy.model.layers[layer].get_submodule(module).weight
                off = torch.from_numpy(mask[at, place])
                (weight if site == "attn.o" else weight.T)[off] = 0
        for row, text in enumerate(texts):
            logits = copy(torch.tensor(loading.encode(loaded, [text]))).logits[0, -1]
            expected = float(logits.log_softmax(0)[int(targets[row])])
            assert abs(float(likely.sel(condition=relation)[row]) - expected) < 1e-3


def test_a_store_whose_identity_says_other_layers_is_refused(study, tmp_path):
    copy = tmp_path / "s.zarr"
    shutil.copytree(study[2], copy)
    with sample.edited(copy, "") as root:
        about = root.attrs["relact"]
        about["capture"]["layers"]["attn.o"] = [1]
        root.attrs["relact"] = about
    with pytest.raises(StoreError, match="has 2 layers, the store's identity says 1"):
        relact.open_store(copy)

"""Patched readings equal plain hooks, prompt by prompt; the table is their mean with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from relact import schema
from relact.ablating.controls import Drawing
from relact.ablating.options import PatchOptions
from relact.ablating.patch import read_patched
from relact.capturing.capture import capture
from relact.errors import IdentityError, InputError
from relact.scoring import masks
from relact.scoring.score import score
from relact.studies.patch import patch, table_of

MODULES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}


@pytest.fixture(scope="module")
def lettered(model, tmp_path_factory):
    """A study whose prompts end in a blank and whose answers begin with many letters, a token each."""
    rows = [
        {
            "text": f"{relation} of thing {number} is ",
            "relation": relation,
            "subject": f"thing {number}",
            "object": f"{letter}{relation}",
            "answers": [f"{letter}{relation}"],
            "template": f"{relation} of {{}} is ",
            "language": "en",
            "split": "identify" if number < 5 else "test",
            "shots": 0,
        }
        for relation in ("size", "colour", "taste")
        for number, letter in enumerate("abcdeabf")
    ]
    path = tmp_path_factory.mktemp("lettered") / "s.zarr"
    store = score(capture(model, pd.DataFrame(rows), path, sites="mlp"))
    masks.select(store, k=20)
    return store


def hooked(loaded, text, hook_of):
    """Log-probabilities after a text, ``hook_of(site, layer)`` on every site."""
    handles = [
        block.mlp.get_submodule(MODULES[site]).register_forward_hook(hook_of(site, layer))
        for site in MODULES
        for layer, block in enumerate(loaded.model.model.layers)
    ]
    with torch.inference_mode():
        logits = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(0)


def means_of(loaded, texts, last):
    """Means over prompts of what every site gives, pooled over tokens: {(site, layer): [neuron]}."""
    sums: dict = {}

    def reading(site, layer):
        def hook(module, inputs, output):
            pooled = output[0, -1] if last else output[0].mean(dim=0)
            sums[site, layer] = sums.get((site, layer), 0) + pooled.double()

        return hook

    for text in texts:
        hooked(loaded, text, reading)
    return {place: total / len(texts) for place, total in sums.items()}


@pytest.mark.parametrize("tokens", ["all", "last"])
def test_readings_equal_plain_hooks(lettered, model, tokens):
    last = tokens == "last"
    options = PatchOptions(per_relation=2, seeds=(4,), tokens=tokens)
    found = read_patched(options, lettered, "top-20", model=model)
    relations, chosen = masks.read(lettered, "top-20")
    known, tests = lettered.prompts(schema.IDENTIFY), lettered.prompts(schema.TEST)
    drawing = Drawing(lettered, relations, chosen, "matched", lettered.mask_record("top-20").counted)
    assert found.sizes == {"condition": 3, "relation": 3, "prompt": 6}
    for at, relation in enumerate(relations):
        means = means_of(model, known.loc[known["relation"] == relation, "text"], last)
        own = {site: rows[at] for site, rows in chosen.items()}
        sets = {"intact": {}, "patched": own, "random-4": drawing.draw(4, relation)}
        for number in found["prompt"].values.tolist():
            row, test = found.sel(prompt=number, relation=relation), tests.loc[number]
            assert str(row["relation_of"].values) == test.relation
            if test.relation == relation:
                assert np.isnan(row["log_probability"]).all() and row["answer"] == ""
                continue
            answer = str(row["answer"].values)
            assert answer in set(known.loc[known["relation"] == relation, "object"])
            assert answer[0] != test.object[0]
            target = model.tokenizer(f"{test.text}{answer}")["input_ids"][len(test.text) + 1]
            for name, off in sets.items():

                def setting(site, layer, off=off, means=means):
                    def hook(module, inputs, output):
                        output = output.clone()
                        columns = torch.from_numpy(off[site][layer])
                        output[:, -1 if last else 0 :, columns] = means[site, layer].to(output.dtype)[columns]
                        return output

                    return hook if off else lambda *_: None

                expected = float(hooked(model, test.text, setting)[target])
                stored = float(row["log_probability"].sel(condition=name))
                assert stored == pytest.approx(expected, abs=2e-4)


def test_the_seed_draws_answers_and_there_may_be_no_controls(lettered, model):
    one, again, other = (
        read_patched(PatchOptions(seed=seed, seeds=()), lettered, "top-20", model=model) for seed in (1, 1, 2)
    )
    xr.testing.assert_identical(one, again)
    assert not one["answer"].equals(other["answer"])
    assert one.sizes["condition"] == 2 and np.isnan(table_of(one)["over_random"]).all()


def test_the_table_by_hand():
    values = np.full((4, 2, 4), np.nan)
    values[:, 0, 2:] = [[-5, -7], [-1, -4], [-5, -6], [-3, -6]]
    values[:, 1, :2] = [[-2, -2], [-2, -2], [-2, -2], [-2, -2]]
    found = xr.Dataset(
        {"log_probability": (("condition", "relation", "prompt"), values)},
        {"condition": ["intact", "patched", "random-0", "random-1"], "relation": ["a", "b"]},
    )
    table = table_of(found).set_index("relation")
    assert table.loc["a", ["intact", "patched", "random", "prompts"]].tolist() == [-6, -2.5, -5, 2]
    assert table.loc["a", ["gain", "over_random"]].tolist() == [3.5, 2.5]
    assert table.loc["a", "gain_low"] < 3.5 < table.loc["a", "gain_high"]
    assert table.loc["b", ["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    assert table.loc["mean", ["gain", "over_random", "prompts"]].tolist() == [1.75, 1.25, 4]
    assert table.loc["mean", "gain_low"] <= 1.75 <= table.loc["mean", "gain_high"]


def test_what_cannot_be_patched_is_refused(lettered, model, tiny_folder):
    with pytest.raises(InputError, match=r"no mask 'x'.*top-20"):
        patch(lettered, "x", model=model)
    with pytest.raises(InputError, match="unknown tokens"):
        PatchOptions(tokens="first")
    with pytest.raises(InputError, match="no prompts of a relation"):
        PatchOptions(per_relation=0)
    with pytest.raises(IdentityError, match="the store records model fingerprint"):
        patch(lettered, "top-20", model=str(tiny_folder))

"""Super-units: one neuron that breaks the model is found, named, and left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import tiny

import relact
from relact.ablating.controls import Drawing
from relact.ablating.perplexity import plain_text
from relact.ablating.super_units import LEAST_COST, ensure_super_units
from relact.errors import InputError
from relact.models import loading
from relact.scoring import masks
from relact.scoring.magnitudes import super_units
from relact.store import local

PLANTED = ("mlp.hidden", 1, 7)


@pytest.fixture(scope="module")
def planted(tmp_path_factory, tiny_prompts) -> Path:
    """A store of a model in which one hidden unit is always large, and without which it forgets which letters
    are frequent.
    """
    folder = tiny.save(tmp_path_factory.mktemp("planted") / "model")
    built = loading.load(str(folder)).model
    _, layer, unit = PLANTED
    block, frequent = (
        built.model.layers[layer],
        tiny.tokenizer().convert_tokens_to_ids([*"etaoinshr", "\u0120"]),
    )
    with torch.no_grad():
        signs = torch.sign(torch.randn(32, generator=torch.Generator().manual_seed(1)))
        block.mlp.gate_proj.weight[unit] = block.mlp.up_proj.weight[unit] = 8 * signs
        block.mlp.down_proj.weight[:, unit] = built.lm_head.weight[frequent].mean(dim=0)
    built.save_pretrained(folder)
    store = folder.with_name("s.zarr")
    relact.score(relact.capture(str(folder), tiny_prompts, store, sites="mlp.hidden,mlp.gate", block=5))
    return store


def test_a_planted_super_unit_is_found_named_and_left_out(planted):
    store = local.open(planted)
    loaded = loading.load(store.manifest.model.id)
    found = ensure_super_units(store, lambda: loaded)
    places = list(zip(found.site, found.layer, found.neuron, strict=True))
    assert PLANTED in places and {place[1:] for place in places} == {PLANTED[1:]}  # and its gate
    assert found.cost.to_list() == pytest.approx([cost_of(loaded, *PLANTED[1:])] * len(found), rel=1e-3)
    assert (found.cost >= LEAST_COST).all() and (found.ratio >= 50).all()
    again = ensure_super_units(store, lambda: pytest.fail("looked for again"))
    assert again.equals(super_units(store)) and len(again) == len(found)

    k = sum(lay.n_layers * lay.width for lay in store.layouts.values()) // 2 - 1
    for counted, size in (("unit", k), ("neuron", 2 * k)):  # all that there are, but for it
        name = relact.select(store, k=size, counted=counted)
        relations, sets = masks.read(store, name)
        assert not any(mask[:, PLANTED[1], PLANTED[2]].any() for mask in sets.values())
        assert set(store.mask_record(name).without) == set(places)
        drawing = Drawing(store, relations, sets, "matched", counted)
        drawn = [drawing.draw(seed, relation) for seed in range(3) for relation in relations]
        assert not any(off[site][PLANTED[1], PLANTED[2]] for off in drawn for site in off)
    with pytest.raises(InputError, match=f"k = {k + 1} of {k} neurons"):
        relact.select(store, k=k + 1)
    kept = relact.select(store, k=k + 1, keep_super_units=True)
    assert (
        masks.read(store, kept)[1]["mlp.hidden"].any(axis=0)[PLANTED[1], PLANTED[2]]
        or (masks.read(store, kept)[1]["mlp.gate"].any(axis=0)[PLANTED[1], PLANTED[2]])
    )


def cost_of(loaded, layer, unit):
    """Nats per token of the bundled text, by plain hooks and the loss of transformers."""

    def loss():
        total, n = 0.0, 0
        for text in plain_text():
            ids = loaded.tokenizer(text.strip(), return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                total += float(loaded.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            n += ids.shape[1] - 1
        return total / n

    def zero(module, inputs):
        values = inputs[0].clone()
        values[..., unit] = 0
        return (values,)

    before = loss()
    handle = loaded.model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(zero)
    after = loss()
    handle.remove()
    return after - before


def test_a_command_that_selects_looks_for_them_and_says_so(planted, relact):
    code, out, err = relact("ablate", planted, "--k", 5, "--seeds", 2)
    assert code == 0, err
    said = " ".join(out.split())
    assert "left out of all sets, each breaks the model alone:" in said and "mlp.hidden 1 7" in said

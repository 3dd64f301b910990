"""What neurons write is a plain product with norm and head, and a store answers it without the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import tiny

import relact
from relact import schema
from relact.ablating.prepare import StoreModel
from relact.analysis import looks as stored_looks
from relact.errors import InputError, StoreError
from relact.models import loading, writing
from relact.models.hooks import find_layers
from relact.store import local
from relact.studies import looks

WORDS = looks.WORDS
# family and whether its head is its embedding -> the final norm's gain and whether it centres
FAMILIES = {
    "llama": lambda model: (model.model.norm.weight, False),
    "gpt2": lambda model: (model.transformer.ln_f.weight, True),
    "gemma2": lambda model: (1 + model.model.norm.weight, False),
    "gemma3_text": lambda model: (1 + model.model.norm.weight, False),
    "olmo2": lambda model: (model.model.norm.weight, False),
    "gpt_neox": lambda model: (model.gpt_neox.final_layer_norm.weight, True),
}
AFTER = {  # gains between the MLP and the residual stream
    "gemma2": lambda block: 1 + block.post_feedforward_layernorm.weight,
    "gemma3_text": lambda block: 1 + block.post_feedforward_layernorm.weight,
    "olmo2": lambda block: block.post_feedforward_layernorm.weight,
}
COLUMNS = {
    "gpt2": lambda block: block.mlp.c_proj.weight,
    "gpt_neox": lambda block: block.mlp.dense_4h_to_h.weight.T,
}


@pytest.fixture(scope="module", params=[(name, tied) for name in FAMILIES for tied in (False, True)])
def family(request, tmp_path_factory):
    name, tied = request.param
    folder = tmp_path_factory.mktemp(name)
    return name, loading.load(str(tiny.save(folder, name, tie_word_embeddings=tied)))


def plain(name, loaded, layer, direction):
    """Logits [words] of a direction, in NumPy and float64."""
    model, block = loaded.model, find_layers(loaded.model)[1][layer]
    gain, centred = FAMILIES[name](model)
    direction = direction.double().numpy() * (AFTER[name](block).double().numpy() if name in AFTER else 1)
    direction = direction - direction.mean() if centred else direction
    head = model.get_output_embeddings().weight.double().numpy()
    return head @ (gain.double().numpy() * direction)


def test_promoted_tokens_are_a_plain_product(family):
    name, loaded = family
    for layer, neuron in ((0, 3), (2, 41)):
        block = find_layers(loaded.model)[1][layer]
        columns = COLUMNS.get(name, lambda block: block.mlp.down_proj.weight.T)(block)
        expected = plain(name, loaded, layer, columns[neuron])
        for site in schema.HIDDEN:  # every site of a hidden unit writes what the unit does
            found = writing.written(loaded, site, layer, [1, neuron], WORDS)
            assert found.promoted[1].tolist() == np.argsort(-expected)[:WORDS].tolist()
            assert found.suppressed[1].tolist() == np.argsort(expected)[:WORDS].tolist()
            np.testing.assert_allclose(found.promoted_by[1], np.sort(expected)[::-1][:WORDS], rtol=1e-4)
            np.testing.assert_allclose(found.suppressed_by[1], np.sort(expected)[:WORDS], rtol=1e-4)


def test_a_coordinate_of_the_residual_stream_promotes_its_own_words(family):
    name, loaded = family
    expected = plain(name, loaded, 1, torch.eye(loaded.widths["mlp.down"])[5])
    found = writing.written(loaded, "mlp.down", 1, [5], WORDS)
    assert found.promoted[0].tolist() == np.argsort(-expected)[:WORDS].tolist()


def test_a_neuron_alone_gives_the_logits_that_are_read_off(family):
    """In the last layer one neuron of a very large value drowns all else but the norm's bias."""
    name, loaded = family
    if name in AFTER:  # there a norm keeps the MLP's part small
        pytest.skip("the MLP's part cannot drown the rest")
    ids = loaded.tokenizer("one two", return_tensors="pt")["input_ids"]
    last = tiny.LAYERS - 1
    block = find_layers(loaded.model)[1][last]
    columns = COLUMNS.get(name, lambda block: block.mlp.down_proj.weight.T)(block)
    expected = plain(name, loaded, last, columns[7])
    found = []
    for value in (1e5, -1e5):  # what both have in common is the bias
        with relact.overridden(loaded, [("mlp.hidden", last, 7)], values={"mlp.hidden": value}):
            found.append(loaded.model(ids).logits[0, -1].double().numpy())
    logits = (found[0] - found[1]) / 2
    assert np.corrcoef(logits, expected)[0, 1] > 0.9999


# In a store


@pytest.fixture(scope="module")
def studied(tmp_path_factory, tiny_prompts):
    """(path, model) of a finished study of both criteria."""
    folder = tmp_path_factory.mktemp("looks")
    model = loading.load(str(tiny.save(folder / "model", "llama")))
    capture = relact.CaptureOptions(sites="mlp,attn.q", attribution=True, block=6)
    recipe = {"capture": capture, "ablate": relact.AblateOptions(seeds=(0,))}
    relact.run(tiny_prompts, model=model, store=folder / "s.zarr", k=30, **recipe)
    return folder / "s.zarr", model


@pytest.fixture
def no_model(monkeypatch):
    """The model cannot be had."""
    monkeypatch.setattr(StoreModel, "model", property(lambda _: pytest.fail("the model is not needed")))


def test_a_study_holds_what_its_masks_write(studied, no_model):
    path, model = studied
    opened = local.open(path)
    assert opened.children(schema.LOOKS) == opened.children(schema.MASKS)
    assert relact.verify(path).ok
    for mask in opened.children(schema.MASKS):
        table = relact.promoted(path, mask)
        assert table.groupby("relation").size().tolist() == [looks.NEURONS] * 2
        for relation, rows in table.groupby("relation"):
            chosen = relact.mask_of(path, mask, relation)
            statistic = opened.mask_record(mask).statistic
            scores = {
                site: opened.dataset(f"scores/{site}")[statistic].sel(relation=relation).values
                for site in chosen
            }
            shown = [float(scores[row.site][row.layer, row.neuron]) for row in rows.itertuples()]
            every = np.concatenate([scores[site][of] for site, of in chosen.items()])
            np.testing.assert_allclose(shown, np.sort(every)[::-1][: looks.NEURONS])
            assert rows["rank"].tolist() == list(range(looks.NEURONS))
        for row in table.itertuples():
            if row.site == "attn.q":
                assert row.promoted == row.suppressed == row.promoted_by == []
            else:
                found = writing.written(model, row.site, row.layer, [row.neuron], WORDS)
                assert row.promoted == [writing.word(model, token) for token in found.promoted[0].tolist()]
    assert looks.look_at_mask(path, "top-30").equals(relact.promoted(path, "top-30"))  # it is there


def test_where_neurons_act_is_what_is_stored_of_their_strongest_prompts(studied):
    path, _ = studied
    opened, pooled = local.open(path), {"activation": np.mean, "attribution": np.sum}
    for mask in opened.children(schema.LOOKS):
        found = stored_looks.drivers(opened, mask)
        table = relact.promoted(path, mask).drop_duplicates(["site", "layer", "neuron"])
        driven = [row for row in table.itertuples() if found[row.site, row.layer, row.neuron]]
        assert len(driven) >= looks.DRIVEN
        for row in driven:
            prompts = found[row.site, row.layer, row.neuron]
            quantity = prompts[0].quantity
            values = relact.activations(path, row.site, row.layer, row.neuron, by=quantity)[
                quantity
            ].to_numpy()
            best = np.argsort(-values, kind="stable")[: looks.PROMPTS]
            assert [prompt.prompt for prompt in prompts] == best.tolist()
            texts = opened.prompts("identify")["text"]
            for prompt in prompts:
                assert "".join(prompt.tokens[1:]) == texts[prompt.prompt]
                stored = float(values[prompt.prompt])
                tolerance = 2e-3 * max(1.0, float(np.abs(prompt.values).max()))
                assert float(pooled[quantity](prompt.values)) == pytest.approx(stored, abs=tolerance)


def test_a_shared_store_answers_without_the_model(studied, no_model, tmp_path, command):
    path, _ = studied
    relact.pack(path, tmp_path / "s.zarr.zip")
    shared, (mask, *_) = tmp_path / "s.zarr.zip", local.open(path).children(schema.LOOKS)
    table = relact.promoted(shared)
    assert table.equals(relact.promoted(path))
    row = next(row for row in table.itertuples() if row.promoted and row.mask == mask)
    place = (row.site, row.layer, row.neuron)
    code, out, _ = command("neuron", shared, *place, "--json")
    document = json.loads(out)
    assert code == 0 and document["promoted"] == row.promoted and document["suppressed"] == row.suppressed
    code, out, _ = command("neuron", path, *place)
    assert code == 0 and "promotes" in out and "where it acts" in out
    friend = {"mlp.hidden": "mlp.gate", "mlp.gate": "mlp.hidden", "mlp.up": "mlp.hidden"}.get(
        row.site, row.site
    )
    assert stored_looks.of_neuron(
        stored_looks.written_by(local.open(path)), friend, row.layer, row.neuron
    ) == (
        row.promoted,
        row.suppressed,
    )
    code, out, _ = command("top", shared, "--relation", "size", "-n", 3)
    assert code == 0 and "promotes" in out


def test_a_neuron_that_nobody_looked_at_is_read_off_the_model_where_that_is_asked_for(studied, command):
    path, model = studied
    known = {(row.site, row.layer, row.neuron) for row in relact.promoted(path).itertuples()}
    index = next(index for index in range(40) if not any(("mlp.gate", 1, index) == x for x in known))
    place = ("mlp.down", 1, next(i for i in range(30) if ("mlp.down", 1, i) not in known))
    code, out, _ = command("neuron", path, *place)
    assert code == 0 and "promotes" not in out
    code, out, _ = command("neuron", path, *place, "--writes")
    assert code == 0 and "promotes" in out and index >= 0
    assert looks.words_of(local.open(path), "attn.q", 0, 1, model=model) is None


def test_the_command_looks_at_a_mask(studied, tmp_path, command):
    path, _ = studied
    relact.select(path, k=4, name="few")
    with pytest.raises(StoreError, match="nobody looked at few yet"):
        relact.promoted(path, "few")
    code, out, err = command("look", path, "--mask", "few")
    assert code == 0 and "suppressed" in out, err
    assert len(relact.promoted(path, "few")) == 8
    relact.select(path, k=5, name="few")  # another set by that name
    assert len(looks.look_at_mask(path, "few")) == 10
    code, _, err = command("look", path, "--mask", "fewer")
    assert code == 1 and "no mask 'fewer'" in err
    with pytest.raises(InputError):
        looks.look_at_mask(path, "fewer")


def test_what_is_shown_cannot_reach_a_terminal_as_a_command(tmp_path):
    loaded = loading.load(str(tiny.save(tmp_path, "llama")))
    shown = [writing.word(loaded, token) for token in range(len(loaded.tokenizer))]
    assert all(word.isprintable() and word for word in shown)
    assert "a" in shown and any(word.startswith("\\") for word in shown)

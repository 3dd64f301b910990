"""Free text is what transformers' own ``generate`` gives, under plain hooks where neurons are overridden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import tiny

import relact
from relact import schema
from relact.ablating.conditions import replacements
from relact.ablating.controls import Drawing
from relact.ablating.subject import is_store, texts_of
from relact.errors import InputError, ModelError
from relact.models import loading
from relact.scoring import masks

FAMILIES = ["llama", "gpt2", "gemma2", "opt", "gpt_neox", "falcon/multi-query"]
DOWN = {
    "llama": "mlp.down_proj",
    "gemma2": "mlp.down_proj",
    "gpt2": "mlp.c_proj",
    "opt": "fc2",
    "gpt_neox": "mlp.dense_4h_to_h",
    "falcon/multi-query": "mlp.dense_4h_to_h",
}
TEXT = "one two"
NEURONS = [("mlp.hidden", layer, index) for layer in range(tiny.LAYERS) for index in range(0, 40, 2)]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny_model(request, tmp_path_factory):
    """(name, loaded) of a tiny random model."""
    folder = tmp_path_factory.mktemp(request.param.replace("/", "-"))
    return request.param, loading.load(str(tiny.save(folder, request.param)))


def plainly(loaded, text, **how):
    """New token ids of transformers' own ``generate``."""
    ids = loaded.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        out = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False, **how)
    return out[0, ids["input_ids"].shape[1] :].tolist()


def decoded(loaded, ids):
    return loaded.tokenizer.decode(ids, skip_special_tokens=True)


def test_an_empty_mask_says_what_transformers_says(tiny_model):
    _, loaded = tiny_model
    table = relact.generate(loaded, [TEXT, "a longer text"], neurons=[], max_new_tokens=12)
    for row in table.itertuples():
        expected = plainly(loaded, row.text)
        assert (row.generated, row.n_tokens) == (decoded(loaded, expected), len(expected))
    assert table["condition"].tolist() == ["intact", "neurons"] * 2


def test_a_mask_says_what_plain_hooks_say(tiny_model):
    name, loaded = tiny_model
    handles = []
    _, blocks = relact_layers(loaded)
    for layer, block in enumerate(blocks):
        columns = [index for _, of_layer, index in NEURONS if of_layer == layer]

        def hook(module, inputs, columns=columns):
            changed = inputs[0].clone()
            changed[..., columns] = 0
            return (changed,)

        handles.append(block.get_submodule(DOWN[name]).register_forward_pre_hook(hook))
    expected = plainly(loaded, TEXT)
    for handle in handles:
        handle.remove()
    table = relact.generate(loaded, TEXT, neurons=NEURONS, max_new_tokens=12)
    assert table["generated"].tolist() == [decoded(loaded, ids) for ids in (plainly(loaded, TEXT), expected)]
    assert expected != plainly(loaded, TEXT)  # the neurons matter, and are back


def relact_layers(loaded):
    from relact.models.hooks import find_layers

    return find_layers(loaded.model)


def test_what_is_overridden_in_ones_own_code(tiny_model):
    """Factors, values and their two forms of mask, against the tensors that the model goes on with."""
    _, loaded = tiny_model
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]

    def hidden(**how):
        """[token, neuron] of the first layer's hidden neurons, as down_proj takes them."""
        found = []
        with relact.overridden(loaded, mask, **how):
            _, blocks = relact_layers(loaded)
            down = blocks[0].get_submodule(DOWN[tiny_model[0]])
            handle = down.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone()))
            loaded.model(ids)
            handle.remove()
        return found[0].flatten(0, -2)

    width = loaded.widths["mlp.hidden"]
    mask = {"mlp.hidden": np.zeros((tiny.LAYERS, width), bool)}
    intact = hidden()
    mask["mlp.hidden"][0, [3, 5]] = True
    off, half = hidden(), hidden(scale=0.5)
    every = np.arange(tiny.LAYERS * width, dtype=np.float32).reshape(tiny.LAYERS, width)
    new = hidden(values={"mlp.hidden": every})
    others = [at for at in range(width) if at not in (3, 5)]
    assert (off[:, [3, 5]] == 0).all() and torch.equal(half[:, [3, 5]], intact[:, [3, 5]] * 0.5)
    assert torch.equal(new[:, [3, 5]], torch.tensor([[3.0, 5.0]]).expand(len(new), 2))
    for changed in (off, half, new):
        assert torch.equal(changed[:, others], intact[:, others])
    mask = [("mlp.hidden", 0, 5), ("mlp.hidden", 0, 3)]
    assert torch.equal(hidden(), off) and torch.equal(hidden(scale=1.0), intact)
    assert (hidden(values={"mlp.hidden": 2.0})[:, [3, 5]] == 2).all()


def test_gradients_go_through_and_an_error_leaves_nothing_behind(tiny_model):
    _, loaded = tiny_model
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    before = loaded.model(ids).logits
    embedded = loaded.model.get_input_embeddings()(ids).requires_grad_()
    with pytest.raises(KeyError), relact.overridden(loaded.model, NEURONS, scale=0.5):
        loaded.model(inputs_embeds=embedded).logits.sum().backward()
        raise KeyError
    assert embedded.grad.abs().sum() > 0 and torch.equal(loaded.model(ids).logits, before)


def test_draws_are_seeded_and_do_not_depend_on_what_runs_together(tiny_model):
    _, loaded = tiny_model
    texts = [TEXT, "six ten"]  # of one length

    def drawn(texts, seed):
        table = relact.generate(loaded, texts, sample=True, seed=seed, max_new_tokens=12, temperature=0.9)
        return table["generated"].tolist()

    state = torch.random.get_rng_state()
    together = drawn(texts, 1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert together == [*drawn(texts[:1], 1), *drawn(texts[1:], 1)] and together != drawn(texts, 2)


# Of a store


def test_a_store_says_what_its_ablation_says(study, model):
    """Intact, under a relation's own neurons and under random ones: texts begin as the stored answers do."""
    stored, prompts = study.dataset("ablations/top-200").load(), study.prompts(schema.TEST)
    relation = prompts["relation"][0]
    rows = np.flatnonzero(prompts["relation"] == relation)
    asked = prompts["text"].iloc[rows].tolist()
    table = relact.generate(
        study, asked, relation=relation, mask="top-200", model=model, seeds=(0, 1), max_new_tokens=16
    )
    kinds = table["kind"].unique().tolist()
    assert kinds == ["intact", "own", "random"] and len(table) == 4 * len(rows)
    for row in table.itertuples():
        answer = stored[schema.GENERATED].sel(condition=row.condition, prompt=rows[row.prompt]).item()
        assert answer and row.generated.startswith(answer), (row.condition, row.prompt)


def test_factors_and_statistics_are_those_of_the_ablation(study, model):
    """``scale`` and ``set_to`` do in free text what `overridden` does with the same numbers."""
    relation = study.relations()[0]
    text = study.prompts(schema.TEST)["text"][0]
    mask = relact.mask_of(study, "top-200", relation)

    def said(**how):
        table = relact.generate(study, text, mask="top-200", relation=relation, model=model, seeds=(), **how)
        return table["generated"].tolist()

    def by_hand(**how):
        with relact.overridden(model, mask, **how):
            return relact.generate(model, text)["generated"].item()

    values = replacements(study, "on_p90", list(mask), relation)
    assert said(set_to="on_p90") == [by_hand(scale=1), by_hand(values=values)]
    assert said(scale=[0, 1, 3]) == [by_hand(scale=1), *(by_hand(scale=factor) for factor in (0, 1, 3))]
    assert said(scale=0) == said()


def test_a_random_set_is_the_ablations(study, model):
    relation = study.relations()[1]
    relations, sets = masks.read(study, "top-200")
    drawing = Drawing(study, relations, sets, "matched", study.mask_record("top-200").counted)
    text = study.prompts(schema.TEST)["text"][3]
    table = relact.generate(study, text, mask="top-200", relation=relation, model=model, seeds=[7])
    with relact.overridden(model, drawing.draw(7, relation)):
        expected = relact.generate(model, text)["generated"].item()
    assert table.set_index("condition").loc["random-7", "generated"] == expected


# What is refused


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mask": "top-200"}, "no relation is named"),
        ({"mask": "top-200", "relation": "mood"}, "no relation 'mood'"),
        ({"mask": "none", "relation": "mood"}, "no mask 'none'"),
        ({"relation": "country_capital", "neurons": []}, "neurons beside a mask"),
        ({"relation": "country_capital", "scale": 2, "set_to": "on_p90"}, "factors and 'on_p90'"),
        ({"relation": "country_capital", "set_to": "on_p1"}, "unknown mode 'on_p1'"),
        ({"relation": "country_capital", "control": "any"}, "unknown control"),
        ({"max_new_tokens": 0}, "no token"),
        ({"sample": True, "top_p": 2}, "top_p 2"),
        ({"neurons": [("mlp.hidden", 0, 99_999)]}, "no neuron 99999"),
        ({"neurons": [("mlp.middle", 0, 1)]}, "unknown site 'mlp.middle'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(study, model, how, said):
    with pytest.raises(InputError, match=said):
        relact.generate(study, "A word", model=model, **how)


def test_a_mask_needs_a_store_and_a_layer_must_be_there(model):
    with pytest.raises(InputError, match="needs a store"):
        relact.generate(model, "A word", mask="top-200", relation="country_capital")
    with pytest.raises(InputError, match="'' has no token"):
        relact.generate(model_without_bos(model), "")
    with pytest.raises(ModelError, match="no layer 77"):
        relact.generate(model, "A word", neurons=[("mlp.hidden", 77, 0)])


def model_without_bos(model):
    from dataclasses import replace

    return replace(model, tokenizer=tiny.tokenizer(bos=False))


def test_places_and_files_are_told_apart(study, tmp_path):
    assert is_store(study.path) and is_store("https://example.org/a.zarr.zip") and is_store("new.zarr")
    assert not is_store("smollm2") and not is_store("org/model") and not is_store(str(tmp_path))
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n\ntwo\n")
    (tmp_path / "table.csv").write_text('text,n\n"a, b",1\n')
    (tmp_path / "table.jsonl").write_text('{"text": "c"}\n')
    assert texts_of(lines) == ["one", "two"]
    assert texts_of(tmp_path / "table.csv") == ["a, b"] and texts_of(tmp_path / "table.jsonl") == ["c"]
    (tmp_path / "other.csv").write_text("word\nx\n")
    with pytest.raises(InputError, match="no column text"):
        texts_of(tmp_path / "other.csv")


def test_the_command_says_all_of_it(relact, study, tmp_path):
    folder = tiny.save_talker(tmp_path / "talker")
    relation = study.relations()[0]
    how = ("--mask", "top-200", "--relation", relation, "--model", folder, "--max-new-tokens", 4)
    code, out, err = relact("generate", study.path, "A word", *how)
    assert code == 0, err
    assert all(name in out for name in ("A word", "intact", relation, "random-0"))
    code, out, err = relact("generate", study.path, "A word", *how, "--json", "--scale", "0,2")
    assert code == 0 and f"{relation} x2" in out
    code, out, err = relact("generate", folder, "A word", "--neuron", "mlp.hidden/0")
    assert code == 2 and "SITE/LAYER/INDEX" in err

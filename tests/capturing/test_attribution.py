"""Attributions equal a plain autograd computation, one prompt at a time; and do what they promise to first
order.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import sample, tiny

from relact import schema, sites
from relact.capturing import passes
from relact.capturing.attributing import attribute_batch
from relact.capturing.capture import capture
from relact.capturing.objectives import objective_of
from relact.capturing.options import CaptureOptions
from relact.errors import IdentityError, InputError, ModelError, NumericError
from relact.models import gradients
from relact.models.forward import pad
from relact.models.hooks import visit
from relact.models.loading import LoadedModel, encode
from relact.store import local
from relact.store.verify import verify

HIDDEN = "attributions/mlp.hidden"
# family -> site -> (module of a layer, whether its input, columns)
PLACES = {
    "llama": {"mlp.hidden": ("model.layers.{}.mlp.down_proj", True, slice(None))},
    "phi3": {
        "mlp.hidden": ("model.layers.{}.mlp.down_proj", True, slice(None)),
        "mlp.up": ("model.layers.{}.mlp.gate_up_proj", False, slice(44, 88)),
        "attn.v": ("model.layers.{}.self_attn.qkv_proj", False, slice(48, 64)),
    },
    "gpt_neox": {"mlp.hidden": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", True, slice(None))},
    "gemma2": {"mlp.hidden": ("model.layers.{}.mlp.down_proj", True, slice(None))},
    "gemma3_text": {
        "mlp.hidden": ("model.layers.{}.mlp.down_proj", True, slice(None)),
        "attn.k": ("model.layers.{}.self_attn.k_proj", False, slice(None)),
    },
    "gemma3": {"mlp.hidden": ("model.language_model.layers.{}.mlp.down_proj", True, slice(None))},
    "gpt2": {"mlp.hidden": ("transformer.h.{}.mlp.c_proj", True, slice(None))},
    "opt": {"mlp.hidden": ("model.decoder.layers.{}.fc2", True, slice(None))},
}


def loaded_of(name, **options):
    model = tiny.model(name, **options)
    dtype = str(model.dtype).removeprefix("torch.")
    return LoadedModel(model, tiny.tokenizer(), name, None, "f", "t", dtype, name.partition("/")[0])


def prompts(n=9, **columns):
    """Prompts of several lengths whose answers begin with different tokens: a blank ends each prompt."""
    objects = ["cat", "dog", "owl", "eel"]
    rows = [
        {
            "text": "One is cat\n" * (number % 3) + f"Thing {'no. ' * (number % 4)}{number} is ",
            "relation": ("size", "colour")[number % 2],
            "subject": f"thing {number}",
            "object": objects[(number // 2) % 4],
            "answers": [],
            "template": "Thing {} is ",
            "language": "en",
            "split": "identify" if number < n else "test",
            "shots": 0,
            **columns,
        }
        for number in range(n + 1)
    ]
    return pd.DataFrame(rows)


def captured(loaded, tmp_path, table=None, **options):
    """The complete store of a capture in one block, small batches."""
    options = {"sites": "mlp.down", "dtype": "float32", "batch_tokens": 90, "attribution": True, **options}
    return capture(loaded, prompts() if table is None else table, tmp_path / "s.zarr", **options)


def by_hand(loaded, text, answer, site):
    """[layer, tokens, width] of one unpadded prompt: value times gradient, by plain hooks and `backward`."""
    name, of_input, columns = PLACES[loaded.id][site]
    kept, handles = {}, []
    for layer in range(loaded.n_layers):

        def keep(value, layer=layer):
            value.retain_grad()
            kept[layer] = value

        module = loaded.model.get_submodule(name.format(layer))
        if of_input:
            handles.append(module.register_forward_pre_hook(lambda _, args, keep=keep: keep(args[0])))
        else:
            handles.append(module.register_forward_hook(lambda _, __, output, keep=keep: keep(output)))
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    loaded.model.requires_grad_(True)
    try:
        logits = loaded.model(ids).logits[0, -1]
        logits.float().log_softmax(-1)[loaded.tokenizer(answer)["input_ids"][1]].backward()
    finally:
        loaded.model.zero_grad()
        loaded.model.requires_grad_(False)
        for handle in handles:
            handle.remove()
    values = [(kept[layer].detach() * kept[layer].grad)[..., columns] for layer in range(loaded.n_layers)]
    return torch.stack([value.reshape(ids.shape[1], -1) for value in values]).numpy()


def close(found, expected):
    """To a ten-thousandth of the largest value."""
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "site"), [(name, site) for name, places in PLACES.items() for site in places]
)
def test_attributions_are_those_of_plain_autograd(family, site, tmp_path):
    loaded, table = loaded_of(family), prompts()
    store = captured(loaded, tmp_path, attribution_sites=site)
    stored = sample.read(store, f"attributions/{site}")
    assert stored.shape == (9, 3, loaded.widths[site]) and stored.dtype == np.float32
    for row in range(9):
        close(stored[row], by_hand(loaded, table.text[row], table.object[row], site).sum(axis=1))


@pytest.mark.parametrize("name", ["falcon/multi-query", "olmo/clipped", "bloom", "gptj", "llama"])
def test_every_site_of_families_that_write_into_their_tensors(name, tmp_path):
    """A site's own values and gradients, though Falcon adds to the MLP's output and OLMo clips in place."""
    loaded = loaded_of(name)
    chosen = [site for site in sites.SITES if site in loaded.widths]
    store = captured(loaded, tmp_path, sites=chosen, attribution_sites=chosen)
    tokens = encode(loaded, prompts().text[:2].tolist())
    for site in chosen:
        for layer in range(3):
            for row in range(2):
                leaf = []

                def replace(_, __, values, leaf=leaf):
                    leaf.append(values.detach().requires_grad_())
                    return leaf[0].clone()

                with visit(loaded.model, [site], replace, layers=[layer]):
                    logits = loaded.model(torch.tensor([tokens[row]])).logits[0, -1]
                answer = loaded.tokenizer(prompts().object[row])["input_ids"][1]
                (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[answer], leaf)
                expected = (leaf[0].detach() * gradient)[0].sum(dim=0).numpy()
                found = sample.read(store, f"attributions/{site}")[row, layer]
                np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])  # others compute norms in float32 whatever they are
def test_their_sum_is_what_scaled_units_cost_to_first_order(name):
    """Units of one layer times 1 - eps: log p changes by -eps times the sum of their attributions."""
    loaded = loaded_of(name, dtype=torch.float64)
    rows = encode(loaded, prompts().text[:4].tolist())
    targets = torch.tensor([70, 71, 72, 73])
    ids, mask = pad(rows, loaded.device)
    ends = mask.sum(dim=1) - 1

    def log_probability():
        logits = loaded.model(input_ids=ids, attention_mask=mask.long()).logits[torch.arange(4), ends]
        return gradients.log_probability(logits, targets)

    with gradients.traced(loaded.model, ["mlp.hidden"], ends):
        pass  # leaves nothing behind
    with gradients.traced(loaded.model, ["mlp.hidden"], ends) as trace:
        logits = loaded.model(input_ids=ids, attention_mask=mask.long()).logits
        assert logits.shape[1] == 1
        total = gradients.log_probability(logits[:, 0], targets).sum()
    for _, layer, values in gradients.products(trace, total):
        assert values.dtype == torch.float64
        chosen = torch.arange(values.shape[-1]) % 3 == 0
        change = {}
        for eps in (-1e-4, 1e-4):
            scale = 1 - eps * chosen.double()
            with visit(loaded.model, ["mlp.hidden"], lambda _, __, v, scale=scale: v * scale, layers=[layer]):
                change[eps] = log_probability()
        slope = (change[1e-4] - change[-1e-4]) / 2e-4
        predicted = -(values * mask[..., None])[..., chosen].sum(dim=(1, 2))
        torch.testing.assert_close(slope, predicted, rtol=1e-6, atol=1e-6)


def test_batch_mates_and_blocks_change_nothing(tmp_path):
    loaded, found = loaded_of("llama"), []
    for number, options in enumerate(({"batch_tokens": 40}, {"batch_tokens": 2048}, {"block": 4})):
        (tmp_path / str(number)).mkdir()
        store = captured(loaded, tmp_path / str(number), **options)
        found.append((sample.read(store, HIDDEN), sample.read(store, "mlp.down")))
    for attributions, activations in found[1:]:
        np.testing.assert_allclose(attributions, found[0][0], atol=2e-5 * np.abs(found[0][0]).max())
        np.testing.assert_allclose(activations, found[0][1], atol=1e-5, rtol=1e-5)


def test_activations_beside_attributions_are_those_without(tmp_path):
    loaded = loaded_of("llama")
    (tmp_path / "plain").mkdir()
    both = captured(loaded, tmp_path, sites="all")
    plain = captured(loaded, tmp_path / "plain", sites="all", attribution=False)
    assert plain.manifest.capture.attribution is None and not plain.has("attributions")
    for site in plain.layouts:
        np.testing.assert_allclose(sample.read(both, site), sample.read(plain, site), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", schema.ATTRIBUTION_POOLS)
def test_what_is_pooled(pool, tmp_path):
    loaded, table = loaded_of("llama"), prompts()
    stored = sample.read(captured(loaded, tmp_path, attribution_pool=pool), HIDDEN)
    for row in range(9):
        of_token = by_hand(loaded, table.text[row], table.object[row], "mlp.hidden")
        line = len(table.text[row].splitlines()[-1])  # a byte is a token
        # without examples the first token belongs to the prompt as well
        first = 0 if pool == "sum" or (pool == "own" and row % 3 == 0) else -1 if pool == "last" else -line
        close(stored[row], of_token[:, first:].sum(axis=1))


def test_contrast_is_the_difference_of_two_answers(tmp_path):
    loaded, table = loaded_of("llama"), prompts()
    stored = sample.read(captured(loaded, tmp_path, target="contrast"), HIDDEN)
    for row in range(9):
        others = table[:9][(table.relation == table.relation[row])[:9]].object
        other = next(name for name in others.value_counts().index if name != table.object[row])
        expected = [
            by_hand(loaded, table.text[row], answer, "mlp.hidden") for answer in (table.object[row], other)
        ]
        close(stored[row], (expected[0] - expected[1]).sum(axis=1))


@pytest.mark.parametrize("token", ["q", "#84", 84])
def test_one_token_for_all_needs_no_answers(token, tmp_path):
    loaded, table = loaded_of("llama"), prompts(object="")
    store = captured(loaded, tmp_path, table, target="token", target_token=token)
    number = loaded.tokenizer("q", add_special_tokens=False)["input_ids"][0]
    recorded = store.manifest.capture.attribution.token
    assert recorded == (number if token == "q" else 84)
    if token == "q":
        close(sample.read(store, HIDDEN)[3], by_hand(loaded, table.text[3], "q", "mlp.hidden").sum(axis=1))


def test_a_distractor_stays_when_other_answers_come_later(tmp_path):
    """Rows captured again after an append are the rows that were there."""
    loaded, options = loaded_of("llama"), {"target": "contrast", "block": 4}
    captured(loaded, tmp_path, prompts(8), **options)
    more = prompts(16).assign(object=lambda rows: rows.object.where(rows.index < 8, "yak"))[9:16]
    store = captured(loaded, tmp_path, more, append=True, **options)
    before = sample.read(store, HIDDEN)
    (store.path / "commits" / "record" / "c.0.0").unlink()
    again = captured(loaded, tmp_path, more, append=True, **options)
    np.testing.assert_array_equal(sample.read(again, HIDDEN), before)


def test_bfloat16_is_multiplied_and_summed_in_float32(tmp_path):
    loaded, table = loaded_of("llama", dtype=torch.bfloat16), prompts(2)
    store = captured(loaded, tmp_path, table, batch_tokens=1)  # a batch is a prompt
    name = PLACES["llama"]["mlp.hidden"][0]
    kept = []

    def keep(_, inputs):
        inputs[0].retain_grad()
        kept.append(inputs[0])

    ids = loaded.tokenizer(table.text[1], return_tensors="pt")["input_ids"]
    loaded.model.requires_grad_(True)
    for layer in range(3):
        loaded.model.get_submodule(name.format(layer)).register_forward_pre_hook(keep)
    answer = loaded.tokenizer(table.object[1])["input_ids"][1]
    loaded.model(ids).logits[0, -1].float().log_softmax(-1)[answer].backward()
    exact = [(value.detach().float() * value.grad.float())[0].sum(dim=0) for value in kept]
    found = torch.from_numpy(sample.read(store, HIDDEN)[1].copy())
    torch.testing.assert_close(found, torch.stack(exact), rtol=1e-3, atol=1e-3 * found.abs().max().item())


def test_a_model_with_gradients_gets_them_back_and_computes_what_it_did(tmp_path):
    loaded = loaded_of("llama")
    ids = torch.tensor([[5, 6, 7]])
    before = loaded.model(ids).logits
    loaded.model.requires_grad_(True)
    captured(loaded, tmp_path)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in loaded.model.parameters())
    assert torch.equal(loaded.model(ids).logits, before)


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch):
    loaded, seen = loaded_of("llama"), []
    (tmp_path / "whole").mkdir()
    whole = sample.read(captured(loaded, tmp_path / "whole", batch_tokens=1), HIDDEN)

    def small(loaded, tokens, *rest):
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("no room")
        seen.append(len(tokens))
        return attribute_batch(loaded, tokens, *rest)

    monkeypatch.setattr(passes, "attribute_batch", small)
    found = sample.read(captured(loaded, tmp_path, batch_tokens=2048), HIDDEN)
    assert sum(seen) == 9 and max(seen) == 2
    np.testing.assert_allclose(found, whole, atol=1e-5 * np.abs(whole).max())


# What is refused


def test_a_prompt_without_an_answer_is_named_before_anything_is_written(tmp_path):
    table = prompts()
    table.loc[[4, 7], "object"] = ""
    with pytest.raises(InputError) as told:
        captured(loaded_of("llama"), tmp_path, table)
    assert "identification prompt 4: " in str(told.value) and "(and 1 more)" in str(told.value)
    assert "Thing 4 is " in str(told.value) and "--target token" in str(told.value)
    assert "\n" not in str(told.value) and list(tmp_path.iterdir()) == []


def test_a_relation_of_one_answer_has_no_contrast(tmp_path):
    with pytest.raises(InputError, match="no other answer of its relation"):
        captured(loaded_of("llama"), tmp_path, prompts(object="cat"), target="contrast")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": "loss"}, "'loss' is not known"),
        ({"attribution_pool": "mean"}, "'mean' is not known"),
        ({"attribution_dtype": "bfloat16"}, "'bfloat16' is not known"),
        ({"attribution_sites": "mlp.out"}, "unknown site mlp.out"),
        ({"target": "token"}, "Give --target token and --target-token"),
        ({"target_token": "a"}, "Give --target token and --target-token"),
        ({"attribution": False, "attribution_pool": "own"}, "Add --attribution"),
    ],
)
def test_choices_that_do_not_exist_or_go_together(options, problem):
    with pytest.raises(InputError, match=problem):
        CaptureOptions(**{"attribution": True, **options})


@pytest.mark.parametrize(
    ("token", "problem"), [("ab", "'ab' is 2 tokens for this model: 'a', 'b'"), (900, "no token 900")]
)
def test_a_target_that_is_not_one_token(token, problem, tmp_path):
    with pytest.raises(InputError, match=problem):
        captured(loaded_of("llama"), tmp_path, target="token", target_token=token)


def test_a_site_that_the_family_lacks(tmp_path):
    with pytest.raises(ModelError, match=r"has no mlp\.gate"):
        captured(loaded_of("gpt2"), tmp_path, attribution_sites="mlp.gate")


def test_an_alias_is_what_the_family_has(tmp_path):
    store = captured(loaded_of("gpt2"), tmp_path, attribution_sites="mlp")
    assert store.manifest.capture.attribution.sites == ("mlp.up", "mlp.down")


def test_another_way_to_attribute_is_another_store(tmp_path):
    loaded = loaded_of("llama")
    captured(loaded, tmp_path)
    with pytest.raises(IdentityError, match=r"capture\.attribution\.pool = sum, this run has own"):
        captured(loaded, tmp_path, attribution_pool="own")
    with pytest.raises(IdentityError, match=r"capture\.attribution"):
        captured(loaded, tmp_path, attribution=False)
    assert local.open(tmp_path / "s.zarr").missing_blocks() == []


@pytest.mark.parametrize(
    ("factor", "problem"),
    [
        (1e9, r"the attribution of neuron \d+ on prompt 0 is -?inf, or too large for float16"),
        (1e-9, r"\d+ of 396 values of prompts 0 to 8 are too small for float16: they would be 0"),
    ],
)
def test_what_float16_cannot_hold_is_named(factor, problem, tmp_path, monkeypatch):
    products = gradients.products

    def scaled(*arguments):
        return ((site, layer, values * factor) for site, layer, values in products(*arguments))

    loaded = loaded_of("llama")
    monkeypatch.setattr(gradients, "products", scaled)
    with pytest.raises(NumericError, match=problem) as told:
        captured(loaded, tmp_path, attribution_dtype="float16")
    assert "site mlp.hidden, layer 0" in str(told.value) and "--attribution-dtype float32" in str(told.value)
    again = captured(loaded, tmp_path, attribution_dtype="float32")  # the same store: it holds nothing yet
    assert again.missing_blocks() == [] and verify(again.path).ok
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_float16_holds_ordinary_ones(tmp_path):
    loaded = loaded_of("llama")
    (tmp_path / "half").mkdir()
    wide, half = (
        sample.read(captured(loaded, path, attribution_dtype=dtype), HIDDEN)
        for path, dtype in ((tmp_path, "float32"), (tmp_path / "half", "float16"))
    )
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, wide.astype(np.float16))


def test_no_objective_where_nothing_is_attributed():
    settings = CaptureOptions().record()
    assert objective_of(loaded_of("llama"), prompts(), [], settings) is None

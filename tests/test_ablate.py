"""Ablation gives the verdicts of the straightforward way: one condition at a time, plain hooks, ``generate``."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from relact import ablate, masks, models, prompts, schema
from relact.ablate import Condition
from relact.errors import IdentityError, InputError
from relact.hooks import visit

MODULES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}


def straightforward(loaded, text, off):
    """Greedy two tokens with the neurons of ``off`` zeroed by plain forward hooks."""
    handles = []
    for site, mask in off.items():
        for layer, block in enumerate(loaded.model.model.layers):
            columns = torch.from_numpy(mask[layer])

            def hook(module, inputs, output, columns=columns):
                return output.masked_fill(columns, 0)

            handles.append(getattr(block.mlp, MODULES[site]).register_forward_hook(hook))
    ids = loaded.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        out = loaded.model.generate(**ids, max_new_tokens=2, do_sample=False)
    for handle in handles:
        handle.remove()
    return loaded.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_verdicts_and_texts_equal_plain_generate(study, smollm2):
    tests = study.prompts(schema.TEST)
    result = study.dataset("ablations/top-200").load()
    relations, chosen = masks.read(study, "top-200")
    off = {"intact": {}, "random-1": masks.random_matched(chosen, 1)}
    off |= {name: {site: mask[at] for site, mask in chosen.items()} for at, name in enumerate(relations)}
    assert set(off) < set(result["condition"].values)
    for condition, neurons in off.items():
        for row, test in tests.iterrows():
            text = straightforward(smollm2, test.text, neurons)
            stored = result.sel(condition=condition, prompt=row)
            assert str(stored["generated"].values) == text
            assert bool(stored["correct"]) == prompts.is_correct(text, test.answers)


def test_accuracy_is_the_mean_of_the_verdicts_per_relation(study):
    result = study.dataset("ablations/top-200").load()
    relation_of = study.prompts(schema.TEST).relation.to_numpy()
    for relation in study.relations():
        expected = result["correct"].values[:, relation_of == relation].mean(axis=1)
        np.testing.assert_allclose(result["accuracy"].sel(relation=relation).values, expected, rtol=1e-6)
    assert result.attrs["k"] == 200 and result.attrs["mode"] == "zero"
    assert list(result.attrs["seeds"]) == [0, 1] and result.attrs["match"] == "prefix"


def test_logits_differ_inside_and_are_bit_identical_afterwards(study, smollm2):
    ids = torch.tensor([smollm2.tokenizer("The capital of France is")["input_ids"]])
    _, chosen = masks.read(study, "top-200")
    off = {site: torch.from_numpy(mask[0]) for site, mask in chosen.items()}

    def zero(site, layer, values):
        return values.masked_fill(off[site][layer], 0)

    with torch.inference_mode():
        before = smollm2.model(ids).logits
        with visit(smollm2.model, list(off), zero):
            inside = smollm2.model(ids).logits
        after = smollm2.model(ids).logits
    assert not torch.equal(before, inside)
    assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt", "falcon/multi-query", "gemma2", "bloom", "phi3"])
@pytest.mark.parametrize("batch_rows", [2, 96])
def test_every_row_has_its_own_mask_whatever_its_batch_mates(name, batch_rows):
    """Tiny random models: conditions in one batch, shared prefixes, small and large batches equal one row at a time."""
    model = tiny.model(name)
    loaded = models.LoadedModel(model, tiny.tokenizer(), name, None, "", "", "float32", name.partition("/")[0])
    generator = np.random.default_rng(2)
    shared = generator.integers(3, 250, 40).tolist()
    tokens = [[*shared, *generator.integers(3, 250, n).tolist()] for n in (2, 4, 4, 3, 2)] + [[5, 6, 7], [8, 9]]
    site = "mlp.up"
    shape = (loaded.n_layers, loaded.widths[site])
    conditions = [Condition("intact", {})]
    conditions += [Condition(str(seed), {site: np.random.default_rng(seed).random(shape) < 0.5}) for seed in range(3)]
    together = ablate.generate(loaded, tokens, conditions, batch_rows=batch_rows)
    for at, condition in enumerate(conditions):
        for row, ids in enumerate(tokens):
            assert together[at, row] == one_by_one(loaded, ids, condition)


def one_by_one(loaded, ids, condition):
    """Two greedy tokens without any cache: the whole prompt again for each."""
    ids, start = list(ids), len(ids)
    for _ in range(2):
        with torch.inference_mode():
            if condition.off:
                off = {site: torch.from_numpy(mask) for site, mask in condition.off.items()}
                with visit(loaded.model, list(off), lambda site, layer, v, off=off: v.masked_fill(off[site][layer], 0)):
                    logits = loaded.model(torch.tensor([ids])).logits
            else:
                logits = loaded.model(torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == loaded.model.generation_config.eos_token_id:
            break
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_results_are_reused(study, smollm2, monkeypatch):
    monkeypatch.setattr(ablate, "generate", lambda *_, **__: pytest.fail("computed again"))
    again = ablate.ablate(study, mask="top-200", model=smollm2, seeds=[0, 1])
    assert again["accuracy"].shape == (6, 3)


def test_another_model_is_refused(study, tiny_folder):
    with pytest.raises(IdentityError, match="the store records model fingerprint"):
        ablate.ablate(study, mask="top-200", model=str(tiny_folder), name="other", seeds=[7])


def test_mask_or_k_but_not_both(study):
    for options in ({}, {"mask": "top-200", "k": 3}):
        with pytest.raises(InputError, match="exactly one"):
            ablate.ablate(study, **options)

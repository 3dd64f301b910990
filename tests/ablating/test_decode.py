"""Packs of prompts, joining conditions and early verdicts change no token of any family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import tiny

from relact.ablating import decode
from relact.ablating.conditions import Condition
from relact.models import loading
from relact.models.hooks import visit

SITE = "mlp.up"
# families whose attention takes packs of prompts, and those that get a row per prompt
PACKED = (
    "llama",
    "gpt2",
    "gpt_neox",
    "opt",
    "falcon/multi-query",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gptj",
    "cohere2",
)
APART = ("bloom", "mpt", "falcon/multi-head")


def loaded_tiny(name):
    return loading.LoadedModel(
        tiny.model(name), tiny.tokenizer(), name, None, "", "", "float32", name.partition("/")[0]
    )


def token_rows():
    """Prompts with one long common beginning, with a short one, with none; of different lengths."""
    generator = np.random.default_rng(2)
    draw = lambda n: generator.integers(3, 250, n).tolist()  # noqa: E731
    shared, short = draw(40), draw(3)
    long = [[*shared, *draw(n)] for n in (2, 4, 4, 3, 2, 5)]
    return [*long, *([*short, *draw(n)] for n in (1, 2, 2) * 20), [5, 6, 7], [8, 9]]


def some_conditions(loaded):
    """From the lowest layer, from the highest only, with values, with nothing to override."""
    shape = (loaded.n_layers, loaded.widths[SITE])
    off = np.random.default_rng(1).random((3, *shape)) < 0.5
    off[1, :-1] = False
    return [
        Condition("low", {SITE: off[0]}),
        Condition("intact", {}),
        Condition("high", {SITE: off[1]}),
        Condition("values", {SITE: off[2]}, {SITE: np.random.default_rng(3).random(shape, np.float32)}),
        Condition("empty", {SITE: np.zeros(shape, bool)}),
    ]


def all_texts(loaded, tokens, conditions, **options):
    texts = np.full((len(conditions), len(tokens)), None, object)

    def finished(part, rows, found):
        for at, own in zip(part, found, strict=True):
            assert (texts[at, list(rows)] == np.array(None)).all()  # nothing twice
            texts[at, list(rows)] = own

    decode.decode(loaded, tokens, conditions, finished, **options)
    return texts


def one_by_one(loaded, ids, condition, last=False):
    """Two greedy tokens without any cache: the whole prompt again for each."""
    ids, start = list(ids), len(ids)
    first = start - 1 if last else 0

    def override(site, layer, values):
        off = torch.from_numpy(condition.off[site][layer])
        new = torch.from_numpy(condition.values[site][layer]) if condition.values else torch.zeros(len(off))
        values = values.clone()
        values[:, first:, off] = new[off]
        return values

    for _ in range(2):
        with (
            torch.inference_mode(),
            visit(loaded.model, list(condition.off) or [SITE], override if condition.off else keep),
        ):
            logits = loaded.model(torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == loaded.model.generation_config.eos_token_id:
            break
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)


def keep(site, layer, values):
    return None


@pytest.mark.parametrize("name", [*PACKED, *APART])
@pytest.mark.parametrize("last", [False, True])
def test_every_row_has_its_own_overrides_whatever_its_batch_mates(name, last):
    loaded = loaded_tiny(name)
    tokens, conditions = token_rows(), some_conditions(loaded)
    together = all_texts(loaded, tokens, conditions, last=last, batch_tokens=200)
    for at, condition in enumerate(conditions):
        for row in (*range(6), 6, 7, 25, 26, 64, 66, 67):
            assert together[at, row] == one_by_one(loaded, tokens[row], condition, last)
    assert not np.array_equal(together[0], together[1])
    assert np.array_equal(together[1], together[4])


@pytest.mark.parametrize("name", ["llama", "bloom"])
@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_batches_of_any_size_say_the_same(name, batch_tokens):
    loaded = loaded_tiny(name)
    tokens, conditions = token_rows(), some_conditions(loaded)
    expected = all_texts(loaded, tokens, conditions, batch_tokens=300)
    assert np.array_equal(all_texts(loaded, tokens, conditions, batch_tokens=batch_tokens), expected)


@pytest.mark.parametrize(
    ("name", "packs"), [*((name, True) for name in PACKED), *((name, False) for name in APART)]
)
def test_a_trial_finds_out_whether_prompts_can_be_packed(name, packs, monkeypatch):
    loaded = loaded_tiny(name)
    used = []
    real = decode._answer_packed
    monkeypatch.setattr(decode, "_answer_packed", lambda *given: used.append(1) or real(*given))
    all_texts(loaded, token_rows(), some_conditions(loaded))
    assert bool(used) == packs


def test_a_window_shorter_than_a_pack_is_respected():
    """A sliding window counts places in memory, so packs must stay inside it."""
    model = tiny.model("mistral", sliding_window=50)
    loaded = loading.LoadedModel(model, tiny.tokenizer(), "m", None, "", "", "float32", "mistral")
    tokens, conditions = token_rows(), some_conditions(loaded)
    together = all_texts(loaded, tokens, conditions)
    for at, condition in enumerate(conditions):
        for row in (0, 3, 5, 30, 67):
            assert together[at, row] == one_by_one(loaded, tokens[row], condition)


def test_a_second_token_only_where_the_verdict_is_open():
    loaded = loaded_tiny("llama")
    tokens, conditions = token_rows(), some_conditions(loaded)
    whole = all_texts(loaded, tokens, conditions)
    asked = []

    def is_open(prompt, text):
        asked.append((prompt, text))
        return prompt % 3 == 0

    part = all_texts(loaded, tokens, conditions, is_open=is_open)
    for row in range(len(tokens)):
        for long, short in zip(whole[:, row], part[:, row], strict=True):
            assert short == long if row % 3 == 0 else long.startswith(short.rstrip("\ufffd"))
    assert any(len(short) < len(long) for short, long in zip(part[:, 1], whole[:, 1], strict=True))
    assert {prompt for prompt, _ in asked} == set(range(len(tokens)))


def test_only_what_is_still_to_be_done():
    loaded = loaded_tiny("llama")
    tokens, conditions = token_rows(), some_conditions(loaded)
    todo = np.zeros((len(conditions), len(tokens)), bool)
    todo[2, :6] = True
    part = all_texts(loaded, tokens, conditions, todo=todo)
    assert np.array_equal(part != np.array(None), todo)
    assert np.array_equal(part[todo], all_texts(loaded, tokens, conditions)[todo])

"""Packs of prompts, joining conditions and early verdicts change no token of any family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import deep, shrunk, tiny

from relact.ablating import decode, packs
from relact.ablating.conditions import Condition
from relact.models import loading
from relact.models.hooks import visit
from relact.models.selfcheck import Shortcuts

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
USUAL = ("llama", "gpt2", "gemma2", "bloom")


def loaded_tiny(name, shortcuts=Shortcuts()):  # noqa: B008, a frozen record
    return loading.LoadedModel(
        tiny.model(name),
        tiny.tokenizer(),
        name,
        None,
        "",
        "",
        "float32",
        name.partition("/")[0],
        shortcuts=shortcuts,
    )


def token_rows():
    """Prompts with one long common beginning, with a short one, with none; of different lengths."""
    generator = np.random.default_rng(2)
    draw = lambda n: generator.integers(3, 250, n).tolist()  # noqa: E731
    shared, short = draw(40), draw(3)
    long = [[*shared, *draw(n)] for n in (2, 4, 4, 3, 2, 5)]
    return [*long, *([*short, *draw(n)] for n in (1, 2, 2) * 20), [5, 6, 7], [8, 9]]


def some_conditions(loaded):
    """From the lowest layer, from the highest only, with values, with nothing to override, multiplied."""
    shape = (loaded.n_layers, loaded.widths[SITE])
    off = np.random.default_rng(1).random((3, *shape)) < 0.5
    off[1, :-1] = False
    return [
        Condition.of("low", {SITE: off[0]}),
        Condition("intact", {}),
        Condition.of("high", {SITE: off[1]}),
        Condition.of("values", {SITE: off[2]}, {SITE: np.random.default_rng(3).random(shape, np.float32)}),
        Condition.of("empty", {SITE: np.zeros(shape, bool)}),
        Condition.of("half", {SITE: off[0]}).scaled(0.5),
        Condition.of("more", {SITE: off[1]}).scaled(1.7),
        Condition.of("times 0", {SITE: off[0]}).scaled(0),
        # what `scaled` would not ask to be computed
        replace(Condition.of("times 1", {SITE: off[2]}), factor=1.0),
    ]


def asked(tokens, is_open=lambda prompt, text, n_tokens: n_tokens < 4):
    """Questions whose answers and distractors begin with any token; every seventh has none."""
    targets, distractors = np.random.default_rng(4).integers(3, 250, (2, len(tokens)))
    targets[::7] = distractors[::5] = -1
    return decode.Questions(tokens, targets, distractors, is_open)


def all_replies(loaded, questions, conditions, **options):
    shape = (len(conditions), len(questions.tokens))
    texts, numbers = np.full(shape, None, object), np.full((2, *shape), np.nan, np.float32)

    def finished(part, rows, found):
        there = np.ix_(part, rows)
        assert (texts[there] == np.array(None)).all()  # nothing twice
        texts[there] = found.texts
        numbers[:, *there] = found.log_probability, found.logit_difference

    decode.decode(loaded, questions, conditions, finished, **options)
    return texts, numbers


def all_texts(loaded, tokens, conditions, is_open=None, **options):
    questions = asked(tokens, is_open) if is_open else asked(tokens)
    return all_replies(loaded, questions, conditions, **options)[0]


def one_by_one(loaded, ids, condition, last=False, n_tokens=4):
    """Greedy tokens without any cache, the whole prompt again for each; and the logits after the prompt."""
    ids, start, first_logits = list(ids), len(ids), None
    first = start - 1 if last else 0

    def override(site, layer, values):
        neurons, new = condition.entries(site, layer)
        values = values.clone()
        new = torch.from_numpy(new)
        values[:, first:, neurons] = new if condition.factor is None else values[:, first:, neurons] * new
        return values

    for _ in range(n_tokens):
        with (
            torch.inference_mode(),
            visit(loaded.model, list(condition.off) or [SITE], override if condition.off else keep),
        ):
            logits = loaded.model(torch.tensor([ids])).logits[0, -1]
        first_logits = logits if first_logits is None else first_logits
        ids.append(int(logits.argmax()))
        if ids[-1] == loaded.model.generation_config.eos_token_id:
            break
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True), first_logits


def keep(site, layer, values):
    return None


@pytest.mark.parametrize("name", deep.rest([*PACKED, *APART], USUAL))
@pytest.mark.parametrize("last", [False, True])
def test_every_row_has_its_own_overrides_whatever_its_batch_mates(name, last):
    loaded = loaded_tiny(name)
    tokens, conditions = token_rows(), some_conditions(loaded)
    questions = asked(tokens)
    together, (certain, difference) = all_replies(loaded, questions, conditions, last=last, batch_tokens=200)
    for at, condition in enumerate(conditions):
        for row in (*range(6), 6, 7, 25, 26, 64, 66, 67):
            text, logits = one_by_one(loaded, tokens[row], condition, last)
            assert together[at, row] == text
            target, distractor = questions.targets[row], questions.distractors[row]
            expected = float(logits.log_softmax(0)[target]) if target >= 0 else np.nan
            np.testing.assert_allclose(certain[at, row], expected, atol=1e-4)
            known = target >= 0 and distractor >= 0
            expected = float(logits[target] - logits[distractor]) if known else np.nan
            np.testing.assert_allclose(difference[at, row], expected, atol=1e-4)
    assert not np.array_equal(together[0], together[1])
    assert np.array_equal(together[1], together[4])
    assert not np.array_equal(together[5], together[0]) and not np.array_equal(together[5], together[1])
    for scaled, same in ((7, 0), (8, 1)):
        np.testing.assert_array_equal(together[scaled], together[same])
        np.testing.assert_allclose(certain[scaled], certain[same], atol=1e-5)


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
    """Whatever comes first: where nothing is shared, the first token of packs with ALiBi is right."""
    loaded = loaded_tiny(name)
    said = []
    real = decode._can_pack
    monkeypatch.setattr(decode, "_can_pack", lambda *given: said.append(real(*given)) or said[-1])
    for tokens in (token_rows(), [[7, 8, 9, 10], [5, 6]]):
        all_texts(loaded, tokens, some_conditions(loaded))
    assert said == [packs, packs]


@pytest.mark.parametrize("last", [False, True])
def test_what_is_read_anew_for_every_token_says_the_same(last, monkeypatch):
    tokens = token_rows()[:9]
    loaded = loaded_tiny("llama")
    conditions = some_conditions(loaded)
    texts, numbers = all_replies(loaded, asked(tokens), conditions, last=last)
    monkeypatch.setattr(decode.Apart, "more", None)
    monkeypatch.setattr(decode, "Pack", None)
    anew = loaded_tiny("llama", Shortcuts(stepping=None))
    found, found_numbers = all_replies(anew, asked(tokens), conditions, last=last)
    assert np.array_equal(found, texts)
    np.testing.assert_allclose(found_numbers, numbers, atol=1e-4)


@pytest.mark.parametrize("last", [False, True])
def test_keys_and_values_that_are_computed_again_are_overridden_again(last):
    """Latent attention caches what they are computed from."""
    loaded = loading.LoadedModel(
        shrunk.model("minicpm3"), tiny.tokenizer(), "m", None, "", "", "float32", "minicpm3"
    )
    off = {site: np.random.default_rng(1).random((loaded.n_layers, loaded.widths[site])) < 0.5
           for site in ("attn.k", "attn.v")}  # fmt: skip
    tokens, conditions = token_rows()[4:9], [Condition.of("off", off)]
    together = all_texts(loaded, tokens, conditions, last=last)
    for row, ids in enumerate(tokens):
        assert together[0, row] == one_by_one(loaded, ids, conditions[0], last)[0]


@pytest.mark.parametrize("n_tokens", [2, 12])
def test_a_window_shorter_than_a_pack_is_respected(n_tokens, monkeypatch):
    """A sliding window counts places in memory, so packs must stay inside it, and long answers leave them."""
    model = tiny.model("mistral", sliding_window=50)
    loaded = loading.LoadedModel(model, tiny.tokenizer(), "m", None, "", "", "float32", "mistral")
    tokens, conditions = token_rows(), some_conditions(loaded)
    left = []
    real = packs.Pack.more

    def more(*given):
        try:
            return real(*given)
        except packs.Full:
            left.append(1)
            raise

    monkeypatch.setattr(packs.Pack, "more", more)
    together = all_texts(loaded, tokens, conditions, lambda prompt, text, said: said < n_tokens)
    assert bool(left) == (n_tokens > 2)
    for at, condition in enumerate(conditions):
        for row in (0, 3, 5, 30, 67):
            text = one_by_one(loaded, tokens[row], condition, n_tokens=n_tokens)[0]
            assert together[at, row] == text


def test_read_on_only_where_the_verdict_is_open():
    loaded = loaded_tiny("llama")
    tokens, conditions = token_rows(), some_conditions(loaded)
    whole = all_texts(loaded, tokens, conditions)
    calls = []

    def is_open(prompt, text, n_tokens):
        calls.append((prompt, n_tokens))
        return n_tokens < 1 + prompt % 4

    part = all_texts(loaded, tokens, conditions, is_open)
    for row in range(len(tokens)):
        for long, short in zip(whole[:, row], part[:, row], strict=True):
            assert short == long if row % 4 == 3 else long.startswith(short.rstrip("\ufffd"))
    assert any(len(short) < len(long) for short, long in zip(part[:, 1], whole[:, 1], strict=True))
    assert {prompt for prompt, _ in calls} == set(range(len(tokens)))
    assert all(n_tokens <= 1 + prompt % 4 for prompt, n_tokens in calls)


def test_only_what_is_still_to_be_done():
    loaded = loaded_tiny("llama")
    tokens, conditions = token_rows(), some_conditions(loaded)
    todo = np.zeros((len(conditions), len(tokens)), bool)
    todo[2, :6] = True
    part = all_texts(loaded, tokens, conditions, todo=todo)
    found = part != np.array(None)
    assert found[todo].all() and not found[[0, 1, 3, 4]].any() and found.sum() < 30
    assert np.array_equal(part[todo], all_texts(loaded, tokens, conditions)[todo])


def test_prompts_run_under_the_conditions_that_are_asked_of_them_alone():
    loaded = loaded_tiny("llama")
    questions, conditions = asked(token_rows()), some_conditions(loaded)
    wanted = np.random.default_rng(5).random((len(conditions), len(questions.tokens))) < 0.5
    texts, numbers = all_replies(loaded, questions, conditions, wanted=wanted)
    every, all_numbers = all_replies(loaded, questions, conditions)
    assert np.array_equal(texts != np.array(None), wanted)
    assert np.array_equal(texts[wanted], every[wanted])
    np.testing.assert_allclose(numbers[:, wanted], all_numbers[:, wanted], atol=1e-4)

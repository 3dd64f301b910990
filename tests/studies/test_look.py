"""What is seen token by token adds up to what a store holds, and equals plain hooks."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from helpers import tiny

import relact
from relact import schema
from relact.capturing.looking import pieces
from relact.errors import InputError
from relact.models import loading
from relact.models.loading import encode
from relact.studies.look import Look

SITES = "mlp.hidden,mlp.gate,attn.v"


@pytest.fixture(scope="module", params=["mean-sum", "max-own", "last-last", "mean-contrast", "mean-sum-skip"])
def captured(request, tmp_path_factory, tiny_prompts):
    """(store, model) of activations and attributions, pooled in different ways."""
    folder = tmp_path_factory.mktemp("looked")
    model = loading.load(str(tiny.save(folder / "model", "llama")))
    pool, how, *skip = request.param.split("-")
    target = {"target": "contrast"} if how == "contrast" else {"attribution_pool": how}
    options = {"sites": SITES, "attribution": True, "attribution_sites": SITES, "dtype": "float32", **target}
    prompts = tiny_prompts.assign(text=lambda table: "one\n" + table["text"] + " ")
    relact.capture(model, prompts, folder / "s.zarr", pool=pool, skip_first_token=bool(skip), **options)
    return relact.open_store(folder / "s.zarr"), model, pool, how


def test_tokens_add_up_to_what_is_stored(captured):
    store, model, pool, how = captured
    pooled = {"mean": lambda x: x.mean(axis=0), "max": lambda x: x.max(axis=0), "last": lambda x: x[-1]}[pool]
    for prompt in (0, 7, store.n_prompts - 1):
        seen = relact.look(store, prompt=prompt, neurons=[("mlp.up", 0, 1)], sites=SITES, model=model)
        skipped = store.manifest.capture.n_skipped
        assert skipped == seen.skipped
        start = {"own": seen.tokens.index("\n") + 1, "last": len(seen.tokens) - 1}.get(how, skipped)
        for site in SITES.split(","):
            activation, attribution = (
                store.dataset(f"{group}/{site}")[array][prompt].values
                for group, array in schema.ARRAYS.items()
            )
            found = seen[site]
            assert found["attribution"].dims == ("token", "layer", "neuron")
            np.testing.assert_allclose(
                pooled(found["activation"].values[skipped:]), activation, rtol=1e-4, atol=1e-5
            )
            summed = found["attribution"].values[start:].sum(axis=0)
            np.testing.assert_allclose(summed, attribution, rtol=1e-3, atol=2e-5 * np.abs(attribution).max())
        assert seen.values().shape == (1, len(seen.tokens))


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2", "phi3", "opt"])
def tiny_model(request, tmp_path_factory):
    return loading.load(str(tiny.save(tmp_path_factory.mktemp("model"), request.param)))


def test_a_neuron_that_is_scaled_changes_the_answer_as_its_tokens_say(tiny_model):
    """A finite difference of one neuron's value, in its own layer, over all its tokens."""
    seen = relact.look(tiny_model, "one two")
    row = seen.shown.iloc[0]
    assert row["relation"] == "" and row["site"] == "mlp.hidden" and len(seen.shown) == 10
    ids = encode(tiny_model, [seen.text])
    likely = {}
    for factor in (0.999, 1.001):
        with relact.overridden(tiny_model, [tuple(row[["site", "layer", "neuron"]])], scale=factor):
            logits = tiny_model.model(torch.tensor(ids)).logits[0, -1].log_softmax(-1)
        likely[factor] = float(logits.max())
    slope = (likely[1.001] - likely[0.999]) / 0.002
    assert seen.values()[0].sum() == pytest.approx(slope, rel=0.05, abs=2e-3)
    assert seen.log_probability == pytest.approx(np.mean(list(likely.values())), abs=1e-3)


def test_the_ten_that_carry_most_are_shown(tiny_model):
    seen = relact.look(tiny_model, "one two", n=4)
    total = np.abs(seen["mlp.hidden"]["attribution"].sum("token").values)
    shown = [total[row.layer, row.neuron] for row in seen.shown.itertuples()]
    assert shown == sorted(total.ravel(), reverse=True)[:4]


def test_tokens_join_to_the_text(tiny_model):
    text = "na\u00efve  caf\u00e9\n\u6771\u4eac"
    parts = pieces(tiny_model, text, encode(tiny_model, [text])[0])
    assert parts[0] == "<s>" and "".join(parts[1:]) == text  # a letter of several bytes is there once


@pytest.fixture(scope="module")
def seen(captured_once):
    store, model = captured_once
    return relact.look(store, "size of <b>thing</b> is", answer="3", model=model)


@pytest.fixture(scope="module")
def captured_once(tmp_path_factory, tiny_prompts):
    folder = tmp_path_factory.mktemp("scored")
    model = loading.load(str(tiny.save(folder / "model", "llama")))
    options = {"sites": "mlp", "attribution": True, "dtype": "float32"}
    relact.capture(model, tiny_prompts, folder / "s.zarr", **options)
    relact.score(folder / "s.zarr")
    return folder / "s.zarr", model


def test_the_best_of_every_relation_are_shown(captured_once, seen):
    store, model = captured_once
    best = [relact.top(store, relation=name, n=1, by="attribution").iloc[0] for name in ("size", "colour")]
    assert seen.shown["relation"].tolist() == ["size", "colour"]
    for row, expected in zip(seen.shown.itertuples(), best, strict=True):
        assert (row.site, row.layer, row.neuron) == tuple(expected[["site", "layer", "neuron"]])
    more = relact.look(store, "a", relation="size", n=3, by="activation", sites="mlp.up", model=model)
    listed = relact.top(store, relation="size", n=3, sites="mlp.up")
    assert more.shown["neuron"].tolist() == listed["neuron"].tolist() and set(more.shown["site"]) == {
        "mlp.up"
    }


def test_html_escapes_what_is_read_and_asks_for_nothing(seen, tmp_path):
    html = seen.write(tmp_path / "look.html").read_text()
    assert "&lt;" in html and "<b>thing" not in html
    assert not re.findall(r"(?:src|href)=|https?://|<script", html)
    table = seen.table()
    assert len(table) == len(seen.shown) * len(seen.tokens)
    np.testing.assert_array_equal(table["attribution"], seen.values("attribution").ravel())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "name a text, or a prompt"),
        ({"text": "a", "prompt": 1}, "name a text, or a prompt"),
        ({"prompt": 99}, "prompt 99 of 16"),
        ({"prompt": 0, "split": "dev"}, "no split 'dev'"),
        ({"text": "a", "relation": "mood"}, "no relation 'mood'"),
        ({"text": "a", "neurons": [("mlp.up", 9, 0)]}, "no neuron mlp.up/9/0"),
        ({"text": "a", "neurons": [("mlp.up", 0, 999)]}, "no neuron mlp.up/0/999"),
        ({"text": "a", "sites": "mlp.middle"}, "unknown site|none of the sites"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(captured_once, how, said):
    store, model = captured_once
    with pytest.raises(InputError, match=said):
        relact.look(store, model=model, **how)


def test_a_model_has_no_prompts(captured_once):
    with pytest.raises(InputError, match="needs a store"):
        relact.look(captured_once[1], prompt=0)


def test_the_command_shows_it_and_writes_it(command, captured_once, tmp_path):
    store, model = captured_once
    code, out, err = command("look", store, "--prompt", 3)
    assert code == 0, err
    assert "log-probability of '" in out and "answers" not in out.splitlines()[0]
    assert "attribution: nats of the answer" in out and "size" in out and "colour" in out
    assert "[+" in out  # without a terminal there are no colours: the values are said
    code, out, _ = command("look", model.id, "one two", "--neuron", "mlp.hidden/1/5", "--json")
    document = json.loads(out)
    expected = relact.look(model, "one two", neurons=[("mlp.hidden", 1, 5)])
    assert document["tokens"] == expected.tokens and isinstance(expected, Look)
    np.testing.assert_allclose(document["neurons"][0]["attribution"], expected.values()[0], rtol=1e-5)
    for name in ("look.html", "look.csv"):
        code, out, _ = command("look", store, "one two", "-o", tmp_path / name)
        assert code == 0 and (tmp_path / name).stat().st_size > 500

"""Where prompts begin and end: last positions, tokens that a tokenizer adds of itself, or none at all."""

from __future__ import annotations

import json

import pytest
from helpers import tiny
from tokenizers import Tokenizer, models, processors

import relact
from relact.errors import InputError, ModelError
from relact.models import loading

LIMIT = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("ends") / "m")


@pytest.fixture(scope="module")
def loaded(folder):
    return loading.load(str(folder))


@pytest.fixture(scope="module")
def store(loaded, tmp_path_factory, tiny_prompts):
    found = relact.capture(loaded, tiny_prompts, tmp_path_factory.mktemp("ends") / "s.zarr", sites="mlp.up")
    return relact.score(found)


def _with_tokenizer(folder, single):
    """The model with a tokenizer that makes ``single`` of a text."""
    tokens = tiny.tokenizer()
    special = [("<s>", 1), ("</s>", 2)]
    tokens._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=special
    )
    tiny.model().save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def test_nothing_is_read_beyond_the_last_position(store, loaded, tiny_prompts):
    """Rotary models have none of their own, and would go on where they never were trained."""
    others = tiny_prompts[tiny_prompts["split"] == "test"].copy()
    others["subject"] = [f"another {number}" for number in range(len(others))]
    relact.ablate(store, k=3, model=loaded, tests=others, seeds=[0])
    others["text"] = "x" * (LIMIT - 1)
    for asked in (
        lambda: relact.ablate(store, k=2, model=loaded, tests=others, seeds=[0]),
        lambda: relact.generate(loaded, "x" * 100, max_new_tokens=LIMIT - 100),
        lambda: relact.look(loaded, "x" * LIMIT),
    ):
        with pytest.raises(InputError, match=f"the model takes 1 to {LIMIT}"):
            asked()
    assert len(relact.generate(loaded, "x" * 100, max_new_tokens=LIMIT - 101)) == 1
    assert len(relact.look(loaded, "x" * (LIMIT - 1)).tokens) == LIMIT


def test_an_end_that_is_taken_off_is_not_looked_at(tmp_path):
    seen = relact.look(str(_with_tokenizer(tmp_path / "m", "<s> $A </s>")), "hello")
    assert seen.tokens == ["<s>", *"hello"]


@pytest.mark.parametrize(
    ("single", "text", "told"),
    [
        ("<s> $A", "<s>go", "prompts begin with <s>, and the tokenizer puts another in front"),
        ("<s> <s> $A", "go", "the tokenizer puts <s> in front twice"),
        ("<s> $A", "go", None),
        ("$A", "<s>go", None),
    ],
)
def test_two_beginnings_are_told(tmp_path, tiny_prompts, caplog, single, text, told):
    table = tiny_prompts.assign(text=text)
    model = str(_with_tokenizer(tmp_path / "m", single))
    relact.capture(model, table, tmp_path / "s.zarr", sites="mlp.up", dtype="float32")
    found = [line for line in caplog.messages if "in front" in line]
    assert len(found) == (told is not None) and all(told in line for line in found)


def test_a_tokenizer_of_nothing_is_a_line(tmp_path, tiny_prompts):
    place = tiny.save(tmp_path / "m")
    for file in place.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded") as caught:
        loading.load(str(place))
    assert "\n" not in str(caught.value)
    Tokenizer(models.BPE()).save(str(place / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (place / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises((ModelError, InputError), match="makes no token"):
        relact.capture(str(place), tiny_prompts, tmp_path / "s.zarr", sites="mlp.up")


@pytest.mark.parametrize("words", [250, 320])
def test_an_embedding_of_another_size_than_the_configurations_is_a_line(tmp_path, words):
    place = tiny.save(tmp_path / "m")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"vocab_size": words}))
    with pytest.raises(ModelError, match=rf"weight is 300 x 32 in the checkpoint, {words} x 32") as caught:
        loading.load(str(place))
    assert "\n" not in str(caught.value)

"""Perplexity of neutral sentences: which ones, that it is plain transformers', and when it is known."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import sample

from relact import schema
from relact.ablating import ablate
from relact.ablating import perplexity as measured
from relact.ablating.forecast import forecast
from relact.ablating.options import AblateOptions
from relact.errors import InputError
from relact.scoring import masks
from relact.store import local
from relact.studies import presets

BEGINNINGS = measured._bundled("neutral.txt").splitlines()


@pytest.fixture
def copied(study, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(study.path, tmp_path / "s.zarr")
    return local.open(tmp_path / "s.zarr")


def parted(sentence):
    """(beginning, object) of a neutral sentence."""
    (beginning,) = (each for each in BEGINNINGS if sentence.startswith(f"{each} "))
    return beginning, sentence[len(beginning) + 1 :]


def test_every_object_ends_a_sentence_before_any_ends_a_second():
    objects = [f"object {at}" for at in range(30)]
    found = [parted(sentence) for sentence in measured.neutral_sentences([*objects, "", *objects], most=70)]
    assert len(set(found)) == len(found) == 70
    assert sorted(name for _, name in found[:30]) == sorted(objects)
    assert set(Counter(name for _, name in found).values()) == {2, 3}
    assert len({beginning for beginning, _ in found}) == len(BEGINNINGS)
    few = measured.neutral_sentences(["Paris", "Rome"])
    assert len(set(few)) == 2 * len(BEGINNINGS)


def test_the_order_is_seeded_and_no_one_else_moves_when_an_object_is_added():
    objects = [f"object {at}" for at in range(300)]
    found = measured.neutral_sentences(objects)
    assert len(found) == measured.SENTENCES and found == measured.neutral_sentences(objects[::-1])
    assert found != measured.neutral_sentences(objects, seed=1)
    more = measured.neutral_sentences([*objects, "another"])
    assert len(set(found) - set(more)) <= 1


def test_without_objects_there_are_no_sentences():
    with pytest.raises(InputError, match="no test prompt has an object"):
        measured.texts_of("objects", ["", ""])
    assert measured.texts_of("text", []) == measured.plain_text()


def test_it_is_that_of_plain_transformers_on_sentences_about_the_test_objects(copied, model):
    options = {"mask": "top-200", "model": model, "seeds": [0], "perplexity": True}
    result = ablate.ablate(copied, **options, perplexity_of="objects").load()
    assert result.attrs["perplexity_of"] == "objects"
    assert copied.ablation_record("top-200").perplexity_of == "objects"
    relations, chosen = masks.read(copied, "top-200")
    sentences = measured.neutral_sentences(copied.prompts(schema.TEST)["object"])
    assert {parted(sentence)[1] for sentence in sentences} == set(copied.prompts(schema.TEST)["object"])
    off = {site: torch.from_numpy(mask[0]) for site, mask in chosen.items()}
    for condition, sets in (("intact", {}), (relations[0], off)):
        expected = perplexity_by_hooks(model, sentences, sets)
        assert float(result["perplexity"].sel(condition=condition)) == pytest.approx(expected, rel=5e-4)


def perplexity_by_hooks(loaded, sentences, off):
    """Sentence by sentence, with the neurons of ``off`` zeroed by plain hooks."""
    names = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}
    handles = [
        getattr(block.mlp, names[site]).register_forward_hook(
            lambda module, inputs, output, columns=mask[layer]: output.masked_fill(columns, 0)
        )
        for site, mask in off.items()
        for layer, block in enumerate(loaded.model.model.layers)
    ]
    losses, n = 0.0, 0
    for sentence in sentences:
        ids = loaded.tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            losses += float(loaded.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        n += ids.shape[1] - 1
    for handle in handles:
        handle.remove()
    return np.exp(losses / n)


def test_what_is_measured_stays_until_another_is_asked_for(copied, model, monkeypatch):
    options = {"mask": "top-200", "model": model, "seeds": [0]}
    text = ablate.ablate(copied, **options, perplexity=True).load()
    assert text.attrs["perplexity_of"] == "text"
    with monkeypatch.context() as patched:
        patched.setattr(ablate, "measure", lambda *_, **__: pytest.fail("measured"))
        assert "perplexity" in ablate.ablate(copied, **options)  # not asked for, and not thrown away
        assert ablate.ablate(copied, **options, perplexity=True).load().equals(text)
    objects = ablate.ablate(copied, **options, perplexity=True, perplexity_of="objects").load()
    assert (objects["perplexity"] != text["perplexity"]).all()
    assert objects["correct"].equals(text["correct"])


def test_a_result_that_does_not_say_what_it_measured_measured_the_text(copied, model, monkeypatch):
    options = {"mask": "top-200", "model": model, "seeds": [0], "perplexity": True}
    ablate.ablate(copied, **options)
    with sample.edited(copied.path, "ablations/top-200") as group:
        record = dict(group.attrs[schema.ATTRIBUTE])
        del record["perplexity_of"]
        group.attrs.update({schema.ATTRIBUTE: record})
    again = local.open(copied.path)
    assert again.ablation_record("top-200").perplexity_of is None
    monkeypatch.setattr(ablate, "measure", lambda *_, **__: pytest.fail("measured"))
    assert "perplexity" in ablate.ablate(again, **options)
    with pytest.raises(pytest.fail.Exception, match="measured"):
        ablate.ablate(again, **options, perplexity_of="objects")


def test_a_plan_counts_the_sentences(study, model):
    plain, text, objects = (
        forecast(
            AblateOptions(perplexity=asked, perplexity_of=of), study, mask="top-200", model=model
        ).seconds
        for asked, of in ((False, "text"), (True, "text"), (True, "objects"))
    )
    assert 0 < plain < min(text, objects)


def test_what_else_there_is_is_said_and_the_preset_takes_the_objects():
    with pytest.raises(InputError, match=r"perplexity_of 'news'.*text or objects"):
        AblateOptions(perplexity_of="news")
    options = presets.PAPER.ablate
    assert (options.perplexity, options.perplexity_of, options.control) == (True, "objects", "uniform")
    assert (options.counted, options.keep_super_units, options.match) == ("neuron", True, "paper")


def test_the_command_measures_what_it_is_told_of(command, copied, model, monkeypatch):
    from relact.ablating import prepare

    monkeypatch.setattr(prepare, "load", lambda *_, **__: model)
    asked = ("ablate", copied.path, "--mask", "top-200", "--seeds", 1)
    code, out, err = command(*asked, "--perplexity-of", "objects")
    assert code == 0, err
    assert "perplexity of neutral sentences about the objects: intact" in out
    assert command(*asked, "--perplexity-of", "news")[0] == 1

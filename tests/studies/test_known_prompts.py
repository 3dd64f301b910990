"""Prompts that a model answers, against plain transformers."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny

from relact.errors import InputError
from relact.relations import prompts as tables
from relact.relations import sources, verdict
from relact.studies.known_prompts import known


@pytest.mark.parametrize(
    ("name", "per_relation"), [("model", 14), pytest.param("smollm2", 7, marks=pytest.mark.slow)]
)
def test_kept_prompts_are_those_that_generate_answers(request, name, per_relation):
    model = request.getfixturevalue(name)
    relations = [sources.load(each)[0] for each in ("noun_plural", "country_currency")]
    frame = tables.prompts(relations, shots=2, per_relation=per_relation, test_size=3)
    if name == "model":
        frame = tiny.knowing(model, frame, "identify")
    kept = known(frame, model)
    texts = kept[kept.split == "identify"].text.tolist()
    for row in frame[frame.split == "identify"].itertuples():
        encoded = model.tokenizer(row.text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            most = verdict.most_tokens(row.answers)
            output = model.model.generate(encoded, max_new_tokens=most, do_sample=False)
        said = model.tokenizer.decode(output[0, encoded.shape[1] :], skip_special_tokens=True)
        assert (row.text in texts) == verdict.is_correct(said, row.answers)
    assert 4 <= len(texts) < 2 * per_relation
    assert kept[kept.split == "test"].text.tolist() == frame[frame.split == "test"].text.tolist()
    assert f"of {per_relation} known by {model.id}" in kept.attrs["notes"]["noun_plural"]
    few = known(frame, model, per_relation=2)
    assert (few[few.split == "identify"].groupby("relation").size() == 2).all()
    assert few.text.isin(kept.text).all()


def test_a_relation_that_the_model_does_not_know_is_named(model):
    frame = tables.prompts(sources.load("painting_painter"), per_relation=4, test_size=3)
    with pytest.raises(
        InputError, match=r"relation painting_painter: talker answers 0 of its 4 identification"
    ):
        known(frame, model, match="exact")

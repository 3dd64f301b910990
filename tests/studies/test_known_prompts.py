"""Prompts that a model answers, against plain transformers."""

from __future__ import annotations

import pytest
import torch

from relact.errors import InputError
from relact.relations import prompts as tables
from relact.relations import sources, verdict
from relact.studies.known_prompts import known


def test_kept_prompts_are_those_that_generate_answers(smollm2):
    relations = [sources.load(name)[0] for name in ("noun_plural", "country_currency")]
    frame = tables.prompts(relations, shots=2, per_relation=14, test_size=3)
    kept = known(frame, smollm2)
    texts = kept[kept.split == "identify"].text.tolist()
    for row in frame[frame.split == "identify"].itertuples():
        encoded = smollm2.tokenizer(row.text, return_tensors="pt")
        with torch.inference_mode():
            output = smollm2.model.generate(**encoded, max_new_tokens=2, do_sample=False)
        said = smollm2.tokenizer.decode(output[0, encoded.input_ids.shape[1] :], skip_special_tokens=True)
        assert (row.text in texts) == verdict.is_correct(said, row.answers)
    assert 4 <= len(texts) < 28
    assert kept[kept.split == "test"].text.tolist() == frame[frame.split == "test"].text.tolist()
    assert "of 14 known by smollm2" in kept.attrs["notes"]["noun_plural"]
    few = known(frame, smollm2, per_relation=2)
    assert (few[few.split == "identify"].groupby("relation").size() == 2).all()
    assert few.text.isin(kept.text).all()


def test_a_relation_that_the_model_does_not_know_is_named(smollm2):
    frame = tables.prompts(sources.load("painting_painter"), per_relation=4, test_size=3)
    with pytest.raises(
        InputError, match=r"relation painting_painter: smollm2 answers [01] of its 4 identification"
    ):
        known(frame, smollm2, match="exact")

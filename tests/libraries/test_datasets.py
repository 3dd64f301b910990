"""A store as an iterable of the library datasets: every prompt once, blocks are its shards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from helpers import everything, tiny
from torch.utils.data import DataLoader

import relact


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    tiny.save(folder / "model")
    return relact.capture(
        str(folder / "model"), everything.prompts(), folder / "s.zarr", sites="mlp", block=5
    )


@pytest.mark.parametrize("layer", [1, None])
def test_every_prompt_once(store, layer):
    found = relact.hf_dataset(store, site="mlp.up", layer=layer)
    values = store.dataset("activations/mlp.up")["activation"].values.astype(np.float32)
    table = store.prompts("identify")
    rows = list(found)
    assert [row["prompt"] for row in rows] == list(range(16)) and found.num_shards == store.n_blocks == 4
    np.testing.assert_array_equal(
        np.array([row["values"] for row in rows]), values if layer is None else values[:, layer]
    )
    assert [found.features["label"].int2str(row["label"]) for row in rows] == table["relation"].tolist()
    assert [row["text"] for row in rows] == table["text"].tolist()


def test_it_is_shuffled_split_and_batched_as_others_are(store):
    data = relact.hf_dataset(store, site="mlp.up", layer=0)
    shuffled = [row["prompt"] for row in data.shuffle(seed=0, buffer_size=8)]
    assert sorted(shuffled) == list(range(16)) and shuffled != sorted(shuffled)
    halves = [[row["prompt"] for row in split_dataset_by_node(data, rank, 2)] for rank in (0, 1)]
    assert sorted(halves[0] + halves[1]) == list(range(16)) and all(halves)
    (batch,) = DataLoader(data.select_columns(["values", "label"]).with_format("torch"), batch_size=16)
    assert batch["values"].shape == (16, 44) and batch["values"].dtype == torch.float32

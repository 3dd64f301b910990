"""Values by prompt, to train on: the stored ones in any order, in torch's own loader and other processes."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import relact
from relact.errors import InputError, StoreError
from relact.exchange import rows
from relact.store import local


def stored(store, site, quantity="activation"):
    return store.dataset(f"{quantity}s/{site}")[quantity].values.astype(np.float32)


def test_a_loader_shuffles_every_prompt_once(tiny_study):
    data = relact.torch_dataset(tiny_study, site="mlp.up", layer=1)
    assert isinstance(data, Dataset) and len(data) == 16 and data.shape == (44,)
    expected = stored(tiny_study, "mlp.up")[:, 1]
    relation_of = tiny_study.prompts("identify")["relation"].tolist()
    loader = DataLoader(data, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(0))
    seen = []
    for batch in loader:
        numbers = batch["prompt"].tolist()
        assert batch["values"].dtype == torch.float32
        np.testing.assert_array_equal(batch["values"].numpy(), expected[numbers])
        assert [data.relations[at] for at in batch["label"]] == [relation_of[at] for at in numbers]
        seen += numbers
    assert sorted(seen) == list(range(16)) and seen != sorted(seen)


def test_all_layers_and_attributions(everything):
    both = relact.torch_dataset(everything, site="mlp.gate")
    expected = stored(everything, "mlp.gate")
    assert both.shape == expected.shape[1:]
    np.testing.assert_array_equal(both.read([15, 0, 15]), expected[[15, 0, 15]])
    np.testing.assert_array_equal(both[-1]["values"], expected[-1])
    owed = relact.torch_dataset(everything, site="mlp.hidden", layer=2)
    np.testing.assert_array_equal(owed.read(range(16)), stored(everything, "mlp.hidden", "attribution")[:, 2])
    with pytest.raises(IndexError):
        both[16]


def test_a_batch_reads_every_chunk_once(tiny_study, monkeypatch):
    data, read = relact.torch_dataset(tiny_study, site="mlp.up", layer=0), []
    real = local.LocalStore.chunk

    def counted(self, stream, layer, block, start, stop):
        read.append((block, start))
        return real(self, stream, layer, block, start, stop)

    monkeypatch.setattr(local.LocalStore, "chunk", counted)
    data.__getitems__([14, 3, 12, 4, 0, 13])  # of three blocks
    assert sorted(read) == [(0, 0), (2, 0)]
    assert data._store.is_mapped("mlp.up")


def test_what_is_sent_to_a_worker_opens_the_store_there(tiny_study):
    data = relact.torch_dataset(tiny_study.path, site="attn.k", layer=2)
    sent = pickle.dumps(data)
    assert len(sent) < 2_000
    np.testing.assert_array_equal(pickle.loads(sent).read([3, 1]), data.read([3, 1]))


def test_a_package_gives_the_same(tiny_study, tmp_path):
    relact.pack(tiny_study, tmp_path / "s.zarr.zip", activations=True)
    packed = relact.torch_dataset(tmp_path / "s.zarr.zip", site="mlp.down", layer=0)
    np.testing.assert_array_equal(packed.read([9, 2]), stored(tiny_study, "mlp.down")[[9, 2], 0])


def test_what_cannot_be_is_told(tiny_study, monkeypatch):
    with pytest.raises(InputError, match=r"no site 'mlp.middle'"):
        relact.torch_dataset(tiny_study, site="mlp.middle")
    with pytest.raises(InputError, match=r"no layer 7 of mlp.up.*0, 1, 2"):
        relact.torch_dataset(tiny_study, site="mlp.up", layer=7)
    with pytest.raises(StoreError, match=r"no attributions of mlp.up"):
        relact.torch_dataset(tiny_study, site="mlp.up", by="attribution")
    monkeypatch.setattr(rows, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"library datasets.*pip install 'relact\[datasets\]'"):
        relact.hf_dataset(tiny_study, site="mlp.up")


def test_a_capture_that_is_not_finished_is_refused(tiny_study, tmp_path):
    store = local.open(shutil.copytree(tiny_study.path, tmp_path / "s.zarr"))
    store.log.remove(1)
    with pytest.raises(StoreError, match="1 of 4 blocks are not captured yet"):
        relact.torch_dataset(store, site="mlp.up")

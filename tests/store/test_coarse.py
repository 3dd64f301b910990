"""Neurons that float16 holds coarsely are counted and told, and average precision says why."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score

import relact
from relact.models import loading
from relact.store.coarse import STEPS, coarse, is_coarse

PLACE = 1, 7  # layer and neuron of mlp.up that lies far from 0


@given(arrays.arrays(np.float16, (5, 3), elements=st.floats(-60000, 60000, width=16)), st.integers(-3, 3))
def test_coarse_is_what_its_definition_says(values, apart):
    values[:, 0] = 4096 + np.array([0, 4 * (STEPS + apart), 4, 8, 12], np.float16)  # in steps of 4
    for column, found in zip(values.T.astype(np.float64), is_coarse(values), strict=True):
        largest = np.abs(column).max()
        step = 2.0 ** max(np.floor(np.log2(largest)) - 10, -24) if largest else 0.0
        assert found == (largest > 0 and column.max() - column.min() < STEPS * step)
    assert is_coarse(values)[0] == (apart < 0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory, tiny_prompts):
    """{dtype: store} of a model of which one neuron is about 4,500 and changes little."""
    folder = tmp_path_factory.mktemp("coarse")
    model = tiny.model(mlp_bias=True)
    layer, neuron = PLACE
    model.model.layers[layer].mlp.up_proj.bias[neuron] = 4500
    model.model.layers[layer].mlp.up_proj.weight[neuron] *= 3
    model.save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    loaded = loading.load(str(folder / "model"))
    return {
        dtype: relact.score(
            relact.capture(loaded, tiny_prompts, folder / f"{dtype}.zarr", sites="mlp.up", dtype=dtype)
        )
        for dtype in ("float16", "float32")
    }


def test_ties_of_float16_change_average_precision_and_are_counted(stores):
    exact = stores["float32"].dataset("activations/mlp.up")["activation"].values
    labels = stores["float32"].prompts("identify")["relation"].to_numpy() == "size"
    stored = {
        dtype: store.dataset("activations/mlp.up")["activation"].values for dtype, store in stores.items()
    }
    flagged = is_coarse(stored["float16"].reshape(len(labels), -1)).reshape(exact.shape[1:])
    assert [tuple(place) for place in np.argwhere(flagged)] == [PLACE]
    assert coarse(stores["float16"]) == {"mlp.up": 1} and coarse(stores["float32"]) == {}
    away = {}
    for dtype, store in stores.items():
        scores = store.dataset("scores/mlp.up")["average_precision"].sel(relation="size").values
        for layer, neuron in np.ndindex(scores.shape):
            column = stored[dtype][:, layer, neuron].astype(np.float64)
            assert scores[layer, neuron] == pytest.approx(average_precision_score(labels, column), abs=1e-6)
        away[dtype] = np.abs(
            scores - stores["float32"].dataset("scores/mlp.up")["average_precision"][0].values
        )
    assert away["float16"][PLACE] > 0.1
    assert np.where(flagged, 0, away["float16"]).max() < 0.05


def test_every_command_that_makes_such_a_store_says_so(stores, command, tmp_path, prompt_file):
    model, said = stores["float16"].manifest.model.id, "float16 is coarse for 1 of mlp.up"
    store = tmp_path / "s.zarr"
    for asked in (("capture", model, prompt_file, store, "--sites", "mlp.up"), ("score", store)):
        code, _, err = command(*asked)
        assert code == 0 and err.count(said) == 1 and "--dtype float32" in err
    assert stores["float16"].scores_record().coarse == {"mlp.up": 1}
    assert json.loads(command("info", store, "--json")[1])["coarse"] == {"mlp.up": 1}
    assert "1 neurons are coarse" in command("info", store)[1]
    code, _, err = command("score", stores["float32"].path)
    assert code == 0 and "coarse" not in err

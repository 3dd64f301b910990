"""The page about other languages is true: zarrita.js reads what relact reads (`make javascript`)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import relact
from relact.store import local

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "javascript"
GOLDEN = ROOT / "tests" / "store" / "golden" / "format1"
PACKAGES = PLACE / "node_modules" / "zarrita"

pytestmark = pytest.mark.skipif(not PACKAGES.is_dir(), reason="`make javascript` fetches zarrita.js")


@pytest.mark.parametrize("relation", ["size", "Größe"])
@pytest.mark.parametrize("name", ["plain.zarr", "compressed.zarr"])
def test_javascript_reads_what_relact_reads(name, relation):
    script = shutil.copy(ROOT / "docs" / "howto" / "read.mjs", PLACE)
    command = ["node", script, GOLDEN / name, relation, "mlp.gate"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    store = local.open(GOLDEN / name)
    tree = relact.open(GOLDEN / name)
    scores = tree["scores/mlp.gate"]["average_precision"].sel(relation=relation)
    assert found["model"] == store.manifest.model.id and found["captured"] == store.n_prompts
    assert found["average_precision"] == float(scores.max())
    assert scores.sel(layer=found["layer"], neuron=found["neuron"]) == scores.max()
    values = relact.activations(store, "mlp.gate", found["layer"], found["neuron"])["activation"]
    np.testing.assert_array_equal(np.float32(found["activation"]), values)

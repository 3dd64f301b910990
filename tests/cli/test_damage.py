"""A damaged store gives the right result or one line: never a wrong number, a traceback or a wait."""

from __future__ import annotations

import shutil

import pytest
from helpers import damage, deep

import relact
from relact.errors import StoreError

CASES = 40  # benchmarks of this are run by hand: python -m helpers.damage --count 20000


@pytest.fixture(scope="module")
def place(everything, tmp_path_factory):
    """A store to be damaged again and again."""
    return damage.Range(everything.path, tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("number", deep.rest(range(CASES), range(8)))
def test_a_damaged_store_misleads_nobody(place, number):
    assert place.fault(place.draw(1, number)) is None


USED = [
    ("pack", "prompts/test/answers/c/0/0"),
    ("top", "scores/mlp.gate/average_precision/c/0/0/0"),
    ("select", "scores/mlp.gate/average_precision/c/0/0/0"),
    ("top", "scores/mlp.gate/average_precision/zarr.json"),
    ("compare", "masks/top-6/mlp.gate/mask/c/0/0/0"),
    ("export parquet", "ablations/sweep/log_probability/c/0/0/0"),
    ("export json", "masks/both/zarr.json"),
    ("pack", "ablations/zero/zarr.json"),
    ("neuron", "activations/mlp.gate/activation/c.0.1.0"),
    ("score", "activations/mlp.gate/activation/c.1.1.0"),
    ("report", "ablations/zero/log_probability/c/0/0"),
    (damage.OPEN, "masks/zarr.json"),
    ("info", "zarr.json"),
]
EVERY = [(command, file, how) for command, file in USED for how in damage.DAMAGES]
ONCE = [(*used, damage.DAMAGES[at % len(damage.DAMAGES)]) for at, used in enumerate(USED)]


@pytest.mark.parametrize("case", deep.rest(EVERY, ONCE), ids="-".join)
def test_what_is_used_is_checked(place, case):
    """The line names the file and how it is made anew; the file is one that the command reads."""
    command, file, how = case
    at = (
        0.02 if file == "zarr.json" else 0.5
    )  # the end of the root's is for plain zarr alone: `relact verify`
    said = place.said(damage.Case(command, file, how, at, 3))
    assert len(said.splitlines()) == 1 and f"/{file}: " in said and "run `relact " in said.lower()


@pytest.mark.parametrize("file", ["prompts/test/answers/c/0/0", "masks/top-6/mlp.gate/mask/c/0/0/0"])
def test_nothing_is_ablated_from_a_damaged_store(everything, tmp_path, tiny_folder, file):
    path = shutil.copytree(everything.path, tmp_path / "s.zarr")
    (path / file).unlink()
    with pytest.raises(StoreError, match=f"{file}: missing. Run `relact "):
        relact.ablate(path, mask="top-6", name="new", model=str(tiny_folder), seeds=[0])

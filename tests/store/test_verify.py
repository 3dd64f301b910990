"""Verify finds every damaged bit and names its place; what it advises makes the store whole again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import sample

from relact import schema
from relact.capturing import prepare
from relact.errors import InputError, StoreError
from relact.store import local
from relact.store.verify import drop_damaged, verify

FLIPS = 1000
BLOCKS = 20
PROMPTS = BLOCKS * sample.BLOCK - 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete store with two stages."""
    store = sample.full(tmp_path_factory.mktemp("verify") / "s.zarr", PROMPTS)
    for group in ("scores", "masks/top-4"):
        with store.stage(group, {"k": 4}) as built:
            built.create_array("x", data=np.arange(30), dimension_names=("i",))
    return store.path


@pytest.fixture
def path(whole, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "s.zarr")


def flip(file: Path, generator: random.Random) -> None:
    """Change one random bit."""
    raw = bytearray(file.read_bytes())
    raw[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
    file.write_bytes(raw)


def is_block(name: str) -> bool:
    """Whether a file is a shard or a commit record."""
    return any(f"/{array}/c." in name for array in ("activation", "attribution", "record"))


def place(name: str) -> tuple[str, str | None, int | None, int | None]:
    """(file, site, block, layer) that a problem in a block's file must tell."""
    parts = name.split("/")
    numbers = [int(number) for number in parts[-1].split(".")[1:]]
    if parts[0] == schema.COMMITS:
        return name, None, numbers[0], None
    return name, parts[1], numbers[0], numbers[1]


def test_a_whole_store_passes_and_every_byte_of_it_was_read(path):
    verdict = verify(path)
    assert verdict.ok and verdict.blocks == BLOCKS and verdict.missing == []
    contents = sample.files(path)
    assert verdict.files == len(contents) and verdict.bytes == sum(map(len, contents.values()))


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_found_each_in_its_place(path):
    generator = random.Random(1)
    contents = sample.files(path)
    files = [name for name in contents if is_block(name)]
    of_block = [[name for name in files if place(name)[2] == block] for block in range(BLOCKS)]
    assert {len(names) for names in of_block} == {3 * 2 + 1}
    for _ in range(FLIPS // BLOCKS):  # one bit in every block
        chosen = [generator.choice(names) for names in of_block]
        for name in chosen:
            flip(path / name, generator)
        found = [(one.file, one.site, one.block, one.layer) for one in verify(path).problems]
        assert sorted(found, key=str) == sorted(map(place, chosen), key=str)
        for name in chosen:
            (path / name).write_bytes(contents[name])
    assert verify(path).ok


def test_a_flipped_bit_in_prompts_metadata_and_results_is_found(path):
    generator = random.Random(2)
    contents = sample.files(path)
    others = [name for name in contents if not is_block(name)]
    assert len(others) > 40
    for name in others:
        flip(path / name, generator)
        problems = verify(path).problems
        assert [one.file for one in problems] == [name], name
        assert name.startswith(problems[0].group) and bool(problems[0].group) == ("/" in name)
        (path / name).write_bytes(contents[name])
    assert verify(path).ok


@pytest.mark.parametrize("change", ["missing", "shorter", "longer", "empty"])
@pytest.mark.parametrize(
    "name",
    [
        "activations/attn.k/activation/c.3.1.0",
        "attributions/attn.k/attribution/c.3.1.0",
        "commits/record/c.3.0",
        "prompts/test/n_tokens/c/0",
    ],
)
def test_a_file_that_is_missing_or_has_another_size(path, name, change):
    raw = (path / name).read_bytes()
    if change == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes({"shorter": raw[:-1], "longer": raw + b"\0", "empty": b""}[change])
    verdict = verify(path)
    if name.startswith("commits") and change == "missing":  # never committed, or lost: there is no telling
        assert verdict.ok and verdict.missing == [3]
        return
    (problem,) = verdict.problems
    assert problem.file == name and (problem.what == "missing") == (change == "missing")


def test_blocks_that_are_not_captured_yet_are_no_damage(tmp_path):
    store = sample.capture(sample.make(tmp_path / "s.zarr", 10), [0, 2])
    shard = store.path / "activations" / "attn.k" / "activation" / "c.1.0.0"
    shard.write_bytes(b"published, but never committed")
    verdict = verify(store.path)
    assert verdict.ok and verdict.missing == [1] and verdict.blocks == 3


def test_a_block_that_has_only_its_old_rows_is_missing_not_damaged(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 6)
    prepare.append(store, sample.intake(8))
    verdict = verify(store.path)
    assert verdict.ok and verdict.missing == [1]


def test_an_empty_folder_that_a_killed_writer_made_is_no_damage(path):
    (path / "ablations").mkdir(exist_ok=True)
    assert verify(path).ok
    (path / "ablations" / "zarr.json.partial").touch()
    local.recover(local.open(path))
    assert verify(path).ok


def test_the_compressed_store_is_checked_as_well(tmp_path):
    store = sample.full(tmp_path / "s.zarr", 10, compress=True)
    name = "activations/mlp.gate/activation/c.1.0.0"
    flip(store.path / name, random.Random(3))
    assert [(one.site, one.block, one.layer) for one in verify(store.path).problems] == [("mlp.gate", 1, 0)]


def test_damaged_results_are_dropped_and_the_others_stay(path):
    flip(path / "masks" / "top-4" / "x" / "c" / "0", random.Random(4))
    verdict = verify(path)
    assert verdict.damaged_stages() == ["masks/top-4"] and not verdict.damaged_skeleton()
    assert verdict.repairs() == [f"relact verify {path} --drop, then relact select {path}"]
    assert drop_damaged(path, verdict) == ["masks/top-4"]
    assert verify(path).ok and local.open(path).has("scores") and not local.open(path).has("masks/top-4")


@pytest.mark.parametrize(
    "damage",
    [
        ["activations/mlp.gate/activation/c.2.1.0"],
        ["commits/record/c.9.0", "commits/record/c.0.0"],
        ["prompts/identify/text/c/0"],
        ["activations/attn.k/activation/zarr.json"],
        ["attributions/attn.k/attribution/c.0.1.0"],
        ["attributions/attn.k/attribution/zarr.json"],
        ["zarr.json"],
        [
            "zarr.json",
            "activations/mlp.gate/activation/zarr.json",
            "commits/record/c.4.0",
            "prompts/test/zarr.json",
        ],
    ],
)
def test_repair_brings_every_byte_back(path, damage):
    before = sample.files(path)
    for name in damage:
        (path / name).write_bytes(before[name][:-3])
    store, verdict = prepare.repair(path, sample.intake(PROMPTS))
    assert {one.file for one in verdict.problems} >= ({"zarr.json"} if "zarr.json" in damage else set(damage))
    sample.capture(store)
    assert sample.files(path) == before and verify(path).ok


def test_repair_with_other_prompts_is_refused_and_nothing_is_touched(path):
    (path / "prompts" / "identify" / "text" / "c" / "0").write_bytes(b"")
    before = sample.files(path)
    with pytest.raises(InputError, match="not the prompts that the store records"):
        prepare.repair(path, sample.intake(PROMPTS + 1))
    (path / "zarr.json").write_bytes(b"")
    with pytest.raises(
        StoreError, match=rf"\({PROMPTS}, 2, 706\), this capture float16 \({PROMPTS + 1}, 2, 706\)"
    ):
        prepare.repair(path, sample.intake(PROMPTS + 1))
    assert sample.files(path) == {**before, "zarr.json": b""}


def test_no_store_no_verdict(tmp_path):
    with pytest.raises(StoreError, match="no such store"):
        verify(tmp_path / "none.zarr")

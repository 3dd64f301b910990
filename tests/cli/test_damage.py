"""A damaged store gives the right result or one line: never a wrong number, a traceback or a wait."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
from helpers import damage, deep, disk

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
    at = 0.002 if file == "zarr.json" else 0.5  # most of the root's is for plain zarr alone: `relact verify`
    said = place.said(damage.Case(command, file, how, at, 3))
    assert len(said.splitlines()) == 1 and f"/{file}: " in said and "run `relact " in said.lower()


QUICK = [name for name in damage.READING if damage.SLOW.get(name, 1) < 9]
OFTEN = ("top", "neuron", "compare", "info", "export json", "pack activations", "stability", "look", "verify")


@pytest.mark.parametrize("name", deep.rest([*QUICK, damage.OPEN, damage.VERIFY], OFTEN))
def test_what_reads_needs_no_place_to_write(place, monkeypatch, name):
    """A store on a read-only file system gives what it gives elsewhere."""
    expected = place.of_whole(name)
    disk.refuse_writing(monkeypatch, place.store)
    found = place.ask(name)
    assert found.code == 0, found.said
    assert found.result == expected.result


@pytest.mark.parametrize("number", deep.rest([errno.EROFS, errno.EACCES], [errno.EROFS]))
@pytest.mark.parametrize("name", damage.WRITING)
def test_what_writes_says_where_it_may_not(place, monkeypatch, name, number):
    disk.refuse_writing(monkeypatch, place.store, number)
    found = place.ask(name)
    lines = [line for line in found.said.splitlines() if line.startswith("relact: ")]
    assert found.code == 1 and len(lines) == 1
    assert f"cannot write: {os.strerror(number)}. Choose a folder you may write to" in lines[0]


def test_few_open_files_are_enough_or_said(place):
    """With room for sixteen more than there are already; what is refused is no damage."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    names = ("top", "neuron", "compare", "pack activations", damage.OPEN, damage.VERIFY)
    expected = [place.of_whole(name) for name in names]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 16, hard))
    try:
        found = [place.ask(name) for name in names]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for one, other in zip(found, expected, strict=True):
        assert one.result == other.result or (one.code == 1 and "(`ulimit -n`)" in one.said), one


def test_little_address_space_is_one_line(everything):
    """Libraries that find no room for themselves or for a thread say it each in their own way, or never."""
    limit = 400 << 20
    done = subprocess.run(
        [sys.executable, "-m", "relact", "select", everything.path, "--k", "3", "--name", "never"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    lines = [line for line in done.stderr.splitlines() if "<jemalloc>" not in line]  # what it says is its own
    assert done.returncode == 1 and len(lines) == 1, done
    assert lines[0].startswith("relact: not enough memory (")


@pytest.mark.parametrize("file", ["prompts/test/answers/c/0/0", "masks/top-6/mlp.gate/mask/c/0/0/0"])
def test_nothing_is_ablated_from_a_damaged_store(everything, tmp_path, tiny_folder, file):
    path = shutil.copytree(everything.path, tmp_path / "s.zarr")
    (path / file).unlink()
    with pytest.raises(StoreError, match=f"{file}: missing. Run `relact "):
        relact.ablate(path, mask="top-6", name="new", model=str(tiny_folder), seeds=[0])

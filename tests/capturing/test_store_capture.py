"""Captures into a store: resumed, grown, repaired, shared by ranks, short of disk or memory;
and their plans held to reality.
"""

from __future__ import annotations

import shutil
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import sample, victims

from relact.capturing import capture as capturing
from relact.capturing import memory
from relact.capturing.capture import capture
from relact.capturing.forecast import forecast
from relact.capturing.options import CaptureOptions
from relact.errors import BudgetError, BusyError, IdentityError, InputError, StoreError
from relact.store import local
from relact.store.blocks import BlockBuffer
from relact.store.local import LocalStore
from relact.store.verify import verify

SITE = "mlp.gate"


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that these tests start: sums depend on how they are split among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def loaded():
    return victims.loaded()


@pytest.fixture(params=["activations", "attributions"])
def taken(request):
    """Options of a capture of activations, or of attributions too."""
    return {"attribution": request.param == "attributions"}


def contents(path):
    return sample.without_time(sample.files(path))


def values(store, stream=SITE):
    return sample.read(store, stream)


def stop_after(monkeypatch, blocks):
    """Let a capture end like an interrupted one once ``blocks`` are committed."""
    write = LocalStore.write_block
    written = []

    def some(self, block, buffer):
        if len(written) == blocks:
            raise KeyboardInterrupt
        write(self, block, buffer)
        written.append(block)

    monkeypatch.setattr(LocalStore, "write_block", some)


@pytest.mark.parametrize("after", range(4))
def test_a_resumed_capture_is_the_same_to_the_last_bit(loaded, tmp_path, monkeypatch, after, taken):
    whole, path = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    capture(loaded, victims.prompts(), whole, block=4, **taken)
    stop_after(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        capture(loaded, victims.prompts(), path, block=4, **taken)
    monkeypatch.undo()
    assert len(local.open(path).missing_blocks()) == 4 - after
    capture(loaded, victims.prompts(), path, block=4, **taken)
    assert contents(path) == contents(whole)


def test_append_captures_only_what_is_new_and_a_new_relation(loaded, tmp_path, monkeypatch, taken):
    path, ran, options = tmp_path / "s.zarr", [], {"block": 4, **taken}
    stream = "attributions/mlp.hidden" if taken["attribution"] else SITE
    old = victims.prompts(10)
    store = capture(loaded, old, path, **options)
    before = values(store, stream)
    rows = capturing.capture_rows

    def counted(loaded, tokens, *rest):
        ran.extend(tokens)
        return rows(loaded, tokens, *rest)

    monkeypatch.setattr(capturing, "capture_rows", counted)
    shapes = victims.prompts(6)[lambda table: table.relation == "size"].assign(relation="shape")
    new = shapes.assign(text=shapes.text.str.replace("size", "shape"))
    # the new rows alone, or with the old ones: the same
    store = capture(loaded, new, path, **options, append=True)
    assert len(ran) == 3 and store.relations() == ["size", "colour", "shape"]
    np.testing.assert_array_equal(values(store, stream)[:10], before)
    alone = capture(loaded, new, tmp_path / "alone.zarr", **options)
    np.testing.assert_allclose(values(store, stream)[10:], values(alone, stream), atol=1e-3)
    files = sample.files(path)
    capture(loaded, pd.concat([old, new]), path, **options, append=True)
    assert len(ran) == 6 and sample.files(path) == files and verify(path).ok
    # to resume is to ask for all of it, whenever it came
    (path / "commits" / "record" / "c.1.0").unlink()
    capture(loaded, pd.concat([old, new]), path, **options)
    assert len(ran) == 10 and sample.files(path) == files


def test_an_append_that_is_interrupted_resumes_to_the_same_bytes(loaded, tmp_path, monkeypatch, taken):
    whole, path = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    for each in (whole, path):
        capture(loaded, victims.prompts(10), each, block=4, **taken)
    capture(loaded, victims.prompts(16), whole, block=4, **taken, append=True)
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        capture(loaded, victims.prompts(16), path, block=4, **taken, append=True)
    monkeypatch.undo()
    capture(loaded, victims.prompts(16), path, block=4, **taken, append=True)
    assert contents(path) == contents(whole)


@pytest.mark.parametrize(
    ("name", "attribution"),
    [
        ("activations/mlp.up/activation/c.1.2.0", False),
        ("activations/mlp.up/activation/c.1.2.0", True),
        ("attributions/mlp.hidden/attribution/c.1.2.0", True),
        ("prompts/identify/text/c/0", False),
        ("zarr.json", False),
        ("zarr.json", True),
    ],
)
def test_repair_captures_damaged_blocks_again(loaded, tmp_path, name, attribution):
    path, options = tmp_path / "s.zarr", {"block": 4, "attribution": attribution}
    capture(loaded, victims.prompts(), path, **options)
    before = contents(path)
    raw = bytearray((path / name).read_bytes())
    raw[len(raw) // 2] ^= 16
    (path / name).write_bytes(raw)
    assert not verify(path).ok
    capture(loaded, victims.prompts(), path, **options, repair=True)
    assert verify(path).ok and contents(path) == before


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(loaded, tmp_path):
    one, two, context = tmp_path / "one.zarr", tmp_path / "two.zarr", victims.context()
    capture(loaded, victims.prompts(), one, block=4, attribution=True)
    ranks = [context.Process(target=victims.one_rank, args=(two, rank, 2)) for rank in (1, 0)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert contents(two) == contents(one)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.zarr", "two.zarr"]


@pytest.mark.slow
def test_rank_0_does_the_work_of_a_rank_that_died(loaded, tmp_path):
    one, two, context = tmp_path / "one.zarr", tmp_path / "two.zarr", victims.context()
    capture(loaded, victims.prompts(), one, block=2, attribution=True)
    first, second = (context.Process(target=victims.one_rank, args=(two, rank, 2, 2)) for rank in (0, 1))
    first.start()
    second.start()
    while not two.exists():
        time.sleep(0.001)
    second.kill()
    first.join(120)
    assert first.exitcode == 0 and contents(two) == contents(one)


@pytest.mark.slow
def test_a_second_capture_of_the_same_store_is_refused(loaded, tmp_path):
    path, context = tmp_path / "s.zarr", victims.context()
    held, done = context.Event(), context.Event()
    child = context.Process(target=victims.hold, args=(path, held, done))
    child.start()
    assert held.wait(60)
    with pytest.raises(BusyError, match=f"process {child.pid} "):
        capture(loaded, victims.prompts(), path)
    child.kill()
    child.join()
    assert capture(loaded, victims.prompts(), path).missing_blocks() == []


# Trouble with the disk


@pytest.mark.slow
def test_a_file_size_limit_is_one_line_and_lifting_it_completes_the_store(loaded, tmp_path):
    whole, path, context = tmp_path / "whole.zarr", tmp_path / "s.zarr", victims.context()
    capture(loaded, victims.prompts(), whole, sites=SITE, dtype="float32", block=7)
    told = context.Queue()
    shard = 7 * 44 * 4 + 16 + 4
    sizes = {name: len(raw) for name, raw in sample.files(whole).items() if "/activation/c." not in name}
    assert max(sizes.values()) > shard  # so the limit is met while the skeleton is made ...
    for limit, made in ((shard - 1, False), (max(sizes.values()), True)):
        child = context.Process(target=victims.limited, args=(path, limit, told))
        child.start()
        message = told.get(timeout=60)
        child.join()
        if made:
            assert message == ""
            break
        assert (
            "cannot write: File too large. Raise the file size limit and run the same command again"
            in message
        )
        assert "\n" not in message and not path.exists()
    assert contents(path) == contents(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 700 kB, where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_making_room_completes_the_store(loaded, tmp_path, small_disk):
    path = small_disk / "s.zarr"
    whole = capture(loaded, victims.prompts(64), tmp_path / "whole.zarr", block=8)
    (small_disk / "junk").write_bytes(bytes(350_000))
    with pytest.raises(
        StoreError, match=r"cannot write: No space left on device\. Make room and run the same"
    ) as told:
        capture(loaded, victims.prompts(64), path, block=8)
    assert "\n" not in str(told.value)
    missing = local.open(path).missing_blocks()
    assert 0 < len(missing) < 8 and verify(path).ok
    with pytest.raises(StoreError, match="cannot write"):
        capture(loaded, victims.prompts(64), path, block=8)
    (small_disk / "junk").unlink()
    capture(loaded, victims.prompts(64), path, block=8)
    assert contents(path) == contents(whole.path)


def test_an_error_of_the_writer_ends_the_capture_at_the_next_batch(loaded, tmp_path, monkeypatch):
    """The writer works on one block while the model fills another;
    its error must not wait until that is full.
    """
    failed = []

    def fail(self, block, buffer):
        failed.append(block)
        raise StoreError("the disk is on fire")

    def seen(stage, done, total, unit):
        progress.append(done)
        if failed:
            time.sleep(0.05)  # time for the error to arrive

    progress = []
    monkeypatch.setattr(LocalStore, "write_block", fail)
    with pytest.raises(StoreError, match="on fire"):
        capture(loaded, victims.prompts(40), tmp_path / "s.zarr", block=20, batch_tokens=40, progress=seen)
    assert failed == [0] and 20 < max(progress) <= 25  # of 40


def test_writing_never_holds_more_than_one_block_back(loaded, tmp_path, monkeypatch):
    made = []

    def counted(self):
        made.append(self)
        return BlockBuffer(self.streams)

    write = LocalStore.write_block

    def slow(self, block, buffer):
        time.sleep(0.05)
        write(self, block, buffer)

    monkeypatch.setattr(LocalStore, "buffer", counted)
    monkeypatch.setattr(LocalStore, "write_block", slow)
    store = capture(loaded, victims.prompts(24), tmp_path / "s.zarr", block=4)
    assert len(made) == 2 and store.missing_blocks() == [] and verify(store.path).ok


# Plans


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (14, {"block": 4}),
        (6, {"sites": "all", "dtype": "float32"}),
        (30, {"block": 30}),
        (14, {"block": 4, "attribution": True, "attribution_sites": "attn.q,mlp.hidden"}),
    ],
)
def test_the_planned_files_and_bytes_are_exact(loaded, tmp_path, n, options):
    planned = forecast(CaptureOptions(**options), loaded, victims.prompts(n))
    store = capture(loaded, victims.prompts(n), tmp_path / "s.zarr", **options)
    sizes = [len(raw) for raw in sample.files(store.path).values()]
    assert planned.exact and (planned.files, planned.bytes) == (len(sizes), sum(sizes))


def test_a_compressed_store_has_the_same_numbers_and_stays_within_its_plan(loaded, tmp_path, taken):
    planned = forecast(CaptureOptions(block=4, compress=True, **taken), loaded, victims.prompts())
    store = capture(loaded, victims.prompts(), tmp_path / "s.zarr", block=4, compress=True, **taken)
    plain = capture(loaded, victims.prompts(), tmp_path / "plain.zarr", block=4, **taken)
    sizes = [len(raw) for raw in sample.files(store.path).values()]
    assert not planned.exact and planned.files == len(sizes) and planned.bytes >= sum(sizes)
    assert store.compressed and verify(store.path).ok
    for stream in store.streams:
        np.testing.assert_array_equal(values(store, stream), values(plain, stream))
    resumed = tmp_path / "resumed.zarr"
    shutil.copytree(store.path, resumed)
    (resumed / "commits" / "record" / "c.1.0").unlink()
    capture(loaded, victims.prompts(), resumed, block=4, **taken)  # keeps on compressing
    assert contents(resumed) == contents(store.path)


@pytest.mark.slow
def test_a_capture_of_several_times_its_memory_stays_below_the_planned_peak(tmp_path, taken):
    """The store is several times larger than what the plan leaves for buffers and passes;
    so is not the process.
    """
    context = victims.context()
    path, told = tmp_path / "s.zarr", context.Queue()
    child = context.Process(target=victims.measured, args=(path, told, taken))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    planned, own, peak, before = told.get()
    stored = sum(lay.bytes for lay in local.open(path).streams.values())
    print(f"store {stored}, planned {planned} of which {own}, peak {peak}, before {before}")
    assert stored >= (3 if taken["attribution"] else 4) * own
    assert peak <= planned and peak - before <= own + 20 * 10**6  # what Python and zarr grow by meanwhile
    assert local.open(path).n_blocks >= 16


def test_memory_decides_the_size_of_a_block_and_too_little_is_refused(loaded):
    options = {"n_prompts": 2000, "n_layers": 3, "widths": {SITE: 1000}, "held": 10**6}
    options["dtypes"] = {SITE: "float16"}
    shape = memory.CaptureShape(**options)
    assert shape.fit(None) == (500, 2)
    rows, buffers = shape.fit(2 * 10**6)
    assert rows < 500 and shape.memory(rows, buffers) <= 2 * 10**6
    with pytest.raises(BudgetError, match="the budget is 1 MB"):
        shape.fit(10**6)
    with pytest.raises(InputError, match="'lots' is not an amount of memory"):
        capture(loaded, victims.prompts(), "unused", memory="lots")


def test_numbers_of_a_store_do_not_depend_on_its_blocks(loaded, tmp_path):
    stored = [
        values(capture(loaded, victims.prompts(), tmp_path / f"{block}.zarr", block=block, dtype="float32"))
        for block in (3, 14)
    ]
    np.testing.assert_allclose(*stored, atol=1e-5, rtol=1e-5)


def test_an_empty_store_of_another_capture_is_made_anew_and_one_with_a_block_refused(
    tmp_path, loaded, monkeypatch
):
    path = tmp_path / "s.zarr"
    stop_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        capture(loaded, victims.prompts(), path, sites=SITE, block=4)
    monkeypatch.undo()
    assert (
        capture(loaded, victims.prompts(), path, sites=SITE, block=7, dtype="float32").missing_blocks() == []
    )
    with pytest.raises(IdentityError, match="dtype = float32, this run has float16"):
        capture(loaded, victims.prompts(), path, sites=SITE, block=7)
    assert verify(path).ok and [file.name for file in tmp_path.iterdir()] == ["s.zarr"]

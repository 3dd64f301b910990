"""A store under any sequence of create, capture, append, stage, drop, kill, flip, repair:
held to a model of it in memory.
"""

from __future__ import annotations

import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
from helpers import disk, sample, victims
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relact.store import local
from relact.store.reading import Store
from relact.store.verify import drop_damaged, verify

MOST = 22  # prompts
STAGES = ("scores", "masks/a", "masks/b")
CHANGES = st.integers(1, 60)  # the change to the disk before which a process is killed; often beyond its last


class StoreMachine(RuleBasedStateMachine):
    """``n`` prompts, the blocks that are whole, and the number in every stage.
    A kill leaves one of two states of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = disk.new_folder()
        self.path = self.folder / "s.zarr"

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(n=st.integers(1, 9), compress=st.booleans())
    def create(self, n: int, compress: bool) -> None:
        victims.create(self.path, n, compress)
        self.n = n
        self.stages: dict[str, int] = {}

    @rule(more=st.integers(0, 6))
    def append(self, more: int) -> None:
        self.n = min(self.n + more, MOST)
        victims.append(self.path, self.n)

    @rule(count=st.integers(1, 3))
    def capture_some(self, count: int) -> None:
        """The first missing blocks, as an interrupted capture leaves them."""
        victims.fill(self.path, local.open(self.path).missing_blocks()[:count])

    @rule(group=st.sampled_from(STAGES), number=st.integers(0, 9))
    def put(self, group: str, number: int) -> None:
        victims.put(self.path, group, number)
        self.stages[group] = number

    @precondition(lambda self: self.stages)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.stages)))
        victims.drop(self.path, group)
        del self.stages[group]

    @rule(change=CHANGES, more=st.integers(1, 6))
    def killed_in_append(self, change: int, more: int) -> None:
        wanted = min(self.n + more, MOST)
        self._kill(change, victims.append, self.path, wanted)
        found = local.open(self.path).n_prompts
        assert found in (self.n, wanted)
        self.n = found

    @rule(change=CHANGES)
    def killed_in_capture(self, change: int) -> None:
        self._kill(change, victims.fill, self.path)

    @rule(change=CHANGES, group=st.sampled_from(STAGES), number=st.integers(10, 19))
    def killed_in_put(self, change: int, group: str, number: int) -> None:
        before = self.stages.get(group)
        self._kill(change, victims.put, self.path, group, number)
        found = self._stage(local.open(self.path), group)
        assert found in (before, number)
        self.stages = {
            name: value for name, value in {**self.stages, group: found}.items() if value is not None
        }

    @rule(data=st.data())
    def flip_and_repair(self, data: st.DataObject) -> None:
        """One bit of a committed shard or of a stage: found, and made good by what `verify` says."""
        local.recover(local.open(self.path))
        committed = local.open(self.path).log.present()
        files = sorted(name for name in sample.files(self.path) if self._is_data(name, committed))
        if not files:
            return
        file = self.path / data.draw(st.sampled_from(files))
        raw = bytearray(file.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(raw)
        verdict = verify(self.path)
        assert [problem.file for problem in verdict.problems] == [file.relative_to(self.path).as_posix()]
        for group in drop_damaged(self.path, verdict):
            del self.stages[group]
        store = local.open(self.path)
        for block in verdict.damaged_blocks():
            store.log.remove(block)
        victims.fill(self.path, verdict.damaged_blocks())

    @invariant()
    def is_what_the_model_says(self) -> None:
        store = local.open(self.path)
        assert store.n_prompts == self.n
        assert store.prompts("identify")["text"].tolist() == sample.table(self.n)["text"].tolist()
        assert {group: self._stage(store, group) for group in STAGES} == {
            group: self.stages.get(group) for group in STAGES
        }
        for block in range(store.n_blocks):
            buffer = store.buffer()
            first, stop = store.rows_of(block)[0], store.load_block(block, buffer)
            for stream in sample.WIDTHS:
                stored = np.concatenate(list(buffer.shard(stream, 1)), axis=1)[: stop - first]
                np.testing.assert_array_equal(stored, sample.values(stream, range(first, stop))[:, 1])
        assert verify(self.path).ok

    def _kill(self, change: int, action: object, *arguments: object) -> None:
        child = victims.context().Process(target=victims.killed_at, args=(change, action, *arguments))
        child.start()
        child.join()
        assert child.exitcode in (0, -9)

    @staticmethod
    def _is_data(name: str, committed: list[int]) -> bool:
        """Whether a file is a shard of a committed block, or a chunk of a stage."""
        parts = name.split("/")
        if parts[0] in ("activations", "attributions"):  # shards that no commit followed yet do not count
            return parts[-1].startswith("c.") and int(parts[-1].split(".")[1]) in committed
        return "/c" in name and parts[0] not in ("commits", "prompts")

    @staticmethod
    def _stage(store: Store, group: str) -> int | None:
        return int(store.root[f"{group}/x"][0]) if store.has(group) else None


TestStore = pytest.mark.slow(StoreMachine.TestCase)
TestStore.settings = settings(max_examples=6, stateful_step_count=12, deadline=None)

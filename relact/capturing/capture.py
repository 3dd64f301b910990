"""Capture: model + prompts + sites -> a stream of committed blocks.

One block at a time: its prompts are grouped by shared prefix, batched by length, run through the base model
(no logits), and every site's output is pooled over the prompt's real tokens on the way (`passes`);
attributions take whole prompts, and a backward pass (`attributing`). A background thread writes the finished
block while the model works on the next one. The processes of one ``accelerate launch`` take blocks in turn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from relact import plan, schema
from relact.capturing import prepare
from relact.capturing.objectives import Objective
from relact.capturing.options import CaptureOptions
from relact.capturing.passes import capture_rows
from relact.capturing.sizing import passes_of, shape_of, sized
from relact.models import cost, throughput
from relact.models.loading import LoadedModel, load
from relact.progress import LOG, Progress, in_notebooks
from relact.relations.table import read
from relact.store import local, locks
from relact.store.blocks import BlockBuffer
from relact.store.coarse import tell
from relact.store.local import LocalStore

POLL = 0.2  # seconds between two looks at the other ranks' blocks


class Sink(Protocol):
    """Takes committed blocks elsewhere (`relact.sharing.stream`); an error of it ends the capture."""

    def begin(self, store: LocalStore) -> None:
        """Before anything is captured: may commit blocks that need not be."""

    def committed(self, store: LocalStore, block: int) -> None:
        """After each commit, while the next block is computed."""


def capture(
    model: str | LoadedModel,
    prompts: pd.DataFrame | str | Path,
    store: str | Path,
    *,
    sites: str | Sequence[str] = CaptureOptions.sites,
    pool: str = CaptureOptions.pool,
    dtype: str = CaptureOptions.dtype,
    block: int | None = CaptureOptions.block,
    batch_tokens: int = CaptureOptions.batch_tokens,
    special_tokens: bool = CaptureOptions.special_tokens,
    memory: str | int | None = CaptureOptions.memory,
    compress: bool = CaptureOptions.compress,
    attribution: bool = CaptureOptions.attribution,
    attribution_sites: str | Sequence[str] = CaptureOptions.attribution_sites,
    attribution_pool: str = CaptureOptions.attribution_pool,
    attribution_dtype: str = CaptureOptions.attribution_dtype,
    target: str = CaptureOptions.target,
    target_token: str | int | None = CaptureOptions.target_token,
    attribution_method: str | None = CaptureOptions.attribution_method,
    attribution_steps: int | None = CaptureOptions.attribution_steps,
    attribution_path: str | None = CaptureOptions.attribution_path,
    skip_first_token: bool = CaptureOptions.skip_first_token,
    model_dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    append: bool = False,
    repair: bool = False,
    progress: Progress = in_notebooks,
) -> LocalStore:
    """Capture the identification prompts of a prompt table into a store; resume one that was interrupted.

    Args:
        model: what `models.loading.load` accepts, or an already loaded model.
        prompts: a prompt table (`relact.prompts`) or a file of one.
        store: folder of the store; made when missing, resumed when it records the same identity.
        sites: names or aliases (`sites.expand`).
        dtype: ``float16`` or ``float32``. pool: over real tokens: ``mean``, ``max``, ``last``, ``positive``.
        block: prompts committed together; about 512, fewer if ``memory`` asks. batch_tokens: in one pass.
        special_tokens: whether the tokenizer adds its own (BOS); they count as real tokens.
        memory: budget of the whole process in bytes or as text ("8GiB"); None for no limit.
        compress: store bitshuffled and compressed with zstd: smaller, slower to read.
        attribution: also store activation times gradient of the answer's log-probability: to first order what
            it loses when the neuron is 0. attribution_sites, attribution_dtype: as those without.
        attribution_pool: ``sum`` over the real tokens, the ``last``, or the prompt's ``own``: its last line.
        target: the ``answer``'s first token, its ``contrast`` with another answer, or one ``token`` for all,
            ``target_token``: its text or number.
        attribution_method: ``gradient``; ``direct``, ``increase`` (`capturing.writing`); ``integrated``, over
            ``attribution_steps`` along an ``attribution_path`` (`capturing.integrating`).
        skip_first_token: leave the first token of every prompt out of all pools: often it is a sink.
        model_dtype, device, trust_remote_code: of a model that is loaded.
        append: add the table's prompts that the store does not have. repair: check every byte first, and
            capture damaged blocks again.

    Returns:
        the complete store: [prompt, layer, neuron] per site (not yet complete on other ranks).

    Raises:
        InputError, ModelError, NumericError, StoreError, IdentityError, BusyError, BudgetError: see
            `relact.errors`; committed blocks stay.
    """
    attributed = attribution, attribution_sites, attribution_pool, attribution_dtype, target, target_token
    method = attribution_method, attribution_steps, attribution_path
    stored = sites, pool, dtype, block, batch_tokens, special_tokens, memory, compress
    options = CaptureOptions(*stored, *attributed, *method, skip_first_token)
    loading = {"model_dtype": model_dtype, "device": device, "trust_remote_code": trust_remote_code}
    how: dict[str, Any] = {**loading, "append": append, "repair": repair, "progress": progress}
    return capture_with(options, model, prompts, store, **how)


def capture_with(
    options: CaptureOptions,
    model: str | LoadedModel,
    prompts: pd.DataFrame | str | Path,
    store: str | Path,
    *,
    model_dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    append: bool = False,
    repair: bool = False,
    sink: Sink | None = None,
    progress: Progress = in_notebooks,
) -> LocalStore:
    """`capture` with options that travel together; ``sink`` takes committed blocks elsewhere."""
    path, crew, table = Path(store), locks.Crew.of_environment(), read(prompts)
    local.check_target(path, damaged=repair)
    loaded = load(model, dtype=model_dtype, device=device, trust_remote_code=trust_remote_code)
    intake = prepare.take_in(loaded, table, options.record(loaded.model.config), compress=options.compress)
    intake = sized(intake, loaded, options, path)

    def begin() -> None:
        if not path.exists():
            if intake.objective:
                intake.objective.require_contrast(intake.tables[schema.IDENTIFY])
            local.create(path, intake.blueprint)
            return
        if repair:
            prepare.repair(path, intake)
        opened = local.open(path)
        local.recover(opened)
        if not append and prepare.is_superseded(opened, intake):
            local.discard(opened)
            local.create(path, intake.blueprint)
            return
        if append:
            prepare.append(opened, intake)
        else:
            prepare.resume(opened, intake)

    def finished() -> bool:
        return path.exists() and not repair and _nothing_to_do(local.open(path), intake)

    with locks.writing_together(path, crew, begin, finished):
        opened = local.open(path)
        if sink:
            sink.begin(opened)
        missing = opened.missing_blocks()
        if missing or crew.rank == 0:
            tokens = prepare.tokens_of(loaded, opened.prompts(schema.IDENTIFY), intake)
            objective = prepare.objective_in(loaded, opened, tokens, intake)
            buffers = _buffers(loaded, opened, intake, tokens, missing, options.budget)
            _Run(loaded, opened, tokens, objective, buffers, sink, progress).share(missing, crew)
    if crew.rank == 0 and not sink:  # what goes elsewhere is there
        tell(opened)
    return opened


def _nothing_to_do(store: LocalStore, intake: prepare.Intake) -> bool:
    """Whether the store is complete and has all the prompts of the intake."""
    fresh = prepare.new_rows(store, intake)
    return not store.missing_blocks() and not any(len(rows) for rows in fresh.values())


def _buffers(
    loaded: LoadedModel,
    store: LocalStore,
    intake: prepare.Intake,
    tokens: Sequence[Sequence[int]],
    missing: Sequence[int],
    budget: int | None,
) -> int:
    """How many blocks the memory holds at a time."""
    settings = store.manifest.capture
    ranges = [segment for block in missing for segment in store.segments(block)]
    passes = passes_of(loaded, settings, tokens, ranges)
    shape = shape_of(loaded, intake, passes, store.n_prompts, store.compressed)
    return shape.fit(budget, settings.block)[1]


@dataclass(frozen=True)
class _Run:
    """The capture of one process: what its blocks have in common."""

    loaded: LoadedModel
    store: LocalStore
    tokens: Sequence[Sequence[int]]  # of every prompt of the store
    objective: Objective | None  # of every prompt of the store
    buffers: int
    sink: Sink | None
    progress: Progress

    def share(self, missing: Sequence[int], crew: locks.Crew) -> None:
        """Capture this rank's part; rank 0 goes on with what the others leave."""
        own, start = [block for block in missing if block % crew.size == crew.rank], time.perf_counter()
        self.capture(own)
        self._remember(own, time.perf_counter() - start)
        while crew.size > 1 and crew.rank == 0 and (left := self.store.missing_blocks()):
            if locks.alone(self.store.path):  # the other ranks are gone, or have not come yet
                self.capture(left)
            time.sleep(POLL)

    def capture(self, blocks: Sequence[int]) -> None:
        """Capture blocks in order; with two buffers one is written while the next is computed."""
        total = sum(self.store.rows_of(block)[1] - self.store.committed_stop(block) for block in blocks)
        done, there = 0, self.store.n_prompts - total
        if there and total and len(blocks) == len(self.store.missing_blocks()):
            LOG.warning("resuming: %s of %s prompts are there", f"{there:,}", f"{self.store.n_prompts:,}")
        self.progress("capture", 0, total, "prompts")
        free = [self.store.buffer() for _ in range(min(self.buffers, len(blocks)))]
        writing: list[Future[BlockBuffer]] = []  # one block at most; its result is its buffer, or an error
        with ThreadPoolExecutor(1, thread_name_prefix="relact-writer") as writer:
            for block in blocks:
                buffer = free.pop() if free else writing.pop().result()
                for n_rows in self.fill(block, buffer):
                    done += n_rows
                    self.progress("capture", done, total, "prompts")
                    if writing and writing[0].done():  # an error ends the capture now
                        free.append(writing.pop().result())
                if writing:
                    free.append(writing.pop().result())
                writing.append(writer.submit(self.write, block, buffer))
            for future in writing:
                future.result()

    def _remember(self, blocks: Sequence[int], seconds: float) -> None:
        """How fast the device is, for plans."""
        settings = self.store.manifest.capture
        if settings.attribution and settings.attribution.method in schema.OF_LAST:
            return  # most of their time is not the model's
        ranges = [segment for block in blocks for segment in self.store.segments(block)]
        work = cost.work_of(
            passes_of(self.loaded, settings, self.tokens, ranges),
            plan.passes(settings.attribution, self.loaded.n_layers),
        )
        throughput.record(self.loaded, work, seconds)

    def fill(self, block: int, buffer: BlockBuffer) -> Iterator[int]:
        """Put a block into ``buffer``, the rows it has and those it lacks; yields how many, as they come."""
        settings, first = self.store.manifest.capture, self.store.rows_of(block)[0]
        stop = self.store.load_block(block, buffer)
        for start, end in self.store.segments(block):
            if start >= stop:
                tokens = self.tokens[start:end]
                objective = self.objective and self.objective[start:end]
                yield from capture_rows(self.loaded, tokens, buffer, settings, start - first, objective)

    def write(self, block: int, buffer: BlockBuffer) -> BlockBuffer:
        """Commit a block and hand its buffer back, empty."""
        self.store.write_block(block, buffer)
        if self.sink:
            self.sink.committed(self.store, block)
        buffer.clear()
        return buffer

"""Capture: model + prompts + sites -> a stream of committed blocks.

One block at a time: its prompts are grouped by shared prefix, batched by length, run through the base model
(no logits), and every site's output is pooled over the prompt's real tokens on the way (`passes`). A
background thread writes the finished block while the model works on the next one. The processes of one
``accelerate launch`` take blocks in turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch

from relact import schema
from relact.capturing import prepare
from relact.capturing.memory import CaptureShape
from relact.capturing.options import CaptureOptions
from relact.capturing.passes import capture_rows
from relact.capturing.transfer import copies
from relact.errors import StoreError
from relact.models import batches, cost
from relact.models.loading import LoadedModel, encode, load
from relact.progress import Progress, silent
from relact.relations.table import read
from relact.store import local, locks
from relact.store.blocks import BlockBuffer
from relact.store.layout import block_bytes, block_of, block_ranges, layouts
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
    model_dtype: str = "auto",
    device: str = "auto",
    append: bool = False,
    repair: bool = False,
    progress: Progress = silent,
) -> LocalStore:
    """Capture the identification prompts of a prompt table into a store; resume one that was interrupted.

    Args:
        model: what `models.loading.load` accepts, or an already loaded model.
        prompts: a prompt table (`relact.prompts`) or a file of one.
        store: folder of the store; made when missing, resumed when it records the same identity.
        sites: names or aliases (`sites.expand`).
        pool: ``mean``, ``max``, ``last`` or ``positive`` (share of tokens above 0) over the prompt's real
            tokens.
        dtype: stored as ``float16`` or ``float32``.
        block: prompts committed together; by default about 512, evened out over the prompts, fewer if
            ``memory`` asks.
        batch_tokens: tokens in one forward pass at most.
        special_tokens: whether the tokenizer adds its own (BOS); they count as real tokens.
        memory: budget of the whole process in bytes or as text ("8GiB"); None for no limit.
        compress: store bitshuffled and compressed with zstd: smaller, slower to read.
        model_dtype, device: of a model that is loaded.
        append: add the prompts of the table that the store does not have; the others are not captured again.
        repair: check every byte first, and capture damaged blocks again.

    Returns:
        The complete store: activation [prompt, layer, neuron] per site. (Not yet complete on ranks other than
            0.)

    Raises:
        InputError, ModelError, NumericError, StoreError, IdentityError, BusyError, BudgetError: see
        relact.errors; committed blocks stay.
    """
    options = CaptureOptions(sites, pool, dtype, block, batch_tokens, special_tokens, memory, compress)
    return capture_with(
        options,
        model,
        prompts,
        store,
        model_dtype=model_dtype,
        device=device,
        append=append,
        repair=repair,
        progress=progress,
    )


def capture_with(
    options: CaptureOptions,
    model: str | LoadedModel,
    prompts: pd.DataFrame | str | Path,
    store: str | Path,
    *,
    model_dtype: str = "auto",
    device: str = "auto",
    append: bool = False,
    repair: bool = False,
    sink: Sink | None = None,
    progress: Progress = silent,
) -> LocalStore:
    """`capture` with options that travel together; ``sink`` takes committed blocks elsewhere."""
    path, crew, table = Path(store), locks.Crew.of_environment(), read(prompts)
    local.check_target(path, damaged=repair)
    loaded = load(model, dtype=model_dtype, device=_device_of(device, crew))
    intake = prepare.take_in(loaded, table, options.record(), compress=options.compress)
    intake = sized(intake, loaded, options, path)

    def begin() -> None:
        if not path.exists():
            local.create(path, intake.blueprint)
            return
        if repair:
            prepare.repair(path, intake)
        opened = local.open(path)
        local.recover(opened)
        prepare.append(opened, intake) if append else prepare.resume(opened, intake)

    def finished() -> bool:
        return path.exists() and not repair and _nothing_to_do(local.open(path), intake)

    with locks.writing_together(path, crew, begin, finished):
        opened = local.open(path)
        if sink:
            sink.begin(opened)
        if (missing := opened.missing_blocks()) or crew.rank == 0:
            _Run.of(loaded, opened, intake, options, missing, sink, progress).share(missing, crew)
    return opened


@dataclass(frozen=True)
class _Run:
    """The capture of one process: what its blocks have in common."""

    loaded: LoadedModel
    store: LocalStore
    tokens: Sequence[Sequence[int]]
    buffers: int
    sink: Sink | None
    progress: Progress

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        store: LocalStore,
        intake: prepare.Intake,
        options: CaptureOptions,
        missing: Sequence[int],
        sink: Sink | None,
        progress: Progress,
    ) -> _Run:
        """With as many buffers as the memory allows."""
        settings = store.manifest.capture
        tokens = tokens_of(loaded, store.prompts(schema.IDENTIFY), settings, intake)
        ranges = [segment for block in missing for segment in store.segments(block)]
        shape = shape_of(
            loaded, intake, passes_of(tokens, ranges, settings.batch), store.n_prompts, store.compressed
        )
        _, buffers = shape.fit(options.budget, settings.block)
        return cls(loaded, store, tokens, buffers, sink, progress)

    def share(self, missing: Sequence[int], crew: locks.Crew) -> None:
        """Capture this rank's part; rank 0 goes on with what the others leave."""
        self.capture([block for block in missing if block % crew.size == crew.rank])
        while crew.size > 1 and crew.rank == 0 and (left := self.store.missing_blocks()):
            if locks.alone(self.store.path):  # the other ranks are gone, or have not come yet
                self.capture(left)
            time.sleep(POLL)

    def capture(self, blocks: Sequence[int]) -> None:
        """Capture blocks in order; with two buffers one is written while the next is computed."""
        starts = {block: self.store.committed_stop(block) for block in blocks}
        total, done = sum(self.store.rows_of(block)[1] - start for block, start in starts.items()), 0
        free: list[BlockBuffer] = [self.store.buffer() for _ in range(min(self.buffers, len(blocks)))]
        pending: Future[BlockBuffer] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="relact-writer") as writer:
            for block in blocks:
                if not free:
                    free, pending = [_finished(pending)], None
                buffer = free.pop()
                for n_rows in self.fill(block, buffer):
                    done += n_rows
                    self.progress("capture", done, total, "prompts")
                    # its error, if it has one, ends the capture now
                    if pending is not None and pending.done():
                        free, pending = [*free, _finished(pending)], None
                if pending is not None:
                    free.append(_finished(pending))
                pending = writer.submit(self.write, block, buffer)
            if pending is not None:
                _finished(pending)

    def fill(self, block: int, buffer: BlockBuffer) -> Iterator[int]:
        """Put one block into ``buffer``: the rows it has, then what an append added to it;
        yields rows captured.
        """
        first, _ = self.store.rows_of(block)
        stop = self.store.load_block(block, buffer)
        for start, end in self.store.segments(block):
            if start >= stop:
                settings = self.store.manifest.capture
                yield from capture_rows(self.loaded, self.tokens[start:end], buffer, settings, start - first)

    def write(self, block: int, buffer: BlockBuffer) -> BlockBuffer:
        """Commit a block and hand its buffer back, empty."""
        self.store.write_block(block, buffer)
        if self.sink:
            self.sink.committed(self.store, block)
        buffer.clear()
        return buffer


def _finished(pending: Future[BlockBuffer] | None) -> BlockBuffer:
    """Wait for the writer; its error surfaces here."""
    assert pending is not None
    return pending.result()


def _device_of(device: str, crew: locks.Crew) -> str:
    """The ranks of one launch take the device of their number."""
    if device == "auto" and crew.size > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', crew.rank)}"
    return device


def sized(
    intake: prepare.Intake, loaded: LoadedModel, options: CaptureOptions, path: Path | None
) -> prepare.Intake:
    """The intake with its rows per block: as asked, as the store at ``path`` has it,
    or what the memory allows.
    """
    n_prompts, block = len(intake.tokens), options.block
    if block is None and path is not None:
        block = _block_of(path)
    if block is None:
        ranges = block_ranges(n_prompts, block_of(n_prompts))
        passes = passes_of(intake.tokens, ranges, options.batch_tokens) if options.memory else ()
        shape = shape_of(loaded, intake, passes, n_prompts, options.compress)
        block, _ = shape.fit(options.budget)
    return intake.with_block(block)


def _block_of(path: Path) -> int | None:
    """Rows per block that the store at ``path`` records; None where none can be read."""
    try:
        return local.read_manifest(path).capture.block
    except StoreError:
        return None


def passes_of(
    tokens: Sequence[Sequence[int]], ranges: Iterable[tuple[int, int]], budget: int
) -> Iterator[batches.Pass]:
    """Shapes of the forward passes over ranges of prompts that are batched together."""
    for first, last in ranges:
        yield from batches.passes(tokens[first:last], budget)


def shape_of(
    loaded: LoadedModel,
    intake: prepare.Intake,
    passes: Iterable[batches.Pass],
    n_prompts: int,
    compress: bool,
) -> CaptureShape:
    """What the memory of these passes and of the blocks around them depends on."""
    plan, passes = intake.blueprint, list(passes)
    dtype = plan.manifest.capture.dtype
    row = block_bytes(layouts(1, 1, plan.n_layers, plan.widths, dtype))  # one prompt's pooled values
    arriving = copies(loaded.device) * max((rows for rows, _, _ in passes), default=0) * row
    held = cost.held_bytes(loaded, passes) + arriving
    return CaptureShape(n_prompts, plan.n_layers, plan.widths, dtype, held, compress)


def tokens_of(
    loaded: LoadedModel, prompts: pd.DataFrame, settings: schema.CaptureRecord, intake: prepare.Intake
) -> Sequence[Sequence[int]]:
    """Ids of a store's identification prompts, in its order."""
    texts = [str(text) for text in prompts["text"]]
    if texts == intake.tables[schema.IDENTIFY]["text"].astype(str).tolist():
        return intake.tokens
    return encode(loaded, texts, special_tokens=settings.special_tokens)


def _nothing_to_do(store: LocalStore, intake: prepare.Intake) -> bool:
    """Whether the store is complete and has all the prompts of the intake."""
    fresh = prepare.new_rows(store, intake)
    return not store.missing_blocks() and not any(len(rows) for rows in fresh.values())

"""Capture: model + prompts + sites -> a stream of committed blocks.

One block at a time: its prompts are grouped by shared prefix, batched by length, run through the base model (no logits), and
every site's output is pooled over the prompt's real tokens on the way (`passes`). A background thread writes the finished
block while the model works on the next one. The processes of one ``accelerate launch`` take blocks in turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch

from relact.models import cost, loading
from relact import intake, plan, schema, sites
from relact.store import locks
from relact.relations import prompts as prompt_tables
from relact.store import local
from relact.store.blocks import BlockBuffer
from relact.errors import InputError, StoreError
from relact.passes import capture_rows
from relact.progress import Progress, silent

BATCH_TOKENS = 2048  # tokens of one batch, padding included
POLL = 0.2  # seconds between two looks at the other ranks' blocks


class Sink(Protocol):
    """Takes committed blocks elsewhere (`relact.share.stream`); an error of it ends the capture."""

    def begin(self, store: local.Store) -> None:
        """Before anything is captured: may commit blocks that need not be."""

    def committed(self, store: local.Store, block: int) -> None:
        """After each commit, while the next block is computed."""


def capture(
    model: str | loading.LoadedModel,
    prompts: pd.DataFrame | str | Path,
    store: str | Path,
    *,
    sites: str | Sequence[str] = "mlp",
    pool: str = "mean",
    dtype: str = "float16",
    block: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    special_tokens: bool = True,
    model_dtype: str = "auto",
    device: str = "auto",
    memory: str | int | None = None,
    compress: bool = False,
    append: bool = False,
    repair: bool = False,
    sink: Sink | None = None,
    progress: Progress = silent,
) -> local.Store:
    """Capture the identification prompts of a prompt table into a store; resume one that was interrupted.

    Args:
        model: what `models.load` accepts, or an already loaded model.
        prompts: a prompt table (`prompts.build`) or a file of one.
        store: folder of the store; made when missing, resumed when it records the same identity.
        sites: names or aliases (`sites.expand`).
        pool: ``mean``, ``max``, ``last`` or ``positive`` (share of tokens above 0) over the prompt's real tokens.
        dtype: stored as ``float16`` or ``float32``.
        block: prompts committed together; by default about 512, evened out over the prompts, fewer if ``memory`` asks.
        batch_tokens: tokens in one forward pass at most.
        special_tokens: whether the tokenizer adds its own (BOS); they count as real tokens.
        memory: budget of the whole process in bytes or as text ("8GiB"); None for no limit.
        compress: store bitshuffled and compressed with zstd: smaller, slower to read.
        append: add the prompts of the table that the store does not have; the others are not captured again.
        repair: check every byte first, and capture damaged blocks again.
        sink: takes committed blocks elsewhere.

    Returns:
        The complete store: activation [prompt, layer, neuron] per site. (Not yet complete on ranks other than 0.)

    Raises:
        InputError, ModelError, NumericError, StoreError, IdentityError, BusyError, BudgetError: see relact.errors;
        committed blocks stay.
    """
    settings = _settings(sites, pool, dtype, block, batch_tokens, special_tokens)
    table = prompts if isinstance(prompts, pd.DataFrame) else prompt_tables.read(prompts)
    path, crew = Path(store), locks.Crew.of_environment()
    local.check_target(path, damaged=repair)
    loaded = model if isinstance(model, loading.LoadedModel) else _load(model, model_dtype, device, crew)
    given = intake.take_in(loaded, table, settings)
    given = _sized(given, loaded, path, block, memory, compress)

    def prepare() -> None:
        if not path.exists():
            intake.make(path, given, compress=compress)
            return
        if repair:
            intake.repair(path, given, compress=compress)
        opened = local.open(path)
        local.recover(opened)
        intake.append(opened, given) if append else intake.resume(opened, given)

    def finished() -> bool:
        return path.exists() and not repair and _nothing_to_do(local.open(path), given)

    with locks.writing_together(path, crew, prepare, finished):
        opened = local.open(path)
        if sink:
            sink.begin(opened)
        if (missing := opened.missing_blocks()) or crew.rank == 0:
            tokens = _tokens(loaded, opened.prompts(schema.IDENTIFY), opened.manifest.capture, given)
            todo = _passes(opened, tokens, missing)
            shape = _shape(loaded, given, opened.n_prompts, todo, opened.compressed)
            _, buffers = shape.fit(_budget(memory), opened.manifest.capture.block)
            mine = [number for number in missing if number % crew.size == crew.rank]
            _run(loaded, opened, tokens, mine, buffers, sink, progress)
            while crew.size > 1 and crew.rank == 0 and (missing := opened.missing_blocks()):
                if locks.alone(path):  # the other ranks are gone, or have not come yet
                    _run(loaded, opened, tokens, missing, buffers, sink, progress)
                time.sleep(POLL)
    return opened


def dry_run(
    model: str | loading.LoadedModel,
    prompts: pd.DataFrame | str | Path,
    store: str | Path | None = None,
    *,
    sites: str | Sequence[str] = "mlp",
    pool: str = "mean",
    dtype: str = "float16",
    block: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    special_tokens: bool = True,
    model_dtype: str = "auto",
    device: str = "auto",
    memory: str | int | None = None,
    compress: bool = False,
    append: bool = False,
) -> plan.Plan:
    """What `capture` with the same arguments would write, and need; the model is loaded and timed, nothing is written.

    Files and bytes are exact for an uncompressed store: what is not a block is built in a temporary folder and measured.

    Args:
        store: where it may have begun already; None, or a place where nothing is, for a new one.
    """
    settings = _settings(sites, pool, dtype, block, batch_tokens, special_tokens)
    table = prompts if isinstance(prompts, pd.DataFrame) else prompt_tables.read(prompts)
    loaded = model if isinstance(model, loading.LoadedModel) else _load(model, model_dtype, device, locks.Crew(0, 1, ""))
    path = Path(store) if store is not None and Path(store).exists() else None
    given = _sized(intake.take_in(loaded, table, settings), loaded, path, block, memory, compress)
    skeleton: intake.Intake | None = given
    done: list[int] = []  # one past the last committed row of every block
    table = given.tables[schema.IDENTIFY]
    if path is not None:
        opened = local.open(path)
        compress, table = opened.compressed, opened.prompts(schema.IDENTIFY)
        done = [opened.committed_stop(number) for number in range(opened.n_blocks)]
        skeleton = intake.grown(opened, given) if append else None
        if skeleton is not None:
            table = skeleton.tables[schema.IDENTIFY]
        elif not append:
            intake.resume(opened, given)
    tokens = _tokens(loaded, table, settings, given)
    rows, n_prompts = given.manifest.capture.block, len(tokens)
    cuts = [(first, min(first + rows, n_prompts)) for first in range(0, n_prompts, rows)]
    done += [0] * (len(cuts) - len(done))
    cuts = [cut for cut, stop in zip(cuts, done, strict=True) if stop < cut[1]]
    todo = list(cost.passes(tokens, cuts, batch_tokens))
    shape = _shape(loaded, given, n_prompts, todo, compress)
    _, buffers = shape.fit(_budget(memory), rows)
    layouts = plan.layouts(n_prompts, rows, given.n_layers, given.widths, dtype)
    n_files, n_bytes = intake.measure(skeleton, compress=compress) if skeleton else (0, 0)
    n_files += len(cuts) * (1 + sum(lay.n_layers for lay in layouts.values()))
    n_bytes += len(cuts) * (
        plan.record_bytes(layouts) + sum(lay.n_layers * lay.shard_bytes for lay in layouts.values())
    )
    taken = cost.seconds(loaded, todo, n_bytes)
    peak = shape.memory(rows, min(buffers, max(1, len(cuts))))
    return plan.Plan("capture", n_files, n_bytes, not compress, peak, taken)


def _run(
    loaded: loading.LoadedModel,
    store: local.Store,
    tokens: Sequence[Sequence[int]],
    missing: Sequence[int],
    buffers: int,
    sink: Sink | None,
    progress: Progress,
) -> None:
    """Capture the missing blocks in order; with two buffers one is written while the next is computed."""
    starts = {block: store.committed_stop(block) for block in missing}
    total, done = sum(store.rows_of(block)[1] - start for block, start in starts.items()), 0
    free: list[BlockBuffer] = [store.buffer() for _ in range(min(buffers, len(missing)))]
    pending: Future[BlockBuffer] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="relact-writer") as writer:
        for block in missing:
            if not free:
                free, pending = [_finished(pending)], None
            buffer = free.pop()
            for n_rows in _fill(loaded, store, tokens, block, buffer):
                done += n_rows
                progress("capture", done, total, "prompts")
                if pending is not None and pending.done():  # its error, if it has one, ends the capture now
                    free, pending = [*free, _finished(pending)], None
            if pending is not None:
                free.append(_finished(pending))
            pending = writer.submit(_write, store, block, buffer, sink)
        if pending is not None:
            _finished(pending)


def _fill(
    loaded: loading.LoadedModel, store: local.Store, tokens: Sequence[Sequence[int]], block: int, buffer: BlockBuffer
) -> Iterator[int]:
    """Put one block into ``buffer``: the rows it has, then what an append added to it; yields rows captured."""
    first, _ = store.rows_of(block)
    stop = store.load_block(block, buffer)
    for start, end in store.segments(block):
        if start >= stop:
            yield from capture_rows(loaded, tokens[start:end], buffer, store.manifest.capture, start - first)


def _write(store: local.Store, block: int, buffer: BlockBuffer, sink: Sink | None) -> BlockBuffer:
    store.write_block(block, buffer)
    if sink:
        sink.committed(store, block)
    buffer.clear()
    return buffer


def _finished(pending: Future[BlockBuffer] | None) -> BlockBuffer:
    """Wait for the writer; its error surfaces here."""
    assert pending is not None
    return pending.result()


def _load(model: str, dtype: str, device: str, crew: locks.Crew) -> loading.LoadedModel:
    """Load the model; the ranks of one launch take the device of their number."""
    if device == "auto" and crew.size > 1 and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', crew.rank)}"
    return loading.load(model, dtype=dtype, device=device)


def _settings(
    names: str | Sequence[str], pool: str, dtype: str, block: int | None, batch: int, special: bool
) -> schema.CaptureRecord:
    """Check the settings before anything is loaded."""
    expanded = sites.expand(names)
    for value, known, option in ((pool, schema.POOLS, "--pool"), (dtype, schema.DTYPES, "--dtype")):
        if value not in known:
            raise InputError(f"{value!r} is not known", where=option, fix=f"choose one of {', '.join(known)}")
    for number, option in ((block, "--block"), (batch, "--batch-tokens")):
        if number is not None and number < 1:
            raise InputError(f"{number} is too small", where=option, fix="give at least 1")
    return schema.CaptureRecord(expanded, pool, dtype, block or plan.BLOCK, batch, special)


def _sized(
    given: intake.Intake,
    loaded: loading.LoadedModel,
    path: Path | None,
    block: int | None,
    memory: str | int | None,
    compress: bool,
) -> intake.Intake:
    """The intake with its rows per block: as asked, as the store has it, or what the memory allows."""
    n_prompts, batch = len(given.tokens), given.manifest.capture.batch
    if block is None and path is not None:
        block = _block_of(path)
    if block is None:
        rows = plan.block_of(n_prompts)
        cuts = [(first, min(first + rows, n_prompts)) for first in range(0, n_prompts, rows)]
        todo = cost.passes(given.tokens, cuts, batch) if memory else ()
        block, _ = _shape(loaded, given, n_prompts, todo, compress).fit(_budget(memory))
    settings = replace(given.manifest.capture, block=block)
    return replace(given, manifest=replace(given.manifest, capture=settings))


def _block_of(path: Path) -> int | None:
    """Rows per block that the store at ``path`` records; None where none can be read."""
    try:
        return local.read_manifest(path).capture.block
    except StoreError:
        return None


def _shape(
    loaded: loading.LoadedModel, given: intake.Intake, n_prompts: int, todo: Iterable[cost.Pass], compress: bool
) -> plan.CaptureShape:
    """What the memory of the passes ``todo`` and of the blocks around them depends on."""
    dtype = given.manifest.capture.dtype
    row = plan.block_bytes(plan.layouts(1, 1, given.n_layers, given.widths, dtype))  # one prompt's pooled values
    held = cost.held_bytes(loaded, todo, row)
    return plan.CaptureShape(n_prompts, given.n_layers, given.widths, dtype, held, compress)


def _budget(memory: str | int | None) -> int | None:
    return None if memory is None else plan.parse_bytes(memory)


def _passes(store: local.Store, tokens: Sequence[Sequence[int]], missing: Sequence[int]) -> Iterator[cost.Pass]:
    for block in missing:
        yield from cost.passes(tokens, store.segments(block), store.manifest.capture.batch)


def _tokens(
    loaded: loading.LoadedModel, prompts: pd.DataFrame, settings: schema.CaptureRecord, given: intake.Intake
) -> Sequence[Sequence[int]]:
    """Ids of the store's identification prompts, in its order."""
    texts = [str(text) for text in prompts["text"]]
    if texts == given.tables[schema.IDENTIFY]["text"].astype(str).tolist():
        return given.tokens
    return loading.encode(loaded, texts, special_tokens=settings.special_tokens)


def _nothing_to_do(store: local.Store, given: intake.Intake) -> bool:
    """Whether the store is complete and has all the prompts of the intake."""
    fresh = intake.new_rows(store, given)
    return not store.missing_blocks() and not any(len(rows) for rows in fresh.values())

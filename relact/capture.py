"""Capture: model + prompts + sites -> a stream of committed blocks.

One block at a time: its prompts are grouped by shared prefix, batched by length, run through the base model (no logits), and
every site's output is pooled over the prompt's real tokens on the way (`pool`). A background thread writes the
finished block while the model works on the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from relact import hooks, models, plan, schema, sites
from relact import prompts as prompt_tables
from relact import store as stores
from relact.batches import by_length, prefix_groups
from relact.blocks import BlockBuffer
from relact.errors import InputError
from relact.forward import advance, pad, repeat_cache
from relact.pool import Pool, pools
from relact.progress import Progress, silent

BATCH_TOKENS = 2048  # tokens of one batch, padding included
SHOWN_VERSIONS = ("relact", "torch", "transformers", "zarr", "numpy")


def capture(
    model: str | models.LoadedModel,
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
    progress: Progress = silent,
) -> stores.Store:
    """Capture the identification prompts of a prompt table into a store; resume one that was interrupted.

    Args:
        model: what `models.load` accepts, or an already loaded model.
        prompts: a prompt table (`prompts.build`) or a file of one.
        store: folder of the store; made when missing, resumed when it records the same identity.
        sites: names or aliases (`sites.expand`).
        pool: ``mean``, ``max``, ``last`` or ``positive`` (share of tokens above 0) over the prompt's real tokens.
        dtype: stored as ``float16`` or ``float32``.
        block: prompts committed together; by default about 512, evened out over the prompts.
        batch_tokens: tokens in one forward pass at most.
        special_tokens: whether the tokenizer adds its own (BOS); they count as real tokens.

    Returns:
        The complete store: activation [prompt, layer, neuron] per site.

    Raises:
        InputError, ModelError, NumericError, StoreError, IdentityError: see relact.errors; committed blocks stay.
    """
    settings = _settings(sites, pool, dtype, block, batch_tokens, special_tokens)
    table = prompts if isinstance(prompts, pd.DataFrame) else prompt_tables.read(prompts)
    stores.check_target(store)
    loaded = model if isinstance(model, models.LoadedModel) else models.load(model, dtype=model_dtype, device=device)
    tables, tokens = _encode(loaded, table, special_tokens)
    manifest = _manifest(loaded, tables, settings(len(tokens)))
    opened = _open_or_create(Path(store), manifest, tables, loaded)
    missing = opened.missing_blocks()
    if missing:
        stores.recover(opened)
        _run(loaded, opened, tokens, missing, progress)
    return opened


def _run(
    loaded: models.LoadedModel,
    store: stores.Store,
    tokens: Sequence[Sequence[int]],
    missing: Sequence[int],
    progress: Progress,
) -> None:
    """Capture the missing blocks in order; at most one block is being written while the next is computed."""
    spans = {block: store.rows_of(block) for block in missing}
    total, done = sum(last - first for first, last in spans.values()), 0
    free, pending = [store.buffer(), store.buffer()] if len(missing) > 1 else [store.buffer()], None
    with ThreadPoolExecutor(1, thread_name_prefix="relact-writer") as writer:
        for block, (first, last) in spans.items():
            if not free:
                free.append(_finished(pending))
                pending = None
            buffer = free.pop()
            for n_rows in capture_rows(loaded, tokens[first:last], buffer, store.manifest.capture):
                done += n_rows
                progress("capture", done, total, "prompts")
            if pending is not None:
                free.append(_finished(pending))
            pending = writer.submit(_write, store, block, buffer)
        _finished(pending)


def _write(store: stores.Store, block: int, buffer: BlockBuffer) -> BlockBuffer:
    store.write_block(block, buffer)
    buffer.clear()
    return buffer


def _finished(pending: Future[BlockBuffer] | None) -> BlockBuffer:
    """Wait for the writer; its error surfaces here."""
    assert pending is not None
    return pending.result()


def capture_rows(
    loaded: models.LoadedModel,
    tokens: Sequence[Sequence[int]],
    buffer: BlockBuffer,
    settings: schema.CaptureRecord,
) -> Iterator[int]:
    """Run the prompts of one block and fill ``buffer``; yields the number of rows after each batch."""
    lengths = [len(row) for row in tokens]
    with torch.inference_mode():
        for group in prefix_groups(tokens):
            prefix = _Prefix.run(loaded, group.prefix, settings)
            own = [length - len(group.prefix) for length in lengths]
            for rows in by_length(group.rows, own, settings.batch):
                _run_batch(loaded, [tokens[row][len(group.prefix) :] for row in rows], rows, prefix, buffer, settings)
                yield len(rows)


@dataclass
class _Prefix:
    """A prefix after its forward pass: keys and values, and each site's unfinished pool."""

    length: int
    cache: Any
    partial: dict[tuple[str, int], torch.Tensor]  # (site, layer) -> [1, width]

    @classmethod
    def run(cls, loaded: models.LoadedModel, prefix: Sequence[int], settings: schema.CaptureRecord) -> _Prefix:
        if not prefix:
            return cls(0, None, {})
        pool = pools(settings.pool)
        partial: dict[tuple[str, int], torch.Tensor] = {}
        ids = torch.tensor([prefix], device=loaded.device)
        mask = torch.ones_like(ids, dtype=torch.bool)

        def keep(site: str, layer: int, values: torch.Tensor) -> None:
            partial[site, layer] = pool.start(values, mask)

        with hooks.visit(loaded.model, settings.sites, keep):
            _, cache = advance(loaded.model.base_model, ids)
        return cls(len(prefix), cache, partial)


def _run_batch(
    loaded: models.LoadedModel,
    own: Sequence[Sequence[int]],
    rows: Sequence[int],
    prefix: _Prefix,
    buffer: BlockBuffer,
    settings: schema.CaptureRecord,
) -> None:
    """One forward pass over right-padded prompts (without their prefix); pools go straight into the buffer."""
    ids, mask = pad(own, loaded.device)  # [batch, tokens]
    pool: Pool = pools(settings.pool)
    stored = torch.float16 if settings.dtype == "float16" else torch.float32
    lengths = torch.tensor([[len(row) + prefix.length] for row in own], device=loaded.device)  # [batch, 1]
    index = np.asarray(rows)

    def keep(site: str, layer: int, values: torch.Tensor) -> None:
        partial = pool.start(values, mask)
        if prefix.length:
            partial = pool.join(prefix.partial[site, layer], partial)
        buffer.put(site, layer, index, pool.finish(partial, lengths).to(stored).cpu().numpy())

    with hooks.visit(loaded.model, settings.sites, keep):
        if prefix.length:
            full = torch.cat([torch.ones(len(own), prefix.length, dtype=mask.dtype, device=mask.device), mask], dim=1)
            advance(loaded.model.base_model, ids, cache=repeat_cache(prefix.cache, len(own)), mask=full)
        else:
            loaded.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)


def _settings(
    names: str | Sequence[str], pool: str, dtype: str, block: int | None, batch: int, special: bool
) -> Callable[[int], schema.CaptureRecord]:
    """Check the settings before anything is loaded; the block needs the number of prompts."""
    expanded = sites.expand(names)
    for value, known, option in ((pool, schema.POOLS, "--pool"), (dtype, schema.DTYPES, "--dtype")):
        if value not in known:
            raise InputError(f"{value!r} is not known", where=option, fix=f"choose one of {', '.join(known)}")
    for number, option in ((block, "--block"), (batch, "--batch-tokens")):
        if number is not None and number < 1:
            raise InputError(f"{number} is too small", where=option, fix="give at least 1")
    return lambda n: schema.CaptureRecord(expanded, pool, dtype, block or plan.block_of(n), batch, special)


def _encode(
    loaded: models.LoadedModel, table: pd.DataFrame, special: bool
) -> tuple[dict[str, pd.DataFrame], list[list[int]]]:
    """Both splits with ``n_tokens``, and the token ids of the identification prompts."""
    tables = {}
    for split in (schema.IDENTIFY, schema.TEST):
        part = table[table["split"] == split].reset_index(drop=True)
        ids = models.encode(loaded, [str(text) for text in part["text"]], special_tokens=special)
        tables[split] = part.assign(n_tokens=[len(row) for row in ids])
        if split == schema.IDENTIFY:
            tokens = ids
    if not tokens:
        raise InputError("no identification prompts", fix="build prompts with `relact prompts`")
    limit = loaded.max_tokens
    for row, ids_of_row in enumerate(tokens):
        if not ids_of_row or (limit and len(ids_of_row) > limit):
            what = f"{len(ids_of_row)} tokens, the model takes 1 to {limit}"
            raise InputError(what, where=f"identification prompt {row}", fix="shorten or drop it")
    return tables, tokens


def _manifest(
    loaded: models.LoadedModel, tables: dict[str, pd.DataFrame], settings: schema.CaptureRecord
) -> schema.Manifest:
    columns = [*schema.PROMPT_TEXT, "n_tokens"]
    rows = {
        schema.IDENTIFY: tables[schema.IDENTIFY][columns],
        schema.TEST: tables[schema.TEST][[*columns, schema.ANSWERS]].assign(
            answers=pd.Series([list(answers) for answers in tables[schema.TEST][schema.ANSWERS]], dtype=object)
        ),
    }
    return schema.Manifest(
        model=schema.ModelRecord(loaded.id, loaded.revision, loaded.fingerprint, loaded.dtype, loaded.family),
        tokenizer=loaded.tokenizer_fingerprint,
        capture=settings,
        prompts={
            split: {"n": len(part), "digest": schema.digest(_records(part))} for split, part in rows.items()
        },
        versions={name: version(name) for name in SHOWN_VERSIONS},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _records(part: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in part.to_dict("records")]


def _open_or_create(
    path: Path, manifest: schema.Manifest, tables: dict[str, pd.DataFrame], loaded: models.LoadedModel
) -> stores.Store:
    if path.exists():
        store = stores.open(path)
        stores.require_identity(store, manifest)
        return store
    widths = {site: loaded.widths[site] for site in manifest.capture.sites}
    return stores.create(path, manifest, tables, loaded.n_layers, widths)

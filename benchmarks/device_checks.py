"""Is a device's answer the CPU's? What `device.py` checks first: whole stages on tiny random models."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_evidence import prompts_of, save_model

import relact
from relact import kernels, schema
from relact.capturing import passes, transfer
from relact.capturing.objectives import Objective
from relact.capturing.options import CaptureOptions
from relact.capturing.passes import capture_rows
from relact.capturing.pooling import pools
from relact.kernels.statistics import BUILT_IN
from relact.models import loading
from relact.store.blocks import BlockBuffer
from relact.store.layout import layouts, site_of
from relact.store.local import LocalStore

FAMILIES: dict[str, dict[str, int]] = {
    "llama": {},
    "gpt_neox": {},
    "gemma3_text": {"head_dim": 12},
    "phi3": {},
    "qwen3": {"head_dim": 12},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
}
CLOSE = 2e-4  # of the largest value: float32 sums in another order, through all layers
CLOSE_BFLOAT16 = 0.1
CLOSE_NATS = 2e-3
K = 60


@dataclass(frozen=True)
class Found:
    """A difference and the largest that is allowed."""

    figure: str
    value: float
    limit: float
    against: str


def kernels_equal(device: str, prompts: int, neurons: int) -> Iterator[Found]:
    """All built-in statistics, with ties, infinities and every kind of labels."""
    random = np.random.default_rng(0)
    values = random.normal(size=(prompts, neurons)).astype(np.float32)
    values[:, ::3] = np.round(values[:, ::3])
    values[:, 1::4] *= 0.0
    values[random.random(values.shape) < 0.01] = np.inf
    halves = values.astype(np.float16), (values.view(np.uint32) >> 16).astype(np.uint16)
    for relations, negatives in ((1, None), (12, None), (12, 4), (300, None)):
        names = [f"r{i % relations}" for i in range(prompts)]
        labels = kernels.Labels.one_vs_rest(names)
        labels = labels.sampled(negatives, 0) if negatives else labels
        worst = 0.0
        for stored in (values, *halves):
            with np.errstate(all="ignore"):
                ours = kernels.rank_statistics([stored], labels, sorted(BUILT_IN))
                theirs = kernels.on_device(device)([stored], labels, sorted(BUILT_IN))
            worst = max(worst, *(_apart(theirs[name], ours[name]) for name in BUILT_IN))
        drawn = f", {negatives} negatives for a positive" if negatives else ""
        figure = f"statistics of {relations} relations{drawn}: largest difference"
        yield Found(figure, worst, 1e-9, "the CPU's kernels, three dtypes")


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, of the largest number; infinite where one is a number and the other not."""
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0
    gap = np.abs(found[~same] - expected[~same]) / max(1.0, np.abs(expected[np.isfinite(expected)]).max())
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def family_equal(device: str, family: str) -> Iterator[Found]:
    """Capture with attribution, scores and an ablation of a tiny model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model", family, **FAMILIES[family])
        load = [loading.load(str(folder / "model"), device=where) for where in ("cpu", device)]
        table = prompts_of(load[0])
        stores = [
            relact.capture(loaded, table, folder / f"{number}.zarr", dtype="float32", attribution=True)
            for number, loaded in enumerate(load)
        ]
        for group in (schema.ACTIVATIONS, schema.ATTRIBUTIONS):
            yield Found(f"{family}: {group}", _stores_apart(stores, group), CLOSE, "the CPU, float32")
        shutil.copytree(folder / "0.zarr", folder / "2.zarr")
        scored = [relact.score(folder / "0.zarr"), relact.score(folder / "2.zarr", device=device)]
        yield Found(f"{family}: scores", _stores_apart(scored, schema.SCORES), 1e-6, "the CPU, same store")
        yield from _ablations_apart(family, scored, load)


def _ablations_apart(
    family: str, stores: Sequence[LocalStore], load: Sequence[loading.LoadedModel]
) -> Iterator[Found]:
    found = [
        relact.ablate(store, k=K, model=loaded, seeds=(0, 1)).load()
        for store, loaded in zip(stores, load, strict=True)
    ]
    verdicts = [one[schema.CORRECT].values for one in found]
    logs = [one[schema.LOG_PROBABILITY].values for one in found]
    differ, right = float((verdicts[0] != verdicts[1]).sum()), verdicts[0].mean()
    against = f"the CPU, {verdicts[0].size:,} verdicts, {100 * right:.0f}% right"
    yield Found(f"{family}: verdicts that differ", differ, 0, against)
    largest = float(np.nanmax(np.abs(logs[0] - logs[1])))
    yield Found(f"{family}: log-probabilities, nats", largest, CLOSE_NATS, "the CPU, float32")


def _stores_apart(stores: Sequence[LocalStore], group: str) -> float:
    """The largest difference of any array of a group's sites, of the array's largest number."""
    first, second = stores
    worst = 0.0
    for site in first.children(group):
        one, other = (store.dataset(f"{group}/{site}") for store in (first, second))
        for name in one.data_vars:
            worst = max(worst, _apart(other[name].values, one[name].values))
    return worst


def bfloat16_close(device: str) -> Iterator[Found]:
    """A model in bfloat16: as close as its seven bits are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        load = [
            loading.load(str(folder / "model"), device=where, dtype="bfloat16") for where in ("cpu", device)
        ]
        table = prompts_of(load[0])
        stores = [relact.capture(one, table, folder / f"{at}.zarr") for at, one in enumerate(load)]
        apart = _stores_apart(stores, schema.ACTIVATIONS)
        yield Found("llama in bfloat16: activations", apart, CLOSE_BFLOAT16, "the CPU, bfloat16")


def settings_of(loaded: loading.LoadedModel, **options: Any) -> schema.CaptureRecord:
    return CaptureOptions(**options).record(loaded.model.config)


def buffer_of(loaded: loading.LoadedModel, settings: schema.CaptureRecord, rows: int) -> BlockBuffer:
    widths = {stream: loaded.widths[site_of(stream)] for stream in settings.streams}
    return BlockBuffer(layouts(rows, rows, loaded.n_layers, widths, settings.streams))


def captured(
    loaded: loading.LoadedModel,
    tokens: Sequence[Sequence[int]],
    settings: schema.CaptureRecord,
    buffer: BlockBuffer,
) -> None:
    """All rows into a buffer; attributed is always token 5."""
    objective = None
    if settings.attribution:
        objective = Objective(np.full(len(tokens), 5), None, np.zeros(len(tokens), np.int64))
    for _ in capture_rows(loaded, tokens, buffer, settings, 0, objective):
        pass


def values_of(buffer: BlockBuffer) -> np.ndarray:
    """All values, one after the other."""
    every = [
        buffer.shard(stream, layer).ravel()
        for stream, lay in buffer.layouts.items()
        for layer in range(lay.n_layers)
    ]
    return np.concatenate(every)


def copies_equal(
    loaded: loading.LoadedModel, tokens: Sequence[Sequence[int]], settings: schema.CaptureRecord
) -> Iterator[Found]:
    """Values that arrive while the next batches run, and values that are waited for."""

    def waits(values: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return values.cpu(), mock.Mock()

    buffers = [buffer_of(loaded, settings, len(tokens)) for _ in range(2)]
    captured(loaded, tokens, settings, buffers[0])
    with mock.patch.object(transfer, "bring", waits):
        captured(loaded, tokens, settings, buffers[1])
    first, second = map(values_of, buffers)
    differ = float((first.view(np.uint16) != second.view(np.uint16)).sum())
    against = f"copies waited for, {first.size:,} values"
    yield Found("copies on a stream of their own: values that differ", differ, 0, against)


def pooling_close(device: str) -> Iterator[Found]:
    """Sums of halves, which are added in float32."""
    for dtype in (torch.bfloat16, torch.float16):
        values = torch.randn((48, 61, 512), generator=torch.Generator().manual_seed(0)).to(dtype)
        mask = torch.arange(61)[None, :] < torch.arange(14, 62)[:, None]
        exact = (values.double() * mask[:, :, None]).sum(dim=1).numpy()
        name = str(dtype).removeprefix("torch.")
        for known in (0, 14):  # tokens that all are known to have
            found = pools("mean").start(values.to(device), mask.to(device), known).cpu().double().numpy()
            figure = f"pooling of {name}, {known} of 61 tokens alone: largest difference"
            yield Found(figure, _apart(found, exact), 1e-6, "sums in float64")


def halving_equal(
    loaded: loading.LoadedModel, tokens: Sequence[Sequence[int]], room: int, *, attribution: bool
) -> Iterator[Found]:
    """One batch that does not fit into ``room`` bytes more than are in use, and batches that do."""
    usual, large = (
        settings_of(loaded, batch_tokens=n, dtype="float32", attribution=attribution) for n in (2048, 1 << 30)
    )
    buffers = [buffer_of(loaded, usual, len(tokens)) for _ in range(2)]
    captured(loaded, tokens, usual, buffers[0])
    with _limited(room), mock.patch.object(passes, "_in_halves", wraps=passes._in_halves) as calls:
        captured(loaded, tokens, large, buffers[1])
    first, second = map(values_of, buffers)
    what = "attributions" if attribution else "activations"
    if calls.call_count < 3:
        raise AssertionError("the batch was not halved: nothing was checked")
    against = f"batches of 2,048 tokens; halved into {(calls.call_count + 1) // 2} batches"
    yield Found(f"a batch that is out of memory: {what}", _apart(second, first), CLOSE, against)


class _limited:
    """Inside the block PyTorch may take so many bytes more than it has."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __enter__(self) -> None:
        torch.cuda.empty_cache()
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + self.room) / total)

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_per_process_memory_fraction(1.0)

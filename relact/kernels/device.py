"""The built-in statistics on a torch device, for machines with a CUDA device.

A column is sorted once by value; a second, stable sort of the small class numbers brings every class
together, at the same places of all columns. What a relation asks for are then ranks in its class and among
all, looked up, and differences of cumulative sums: more relations cost hardly more. Counts are exact; their
ratios are added in float64 in the device's own order, so results equal `ranks.rank_statistics` but for the
last bits.

Labels that leave prompts out are taken relation by relation, each with its own prompts alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from typing import Any

import numpy as np

from relact.errors import ModelError
from relact.kernels.columns import Beside, NotANumber, format_of
from relact.kernels.labels import LEFT_OUT, NEGATIVE, POSITIVE, Labels
from relact.kernels.ranks import rank_statistics
from relact.kernels.statistics import BUILT_IN, MEANS, QUANTILES
from relact.schema import AVERAGE_PRECISION

Tensor = Any  # of torch, which is imported where it is needed
HELD = 80  # bytes on the device per value of a tile, at most
STAGED = 1 << 27  # bytes of a tile's values as they are stored: enough to keep a device busy
COPIERS = 8  # more take each other's memory bandwidth
ON_CPU = 1 << 28  # bytes that a tile may take where torch cannot tell how much there is


_turn = threading.Lock()  # tiles are planned for a device that holds one at a time


def on_device(
    device: str,
) -> Callable[[Sequence[np.ndarray | Beside], Labels, Sequence[str]], dict[str, np.ndarray]]:
    """``on_device("cuda")(blocks, labels, ["average_precision"])``: `rank_statistics` on a torch device.

    A block may be several arrays `Beside` each other: a device is busy with thousands of neurons, not fewer.
    Statistics that are not built in are computed on the CPU.

    Raises:
        ModelError: torch is missing or does not have the device.
    """
    try:
        import torch

        torch.empty(0, device=device)
    except (ImportError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"cannot be used ({reason})", where=f"--device {device}", fix="score with --device cpu"
        ) from error
    return partial(_rank_statistics, device)


def _rank_statistics(
    device: str, blocks: Sequence[np.ndarray | Beside], labels: Labels, statistics: Sequence[str]
) -> dict[str, np.ndarray]:
    pieces = [block if isinstance(block, Beside) else Beside([block]) for block in blocks]
    for each in zip(*(block.pieces for block in pieces), strict=True):
        format_of(each, labels.prompts)
    ours = [name for name in statistics if name in BUILT_IN]
    others = [name for name in statistics if name not in BUILT_IN]
    results = rank_statistics([np.asarray(block) for block in blocks], labels, others) if others else {}
    if ours:
        results |= dict(zip(ours, _built_in(device, pieces, labels, ours), strict=True))
    return {name: results[name] for name in statistics}


def _built_in(device: str, blocks: Sequence[Beside], labels: Labels, statistics: Sequence[str]) -> np.ndarray:
    """float64 [statistics, relations, neurons]; while a tile is computed the next one is copied together."""
    results = np.empty((len(statistics), len(labels.relations), blocks[0].shape[1]))
    left = list(_tiles(device, blocks, labels))
    staged, written = _Staged.of(blocks, left[0], device), list[Future[None]]()
    while left:
        columns = left.pop(0)
        following = _Staged.of(blocks, left[0], device) if left else None
        found = _of_tile(device, staged, columns, labels, statistics)
        written += [
            _hands().submit(np.copyto, out[:, columns], own) for out, own in zip(results, found, strict=True)
        ]
        if following:
            staged = following
    _require_done(written)
    return results


def _tiles(device: str, blocks: Sequence[Beside], labels: Labels) -> Iterator[slice]:
    """Neurons that are computed together: as many as fit into the device's memory."""
    neurons, item = blocks[0].shape[1], blocks[0].dtype.itemsize
    held = HELD * max(1, labels.prompts) + 8 * 4 * len(BUILT_IN) * len(labels.roles)
    most = min(_room(device) // held, STAGED // (item * max(1, labels.prompts)))
    step = max(1, most)
    return (slice(start, min(start + step, neurons)) for start in range(0, max(1, neurons), step))


def _room(device: str) -> int:
    """Bytes that a tile may take: half of what is free, the rest is for fragments and for others."""
    import torch

    if torch.device(device).type != "cuda":
        return ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + idle) // 2


@dataclass(frozen=True)
class _Staged:
    """The bits of some columns of all blocks, in memory that a CUDA device reads at its full speed.

    Attributes:
        host: int16 or int32 [prompts, columns], there when all ``parts`` are done.
        dtype: in which they are stored.
    """

    host: Tensor
    dtype: np.dtype
    parts: Sequence[Future[None]]

    @classmethod
    def of(cls, blocks: Sequence[Beside], columns: slice, device: str) -> _Staged:
        """Begin to copy them."""
        import torch

        dtype, prompts = blocks[0].dtype, sum(map(len, blocks))
        bits = torch.int16 if dtype.itemsize == 2 else torch.int32
        pinned = torch.device(device).type == "cuda"
        host = torch.empty((prompts, columns.stop - columns.start), dtype=bits, pin_memory=pinned)
        values, parts, row = host.numpy().view(dtype), [], 0
        for block in blocks:
            rows = values[row : row + len(block)]
            for place, piece in block.pieces_of(columns):
                parts.append(_hands().submit(np.copyto, rows[:, place], piece))
            row += len(block)
        return cls(host, dtype, parts)

    def moved(self, device: str) -> Tensor:
        """On the device, as numbers."""
        import torch

        kinds = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}
        kind = kinds.get(self.dtype, torch.bfloat16)
        if not self.host.is_pinned():
            return self.host.to(device).view(kind)
        usual, stream = torch.cuda.current_stream(device), _beside(device)
        with torch.cuda.stream(stream):  # beside what another thread computes
            moved = self.host.to(device, non_blocking=True).view(kind)
        usual.wait_stream(stream)
        moved.record_stream(usual)
        return moved


@cache
def _beside(device: str) -> Any:
    """The stream on which values come: memory that one stream has had is not given to another one."""
    import torch

    return torch.cuda.Stream(device)


def _require_done(copies: Sequence[Future[None]]) -> None:
    for copy in copies:
        copy.result()


@cache
def _hands() -> ThreadPoolExecutor:
    """Threads that copy: one alone is slower than a device."""
    return ThreadPoolExecutor(min(COPIERS, os.cpu_count() or 1), "relact-copy")


def _of_tile(
    device: str, staged: _Staged, columns: slice, labels: Labels, statistics: Sequence[str]
) -> np.ndarray:
    """float64 [statistics, relations, columns]."""
    import torch

    _require_done(staged.parts)
    rows = staged.moved(device)  # [prompts, columns]
    with _turn, torch.inference_mode():
        missing = rows.isnan()
        if missing.any():
            column, prompt = missing.T.nonzero()[0].tolist()
            raise NotANumber(columns.start + column, prompt)
        del missing
        shape = len(statistics), len(labels.relations), rows.shape[1]
        found = torch.empty(shape, dtype=torch.float64, device=device)
        for part in _parts(labels):
            classes = _Classes(rows, part)
            for number, name in enumerate(statistics):
                found[number, part.relations] = classes.statistic(name)
            del classes
        host = torch.empty(shape, dtype=torch.float64, pin_memory=rows.is_cuda)
        values: np.ndarray = host.copy_(found).numpy()
    return values


@dataclass(frozen=True, eq=False)
class _Part:
    """Relations that are computed from the same prompts.

    Attributes:
        relations: which of all. order: int64 [prompts], prompts by class.
        sizes: int64 [classes], prompts of each, none empty. scored: int64 [relations], the class of each
            one's positives; all other prompts of the part are its negatives.
    """

    relations: slice
    order: np.ndarray
    sizes: np.ndarray
    scored: np.ndarray


@lru_cache(maxsize=2)  # calls for other neurons of the same prompts find them again
def _parts(labels: Labels) -> tuple[_Part, ...]:
    """All relations together where nobody is left out and no prompt has several; else each alone."""
    if labels.partition:
        present, number = np.unique(labels.classes, return_inverse=True)
        order = np.argsort(number, kind="stable")
        scored = np.searchsorted(present, np.argmax(labels.roles == POSITIVE, axis=0))
        return (_Part(slice(None), order, np.bincount(number), scored),)
    return tuple(_alone(labels, relation) for relation in range(len(labels.relations)))


def _alone(labels: Labels, relation: int) -> _Part:
    roles = labels.roles[labels.classes, relation]
    order = np.concatenate([np.flatnonzero(roles == role) for role in (NEGATIVE, POSITIVE)])
    sizes = np.bincount(roles[roles != LEFT_OUT], minlength=2)
    return _Part(
        slice(relation, relation + 1), order, sizes[sizes > 0], np.array([np.count_nonzero(sizes) - 1])
    )


class _Places:
    """What all columns of a part have in common. A class is a stretch of every column."""

    def __init__(self, part: _Part, device: Any) -> None:
        import torch

        self.prompts = len(part.order)
        self.order, self.sizes, self.scored = (
            torch.from_numpy(each.astype(np.int64)).to(device)
            for each in (part.order, part.sizes, part.scored)
        )
        self.stops = self.sizes.cumsum(0)
        self.starts = self.stops - self.sizes
        self.number = torch.repeat_interleave(  # [prompts], the class of every place
            torch.arange(len(part.sizes), device=device), self.sizes, output_size=self.prompts
        )
        self.stride = self.prompts + 1  # from the keys of a class to those of the next, all in one order
        self.keys = torch.int32 if len(part.sizes) * self.stride < 2**31 else torch.int64
        self.on = self.sizes[self.scored]  # int64 [relations], positives
        self.off = self.prompts - self.on


@lru_cache(maxsize=2)
def _places(part: _Part, device: Any) -> _Places:
    return _Places(part, device)


class _Classes:
    """The columns of a part. Positions count from the lowest value; a class is a stretch of every column.

    Args:
        rows: [all prompts, columns].
    """

    def __init__(self, rows: Tensor, part: _Part) -> None:
        self.at = _places(part, rows.device)
        self.rows = rows[self.at.order]  # by class

    def statistic(self, name: str) -> Tensor:
        """float64 [relations, columns]."""
        if name in MEANS:
            return self._mean(MEANS[name])
        if name in QUANTILES:
            return self._quantile(*QUANTILES[name])
        return (self._precision() if name == AVERAGE_PRECISION else self._auroc()).T

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """Values in order, and for every class the positions of its own, ascending: [columns, prompts]."""
        import torch

        ascending, order = self.rows.T.contiguous().sort(dim=1)
        n_classes = len(self.at.sizes)
        small = torch.uint8 if n_classes <= 256 else torch.int16 if n_classes <= 1 << 15 else torch.int32
        classes = self.at.number.to(small)[order]
        del order
        return ascending, classes.sort(dim=1, stable=True).indices

    @cached_property
    def _values(self) -> Tensor:
        """Every class's values, ascending: [columns, prompts]."""
        ascending, positions = self._sorted
        return ascending.gather(1, positions)

    @cached_property
    def _below(self) -> Tensor:
        """How many values are lower than each of `_values`."""
        import torch

        return torch.searchsorted(self._sorted[0], self._values, out_int32=True)

    def _precision(self) -> Tensor:
        import torch

        key = self._below + (self.at.number * self.at.stride).to(self.at.keys)  # ascends through all classes
        first = torch.searchsorted(key, key, out_int32=True)  # of equal values in the class
        del key
        shares = (self.at.stops[self.at.number].to(torch.int32) - first).double()  # positives at or above
        del first
        shares /= self.at.prompts - self._below
        return self._summed(shares) / self.at.on

    def _auroc(self) -> Tensor:
        """Twice the pairs won are sums of values below and at most; the pairs in the class are its square."""
        import torch

        upto = torch.searchsorted(self._sorted[0], self._values, right=True, out_int32=True)
        wins = self._summed((self._below + upto).long()) - self.at.on**2
        return wins.double() / (2 * self.at.on * self.at.off)  # NaN without negatives

    def _summed(self, values: Tensor) -> Tensor:
        """[columns, relations]: of [columns, prompts] the sums over every scored class."""
        import torch

        upto = values.cumsum(dim=1)[:, self.at.stops - 1]  # [columns, classes]
        return torch.cat([upto[:, :1], upto.diff(dim=1)], dim=1)[:, self.at.scored]

    def _mean(self, role: int) -> Tensor:
        import torch

        lengths = {"lengths": self.at.sizes, "axis": 0, "unsafe": True}
        sums = torch.segment_reduce(self.rows.double(), "sum", **lengths)  # [classes, columns]
        if role == POSITIVE:
            return sums[self.at.scored] / self.at.on[:, None]
        # not all less its own: infinities stay what they are
        none = torch.zeros_like(sums[:1])
        before = torch.cat([none, sums.cumsum(0)[:-1]])
        after = torch.cat([sums.flip(0).cumsum(0).flip(0)[1:], none])
        return (before + after)[self.at.scored] / self.at.off[:, None]

    def _quantile(self, role: int, quantile: float) -> Tensor:
        """Linear between neighbours, as `ranks` does it."""
        import torch

        count = self.at.on if role == POSITIVE else self.at.off
        place = (count - 1).double() * quantile
        lower = place.floor().long().clamp(min=0)
        upper = torch.minimum(lower + 1, count - 1).clamp(min=0)
        weight = place - lower
        at = self._positives_at if role == POSITIVE else self._negatives_at
        low, high = at(lower).double(), at(upper).double()  # [columns, relations]
        gap = high - low
        between = torch.where(weight >= 0.5, high - gap * (1 - weight), low + gap * weight)
        found = torch.where(low == high, low, between)
        return torch.where(count > 0, found, torch.nan).T

    def _positives_at(self, ranks: Tensor) -> Tensor:
        return self._values[:, self.at.starts[self.at.scored] + ranks]

    def _negatives_at(self, ranks: Tensor) -> Tensor:
        """The negative of rank m is at position m + t: t positives lie at m + their own rank at most."""
        import torch

        key, asked = self._passed, (self.at.scored * self.at.stride + ranks).to(self.at.keys)
        asked = asked.expand(len(key), -1).contiguous()
        passed = torch.searchsorted(key, asked, right=True) - self.at.starts[self.at.scored]
        return self._sorted[0].gather(1, (ranks + passed).clamp(max=self.at.prompts - 1))

    @cached_property
    def _passed(self) -> Tensor:
        """How many others lie below each of `_values`, as keys that ascend through all classes."""
        import torch

        place = torch.arange(self.at.prompts, device=self.rows.device)
        shift = self.at.number * self.at.stride - (place - self.at.starts[self.at.number])
        positions = self._sorted[1]
        return torch.add(positions, shift, out=torch.empty_like(positions, dtype=self.at.keys))

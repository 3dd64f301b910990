"""Pooled values on their way from the model's device into a block, while the next batches are computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

Finish = Callable[[torch.Tensor], torch.Tensor]


class Taker(Protocol):
    """Where pooled values arrive: a block (`store.blocks.BlockBuffer`), or whatever sums them up."""

    def put(self, stream: str, layer: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Take ``values`` [len(rows), width] of the given rows."""


def ahead(device: torch.device) -> int:
    """Batches that may be on their way while another is computed: on the CPU there is nothing to wait for."""
    return 2 if device.type == "cuda" else 0


def copies(device: torch.device) -> int:
    """How often a batch's pooled values are in host memory, at most: pinned memory comes in powers of two."""
    return 2 * (1 + ahead(device)) if device.type == "cuda" else 1


class Arrivals:
    """Pooled values of one batch; ``rows`` are its prompts' rows in the block."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self._values: list[tuple[str, int, torch.Tensor]] = []
        self._unfinished: dict[int, Finish | None] = {}  # of `_values` that are on a CUDA device
        self._events: list[Any] = []

    def send(self, site: str, layer: int, values: torch.Tensor, finish: Finish | None = None) -> None:
        """Take ``values`` [rows, width]; those of a CUDA device stay there until `depart`.

        Args:
            finish: what is left to do to every value alone. A device does it for all of a batch together:
                starting its kernels layer by layer takes longer than they run.
        """
        if values.is_cuda:
            self._unfinished[len(self._values)] = finish
        else:
            values = finish(values) if finish else values
        self._values.append((site, layer, values))

    def depart(self) -> None:
        """Begin to copy what is on CUDA devices, all of a dtype at once, beside what is computed next."""
        together: dict[tuple[torch.device, torch.dtype, Finish | None], list[int]] = defaultdict(list)
        for at, finish in self._unfinished.items():
            values = self._values[at][2]
            together[values.device, values.dtype, finish].append(at)
        for (_, _, finish), places in together.items():
            parts = [self._values[at][2] for at in places]
            every = torch.cat(parts, dim=1)  # [rows, widths]
            host, event = bring(finish(every) if finish else every)
            self._events.append(event)
            for at, values in zip(places, host.split([part.shape[1] for part in parts], dim=1), strict=True):
                self._values[at] = (*self._values[at][:2], values)

    def put(self, buffer: Taker) -> int:
        """Wait for the copies and put them into their rows; returns how many rows."""
        for event in self._events:
            event.synchronize()
        for site, layer, values in self._values:
            buffer.put(site, layer, self.rows, values.numpy())
        return len(self.rows)


def bring(values: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Host memory that a CUDA device's values are on their way to, and the event of their being there."""
    device = values.device
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    stream = _beside(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        host.copy_(values, non_blocking=True)
        event = stream.record_event()
    values.record_stream(stream)
    return host, event


@cache
def _beside(device: torch.device) -> Any:
    """The stream of a device on which values are copied."""
    return torch.cuda.Stream(device)

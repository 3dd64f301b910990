"""Pooled values on their way from the model's device into a block, while the next batches are computed."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch


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
        self._events: list[Any] = []

    def send(self, site: str, layer: int, values: torch.Tensor) -> None:
        """Take ``values`` [rows, width]; those of a CUDA device stay there until `depart`."""
        self._values.append((site, layer, values if values.is_cuda else values.cpu()))

    def depart(self) -> None:
        """Begin to copy what is on CUDA devices, all of a dtype at once, beside what is computed next."""
        together: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
        for at, (_, _, values) in enumerate(self._values):
            if values.is_cuda:
                together[values.device, values.dtype].append(at)
        for (device, dtype), places in together.items():
            parts = [self._values[at][2] for at in places]
            every = torch.cat(parts, dim=1)  # [rows, widths]
            host = torch.empty(every.shape, dtype=dtype, pin_memory=True)
            stream = _beside(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                host.copy_(every, non_blocking=True)
                self._events.append(stream.record_event())
            every.record_stream(stream)
            for at, values in zip(places, host.split([part.shape[1] for part in parts], dim=1), strict=True):
                self._values[at] = (*self._values[at][:2], values)

    def put(self, buffer: Taker) -> int:
        """Wait for the copies and put them into their rows; returns how many rows."""
        for event in self._events:
            event.synchronize()
        for site, layer, values in self._values:
            buffer.put(site, layer, self.rows, values.numpy())
        return len(self.rows)


@cache
def _beside(device: torch.device) -> Any:
    """The stream of a device on which values are copied."""
    return torch.cuda.Stream(device)

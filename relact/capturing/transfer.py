"""Pooled values on their way from the model's device into a block, while the next batch is computed."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch


class Taker(Protocol):
    """Where pooled values arrive: a block (`store.blocks.BlockBuffer`), or whatever sums them up."""

    def put(self, stream: str, layer: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Take ``values`` [len(rows), width] of the given rows."""


def ahead(device: torch.device) -> int:
    """Batches that may be on their way while another is computed: on the CPU there is nothing to wait for."""
    return 1 if device.type == "cuda" else 0


def copies(device: torch.device) -> int:
    """How often a batch's pooled values are in host memory, at most: pinned memory comes in powers of two."""
    return 2 * (1 + ahead(device)) if device.type == "cuda" else 1


class Arrivals:
    """Pooled values of one batch; ``rows`` are its prompts' rows in the block."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self._values: list[tuple[str, int, torch.Tensor]] = []
        self._events: dict[torch.device, Any] = {}

    def send(self, site: str, layer: int, values: torch.Tensor) -> None:
        """Begin to copy ``values`` [rows, width] to the host: queued on a CUDA device, else at once."""
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            self._events[values.device] = torch.cuda.current_stream(values.device).record_event()
            values = host
        self._values.append((site, layer, values.cpu()))

    def put(self, buffer: Taker) -> int:
        """Wait for the copies and put them into their rows; returns how many rows."""
        for event in self._events.values():
            event.synchronize()
        for site, layer, values in self._values:
            buffer.put(site, layer, self.rows, values.numpy())
        return len(self.rows)

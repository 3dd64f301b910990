"""What a capture needs in memory: a short sum, and the rows per block that fit a budget. Integers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from relact.errors import BudgetError
from relact.plan import show_bytes
from relact.store.layout import BLOCK, Layout, block_bytes, block_of, layouts

ROWS_FLOOR = 16  # a smaller block costs more in files than it saves in memory
COMFORT = 128  # rows from which on a second buffer is worth more than larger blocks
WRITERS = 4  # shards in flight


def buffer_bytes(sites: Mapping[str, Layout], buffers: int, compress: bool) -> int:
    """Peak of a capture's buffers: the blocks, the check of one layer, compressed shards in flight."""
    shard = max(lay.rows * lay.width * lay.item for lay in sites.values())
    return buffers * block_bytes(sites) + 2 * shard + (2 * WRITERS * shard if compress else 0)


@dataclass(frozen=True)
class CaptureShape:
    """What the memory of a capture depends on.

    Attributes:
        widths, dtypes: of every stream.
        held: bytes of the model and its passes.
        layers, experts: as in `schema.CaptureRecord`.
    """

    n_prompts: int
    n_layers: int
    widths: Mapping[str, int]
    dtypes: Mapping[str, str]
    held: int
    compress: bool = False
    layers: Mapping[str, tuple[int, ...]] | None = None
    experts: int | None = None

    def layouts(self, rows: int) -> dict[str, Layout]:
        """Of every stream, with blocks of ``rows`` prompts."""
        shape = self.n_prompts, rows, self.n_layers, self.widths, self.dtypes
        return layouts(*shape, self.layers, self.experts)

    def memory(self, rows: int, buffers: int) -> int:
        """Upper bound of the process's peak with blocks of ``rows`` prompts."""
        return self.held + buffer_bytes(self.layouts(rows), buffers, self.compress)

    def fit(self, budget: int | None, block: int | None = None) -> tuple[int, int]:
        """(rows per block, buffers) within a budget: the largest blocks, two buffers where they stay large.

        Args:
            budget: bytes; None for no limit.
            block: rows per block that are fixed already.

        Raises:
            BudgetError: not even one buffer of the smallest block fits.
        """
        if block:
            sizes = [block]
        else:
            targets = [BLOCK >> shift for shift in range(6) if BLOCK >> shift >= ROWS_FLOOR]
            sizes = list(dict.fromkeys(block_of(self.n_prompts, target) for target in targets))
        choices = [(rows, 2) for rows in sizes if rows >= COMFORT]
        choices += [(rows, buffers) for rows in sizes for buffers in (2, 1)]
        for rows, buffers in choices:
            if budget is None or self.memory(rows, buffers) <= budget:
                return rows, buffers
        least = min(self.memory(rows, buffers) for rows, buffers in choices)
        raise BudgetError(
            f"this capture needs {show_bytes(least)} ({show_bytes(self.held)} of it for the model and its "
            f"forward pass), the budget is {show_bytes(budget or 0)}",
            where="--memory",
            fix="give more, or fewer --batch-tokens, or fewer --sites",
        )

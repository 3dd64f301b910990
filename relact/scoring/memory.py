"""What scoring needs in memory: a short sum, and the neurons per task that fit a budget. Integers only."""

from __future__ import annotations

from dataclasses import dataclass

from relact.errors import BudgetError
from relact.kernels.columns import COPIED_TOGETHER
from relact.plan import show_bytes
from relact.store.layout import Layout

LIBRARIES = 400 * 2**20  # a scoring process: interpreter, numpy, numba (compiling), dask, zarr, xarray
# bytes of one relation and statistic written together: all of a small model, layers of a large
CHUNK_TARGET = 2**18
HELD = 2**27  # bytes of scores of a few layers that are kept in memory until they are written


def layers_per_chunk(n_layers: int, width: int) -> int:
    """Layers per chunk of a score: the fewest that make a chunk of 256 KiB of float32, evened out."""
    n_chunks = max(1, n_layers * width * 4 // CHUNK_TARGET)
    return -(-n_layers // n_chunks)


def relations_per_chunk(n_relations: int, cells: int, item: int = 4) -> int:
    """Relations per chunk of ``cells`` neurons each: one, or small ones to make 256 KiB, evened out."""
    together = max(1, CHUNK_TARGET // (cells * item))
    n_chunks = max(1, -(-n_relations // together))
    return max(1, -(-n_relations // n_chunks))


@dataclass(frozen=True)
class ScoreShape:
    """What the memory of scoring one site depends on.

    Attributes:
        mapped: whether an inner chunk is read as it lies in its file, and not decoded.
    """

    site: Layout
    n_relations: int
    n_statistics: int
    workers: int
    mapped: bool = True

    def memory(self, span: int) -> int:
        """Upper bound of a scoring process's peak with tasks of ``span`` neurons."""
        rows, item, key = (
            self.site.n_prompts + self.site.rows,
            self.site.item,
            4 if self.site.item == 2 else 8,
        )
        read = rows * span * item if self.mapped else 2 * rows * self.site.span * item
        # an inner chunk that is read for some of its columns
        read += self.site.rows * self.site.span * item if span < self.site.span else 0
        kernel = rows * (COPIED_TOGETHER * item + 8 * key + 64)  # columns, keys, places, labels and tables
        values = self.n_relations * self.n_statistics
        results = 2 * 8 * values * (span + 4 * COPIED_TOGETHER)  # float64, and the temporaries of one tile
        row = layers_per_chunk(self.site.n_layers, self.site.width) * self.site.width * 4
        written = min(values * row, max(HELD, row))
        return LIBRARIES + self.workers * (read + kernel + results) + 2 * written

    def fit(self, budget: int, *, wide: bool = False) -> int:
        """Neurons per task: a whole inner chunk, or the largest divisor of it that ``budget`` bytes allow.

        Args:
            wide: several inner chunks, where they are mapped: a device is slow with few neurons at a time.

        Raises:
            BudgetError: not even tasks of one neuron fit.
        """
        span = self.site.span
        if wide and self.mapped:
            chunks = range(self.site.n_spans, 1, -1)
            whole = [n * span for n in chunks if self.site.n_spans % n == 0]
            if fitting := [many for many in whole if self.memory(many) <= budget]:
                return fitting[0]
        for divisor in range(1, span + 1):
            if span % divisor == 0 and self.memory(span // divisor) <= budget:
                return span // divisor
        raise BudgetError(
            f"scoring {self.site.n_prompts} prompts with {self.workers} workers "
            f"needs {show_bytes(self.memory(1))}, the budget is {show_bytes(budget)}",
            where="--memory",
            fix="give more, or fewer --workers",
        )

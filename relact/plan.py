"""Pure integer arithmetic: block and chunk shapes, bytes, files, memory. No arrays, no files.

::

    prompts  ┌──────────────┐          one shard = one block x one layer x all neurons
             │ block 0      │ layer    ┌────┬────┬────┬────┐
             ├──────────────┤ 0..L-1   │    │    │    │    │ one inner chunk = block x 1 x span
             │ block 1      │          └────┴────┴────┴────┘
             └──────────────┘            span divides the site's width
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from relact.errors import BudgetError, InputError

BLOCK = 512  # prompts captured, written and committed together
SPAN_TARGET = 704  # neurons per inner chunk: 512 x 704 x 2 bytes is 0.7 MB, about what a core's cache holds
SPAN_FLOOR = 64  # below this the per-chunk overhead wins: keep the whole width instead
ITEM_BYTES = {"float16": 2, "float32": 4}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@cache
def span_of(width: int) -> int:
    """Neurons per inner chunk: the largest divisor of ``width`` up to 704, or all of it when that is tiny."""
    best = max(divisor for divisor in range(1, min(width, SPAN_TARGET) + 1) if width % divisor == 0)
    return best if best >= SPAN_FLOOR else width


def block_of(n_prompts: int, target: int = BLOCK) -> int:
    """Rows per block: ``target`` at most, evened out so that the last block is not mostly padding."""
    n_blocks = -(-n_prompts // target)
    return -(-n_prompts // n_blocks)


def parse_bytes(text: str | int) -> int:
    """``"4GiB"``, ``"500 MB"`` or a plain number to bytes; `InputError` otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", str(text).lower())
    if match is None:
        raise InputError(f"{text!r} is not an amount of memory", fix="write for example 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def show_bytes(count: int) -> str:
    """Bytes for people: decimal units, three digits."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


@dataclass(frozen=True)
class Layout:
    """Shape of one site's activations on disk.

    Attributes:
        rows: prompts per block (and per shard).
        n_layers, width: the site's own shape.
        item: bytes per value.
    """

    n_prompts: int
    rows: int
    n_layers: int
    width: int
    item: int

    @property
    def span(self) -> int:
        return span_of(self.width)

    @property
    def n_spans(self) -> int:
        return self.width // self.span

    @property
    def n_blocks(self) -> int:
        return -(-self.n_prompts // self.rows)

    @property
    def shard_bytes(self) -> int:
        """Uncompressed shard file: the chunks, then offset and length of each (16 bytes), then a 4-byte checksum."""
        return self.rows * self.width * self.item + 16 * self.n_spans + 4

    @property
    def files(self) -> int:
        return self.n_blocks * self.n_layers

    @property
    def bytes(self) -> int:
        return self.files * self.shard_bytes


def layouts(n_prompts: int, rows: int, n_layers: int, widths: Mapping[str, int], dtype: str) -> dict[str, Layout]:
    """One `Layout` per site."""
    return {site: Layout(n_prompts, rows, n_layers, width, ITEM_BYTES[dtype]) for site, width in widths.items()}


def block_bytes(sites: Mapping[str, Layout]) -> int:
    """Bytes of one block of every site in memory."""
    return sum(site.rows * site.n_layers * site.width * site.item for site in sites.values())


def record_bytes(sites: Mapping[str, Layout]) -> int:
    """One block's commit record: start, stop and a checksum per shard, 8 bytes each, then a 4-byte checksum."""
    return 8 * (2 + sum(site.n_layers for site in sites.values())) + 4


MAPPED_BYTES = 2**28  # of activations that stay mapped between two tasks
SCORE_LIBRARIES = 400 * 2**20  # a scoring process: interpreter, numpy, numba (compiling), dask, zarr, xarray
COPIED_TOGETHER = 128  # columns that a kernel transposes at a time; a multiple of 4
CHUNK_TARGET = (
    2**18
)  # bytes of one relation and statistic written together: a few layers of a large model, all of a small one


def score_layers(n_layers: int, width: int) -> int:
    """Layers per chunk of a score: the fewest that make a chunk of 256 KiB of float32, evened out."""
    n_chunks = max(1, n_layers * width * 4 // CHUNK_TARGET)
    return -(-n_layers // n_chunks)


@dataclass(frozen=True)
class ScoreShape:
    """What the memory of scoring one site depends on.

    Attributes:
        mapped: whether the activations are views on mapped files, and not decoded copies.
    """

    site: Layout
    n_relations: int
    n_statistics: int
    workers: int
    mapped: bool = True

    def memory(self, span: int) -> int:
        """Upper bound of a scoring process's peak with tasks of ``span`` neurons."""
        rows, item, key = self.site.n_prompts + self.site.rows, self.site.item, 4 if self.site.item == 2 else 8
        read = rows * span * item if self.mapped else 2 * rows * self.site.span * item
        read += self.site.rows * span * item if span < self.site.span else 0  # a block's columns, made contiguous
        kept = min(MAPPED_BYTES, self.site.bytes) if self.mapped else 0
        kernel = rows * (COPIED_TOGETHER * item + 8 * key + 64)  # columns, keys, places, labels and tables
        values = self.n_relations * self.n_statistics
        found = 2 * 8 * values * (span + 4 * COPIED_TOGETHER)  # float64, and the temporaries of one tile
        written = values * score_layers(self.site.n_layers, self.site.width) * self.site.width * 4
        return SCORE_LIBRARIES + kept + self.workers * (read + kernel + found) + 2 * written

    def fit(self, budget: int) -> int:
        """Neurons per task: a whole inner chunk, or the largest divisor of it that ``budget`` bytes allow.

        Raises:
            BudgetError: not even tasks of one neuron fit.
        """
        span = self.site.span
        for divisor in range(1, span + 1):
            if span % divisor == 0 and self.memory(span // divisor) <= budget:
                return span // divisor
        raise BudgetError(
            f"scoring {self.site.n_prompts} prompts with {self.workers} workers needs {show_bytes(self.memory(1))}, "
            f"the budget is {show_bytes(budget)}",
            where="--memory",
            fix="give more, or fewer --workers",
        )


LIBRARIES = 700 * 2**20  # a capturing process without a model: interpreter, torch, transformers, zarr
SLACK = 1.25  # on what a forward pass allocates: alignment, fragments
ROWS_FLOOR = 16  # a smaller block costs more in files than it saves in memory
COMFORT = 128  # rows from which on a second buffer is worth more than larger blocks
WRITERS = 4  # shards in flight


METADATA = 4096  # bytes of one array's zarr.json and of its files' checksums in the seal, at most
NAME = 200  # bytes of one checksum in the seal, with its file's name
ANSWER = 128  # bytes of one stored answer of two tokens, its verdict included, at most


def compressed(count: int) -> int:
    """Upper bound of ``count`` bytes after zstd, checksum included."""
    return count + count // 256 + 128


def mask_size(n_relations: int, n_layers: int, widths: Mapping[str, int]) -> tuple[int, int]:
    """(files, bytes) of one stored mask, at most."""
    files, size = 1, METADATA
    for width in widths.values():
        files += 1 + 4 + 3 + n_relations  # the group, its arrays, coordinates, a chunk per relation
        size += n_relations * compressed(n_layers * width) + compressed(8 * (n_layers + width) + 64 * n_relations)
        size += 5 * METADATA + n_relations * NAME
    return files, size


def ablation_size(n_conditions: int, n_prompts: int, n_relations: int, n_ks: int = 1) -> tuple[int, int]:
    """(files, bytes) of one stored ablation, at most; ``n_conditions`` per k."""
    arrays = 12  # verdicts, texts, accuracy, digests, perplexity, steps of a sweep, coordinates
    answers = n_ks * n_prompts * (n_conditions + 1) * ANSWER
    others = (
        n_ks * n_conditions * (4 * n_relations + 64) + 8 * n_prompts + 64 * (n_conditions + n_relations + n_prompts)
    )
    return 1 + 2 * arrays, compressed(answers + others) + arrays * (METADATA + 2 * NAME)


@dataclass(frozen=True)
class Plan:
    """What a long command is about to do.

    Attributes:
        files, bytes: that it writes; ``exact`` says whether they are a bound or the number.
        memory: upper bound of the process's peak.
        seconds: estimate; None when it cannot be known.
    """

    what: str
    files: int
    bytes: int
    exact: bool
    memory: int
    seconds: float | None = None


def buffer_bytes(sites: Mapping[str, Layout], buffers: int, compress: bool) -> int:
    """Peak of a capture's buffers: the blocks, the check of one layer, compressed shards in flight."""
    shard = max(lay.rows * lay.width * lay.item for lay in sites.values())
    return buffers * block_bytes(sites) + 2 * shard + (2 * WRITERS * shard if compress else 0)


@dataclass(frozen=True)
class CaptureShape:
    """What the memory of a capture depends on, beside the model: ``held`` bytes for that and its forward pass."""

    n_prompts: int
    n_layers: int
    widths: Mapping[str, int]
    dtype: str
    held: int
    compress: bool = False

    def memory(self, rows: int, buffers: int) -> int:
        """Upper bound of the process's peak with blocks of ``rows`` prompts."""
        sites = layouts(self.n_prompts, rows, self.n_layers, self.widths, self.dtype)
        return self.held + buffer_bytes(sites, buffers, self.compress)

    def fit(self, budget: int | None, block: int | None = None) -> tuple[int, int]:
        """(rows per block, buffers) within ``budget`` bytes: the largest blocks, two buffers where the blocks stay large.

        Args:
            budget: None for no limit.
            block: rows per block that are fixed already.

        Raises:
            BudgetError: not even one buffer of the smallest block fits.
        """
        if block:
            sizes = [block]
        else:
            targets = [BLOCK >> shift for shift in range(6) if BLOCK >> shift >= ROWS_FLOOR]
            sizes = list(dict.fromkeys(block_of(self.n_prompts, target) for target in targets))
        choices = [(rows, 2) for rows in sizes if rows >= COMFORT] + [(rows, n) for rows in sizes for n in (2, 1)]
        for rows, buffers in choices:
            if budget is None or self.memory(rows, buffers) <= budget:
                return rows, buffers
        least = min(self.memory(rows, buffers) for rows, buffers in choices)
        raise BudgetError(
            f"this capture needs {show_bytes(least)} ({show_bytes(self.held)} of it for the model and its forward "
            f"pass), the budget is {show_bytes(budget or 0)}",
            where="--memory",
            fix="give more, or fewer --batch-tokens, or fewer --sites",
        )


def forward_bytes(hidden: int, intermediate: int, kv: int, n_layers: int, heads: int, batch: Sequence[int]) -> int:
    """Upper bound of what one forward pass allocates in float32.

    Args:
        hidden, intermediate, kv: widths of the model.
        batch: (rows, prefix tokens, own tokens) of the pass.
    """
    rows, prefix, own = batch
    states = rows * own * (8 * hidden + 6 * intermediate)  # residual, norms, projections, pooled copies
    cache = 3 * 2 * n_layers * kv * rows * (prefix + own) if prefix else 0  # repeated, grown, and the copy between
    scores = 3 * rows * heads * own * (prefix + own)  # where attention is not fused, and its mask
    return int(4 * SLACK * (states + cache + scores))

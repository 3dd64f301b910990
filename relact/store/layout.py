"""Shape of a stream on disk: blocks, shards, inner chunks. Names and integers only: no arrays, no files.

A stream is what is captured of one site: activations, called by the name of the site, or attributions, called
``attributions/<site>``.

::

    prompts  ┌──────────────┐          one shard = one block x one layer x all neurons
             │ block 0      │ layer    ┌────┬────┬────┬────┐
             ├──────────────┤ 0..L-1   │    │    │    │    │ one inner chunk = block x 1 x span
             │ block 1      │          └────┴────┴────┴────┘
             └──────────────┘            span divides the site's width
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from relact.schema import ACTIVATIONS, ARRAYS, BY_EXPERT

BLOCK = 512  # prompts captured, written and committed together
SPAN_TARGET = 704  # neurons per inner chunk: 512 x 704 x 2 bytes is 0.7 MB, about what a core's cache holds
SPAN_FLOOR = 64  # below this the per-chunk overhead wins: keep the whole width instead
ITEM_BYTES = {"float16": 2, "float32": 4}
INDEX_ENTRY = 16  # bytes of a shard's index for every inner chunk: offset, length
CHECKSUM = 4  # bytes of a CRC-32C


@cache
def span_of(width: int, experts: int = 0) -> int:
    """Neurons per inner chunk: the largest divisor of ``width`` up to 704, or all of it when that is tiny.

    Of neurons that are those of ``experts``: all of one expert, or part of one where that is too large.
    """
    if experts and width // experts >= SPAN_FLOOR:
        units = width // experts
        return units if units <= 2 * SPAN_TARGET else span_of(units)
    best = max(divisor for divisor in range(1, min(width, SPAN_TARGET) + 1) if width % divisor == 0)
    return best if best >= SPAN_FLOOR else width


def block_of(n_prompts: int, target: int = BLOCK) -> int:
    """Rows per block: ``target`` at most, evened out so that the last block is not mostly padding."""
    n_blocks = -(-n_prompts // target)
    return -(-n_prompts // n_blocks)


def block_ranges(n_prompts: int, rows: int) -> list[tuple[int, int]]:
    """First row and one past the last row of every block."""
    return [(first, min(first + rows, n_prompts)) for first in range(0, n_prompts, rows)]


def group_of(stream: str) -> str:
    """``activations/<site>`` or ``attributions/<site>``."""
    return stream if "/" in stream else f"{ACTIVATIONS}/{stream}"


def array_of(stream: str) -> str:
    """The name of a stream's array in the hierarchy."""
    group = group_of(stream)
    return f"{group}/{ARRAYS[group.partition('/')[0]]}"


def quantity_of(stream: str) -> str:
    """``activation`` or ``attribution``."""
    return array_of(stream).rpartition("/")[2]


def site_of(stream: str) -> str:
    """The site that a stream is read at."""
    return stream.rpartition("/")[2]


def experts_of(site: str, experts: int | None) -> int:
    """Into how many a site's neurons are divided, of a model with so many ``experts``; 0 where into none."""
    return (experts or 0) if site in BY_EXPERT else 0


@dataclass(frozen=True)
class Layout:
    """Shape of one stream on disk.

    Attributes:
        rows: prompts per block (and per shard).
        n_layers, width: the stream's own shape.
        item: bytes per value.
        numbers: the model's own numbers of its layers; None where they are counted from 0.
        experts: into how many experts the neurons are divided, in order; 0 where into none.
    """

    n_prompts: int
    rows: int
    n_layers: int
    width: int
    item: int
    numbers: tuple[int, ...] | None = None
    experts: int = 0

    @property
    def layers(self) -> tuple[int, ...]:
        """The model's own numbers of the layers, in the order in which they are stored."""
        return tuple(range(self.n_layers)) if self.numbers is None else self.numbers

    def place_of(self, layer: int) -> int:
        """Where a layer is stored; `ValueError` for one that is not."""
        return self.layers.index(layer)

    @property
    def dtype(self) -> str:
        return f"float{8 * self.item}"

    @property
    def span(self) -> int:
        return span_of(self.width, self.experts)

    @property
    def n_spans(self) -> int:
        return self.width // self.span

    @property
    def n_blocks(self) -> int:
        return -(-self.n_prompts // self.rows)

    @property
    def shard_bytes(self) -> int:
        """Uncompressed shard file: the chunks, then offset and length of each, then a checksum."""
        return self.rows * self.width * self.item + INDEX_ENTRY * self.n_spans + CHECKSUM

    @property
    def files(self) -> int:
        return self.n_blocks * self.n_layers

    @property
    def bytes(self) -> int:
        return self.files * self.shard_bytes


def layouts(
    n_prompts: int,
    rows: int,
    n_layers: int,
    widths: Mapping[str, int],
    dtypes: Mapping[str, str],
    layers: Mapping[str, tuple[int, ...]] | None = None,
    experts: int | None = None,
) -> dict[str, Layout]:
    """One `Layout` per stream; ``widths`` and ``dtypes`` are theirs.

    Args:
        layers: numbers of the layers of every site that is not in all ``n_layers``.
        experts: of every layer, where neurons are theirs.
    """
    found = {}
    for stream, width in widths.items():
        numbers = (layers or {}).get(site_of(stream))
        n_own = n_layers if numbers is None else len(numbers)
        divided = experts_of(site_of(stream), experts)
        found[stream] = Layout(n_prompts, rows, n_own, width, ITEM_BYTES[dtypes[stream]], numbers, divided)
    return found


def block_bytes(streams: Mapping[str, Layout]) -> int:
    """Bytes of one block of every stream in memory."""
    return sum(lay.rows * lay.n_layers * lay.width * lay.item for lay in streams.values())


def record_bytes(streams: Mapping[str, Layout]) -> int:
    """One block's commit record: start, stop and a checksum per shard, 8 bytes each, then a checksum."""
    return 8 * (2 + sum(lay.n_layers for lay in streams.values())) + CHECKSUM

"""One block in memory, and its way to disk: shards first, then the commit.

The buffer of a stream is [layer, span number, row, neuron in span]: exactly the order of the bytes in its
shard files, so writing a shard copies nothing.

Replacing a committed block (a store that grew has one that is not full) must not lose the rows it has. So
everything new lies durable beside the old, then one file, the *promise*, says that it shall take the old
one's place; a crash after that is finished by `keep_promises`, a crash before it leaves the old block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from relact import durable, schema
from relact.errors import NumericError, StoreError
from relact.store import aside, commits
from relact.store.commits import CommitLog
from relact.store.layout import Layout, array_of, group_of, quantity_of, site_of
from relact.store.shards import encode_shard

EXPONENT = {"float16": (np.uint16, 0x7C00), "float32": (np.uint32, 0x7F800000)}  # all ones: inf or NaN
VANISHED = 0.01  # share of a layer's values that may be too small for the stored dtype
COMPRESSION = 5  # zstd level inside blosc: above it the activations shrink no further
PROMISE = "ready~block~"  # and the block's number: the name of a promise


class BlockBuffer:
    """Values of all streams on one block, filled batch by batch.

    Args:
        layouts: shape and dtype of each stream.
    """

    def __init__(self, layouts: Mapping[str, Layout]) -> None:
        self.layouts = dict(layouts)
        self._streams = {
            stream: np.full((lay.n_layers, lay.n_spans, lay.rows, lay.span), np.nan, lay.dtype)
            for stream, lay in self.layouts.items()
        }
        self._vanished: Counter[tuple[str, int]] = Counter()  # values too small for the stored dtype

    def put(self, stream: str, layer: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Store ``values`` [len(rows), width] as the given rows of the block; casts to the stored dtype.

        Args:
            layer: the model's own number.
        """
        lay = self.layouts[stream]
        place = lay.place_of(layer)
        target = self._streams[stream][place]  # [n_spans, rows, span]
        with np.errstate(over="ignore", under="ignore"):  # `check` names what overflows, and what vanishes
            stored = values.astype(lay.dtype, copy=False)
        if stored is not values:
            self._vanished[stream, place] += int(np.count_nonzero(values)) - int(np.count_nonzero(stored))
        target[:, rows, :] = stored.reshape(len(rows), lay.n_spans, lay.span).swapaxes(0, 1)

    def load(self, stream: str, place: int, chunks: Sequence[np.ndarray]) -> None:
        """Take over the first rows of a shard: ``chunks`` are its inner chunks, each [rows, span]."""
        for target, chunk in zip(self._streams[stream][place], chunks, strict=True):
            target[: len(chunk)] = chunk

    def shard(self, stream: str, place: int) -> np.ndarray:
        """[n_spans, rows, span], contiguous: the data bytes of one shard; ``place`` of its layer."""
        return self._streams[stream][place]

    def clear(self) -> None:
        """Make every row NaN again, for the next block."""
        self._vanished.clear()
        for values in self._streams.values():
            values.fill(np.nan)

    def check(self, stream: str, place: int, n_rows: int, first_row: int) -> None:
        """Refuse values among the first ``n_rows`` rows that are not finite, and too many that became 0.

        Raises:
            NumericError: names site, layer, neuron and prompt, of which ``first_row`` is the block's first.
        """
        filled, layer = self._streams[stream][place, :, :n_rows], self.layouts[stream].layers[place]
        bits, ones = EXPONENT[filled.dtype.name]
        for span in filled.view(bits):  # one at a time: what is computed stays in the cache
            if ((span & ones) == ones).any():
                raise _not_finite(stream, layer, filled, first_row)
        if (vanished := self._vanished[stream, place]) > VANISHED * filled.size:
            raise NumericError(
                f"{vanished} of {filled.size} values of prompts {first_row} to {first_row + n_rows - 1} "
                f"are too small for {filled.dtype}: they would be 0",
                where=f"site {site_of(stream)}, layer {layer}",
                fix=f"capture with {_option(stream)} float32",
            )


def _not_finite(stream: str, layer: int, filled: np.ndarray, first_row: int) -> NumericError:
    """The problem with the first value of ``filled`` [n_spans, rows, span] that is not finite."""
    span, row, place = (int(axis[0]) for axis in np.nonzero(~np.isfinite(filled)))
    value, neuron = filled[span, row, place], span * filled.shape[2] + place
    overflow = filled.dtype == np.float16 and np.isinf(value)
    return NumericError(
        f"the {quantity_of(stream)} of neuron {neuron} on prompt {first_row + row} is {value}"
        + (", or too large for float16" if overflow else ""),
        where=f"site {site_of(stream)}, layer {layer}",
        fix=f"capture with {_option(stream)} float32"
        if overflow
        else "look at the model's weights and dtype",
    )


def _option(stream: str) -> str:
    """What decides the dtype of a stream."""
    return "--attribution-dtype" if group_of(stream).startswith(schema.ATTRIBUTIONS) else "--dtype"


def write_block(
    root: Path, log: CommitLog, block: int, start: int, stop: int, buffer: BlockBuffer, compress: bool = False
) -> None:
    """Make block ``block`` (rows ``start`` to ``stop``) durable, then commit it.

    Raises:
        NumericError: a value is not finite; nothing is written.
        StoreError: the disk refused; the block stays as it was.
    """
    places, paths = places_of(buffer.layouts), shard_paths(root, buffer.layouts, block)

    def check(place: tuple[str, int]) -> None:
        buffer.check(*place, stop - start, start)

    def write(place: tuple[str, int], path: Path) -> int:
        codec = compressor(buffer.layouts[place[0]].dtype) if compress else None
        return durable.write_partial(path, encode_shard(buffer.shard(*place), codec))

    with ThreadPoolExecutor(durable.SYNC_THREADS) as pool:
        list(pool.map(check, places))  # all, before the first byte
        record = commits.encode([start, stop, *pool.map(write, places, paths)])
    promised = promise_path(root, block)
    replacing = log.has(block)
    if replacing:
        with durable.explained(promised):
            aside.prepare(root)
            durable.replace(promised, [record])
    _publish(paths)
    log.put(block, record)
    if replacing:
        _forget(promised)


def keep_promises(root: Path, log: CommitLog, layouts: Mapping[str, Layout]) -> None:
    """Finish every replacement of a block that was promised before a crash."""
    for promised in aside.parked(root, f"{PROMISE}*{durable.PARTIAL}"):
        promised.unlink()  # not a promise yet
    for promised in aside.parked(root, f"{PROMISE}*"):
        try:
            block = range(log.n_blocks).index(int(promised.name.removeprefix(PROMISE)))
            record = durable.read(promised, durable.DOCUMENT_BYTES)
            commits.decode(record, len(log.fields))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"this promise of a new block is damaged ({error})",
                where=promised,
                fix="remove this file, then run `relact verify`",
            ) from error
        _publish(shard_paths(root, layouts, block))
        log.put(block, record)
        _forget(promised)


def promise_path(root: Path, block: int) -> Path:
    """File that says that a block's new shards are all durable."""
    return aside.own_folder(root) / f"{PROMISE}{block}"


def shard_path(root: Path, stream: str, block: int, layer: int) -> Path:
    """File of one shard."""
    return shard_folder(root, stream) / shard_name(block, layer)


def shard_paths(root: Path, layouts: Mapping[str, Layout], block: int) -> list[Path]:
    """Files of all shards of a block, in the order of its commit record's checksums."""
    return [shard_path(root, stream, block, layer) for stream, layer in places_of(layouts)]


def shard_folder(root: Path, stream: str) -> Path:
    """All shards of a stream are in one folder."""
    return root / array_of(stream)


def shard_name(block: int, layer: int) -> str:
    """Name of a shard in its folder."""
    return f"c.{block}.{layer}.0"


@cache
def compressor(dtype: str) -> Any:
    """What ``--compress`` puts on every inner chunk: bitshuffle, then zstd, in a blosc frame."""
    from numcodecs.blosc import Blosc

    return Blosc(
        cname="zstd", clevel=COMPRESSION, shuffle=Blosc.BITSHUFFLE, typesize=np.dtype(dtype).itemsize
    )


def _forget(promised: Path) -> None:
    """The promise is kept; were it found again later, it would undo a repair."""
    promised.unlink()
    durable.sync(promised.parent)


def places_of(layouts: Mapping[str, Layout]) -> list[tuple[str, int]]:
    """(stream, place of the layer) in the order of a commit record's checksums."""
    return [(stream, place) for stream, lay in layouts.items() for place in range(lay.n_layers)]


def most_bytes(layouts: Mapping[str, Layout]) -> dict[str, int]:
    """Bytes that a shard of every stream may have: compressed, some grow a little."""
    return {stream: 2 * lay.shard_bytes for stream, lay in layouts.items()}


def _publish(paths: Iterable[Path]) -> None:
    """Give the partial shards their names (those that still lack it) and make that durable."""
    folders: dict[Path, None] = {}
    for path in paths:
        folders[path.parent] = None
        if path.with_name(path.name + durable.PARTIAL).exists():
            durable.publish(path)
    for folder in folders:
        durable.sync(folder)

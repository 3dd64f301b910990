"""One block in memory, and its way to disk: shards first, then the commit.

The buffer of a site is [layer, span number, row, neuron in span]: exactly the order of the bytes in its shard files,
so writing a shard copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from relact import durable, schema
from relact.commits import CommitLog
from relact.errors import NumericError
from relact.mmap import shard_index
from relact.plan import Layout

EXPONENT = {"float16": (np.dtype("u2"), 0x7C00), "float32": (np.dtype("u4"), 0x7F800000)}  # all ones: inf or NaN
SYNC_THREADS = 4  # fsyncs in flight; they wait on the disk, not on a core


class BlockBuffer:
    """Activations of one block, filled batch by batch.

    Args:
        layouts: shape of each site.
        dtype: ``float16`` or ``float32``, as stored.
    """

    def __init__(self, layouts: Mapping[str, Layout], dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.layouts = dict(layouts)
        self._sites = {
            site: np.full((lay.n_layers, lay.n_spans, lay.rows, lay.span), np.nan, self.dtype)
            for site, lay in self.layouts.items()
        }

    def put(self, site: str, layer: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Store ``values`` [len(rows), width] as the given rows of the block; casts to the stored dtype."""
        lay = self.layouts[site]
        target = self._sites[site][layer]  # [n_spans, rows, span]
        with np.errstate(over="ignore"):  # an overflow becomes infinite, and `check` names it
            target[:, rows, :] = values.reshape(len(rows), lay.n_spans, lay.span).swapaxes(0, 1)

    def shard(self, site: str, layer: int) -> np.ndarray:
        """[n_spans, rows, span], contiguous: the data bytes of one shard."""
        return self._sites[site][layer]

    def clear(self) -> None:
        """Make every row NaN again, for the next block."""
        for values in self._sites.values():
            values.fill(np.nan)

    def check(self, n_rows: int, first_row: int) -> None:
        """Refuse values that are not finite in the first ``n_rows`` rows, naming site, layer, neuron and prompt."""
        bits, ones = EXPONENT[self.dtype.name]
        for site, values in self._sites.items():
            for layer in range(len(values)):
                filled = values[layer, :, :n_rows]
                if ((filled.view(bits) & ones) == ones).any():
                    raise _describe(site, layer, filled, first_row, self.layouts[site].span, self.dtype.name)


def _describe(site: str, layer: int, filled: np.ndarray, first_row: int, span: int, dtype: str) -> NumericError:
    part, row, neuron = (int(axis[0]) for axis in np.nonzero(~np.isfinite(filled)))
    value = filled[part, row, neuron]
    overflow = dtype == "float16" and np.isinf(value)
    return NumericError(
        f"the activation of neuron {part * span + neuron} on prompt {first_row + row} is {value}"
        + (", or too large for float16" if overflow else ""),
        where=f"site {site}, layer {layer}",
        fix="capture with --dtype float32" if overflow else "look at the model's weights and dtype",
    )


def write_block(root: Path, log: CommitLog, block: int, start: int, stop: int, buffer: BlockBuffer) -> None:
    """Make block ``block`` (rows ``start`` to ``stop``) durable, then commit it.

    Raises:
        NumericError: a value is not finite; nothing is written.
        StoreError: the disk refused; the block stays uncommitted.
    """
    buffer.check(stop - start, start)
    places = [(site, layer) for site, lay in buffer.layouts.items() for layer in range(lay.n_layers)]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        checksums = list(pool.map(lambda place: _write_shard(root, block, buffer, *place), places))
        list(pool.map(lambda place: _publish(shard_path(root, place[0], block, place[1])), places))
    for site in buffer.layouts:
        durable.sync_directory(shard_path(root, site, block, 0).parent.parent)
        durable.sync_directory(shard_path(root, site, block, 0).parent.parent.parent)
    log.write(block, start, stop, checksums)


def shard_path(root: Path, site: str, block: int, layer: int) -> Path:
    """File of one shard (zarr's default chunk key)."""
    return root / schema.ACTIVATIONS / site / schema.ACTIVATION / "c" / str(block) / str(layer) / "0"


def _write_shard(root: Path, block: int, buffer: BlockBuffer, site: str, layer: int) -> int:
    lay = buffer.layouts[site]
    path = shard_path(root, site, block, layer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable.explain(error, path) from error
    data = buffer.shard(site, layer)
    return durable.write_partial(path, [memoryview(data).cast("B"), shard_index(lay.n_spans, data[0].nbytes)])


def _publish(path: Path) -> None:
    durable.publish(path)
    durable.sync_directory(path.parent)

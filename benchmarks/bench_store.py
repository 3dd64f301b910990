"""The store against the plainest thing that does the same: reads, writes, verify, and what compression costs.

Run ``python benchmarks/bench_store.py`` (a minute) or ``--quick`` (seconds); ``--folder`` names the disk.
Contenders take turns on the same values, and every figure is a median of rounds; what counts are the ratios
within one run.

- *read*: what scoring does, one span of neurons of one layer over all prompts at a time, into one array
  [prompt, neuron]; files are in the page cache. Against ``zarr-python`` on the same store, and
  ``numpy.memmap`` of one file with the same bytes in that order.
- *write*: blocks streamed into a store, checked, checksummed, flushed and committed. Against the same bytes
  written to one file in order, flushed once at the end.
- *verify*: every byte against its checksum. Against reading the same files, with as many threads.
- *compress*: ``--compress`` against a plain store. The values are normal with a scale per neuron, as pooled
  activations are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import zarr

from relact import durable, plan, schema
from relact.store import layout, local
from relact.store.local import LocalStore
from relact.store.skeleton import Blueprint
from relact.store.verify import READERS, verify

SITE = "mlp.up"
WIDTH = 11008  # of Llama-2-7B: 16 spans of 688


def medians(rounds: int, contenders: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Seconds of every contender: the median of its rounds; they take turns,
    and the first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(own) for name, own in times.items()}


def create(
    path: Path, n_prompts: int, n_layers: int, compress: bool = False, relations: Sequence[str] | None = None
) -> LocalStore:
    """An empty store of one site, whose prompts belong to these relations; what was there is removed."""
    shutil.rmtree(path, ignore_errors=True)
    rows = pd.DataFrame(
        {name: ["x"] * n_prompts for name in schema.PROMPT_TEXT} | {"n_tokens": np.ones(n_prompts, "int32")}
    )
    rows["relation"] = relations or rows["relation"]
    tables = {schema.IDENTIFY: rows, schema.TEST: rows[:0].assign(answers=[])}
    manifest = schema.Manifest(
        schema.ModelRecord("bench", None, "", "float32", "llama"),
        "",
        schema.CaptureRecord((SITE,), "mean", "float16", layout.BLOCK, 2048, True),
        {split: {"n": len(table), "digest": ""} for split, table in tables.items()},
    )
    return local.create(path, Blueprint(manifest, tables, n_layers, {SITE: WIDTH}, compress))


def write(store: LocalStore, values: np.ndarray) -> None:
    """Every block from the same values [prompt, layer, neuron]."""
    buffer = store.buffer()
    fill(buffer, values)
    with local.writing(store):
        for block in range(store.n_blocks):
            store.write_block(block, buffer)


def fill(buffer: local.blocks.BlockBuffer, values: np.ndarray) -> None:
    for layer in range(values.shape[1]):
        buffer.put(SITE, layer, np.arange(len(values)), values[:, layer])


def write_seconds(folder: Path, values: np.ndarray, n_blocks: int, rounds: int) -> dict[str, float]:
    """Blocks into a new store, compressed or not, and into one file."""
    n_prompts, n_layers = n_blocks * len(values), values.shape[1]
    prepared: dict[bool, LocalStore] = {}

    def fresh() -> None:
        for compress in (False, True):
            prepared[compress] = create(folder / f"written-{compress}.zarr", n_prompts, n_layers, compress)
        (folder / "flat").unlink(missing_ok=True)
        os.sync()

    def flat() -> None:
        with (folder / "flat").open("wb", buffering=0) as file:
            for _ in range(n_blocks):
                file.write(contiguous.data)
            os.fsync(file.fileno())

    contiguous = np.ascontiguousarray(values.swapaxes(0, 1))  # [layer, row, neuron]
    contenders = {
        "plain file": flat,
        "store": lambda: write(prepared[False], values),
        "compressed store": lambda: write(prepared[True], values),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        fresh()
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(own) for name, own in times.items()}


def read_seconds(store: LocalStore, packed: LocalStore, folder: Path, rounds: int) -> dict[str, float]:
    """All values in the order in which scoring reads them."""
    lay = store.layouts[SITE]
    spans = [(layer, start) for layer in range(lay.n_layers) for start in range(0, lay.width, lay.span)]
    array = zarr.open_array(store.path / schema.ACTIVATIONS / SITE / schema.ACTIVATION, mode="r")
    with (folder / "columns").open("wb") as file:
        for layer, start in spans:
            for chunk in store.columns(SITE, layer, start, start + lay.span):
                file.write(np.ascontiguousarray(chunk).data)
    out = np.empty((lay.n_prompts, lay.span), store.dtype)

    def columns(own: LocalStore) -> None:
        for layer, start in spans:
            at = 0
            for chunk in own.views(SITE, layer, start, start + lay.span):
                out[at : at + len(chunk)] = chunk
                at += len(chunk)

    def memmap() -> None:
        mapped = np.memmap(folder / "columns", store.dtype, "r", shape=(len(spans), lay.n_prompts, lay.span))
        for number in range(len(spans)):
            out[:] = mapped[number]

    def through_zarr() -> None:
        for layer, start in spans:
            out[:] = array[:, layer, start : start + lay.span]

    contenders: dict[str, Callable[[], None]] = {
        "numpy.memmap": memmap,
        "store": lambda: columns(store),
        "zarr-python": through_zarr,
        "compressed store": lambda: columns(packed),
    }
    return medians(rounds, contenders)


def verify_seconds(store: LocalStore, rounds: int) -> dict[str, float]:
    """Reading every file, and checking every file."""
    files = [file for file in store.path.rglob("*") if file.is_file()]

    def read(file: Path) -> None:
        piece = bytearray(durable.READ_BYTES)
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(piece):
                pass

    def read_all() -> None:
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(read, files))

    def check() -> None:
        assert verify(store.path).ok

    return medians(rounds, {"plain read": read_all, "verify": check})


def run(folder: Path, n_blocks: int, n_layers: int, rounds: int) -> dict[str, object]:
    generator = np.random.default_rng(0)
    scale = generator.lognormal(-1.5, 0.7, (1, n_layers, WIDTH))
    values = (generator.standard_normal((layout.BLOCK, n_layers, WIDTH)) * scale).astype(np.float16)
    n_bytes = n_blocks * values.nbytes
    print(
        f"{n_blocks} blocks of {layout.BLOCK} prompts x {n_layers} layers x {WIDTH} float16: "
        f"{plan.show_bytes(n_bytes)}\n"
    )
    written = write_seconds(folder, values, n_blocks, rounds)
    store, packed = (local.open(folder / f"written-{compress}.zarr") for compress in (False, True))
    found = {
        "write": written,
        "read": read_seconds(store, packed, folder, rounds),
        "verify": verify_seconds(store, rounds),
    }
    base = {"write": "plain file", "read": "numpy.memmap", "verify": "plain read"}
    for what, seconds in found.items():
        for name, own in seconds.items():
            ratio = seconds[base[what]] / own
            print(f"{what:<8}{name:<18}{n_bytes / own / 1e9:8.2f} GB/s   {ratio:6.2f} x {base[what]}")
        print()
    faster = found["read"]["zarr-python"] / found["read"]["store"]
    size = sum(file.stat().st_size for file in packed.path.rglob("*") if file.is_file()) / n_bytes
    print(f"reads: {faster:.1f} times zarr-python; compressed: {size:.2f} of the size")
    return {
        "bytes": n_bytes,
        "seconds": found,
        "read_vs_zarr": faster,
        "read_vs_memmap": found["read"]["numpy.memmap"] / found["read"]["store"],
        "write_vs_plain": written["plain file"] / written["store"],
        "verify_vs_read": found["verify"]["plain read"] / found["verify"]["verify"],
        "compressed_size": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small store")
    parser.add_argument(
        "--folder", type=Path, help="where to write; the system's temporary folder by default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = run(Path(folder), *((3, 1, 3) if options.quick else (8, 4, 5)))
    if options.json:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        options.json.write_text(json.dumps({"machine": machine, **figures}, indent=2))


if __name__ == "__main__":
    main()

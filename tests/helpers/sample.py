"""Small stores made without a model: a value is a function of prompt, stream, layer and neuron,
so a test knows what must be there.

Activations of two sites of different widths, one of them with two inner chunks per shard, and attributions of
one; blocks of four prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from relact import durable, schema
from relact.capturing.prepare import Intake, describe
from relact.store import local
from relact.store.local import LocalStore
from relact.store.seal import ATTRIBUTE, BLANK, FILES, SELF, hexadecimal, recorded, render, seal
from relact.store.skeleton import Blueprint

SITES = ("mlp.gate", "attn.k")
WIDTHS = {"mlp.gate": 706, "attn.k": 24, "attributions/attn.k": 24}  # of every stream
ATTRIBUTION = schema.AttributionRecord(("attn.k",), "answer", "sum", "float32")
LAYERS = 2
BLOCK = 4
MODEL = schema.ModelRecord("sample", None, "f0", "float32", "llama")


def table(n: int, start: int = 0, split: str = schema.IDENTIFY) -> pd.DataFrame:
    """Prompts number ``start`` to ``start + n`` of a split, as a store takes them."""
    numbers = range(start, start + n)
    rows = {
        "text": [f"{split} question {number} — ?" for number in numbers],
        "relation": [("size", "colour", "Größe")[number % 3] for number in numbers],
        "subject": [f"{split} {number}" for number in numbers],
        "object": [str(number) for number in numbers],
        "template": "question {} — ?",
        "language": "en",
        "n_tokens": [3 + number % 5 for number in numbers],
    }
    frame = pd.DataFrame(rows)
    if split == schema.TEST:
        frame[schema.ANSWERS] = [[str(number), f"no. {number}"][: 1 + number % 2] for number in numbers]
    return frame


def intake(
    n: int,
    *,
    dtype: str = "float16",
    n_test: int = 3,
    compress: bool = False,
    attribution: schema.AttributionRecord | None = ATTRIBUTION,
) -> Intake:
    """What a capture of ``n`` prompts would start from; its tokens are never run."""
    tables = {schema.IDENTIFY: table(n), schema.TEST: table(n_test, split=schema.TEST)}
    settings = schema.CaptureRecord(SITES, "mean", dtype, BLOCK, 64, True, attribution)
    widths = {stream: WIDTHS[stream] for stream in settings.streams}
    manifest = schema.Manifest(
        MODEL, "t0", settings, describe(tables), {"relact": "0"}, "2026-01-01T00:00:00+00:00"
    )
    return Intake(Blueprint(manifest, tables, LAYERS, widths, compress), [[1]] * n)


def make(path: Path, n: int, **options: Any) -> LocalStore:
    """A new store of ``n`` prompts without any block; options are those of `intake`."""
    return local.create(path, intake(n, **options).blueprint)


def values(stream: str, rows: Iterable[int]) -> np.ndarray:
    """float64 [row, layer, neuron]: exact in float16."""
    row, layer, neuron = np.ix_(list(rows), range(LAYERS), range(WIDTHS[stream]))
    shift = WIDTHS[stream] + 200 * ("/" in stream)
    return ((row * 131 + layer * 57 + neuron * 7 + shift) % 509) / 8 - 30


def capture(store: LocalStore, blocks: Iterable[int] | None = None) -> LocalStore:
    """Write and commit the given blocks, or all that are missing, as a capture does."""
    with local.writing(store):
        buffer = store.buffer()
        for block in store.missing_blocks() if blocks is None else blocks:
            first, stop = store.rows_of(block)
            rows = np.arange(store.load_block(block, buffer), stop)
            for stream, lay in store.streams.items():
                for layer in range(LAYERS):
                    new = values(stream, rows)[:, layer].astype(lay.dtype)
                    buffer.put(stream, layer, rows - first, new)
            store.write_block(block, buffer)
            buffer.clear()
    return store


def full(path: Path, n: int, **options: Any) -> LocalStore:
    """A complete store."""
    return capture(make(path, n, **options))


def read(store: LocalStore, stream: str) -> np.ndarray:
    """[row, layer, neuron] through `LocalStore.columns`, as scoring reads."""
    lay = store.streams[stream]
    spans = range(0, lay.width, lay.span)
    layers = [
        np.concatenate(
            [np.concatenate(store.columns(stream, layer, at, at + lay.span)) for at in spans], axis=1
        )
        for layer in range(lay.n_layers)
    ]
    return np.stack(layers, axis=1)


@contextmanager
def edited(path: Path, group: str) -> Iterator[zarr.Group]:
    """A sealed group to be changed as another program might; it is sealed again at the end."""
    folder = path / group
    listed = recorded((folder / schema.DOCUMENT).read_bytes())
    yield zarr.open_group(folder, mode="r+")
    if group:
        seal(folder)
        return
    document = json.loads((folder / schema.DOCUMENT).read_bytes())  # the root's lists its skeleton alone
    sums = {name: hexadecimal(durable.checksum_of(folder / name)) for name in listed}
    document["attributes"][ATTRIBUTE] = {FILES: sums, SELF: BLANK}
    (folder / schema.DOCUMENT).write_bytes(render(document))


def files(path: Path) -> dict[str, bytes]:
    """Every file of a store by its relative name."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def without_time(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of a store without the time of its making, its id, and the root's own checksum of both."""

    root = json.loads(contents["zarr.json"])
    identity = root["attributes"]["relact"]
    identity["created"] = identity["id"] = root["attributes"]["checksums"]["this_file"] = ""
    return {**contents, "zarr.json": json.dumps(root, sort_keys=True).encode()}

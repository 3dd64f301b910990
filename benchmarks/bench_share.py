"""Packing a study, opening it over http from loopback, the top-20 query: bytes and requests,
and time against a local store.

    python benchmarks/bench_share.py [--quick] [--json FILE] [--store STORE]

Without ``--store`` a store with random scores is made: ``--quick`` of 4 relations, else 12.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
from servers import Plain, Ranged, serving

from relact import schema
from relact.analysis import query
from relact.scoring import arrays
from relact.sharing.pack import pack
from relact.store import local as stores
from relact.store.skeleton import Blueprint

LAYERS, WIDTHS = 30, {"mlp.gate": 1536, "mlp.up": 1536, "mlp.down": 576}  # as the embedded model


def made(path: Path, relations: int) -> Path:
    """A store of the embedded model's shape whose scores are random
    and whose activations are not captured.
    """
    names = [f"relation-{number}" for number in range(relations)]
    rows = pd.DataFrame(
        {
            "relation": names,
            "text": names,
            "subject": names,
            "object": names,
            "template": "{}",
            "language": "en",
            "n_tokens": 3,
        }
    )
    tables = {schema.IDENTIFY: rows, schema.TEST: rows.assign(answers=[[name] for name in names])}
    described = {split: {"n": len(rows), "digest": "0" * 32} for split in tables}
    capture = schema.CaptureRecord(tuple(WIDTHS), "mean", "float16", relations, 2048, True)
    model = schema.ModelRecord("random", None, "0" * 32, "float32", "llama")
    manifest = schema.Manifest(model, "0" * 32, capture, described, created="2026-01-01")
    store = stores.create(path, Blueprint(manifest, tables, LAYERS, WIDTHS))
    generator = np.random.default_rng(0)
    record = schema.ScoresRecord(tuple(names), None, None, "0" * 32, "0" * 32)
    with store.stage(schema.SCORES, record.to_attributes()) as built:
        for site, lay in store.layouts.items():
            for array in arrays.create_arrays(built.create_group(site), lay, names, schema.STATISTICS):
                array[:] = generator.random(array.shape, np.float32)
    return path


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    results = []
    with TemporaryDirectory() as scratch:
        os.environ["RELACT_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch)
        path = options.store or made(folder / "made.zarr", 4 if options.quick else 12)
        relation = stores.open(path).attributes(schema.SCORES)["relations"][0]
        started = time.perf_counter()
        query.top(path, relation=relation, n=20)
        local = time.perf_counter() - started
        web = folder / "web"
        web.mkdir()
        for name, handler in (("s.zarr", Plain), ("s.zarr.zip", Ranged)):
            started = time.perf_counter()
            size = pack(path, web / name).bytes
            packing = time.perf_counter() - started
            with serving(handler, web) as server:
                started = time.perf_counter()
                query.top(f"{server.url}/{name}", relation=relation, n=20)
                taken = time.perf_counter() - started
            results.append(
                {
                    "form": name,
                    "bytes": size,
                    "requests": len(server.paths),
                    "moved": server.bytes,
                    "share": server.bytes / size,
                    "pack_seconds": packing,
                    "query_over_local": taken / local,
                }
            )
            print(
                f"{name}: {size:,} bytes packed in {packing:.2f} s; "
                f"top 20 over http: {len(server.paths)} requests, "
                f"{server.bytes:,} bytes ({server.bytes / size:.2%}), {taken / local:.2f} x the local query"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

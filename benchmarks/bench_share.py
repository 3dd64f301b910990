"""Packing a study, opening it over http from loopback, the top-20 query: bytes and requests,
and time against a local store. Then blocks streamed to an S3 server of its own process (moto), as a capture
sends them, against the same bytes put there as they are.

    python benchmarks/bench_share.py [--quick] [--json FILE] [--store STORE]

Without ``--store`` a store with random scores is made: ``--quick`` of 4 relations, else 12.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import bench_kernel
import bench_store
import boto3
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
from servers import Plain, Ranged, serving

from relact import schema
from relact.analysis import query
from relact.packed import urls
from relact.scoring import arrays
from relact.sharing import stream
from relact.sharing.pack import pack
from relact.store import blocks
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


@contextmanager
def bucket(port: int = 5089) -> Iterator[tuple[str, int]]:
    """An S3 server of its own process; gives the URL of an empty bucket and the process's number."""
    address = f"http://127.0.0.1:{port}"
    named = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    os.environ.update({f"AWS_{name}": value for name, value in {**named, "ENDPOINT_URL": address}.items()})
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], **quiet)
    try:
        for _ in range(300):
            try:
                urlopen(address).close()
                break
            except OSError:
                time.sleep(0.1)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="neurons")
        yield "s3://neurons", server.pid
    finally:
        server.terminate()
        server.wait()


def processor_seconds(pid: int) -> float:
    """What a process has had of the processors so far, all its threads (Linux: proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def streamed(folder: Path, url: str, server: int, layers: int, n_blocks: int) -> dict[str, float]:
    """Bytes per second of blocks, sent as a capture sends them, and put there as they are; processor
    seconds of the server and of this process per second of sending, which say which of the two is waited for.
    """
    prompts = n_blocks * bench_store.layout.BLOCK
    store = bench_store.create(folder / "streamed.zarr", prompts, layers)
    random = np.random.default_rng(0)
    shape = (store.manifest.capture.block, layers, bench_store.WIDTH)
    bench_store.write(store, random.standard_normal(shape, np.float32))
    raws = [path.read_bytes() for path in blocks.shard_paths(store.path, store.streams, 0)]
    remote, plain = stream._Remote(urls.place(f"{url}/s.zarr")), urls.place(f"{url}/plain")
    sent, put = [], []
    busy = {"server": 0.0, "client": 0.0}
    for block in range(n_blocks):
        started = time.perf_counter()
        with ThreadPoolExecutor(stream.UPLOADS) as pool:
            list(pool.map(plain.put, map(str, range(len(raws))), raws))
        put.append(time.perf_counter() - started)
        before = processor_seconds(server), time.process_time()
        started = time.perf_counter()
        remote.committed(store, block)
        sent.append(time.perf_counter() - started)
        busy["server"] += processor_seconds(server) - before[0]
        busy["client"] += time.process_time() - before[1]
    size = sum(map(len, raws))
    return {
        "bytes": size,
        "stream_mb_s": size / min(sent) / 1e6,
        "put_mb_s": size / min(put) / 1e6,
        "stream_over_put": min(put) / min(sent),
        **{f"{side}_processors": seconds / sum(sent) for side, seconds in busy.items()},
    }


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
        with bucket() as (url, moto):
            results.append(streamed(folder, url, moto, 4 if options.quick else 16, 3 if options.quick else 8))
        last = results[-1]
        print(
            f"blocks of {last['bytes']:,.0f} bytes: {last['stream_mb_s']:.0f} MB/s streamed, "
            f"{last['put_mb_s']:.0f} MB/s put as they are, {last['stream_over_put']:.2f} times; "
            f"while streaming the server had {last['server_processors']:.2f} processors, "
            f"this process {last['client_processors']:.2f}; {bench_kernel.processor()}"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

"""Scores per second: relact, one scikit-learn call per neuron and relation, torchmetrics,
and a bare sort as the floor.

Run ``python benchmarks/bench_score.py`` (a few minutes) or ``--quick`` (seconds). All contenders run in one
go on the same values with the same number of workers: threads for relact and the sort, a process pool for
scikit-learn, which is how ml-selfcond scores, and torch's own threads for torchmetrics. They run in turn,
several rounds; times are the best of each, per neuron with all its relations. Values are normal, so in
float16 roughly a third of them are tied.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import bench_store
import numpy as np
from sklearn.metrics import average_precision_score

from relact.kernels import Labels, rank_statistics
from relact.kernels.columns import FORMATS
from relact.scoring import memory
from relact.scoring.score import _opened, score
from relact.store import layout
from relact.store.local import LocalStore
from relact.store.sealed import Sealed

BLOCK = 512  # rows of a block, as stores are captured
# neurons of a task: a block of a span is one piece of a store's memory
SPAN = layout.span_of(bench_store.WIDTH)
SLOW_NEURONS = 8  # the slow contenders get this many per worker
AP = ("average_precision",)
STORED = ("average_precision", "on_p50", "on_p90", "off_mean", "off_p50")


def best_in_turn(rounds: int, runs: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Least of the seconds that each run says it took, all in turn in every round;
    the first round is not counted.

    In turn, because a machine shared with others is slow for seconds at a time: that then meets all of them.
    """
    times = [{name: run() for name, run in runs.items()} for _ in range(rounds + 1)]
    return {name: min(time[name] for time in times[1:]) for name in runs}


def timed(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    def seconds() -> float:
        start = clock()
        run()
        return clock() - start

    return seconds


def as_stored(values: np.ndarray) -> list[list[np.ndarray]]:
    """Spans of blocks [rows, neurons], each contiguous, as a store maps them."""
    spans, rows = range(0, values.shape[1], SPAN), range(0, len(values), BLOCK)
    return [[np.ascontiguousarray(values[row : row + BLOCK, at : at + SPAN]) for row in rows] for at in spans]


def relact(
    spans: Sequence[Sequence[np.ndarray]], labels: Labels, statistics: Sequence[str], pool: ThreadPoolExecutor
) -> None:
    list(pool.map(lambda blocks: rank_statistics(blocks, labels, statistics), spans))


def packed(values: np.ndarray, labels: Labels) -> np.ndarray:
    """Keys [neurons, prompts] that order like the values, the prompt's class in the lowest 16 bits."""
    stored = FORMATS[values.dtype]
    half = 1 << (8 * values.dtype.itemsize - 1)
    bits = np.ascontiguousarray(values.T).view(stored.bits).astype(np.int64)
    ordered = np.where(bits >= half, 2 * half - bits, half + bits)
    return ((ordered << 16) | labels.classes).astype(stored.key)


def sort_seconds(unsorted: np.ndarray, pool: ThreadPoolExecutor) -> float:
    """Seconds to sort packed keys, in place, 16 columns at a time on every worker;
    copying and packing not counted.
    """

    def sort(start: int) -> float:
        keys = unsorted[start : start + 16].copy()
        return timed(lambda: keys.sort(axis=1))()

    return sum(pool.map(sort, range(0, len(unsorted), 16))) / pool._max_workers


def sklearn_column(task: tuple[np.ndarray, np.ndarray]) -> list[float]:
    column, truths = task  # [prompts], bool [relations, prompts]
    return [float(average_precision_score(truth, column)) for truth in truths]


def sklearn(values: np.ndarray, truths: np.ndarray, pool: ProcessPoolExecutor) -> None:
    list(pool.map(sklearn_column, [(column, truths) for column in values.T]))


def torchmetrics_run(values: np.ndarray, truths: np.ndarray, workers: int) -> Callable[[], object] | None:
    """One torchmetrics call per neuron and relation; None where it is not installed."""
    try:
        import torch
        from torchmetrics.functional.classification import binary_average_precision
    except ImportError:
        return None
    torch.set_num_threads(workers)
    columns, targets = (
        torch.from_numpy(np.ascontiguousarray(values.T)),
        torch.from_numpy(truths.astype(np.int64)),
    )
    # it would squash values outside 0..1 through a sigmoid and tie more of them, so they are brought inside
    # before
    columns = torch.sigmoid(columns.double())
    return lambda: [binary_average_precision(column, target) for column in columns for target in targets]


def measure(
    prompts: int, relations: int, dtype: str, workers: int, neurons: int, rounds: int
) -> dict[str, object]:
    """One cell of the grid: microseconds per neuron of every contender, and the ratios between them."""
    random = np.random.default_rng(0)
    values = random.standard_normal((prompts, neurons), np.float32).astype(dtype)
    labels = Labels.one_vs_rest([f"r{i % relations}" for i in random.permutation(prompts)])
    truths, spans = np.ascontiguousarray(labels.roles[labels.classes].T == 1), as_stored(values)
    few = np.ascontiguousarray(values[:, : SLOW_NEURONS * workers]).astype(np.float32)
    columns = {
        "relact": neurons,
        "stored": neurons,
        "sort": neurons,
        "sklearn": few.shape[1],
        "torchmetrics": 2,
    }
    with ProcessPoolExecutor(workers) as processes, ThreadPoolExecutor(workers) as threads:
        # the first follows torchmetrics, whose threads may still spin; no ratio with scikit-learn uses it
        runs = {
            "stored": timed(lambda: relact(spans, labels, STORED, threads)),
            "relact": timed(lambda: relact(spans, labels, AP, threads)),
            "sort": partial(sort_seconds, packed(values, labels), threads),
            "sklearn": timed(lambda: sklearn(few, truths, processes)),
        }
        if run := torchmetrics_run(few[:, :2], truths, workers):
            runs["torchmetrics"] = timed(run)
        best = {name: seconds / columns[name] for name, seconds in best_in_turn(rounds, runs).items()}
    check = rank_statistics([values[:, :1]], labels)["average_precision"][:, 0]
    np.testing.assert_allclose(check, sklearn_column((values[:, 0].astype(np.float32), truths)), atol=1e-12)
    return {
        "prompts": prompts,
        "relations": relations,
        "dtype": dtype,
        "relact_us": best["relact"] * 1e6,
        "relact_stored_us": best["stored"] * 1e6,
        "sort_us": best["sort"] * 1e6,
        "sklearn_us": best["sklearn"] * 1e6,
        "torchmetrics_us": best["torchmetrics"] * 1e6 if run else None,
        "sklearn_over_relact": best["sklearn"] / best["relact"],
        "torchmetrics_over_relact": best["torchmetrics"] / best["relact"] if run else None,
        "relact_over_sort": best["relact"] / best["sort"],
        "stored_over_sort": best["stored"] / best["sort"],
    }


def end_to_end(prompts: int, layers: int, relations: int, workers: int, rounds: int) -> dict[str, float]:
    """Store to written scores, against the kernel alone on the same mapped columns; the store is warm,
    the budget small.

    A process of its own then scores with a budget of what whole spans need; its peak is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        names = [f"r{i % relations}" for i in np.random.default_rng(1).permutation(prompts)]
        store = bench_store.create(path, prompts, layers, relations=names)
        random = np.random.default_rng(0)
        bench_store.write(
            store,
            random.standard_normal((store.manifest.capture.block, layers, bench_store.WIDTH), np.float32),
        )
        lay = store.layouts[bench_store.SITE]
        labels = Labels.one_vs_rest(names)
        spans = [(layer, at) for layer in range(layers) for at in range(0, lay.width, lay.span)]

        def kernel(place: tuple[int, int]) -> None:
            layer, at = place
            rank_statistics(store.views(bench_store.SITE, layer, at, at + lay.span), labels, STORED)

        def whole() -> None:
            shutil.rmtree(path / "scores", ignore_errors=True)
            _opened.cache_clear()  # of a store that is open every shard was checked already
            score(path, workers=workers)

        with ThreadPoolExecutor(workers) as pool:
            runs = {"kernel": timed(lambda: list(pool.map(kernel, spans))), "store": timed(whole)}
            best = best_in_turn(rounds, runs)
        spent = best_in_turn(rounds, {name: timed(run, time.process_time) for name, run in unsafe(whole)})
        shutil.rmtree(path / "scores")
        budget = memory.ScoreShape(lay, relations, len(STORED), workers).memory(lay.span)
        code = (  # not ru_maxrss: that of a process starts from its parent's
            "import re, sys; from pathlib import Path; from relact.scoring.score import score; "
            "score(sys.argv[1], workers=int(sys.argv[2]), memory=int(sys.argv[3])); "
            r"print(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(workers), str(budget)],
            check=True,
            capture_output=True,
        )
        return {
            "store_bytes": lay.bytes,
            "kernel_s": best["kernel"],
            "store_s": best["store"],
            "share_of_kernel": best["kernel"] / best["store"],
            "checks": spent["checked, copied"] / spent["unchecked"],
            "copies": spent["checked, copied"] / spent["mapped"],
            "budget_bytes": budget,
            "peak_bytes": 1024 * int(done.stdout),
        }


def unsafe(run: Callable[[], None]) -> list[tuple[str, Callable[[], None]]]:
    """A scoring as it is, without the checksums of shards, and on maps instead of copies."""

    def without(owner: type, name: str, other: Callable[..., object]) -> Callable[[], None]:
        def changed() -> None:
            with mock.patch.object(owner, name, other):
                run()

        return changed

    return [
        ("checked, copied", run),
        ("unchecked", without(Sealed, "require_shard", lambda *_: None)),
        ("mapped", without(LocalStore, "columns", LocalStore.views)),
    ]


HEADINGS = {
    "prompts": "prompts",
    "relations": "relations",
    "dtype": "dtype",
    "relact_us": "relact, AP (µs)",
    "relact_stored_us": "relact, 5 statistics (µs)",
    "sort_us": "bare sort (µs)",
    "sklearn_us": "scikit-learn (µs)",
    "torchmetrics_us": "torchmetrics (µs)",
    "sklearn_over_relact": "scikit-learn / relact",
    "torchmetrics_over_relact": "torchmetrics / relact",
    "relact_over_sort": "relact / sort",
    "stored_over_sort": "5 statistics / sort",
}


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return "not installed" if value is None else str(value)


def table(rows: Sequence[dict[str, object]]) -> str:
    """The rows in markdown, numbers to the right."""
    lines = ["| " + " | ".join(HEADINGS.values()) + " |", "|" + "---:|" * len(HEADINGS)]
    lines += ["| " + " | ".join(shown(row[key]) for key in HEADINGS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def flatness(rows: Sequence[dict[str, object]]) -> list[str]:
    """How the cost depends on the number of relations, a line per prompts and dtype."""
    lines = []
    for key, group in itertools.groupby(rows, lambda row: (row["prompts"], row["dtype"])):
        cells = sorted((int(str(row["relations"])), float(str(row["relact_us"]))) for row in group)
        if len(cells) > 1:
            (few, low), (many, high) = cells[0], cells[-1]
            lines.append(f"{key[0]} prompts, {key[1]}: {many} relations cost {high / low:.2f} times {few}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small grid, for CI")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prompts", type=int, nargs="+", default=[600, 6000])
    parser.add_argument("--relations", type=int, nargs="+", default=[2, 12, 100])
    parser.add_argument("--dtypes", nargs="+", default=["float16", "float32"], choices=["float16", "float32"])
    parser.add_argument(
        "--layers", type=int, default=60, help="of the store that is scored end to end; 60 are 8.1 GB"
    )
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args()
    prompts, relations, dtypes = args.prompts, args.relations, args.dtypes
    neurons, rounds = 3 * SPAN * args.workers, 9  # several tasks for each, as in a store
    if args.quick:
        prompts, relations, dtypes, rounds = [2000], [2, 12], ["float16"], 2
    grid = itertools.product(prompts, dtypes, relations)
    rows = [measure(p, r, dtype, args.workers, neurons, rounds) for p, dtype, r in grid]
    notes = [
        f"{args.workers} workers, {platform.machine()}, NumPy {np.__version__}; times per neuron.",
        *flatness(rows),
    ]
    whole = end_to_end(
        1000 if args.quick else 6000,
        2 if args.quick else args.layers,
        12,
        args.workers,
        1 if args.quick else 3,
    )
    notes += [
        f"store of {whole['store_bytes'] / 1e9:.2f} GB to written scores: {whole['store_s']:.1f} s, "
        f"{whole['share_of_kernel']:.2f} of the kernel's own throughput",
        f"in CPU time {whole['checks']:.3f} of what it costs without checksums of shards, "
        f"{whole['copies']:.3f} of what it costs on maps",
        f"budget {whole['budget_bytes'] / 1e6:.0f} MB, "
        f"a store {whole['store_bytes'] / whole['budget_bytes']:.1f} times as large, "
        f"peak {whole['peak_bytes'] / 1e6:.0f} MB",
    ]
    text = table(rows) + "\n" + "\n".join(notes) + "\n"
    print(text, end="")
    if args.json:
        args.json.write_text(
            json.dumps({"workers": args.workers, "rows": rows, "end_to_end": whole, "notes": notes}, indent=2)
            + "\n"
        )
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()

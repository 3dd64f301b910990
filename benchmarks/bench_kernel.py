"""The scoring kernel against the faster of two bare sorts, NumPy's and relact's own, on one core.

Run ``python benchmarks/bench_kernel.py`` (two minutes) or ``--quick`` (seconds). What is counted is processor
time of the one thread that works, the least of several rounds, all contenders in turn in each: others on the
machine then disturb little. Per neuron: relact from stored rows to average precisions of all relations; the
sorts from packed keys to sorted keys, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
from bench_score import BLOCK, packed
from sklearn.metrics import average_precision_score

from relact.kernels import Labels, rank_statistics
from relact.kernels.columns import FORMATS
from relact.kernels.sorting import WIDE, runs_of, scratch, sort_two

PROMPTS = {600: 1376, 6000: 688, 60_000: 128, 500_000: 32}  # -> neurons
RELATIONS = (2, 12, 3000)


def processor() -> str:
    """Its name, and whether it has the AVX-512 that NumPy sorts with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = llvmlite.binding.get_host_cpu_features()
    has = "with" if all(features.get(name, False) for name in WIDE) else "without"
    name = names[0] if names else platform.processor()
    return f"{name} ({llvmlite.binding.get_host_cpu_name()}), {has} AVX-512"


@numba.njit
def own_sort(bits, infinity, runs, keys):
    """Columns two by two, each into the same memory."""
    space = scratch(keys)
    for n in range(0, bits.shape[0], 2):
        sort_two(bits[n], bits[n + 1], infinity, runs, space, keys)


def seconds(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def measure(prompts: int, relations: int, dtype: str, neurons: int, rounds: int) -> dict[str, object]:
    """Microseconds per neuron of all contenders."""
    random = np.random.default_rng(0)
    values = random.standard_normal((prompts, neurons), np.float32).astype(dtype)
    labels = Labels.one_vs_rest([f"r{i % relations}" for i in random.permutation(prompts)])
    blocks = [np.ascontiguousarray(values[row : row + BLOCK]) for row in range(0, prompts, BLOCK)]
    order = np.argsort(labels.classes, kind="stable")
    few = min(neurons, 64)
    keys, stored = packed(values[:, :few], labels), FORMATS[values.dtype]
    bits = np.ascontiguousarray(values[order, :few].T).view(stored.bits)
    runs, space = runs_of(labels.classes[order]), np.empty((2, prompts), stored.key)
    truth, column = labels.roles[labels.classes, 0] == 1, values[:, 0].astype(np.float32)

    def numpys() -> float:
        copy = keys.copy()
        return seconds(lambda: copy.sort(axis=1)) / few

    contenders: dict[str, Callable[[], float]] = {
        "relact": lambda: seconds(lambda: rank_statistics(blocks, labels)) / neurons,
        "numpy_sort": numpys,
        "own_sort": lambda: seconds(lambda: own_sort(bits, stored.infinity, runs, space)) / few,
        "sklearn": lambda: seconds(lambda: average_precision_score(truth, column)) * relations,
    }
    times = [{name: run() for name, run in contenders.items()} for _ in range(rounds + 1)][1:]
    best = {name: min(time[name] for time in times) * 1e6 for name in contenders}
    faster = min(best["numpy_sort"], best["own_sort"])
    ratios = {"ratio": best["relact"] / faster, "sklearn_ratio": best["sklearn"] / best["relact"]}
    return {"prompts": prompts, "relations": relations, "dtype": dtype, **best, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="600 prompts only, for CI")
    parser.add_argument("--dtypes", nargs="+", default=["float16"], choices=["float16", "float32"])
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    print(f"{processor()}, NumPy {np.__version__}; microseconds of one core per neuron\n")
    names = ("relact", "NumPy's sort", "own sort", "relact / faster sort", "scikit-learn / relact")
    print("| prompts | relations | dtype | " + " | ".join(names) + " |\n|" + "---:|" * 8)
    rows = []
    for prompts, neurons in PROMPTS.items():
        for dtype in args.dtypes:
            for relations in RELATIONS if not args.quick else RELATIONS[:1]:
                if 2 * relations <= prompts and not (args.quick and prompts > 600):
                    row = measure(prompts, relations, dtype, neurons, 2 if args.quick else 7)
                    rows.append(row)
                    shown = (f"{row[name]:,.1f}" for name in ("relact", "numpy_sort", "own_sort"))
                    ratios = f"{row['ratio']:.2f} | {row['sklearn_ratio']:,.0f}"
                    print(
                        f"| {prompts} | {relations} | {dtype} | {' | '.join(shown)} | {ratios} |", flush=True
                    )
    if args.json:
        args.json.write_text(json.dumps({"processor": processor(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

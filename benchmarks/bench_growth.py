"""How seconds and memory grow with relations, prompts and neurons: score, select, top, compare, report.

Run ``python benchmarks/bench_growth.py`` (minutes) or ``--quick`` (half a minute); ``--one 2000 4000
65536`` measures one size, every step in a process of its own, without the memory that others leave. The
store is one layer of a synthetic mixture of experts with random activations, written by relact's own
writers. One axis grows at a time, by doubling; the others stay. Seconds are those of the processor, all
threads together, the better of two rounds, each on a new store. A slope is the exponent of the growth: 1 is
linear, 0 is not at all. Memory is what the step's peak is above the process before it, in MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis.compare import overlap
from relact.analysis.query import top
from relact.reporting.report import report
from relact.scoring.masks import select
from relact.scoring.score import score
from relact.store import local, skeleton
from relact.store.local import LocalStore

SITE, EXPERTS, BLOCK = "mlp.hidden", 16, 512
BASE = {"relations": 64, "prompts": 2048, "neurons": 1 << 15}
QUICK = {"relations": 8, "prompts": 512, "neurons": 1 << 13}
STEPS = ("score", "select", "top", "compare", "report")
MEMORY = "1GiB"  # that scoring may use


def build(path: Path, relations: int, prompts: int, neurons: int) -> LocalStore:
    """A captured store, not scored: relation r drives neuron r, everything else is noise."""
    names = [f"relation_{number % relations}" for number in range(prompts)]
    table = pd.DataFrame(
        {column: [f"{column} {number}" for number in range(prompts)] for column in schema.PROMPT_TEXT}
    )
    table = table.assign(relation=names, n_tokens=8, answers=[["x"]] * prompts)
    capture = schema.CaptureRecord((SITE,), "mean", "float16", BLOCK, 2048, True).with_experts(EXPERTS)
    manifest = schema.Manifest(
        model=schema.ModelRecord("synthetic", None, "0" * 32, "float32", "mixtral"),
        tokenizer="0" * 32,
        capture=capture,
        prompts={split: {"n": prompts, "digest": ""} for split in (schema.IDENTIFY, schema.TEST)},
    )
    tables = {schema.IDENTIFY: table, schema.TEST: table}
    made = local.create(path, skeleton.Blueprint(manifest, tables, 1, {SITE: neurons}))
    random, buffer = np.random.default_rng(0), made.buffer()
    for block in range(made.n_blocks):
        first, last = made.rows_of(block)
        values = random.standard_normal((last - first, neurons), np.float32)
        values[np.arange(last - first), np.arange(first, last) % relations] += 3
        buffer.put(SITE, 0, np.arange(last - first), values)
        made.write_block(block, buffer)
        buffer.clear()
    return made


def steps_of(store: LocalStore, folder: Path) -> dict[str, Callable[[], object]]:
    """What is measured, in order."""
    return {
        "score": lambda: score(store, memory=MEMORY),
        "select": lambda: select(store, k=100, name="best", keep_super_units=True),
        "top": lambda: top(store, relation="relation_3", n=20),
        "compare": lambda: overlap(store, "best"),
        "report": lambda: report(store, folder / "report.html"),
    }


def measured(run: Callable[[], object]) -> tuple[float, int]:
    """(seconds of the processor, bytes of the peak above what there was before)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.process_time()
    run()
    return time.process_time() - start, max(0, resident("VmHWM") - before)


def resident(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def slope(sizes: list[int], values: list[float]) -> float:
    """The exponent of a growth."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def grown(base: dict[str, int], axis: str, factors: list[int], rounds: int) -> list[dict[str, object]]:
    """Every step at every size of one axis."""
    rows: list[dict[str, object]] = []
    for factor in factors:
        shape = {**base, axis: base[axis] * factor}
        found = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                steps = steps_of(build(Path(folder) / "s.zarr", **shape), Path(folder))
                found.append([measured(run) for run in steps.values()])
        for step, taken in zip(STEPS, zip(*found, strict=True), strict=True):
            seconds, peak = min(each for each, _ in taken), max(each for _, each in taken)
            rows.append({"axis": axis, "size": shape[axis], "step": step, "seconds": seconds, "peak": peak})
    return rows


def alone(shape: dict[str, int]) -> None:
    """Every step at one size, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        build(path, **shape)
        for step in STEPS:
            subprocess.run([sys.executable, __file__, "--step", step, str(path)], check=True)


def warm() -> None:
    """Compile and import what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        for run in steps_of(build(Path(folder) / "s.zarr", **QUICK), Path(folder)).values():
            run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, two of each axis")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--one", nargs=3, type=int, metavar=("RELATIONS", "PROMPTS", "NEURONS"))
    parser.add_argument("--step", nargs=2, metavar=("STEP", "STORE"), help="one step of --one")
    args = parser.parse_args()
    if args.one:
        return alone(dict(zip(BASE, args.one, strict=True)))
    warm()
    if args.step:
        step, path = args.step
        seconds, peak = measured(steps_of(local.open(path), Path(path).parent)[step])
        return print(f"{step:8} {seconds:8.3f} s  {peak / 1e6:6.0f} MB", flush=True)
    base, factors = (QUICK, [1, 4]) if args.quick else (BASE, [1, 2, 4, 8])
    print(f"at {', '.join(f'{count:,} {axis}' for axis, count in base.items())}, one axis grown at a time")
    print(f"{'axis':10} {'step':8} {'sizes':26} {'seconds':30} {'slope':>6}  {'peak, MB':24} {'slope':>6}")
    found = []
    for axis in base:
        rows = grown(base, axis, factors, 1 if args.quick else args.rounds)
        found += rows
        for step in STEPS:
            own = [row for row in rows if row["step"] == step]
            sizes, seconds, peaks = ([row[name] for row in own] for name in ("size", "seconds", "peak"))
            growth, memory = slope(sizes, seconds), slope(sizes, [peak + 2**22 for peak in peaks])
            texts = (
                " ".join(f"{size:,}" for size in sizes),
                " ".join(f"{each:.3f}" for each in seconds),
                " ".join(f"{peak / 1e6:.0f}" for peak in peaks),
            )
            line = f"{texts[0]:26} {texts[1]:30} {growth:6.2f}  {texts[2]:24} {memory:6.2f}"
            print(f"{axis:10} {step:8} {line}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

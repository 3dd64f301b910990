"""Seconds to ask a score store of 12 relations and 835,584 neurons (the MLP neurons of Llama-2-7B): from Python and from the shell.

Run ``python benchmarks/bench_query.py`` or ``--quick`` (a tenth of the neurons, fewer rounds). The store is synthetic but
written by relact's own writers. Two commands that do no work stand beside the figures: ``python -c "import zarr"`` and
``python -c pass``, so that a slow machine shows. Each figure is the best of several rounds; ratios are within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from relact import schema, score, store
from relact.query import neuron, top

RELATIONS, LAYERS, WIDTHS = 12, 32, {"mlp.gate": 11008, "mlp.up": 11008, "mlp.down": 4096}
PROMPTS = 2  # identification prompts per relation: the activations do not matter here


def build(path: Path, relations: int, n_layers: int, widths: dict[str, int]) -> store.Store:
    """A store with scores and no captured block."""
    names = [f"relation_{number}" for number in range(relations)]
    table = pd.DataFrame(
        {name: [f"{name} of {r}" for r in names for _ in range(PROMPTS)] for name in schema.PROMPT_TEXT}
    )
    table["relation"] = [name for name in names for _ in range(PROMPTS)]
    table["n_tokens"] = 5
    answers = table.assign(answers=[["x"]] * len(table))
    manifest = schema.Manifest(
        model=schema.ModelRecord("synthetic", None, "0" * 32, "float32", "llama"),
        tokenizer="0" * 32,
        capture=schema.CaptureRecord(tuple(widths), "mean", "float16", 512, 2048, True),
        prompts={"identify": {"n": len(table), "digest": ""}, "test": {"n": len(table), "digest": ""}},
    )
    made = store.create(path, manifest, {"identify": table, "test": answers}, n_layers, widths)
    random = np.random.default_rng(0)
    with made.stage(schema.SCORES, {"relations": names, "negatives": None}) as group:
        for site, width in widths.items():
            shape = (relations, n_layers, width)
            arrays = {name: random.beta(2, 20, shape).astype(np.float32) for name in score.STATISTICS}
            score._write(group.create_group(site), arrays, names)
    return made


def best_of(rounds: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def shell(*command: str) -> Callable[[], object]:
    """A command as a process of its own, its output thrown away."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)


def measure(path: Path, n_layers: int, rounds: int) -> dict[str, float]:
    """Seconds of each figure."""
    python, relact = sys.executable, str(Path(sys.executable).with_name("relact"))
    opened = store.open(path)
    ask = ("top", str(path), "--relation", "relation_3", "-n", "100")
    return {
        "python -c pass": best_of(rounds, shell(python, "-c", "pass")),
        "python -c 'import zarr'": best_of(rounds, shell(python, "-c", "import zarr")),
        "relact --help": best_of(rounds, shell(relact, "--help")),
        "relact top -n 100": best_of(rounds, shell(relact, *ask)),
        "top 100 of one relation, in Python": best_of(rounds, lambda: top(opened, relation="relation_3", n=100)),
        "one neuron in every relation, in Python": best_of(
            rounds, lambda: neuron(opened, "mlp.gate", n_layers // 2, 345)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the neurons, for CI")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    n_layers, rounds = (3, 2) if args.quick else (LAYERS, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.zarr"
        build(path, RELATIONS, n_layers, WIDTHS)
        figures = measure(path, n_layers, rounds)
    neurons = n_layers * sum(WIDTHS.values())
    zarr = figures["python -c 'import zarr'"]
    print(f"{RELATIONS} relations, {neurons:,} neurons; seconds, and times the import of zarr alone")
    for name, seconds in figures.items():
        print(f"{name:42} {seconds:7.3f} {seconds / zarr:7.2f}")
    if args.json:
        args.json.write_text(
            json.dumps({"relations": RELATIONS, "neurons": neurons, "seconds": figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

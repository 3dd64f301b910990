"""Seconds to ask a store of 12 relations and 835,584 neurons (the MLP neurons of Llama-2-7B),
the size of its report, and how long that takes to its first chart in headless Chromium.

Run ``python benchmarks/bench_query.py`` or ``--quick`` (a tenth of the neurons, fewer rounds). The store is
synthetic but written by relact's own writers. Two commands that do no work stand beside the figures: ``python
-c "import zarr"`` and ``python -c pass``, so that a slow machine shows. Each figure is the best of several
rounds; ratios are within one run.
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

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))

import browser

from relact import schema
from relact.ablating.result import Result
from relact.analysis.query import neuron, top
from relact.relations.verdict import RULE_VERSION
from relact.scoring import arrays, masks
from relact.store import local, skeleton
from relact.store.local import LocalStore

RELATIONS, LAYERS, WIDTHS = 12, 32, {"mlp.gate": 11008, "mlp.up": 11008, "mlp.down": 4096}
# identification prompts per relation: the number does not matter for scores, the page shows few of them
PROMPTS = 5
RELACT = str(Path(sys.executable).with_name("relact"))
SHOTS = "The relation of something else is that which it is\n" * 5


def build(path: Path, relations: int, n_layers: int, widths: dict[str, int]) -> LocalStore:
    """A finished study with made-up numbers: activations, scores,
    masks of the top 3000 and a sweep of ablations.
    """
    names = [f"relation_{number}" for number in range(relations)]
    rows = [(name, number) for name in names for number in range(PROMPTS)]
    table = pd.DataFrame(
        {column: [f"{column} {number} of {name}" for name, number in rows] for column in schema.PROMPT_TEXT}
    )
    table["text"] = [SHOTS + f"The {name} of thing {number} is" for name, number in rows]
    table = table.assign(relation=[name for name, _ in rows], n_tokens=60, answers=[["x"]] * len(rows))
    manifest = schema.Manifest(
        model=schema.ModelRecord("synthetic", None, "0" * 32, "float32", "llama"),
        tokenizer="0" * 32,
        capture=schema.CaptureRecord(tuple(widths), "mean", "float16", len(rows), 2048, True),
        prompts={split: {"n": len(rows), "digest": ""} for split in (schema.IDENTIFY, schema.TEST)},
    )
    tables = {schema.IDENTIFY: table, schema.TEST: table}
    made = local.create(path, skeleton.Blueprint(manifest, tables, n_layers, widths))
    random = np.random.default_rng(0)
    buffer = made.buffer()
    for site, width in widths.items():
        for layer in range(n_layers):
            buffer.put(
                site, layer, np.arange(len(rows)), random.standard_normal((len(rows), width), np.float32)
            )
    made.write_block(0, buffer)
    record = schema.ScoresRecord(tuple(names), None, None, "0" * 32, "0" * 32)
    with made.stage(schema.SCORES, record.to_attributes()) as group:
        for site, lay in made.layouts.items():
            for array in arrays.create_arrays(group.create_group(site), lay, names, schema.STATISTICS):
                array[:] = random.beta(2, 20, array.shape).astype(np.float32)
    for k in (10, 100, 1000, 3000):
        masks.select(made, k=k)
        _ablate(made, k, names, random)
    return made


def _ablate(made: LocalStore, k: int, names: list[str], random: np.random.Generator) -> None:
    """A matrix that looks like one: a relation loses most on its own neurons."""
    seeds, n_prompts = tuple(range(10)), len(names) * PROMPTS
    conditions = ["intact", *names, *(f"random-{seed}" for seed in seeds)]
    right = random.normal(0.7, 0.02, (len(conditions), len(names)))
    right[1 : len(names) + 1] -= np.eye(len(names)) * 0.15 * np.log10(k)
    said = np.where(random.random((len(conditions), n_prompts)) < np.repeat(right, PROMPTS, axis=1), "x", "y")
    record = schema.AblationRecord(
        k,
        "zero",
        "all",
        seeds,
        "prefix",
        made.mask_record(f"top-{k}"),
        made.manifest.prompts_digest(schema.TEST),
        control="matched",
        rule=RULE_VERSION,
    )
    prompts = {
        "prompt": np.arange(n_prompts),
        schema.RELATION_OF: np.repeat(np.array(names, object), PROMPTS),
        schema.PART: np.array([schema.DEV, schema.TEST, schema.TEST] * n_prompts, object)[:n_prompts],
    }
    numbers = {
        name: random.normal(-1, 0.5, (1, *said.shape)).astype(np.float32)
        for name in (schema.LOG_PROBABILITY, schema.LOGIT_DIFFERENCE)
    }
    Result(
        record,
        conditions,
        schema.kinds_of_names(conditions),
        prompts,
        [["x"]] * n_prompts,
        said.astype(object)[None],
        numbers,
        np.full((1, len(conditions), len(names)), "", object),
    ).write(made, f"top-{k}")


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


def first_chart(page: Path, rounds: int) -> float:
    """Seconds from opening a report to its first chart, the fastest of several openings."""
    asked = "performance.getEntriesByName('first chart')[0].startTime"
    with browser.chromium() as started:
        visits = [browser.visit(started, page) for _ in range(rounds)]
        if problems := [problem for visit in visits for problem in visit.problems()]:
            raise SystemExit(f"the report: {problems[0]}")
        return min(float(visit.page.evaluate(asked)) for visit in visits) / 1000


def measure(path: Path, n_layers: int, rounds: int) -> dict[str, float]:
    """Seconds of each figure."""
    python = sys.executable
    opened = local.open(path)
    ask = ("top", str(path), "--relation", "relation_3", "-n", "100")
    return {
        "python -c pass": best_of(rounds, shell(python, "-c", "pass")),
        "python -c 'import zarr'": best_of(rounds, shell(python, "-c", "import zarr")),
        "relact --help": best_of(rounds, shell(RELACT, "--help")),
        "relact top -n 100": best_of(rounds, shell(RELACT, *ask)),
        "top 100 of one relation, in Python": best_of(
            rounds, lambda: top(opened, relation="relation_3", n=100)
        ),
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
        page = Path(folder) / "report.html"
        figures["relact report"] = best_of(1, shell(RELACT, "report", str(path), "-o", str(page)))
        size = page.stat().st_size / 1e6
        figures["the report, to its first chart"] = first_chart(page, rounds)
    neurons = n_layers * sum(WIDTHS.values())
    zarr = figures["python -c 'import zarr'"]
    print(f"{RELATIONS} relations, {neurons:,} neurons; seconds, and times the import of zarr alone")
    for name, seconds in figures.items():
        print(f"{name:42} {seconds:7.3f} {seconds / zarr:7.2f}")
    print(f"the report: {size:.2f} MB")
    if args.json:
        args.json.write_text(
            json.dumps(
                {"relations": RELATIONS, "neurons": neurons, "seconds": figures, "report_mb": size}, indent=2
            )
            + "\n"
        )


if __name__ == "__main__":
    main()

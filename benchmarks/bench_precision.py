"""What coarser numbers change in average precision and the top k, on the embedded model: values stored as
float16, and a model computed in bfloat16, which also takes another time.

Run ``python benchmarks/bench_precision.py`` (minutes) or ``--quick``. The starter relations are captured in
float32; the same values rounded to float16 are scored beside them, and those of a capture in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bench_kernel import processor

from relact import kernels
from relact.capturing.capture import capture
from relact.models import loading
from relact.relations import prompts, sources
from relact.scoring import masks
from relact.store.local import LocalStore

AP = "average_precision"
SITES = ("mlp.gate", "mlp.up", "mlp.down")
FLAGS = Path("/proc/cpuinfo")


def captured(frame: pd.DataFrame, path: Path, model_dtype: str) -> tuple[LocalStore, float]:
    """A store of float32 values, and the seconds of its capture."""
    model = loading.load("smollm2", dtype=model_dtype)
    started = time.perf_counter()
    store = capture(model, frame, path, sites=SITES, dtype="float32")
    return store, time.perf_counter() - started


def scores_of(store: LocalStore, dtype: str) -> dict[str, np.ndarray]:
    """Average precision of the values rounded to ``dtype``: site -> [relation, layer, neuron]."""
    labels = kernels.Labels.one_vs_rest(store.prompts("identify")["relation"].tolist())

    def of_layer(site: str, layer: int) -> np.ndarray:
        lay = store.layouts[site]
        spans = (store.columns(site, layer, at, at + lay.span) for at in range(0, lay.width, lay.span))
        rounded = ([part.astype(dtype) for part in span] for span in spans)
        return np.concatenate([kernels.rank_statistics(span, labels, [AP])[AP] for span in rounded], axis=1)

    return {
        site: np.stack([of_layer(site, layer) for layer in range(lay.n_layers)], axis=1)
        for site, lay in store.layouts.items()
    }


def compared(full: dict[str, np.ndarray], other: dict[str, np.ndarray], ks: list[int]) -> dict[str, float]:
    """How far average precision moves, and the share of every relation's top k that stays."""
    moved = np.abs(masks.flatten(full) - masks.flatten(other))
    figures = {"mean": float(moved.mean()), "p99": float(np.percentile(moved, 99)), "max": float(moved.max())}
    print("average precision moves by " + ", ".join(f"{name} {value:.2g}" for name, value in figures.items()))
    for k in ks:
        first, second = (masks.flatten(masks.top_k(found, k)) for found in (full, other))
        kept = (first & second).sum(axis=1) / k
        figures[f"top_{k}"] = float(kept.mean())
        print(
            f"top {k}: {100 * kept.mean():.2f} % the same on average, "
            f"{100 * kept.min():.2f} % in the worst relation"
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three relations, few prompts")
    parser.add_argument("--per-relation", type=int, default=100)
    parser.add_argument("--k", type=int, nargs="+", default=[100, 400, 3000])
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    relations = sources.load("starter")[: 3 if args.quick else None]
    count = 12 if args.quick else args.per_relation
    frame = prompts.prompts(relations, shots=0, per_relation=count, test_size=3)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, seconds = captured(frame, Path(folder) / "s.zarr", "float32")
        full = scores_of(store, "float32")
        neurons = masks.flatten(full).shape[1]
        print(f"{store.n_prompts} prompts, {len(relations)} relations, {neurons:,} neurons")
        print("\nstored as float16:")
        figures["stored float16"] = compared(full, scores_of(store, "float16"), args.k)
        coarse, taken = captured(frame, Path(folder) / "b.zarr", "bfloat16")
        print("\nmodel computed in bfloat16:")
        figures["model bfloat16"] = compared(full, scores_of(coarse, "float32"), args.k)
    figures["bfloat16_seconds_over_float32"] = taken / seconds
    amx = "with AMX" if "amx_bf16" in FLAGS.read_text() else "without AMX"
    print(f"its capture took {taken / seconds:.2f} times as long as in float32; {processor()}, {amx}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

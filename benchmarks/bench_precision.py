"""How much storing float16 instead of float32 moves average precision and the top k, on the embedded model.

Run ``python benchmarks/bench_precision.py`` (three minutes) or ``--quick``. The starter relations are
captured in float32; the same values rounded to float16 are scored beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from relact import kernels
from relact.capturing.capture import capture
from relact.models import loading
from relact.relations import prompts, sources
from relact.scoring import masks

AP = "average_precision"
SITES = ("mlp.gate", "mlp.up", "mlp.down")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three relations, few prompts")
    parser.add_argument("--per-relation", type=int, default=100)
    parser.add_argument("--k", type=int, nargs="+", default=[100, 400, 3000])
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    relations = sources.load("starter")
    count = 12 if args.quick else args.per_relation
    frame = prompts.prompts(
        relations[:3] if args.quick else relations, shots=0, per_relation=count, test_size=3
    )
    with tempfile.TemporaryDirectory() as folder:
        store = capture(loading.load("smollm2"), frame, Path(folder) / "s.zarr", sites=SITES, dtype="float32")
        labels = kernels.Labels.one_vs_rest(store.prompts("identify")["relation"].tolist())
        scores: dict[str, dict[str, np.ndarray]] = {"float32": {}, "float16": {}}
        for site, lay in store.layouts.items():
            for dtype, found in scores.items():
                layers = [
                    np.concatenate(
                        [
                            kernels.rank_statistics(
                                [
                                    part.astype(dtype)
                                    for part in store.columns(site, layer, at, at + lay.span)
                                ],
                                labels,
                                [AP],
                            )[AP]
                            for at in range(0, lay.width, lay.span)
                        ],
                        axis=1,
                    )
                    for layer in range(lay.n_layers)
                ]
                found[site] = np.stack(layers, axis=1)  # [relation, layer, neuron]
    full, half = (masks.flatten(found) for found in scores.values())
    moved = np.abs(full - half)
    figures: dict[str, float] = {
        "mean": float(moved.mean()),
        "p99": float(np.percentile(moved, 99)),
        "max": float(moved.max()),
    }
    print(f"{store.n_prompts} prompts, {len(labels.relations)} relations, {full.shape[1]:,} neurons")
    print("average precision moves by " + ", ".join(f"{name} {value:.2g}" for name, value in figures.items()))
    for k in args.k:
        first, second = (masks.flatten(masks.top_k(found, k)) for found in scores.values())
        kept = (first & second).sum(axis=1) / k
        figures[f"top_{k}"] = float(kept.mean())
        print(
            f"top {k}: {100 * kept.mean():.2f} % the same on average, "
            f"{100 * kept.min():.2f} % in the worst relation"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

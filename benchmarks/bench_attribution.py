"""What attribution costs beside the forward passes it needs, and activations beside attributions.

Run ``python benchmarks/bench_attribution.py`` (three minutes) or ``--quick`` (seconds). On the embedded
model, every batch runs in turn

- bare: the base model's forward pass of it, nothing read;
- alone: attributions of ``mlp.hidden``, pooled into a block in memory;
- both: these and the activations of all MLP neurons, from one pass,

several times, and the best of each counts: the machine's noise in one batch is larger than what is measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from relact import schema
from relact.capturing.attributing import attribute_batch
from relact.capturing.objectives import Objective, objective_of
from relact.capturing.options import CaptureOptions
from relact.capturing.sizing import together
from relact.models import cost, loading
from relact.models.batches import Ways, schedule
from relact.models.forward import pad
from relact.relations import prompts, sources
from relact.store.blocks import BlockBuffer
from relact.store.layout import layouts, site_of

PROMPTS, FEWER = 240, 6
TIMES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    loaded = loading.load("smollm2")
    frame = prompts.prompts(sources.load("starter"), shots=5, test_size=3).query("split == 'identify'")
    frame = frame.sample(FEWER if args.quick else PROMPTS, random_state=0).reset_index(drop=True)
    options = CaptureOptions(attribution=True)
    tokens = loading.encode(loaded, frame["text"].tolist())
    objective = objective_of(loaded, frame, tokens, options.record())
    assert objective is not None
    passes = [
        (len(each.rows), 0, each.longest)
        for each in schedule(tokens, together(loaded, options.record()), Ways(whole=True))
    ]
    planned = cost.held_bytes(loaded, passes, attributed=["mlp.hidden"])
    found = measured(loaded, tokens, objective, options.record(), 2 if args.quick else TIMES)
    shown = {name: round(seconds, 3) for name, seconds in found.items()}
    shown |= {"alone / bare": round(found["alone"] / found["bare"], 3)}
    shown |= {"both / alone": round(found["both"] / found["alone"], 3), "peak MB": cost.peak() // 10**6}
    shown |= {"planned MB": planned // 10**6}
    for name, value in shown.items():
        print(f"{name:>12}  {value}")
    if args.json:
        args.json.write_text(json.dumps(shown, indent=2) + "\n")


def measured(
    loaded: loading.LoadedModel,
    tokens: Sequence[Sequence[int]],
    objective: Objective,
    settings: schema.CaptureRecord,
    times: int,
) -> dict[str, float]:
    """Seconds of all batches, each the best of some ``times``."""
    totals = dict.fromkeys(("bare", "alone", "both"), 0.0)
    for batch in schedule(tokens, together(loaded, settings), Ways(whole=True)):
        rows = list(batch.rows)
        chosen = [tokens[row] for row in rows]
        ways: dict[str, Callable[[], None]] = {
            "bare": lambda chosen=chosen: bare(loaded, chosen),
            "alone": attributed(loaded, chosen, objective[rows], replace(settings, sites=())),
            "both": attributed(loaded, chosen, objective[rows], settings),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(times):
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
        for name, seconds in best.items():
            totals[name] += seconds
    return totals


def bare(loaded: loading.LoadedModel, tokens: Sequence[Sequence[int]]) -> None:
    """One forward pass, no logits."""
    ids, mask = pad(tokens, loaded.device)
    with torch.inference_mode():
        loaded.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)


def attributed(
    loaded: loading.LoadedModel,
    tokens: Sequence[Sequence[int]],
    objective: Objective,
    settings: schema.CaptureRecord,
) -> Callable[[], None]:
    """The passes of a batch, into a block."""
    record, n_rows = settings.attribution, len(tokens)
    assert record is not None
    widths = {stream: loaded.widths[site_of(stream)] for stream in settings.streams}
    buffer = BlockBuffer(layouts(n_rows, n_rows, loaded.n_layers, widths, settings.streams))
    rows = np.arange(n_rows).tolist()

    def run() -> None:
        attribute_batch(loaded, tokens, rows, settings, record, objective).put(buffer)

    return run


if __name__ == "__main__":
    main()

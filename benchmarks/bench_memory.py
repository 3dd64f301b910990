"""Memory of a capture whose store is four times its budget: what the plan promises,
and the real peak of the process.

Run ``python benchmarks/bench_memory.py`` (a few minutes, 7 GB of disk) or ``--quick`` (a store of a third of
the budget). The model is random and very wide, so that a prompt's activations are large (0.7 MB) and its
forward pass is short. The capture runs in a process of its own, with the memory that blocks of 32 prompts
need; its peak is read from the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import transformers

from relact.capturing.capture import capture
from relact.capturing.forecast import forecast
from relact.capturing.options import CaptureOptions
from relact.models import loading
from relact.relations import table as prompt_table
from relact.store.local import open as open_store

LAYERS, INNER, SITES = 4, 45056, "mlp.gate,mlp.up"
PER_PROMPT = LAYERS * INNER * 2 * 2  # bytes: two sites of float16


def save_model(folder: Path) -> None:
    """A random Llama, four layers and very wide, with the embedded model's tokenizer."""
    tokenizer = loading.load("smollm2").tokenizer
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def table(count: int) -> pd.DataFrame:
    """Short prompts of two relations to identify, and one to test."""
    rows = [
        {
            "text": f"The number {number} is",
            "relation": f"r{number % 2}",
            "subject": str(number),
            "object": str(number),
            "answers": [str(number)],
            "template": "The number {} is",
            "language": "en",
            "split": "identify" if number < count else "test",
            "shots": 0,
        }
        for number in range(count + 1)
    ]
    return pd.DataFrame(rows)


def captured(model: str, file: str, store: str, budget: str) -> None:
    """Capture within the budget; prints the planned and the real peak in bytes. Runs in its own process."""
    options = {"sites": SITES, "batch_tokens": 256, "memory": int(budget)}
    planned = forecast(CaptureOptions(**options), model, file).memory
    capture(model, file, store, **options)
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps({"planned": planned, "peak": 1024 * int(peak[1]) if peak else None}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a store of a third of the budget")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_model(place / "model")
        options = CaptureOptions(sites=SITES, batch_tokens=256, block=32)
        few = forecast(options, str(place / "model"), table(256))
        budget = few.memory * 21 // 20  # libraries differ a little from process to process
        times = 1 / 3 if args.quick else 4.1
        file = prompt_table.write(table(round(times * budget / PER_PROMPT)), place / "prompts.parquet")
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--captured",
                str(place / "model"),
                str(file),
                str(place / "s.zarr"),
                str(budget),
            ],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )
        found = {"budget": budget, **json.loads(done.stdout)}
        found["stored"] = sum(lay.bytes for lay in open_store(place / "s.zarr").layouts.values())
    print(f"store {found['stored'] / 1e9:.2f} GB, {found['stored'] / found['budget']:.2f} times the budget")
    print(
        f"budget {found['budget'] / 1e6:.0f} MB, planned {found['planned'] / 1e6:.0f} MB, "
        f"peak {found['peak'] / 1e6:.0f} MB"
    )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    captured(*sys.argv[2:]) if sys.argv[1:2] == ["--captured"] else main()

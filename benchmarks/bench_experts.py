"""What reading a mixture of experts costs beside its bare forward passes in the same batches.

Run ``python benchmarks/bench_experts.py`` (two minutes) or ``--quick`` (seconds). On a random OLMoE of
16 experts, two of them per token, every batch runs in turn

- bare: the base model's forward pass of it, nothing read;
- hooks: what hooks on modules see, pooled: router, output of the experts, attention, as in a dense model;
- default: the default sites of a capture: these and the router's weights, read where the experts run;
- hidden: these and the experts' hidden units, which are pooled over (prompt, expert);

several times on one thread, and the least processor time of each counts: the machine's noise in one batch is
larger than what is measured.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

from relact.capturing.options import CaptureOptions
from relact.capturing.pooling import pools
from relact.models import hooks
from relact.models.forward import pad

EXPERTS, UNITS, HIDDEN, LAYERS = 16, 128, 256, 4
BATCH, TOKENS, TIMES = 32, 48, 20
HOOKS = ("moe.router", "mlp.down", "attn.q", "attn.k", "attn.v", "attn.o")
WAYS = {"bare": (), "hooks": HOOKS, "default": (*HOOKS, "moe.weight")}
WAYS["hidden"] = (*WAYS["default"], "mlp.hidden")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = mixture()
    assert set(CaptureOptions().record(model.config).sites) == set(WAYS["default"])
    n_batches, times = (1, 3) if args.quick else (10, TIMES)
    batches = [batch(seed) for seed in range(n_batches)]
    seconds = dict.fromkeys(WAYS, 0.0)
    for ids, mask in batches:
        best = dict.fromkeys(WAYS, np.inf)
        for _ in range(times):
            for name, sites in WAYS.items():
                best[name] = min(best[name], timed(partial(run, model, ids, mask, sites)))
        seconds = {name: seconds[name] + best[name] for name in WAYS}
    shown = {name: round(value, 3) for name, value in seconds.items()}
    for name in list(WAYS)[1:]:
        shown[f"{name} / bare"] = round(seconds[name] / seconds["bare"], 3)
    shown["default beyond hooks"] = round((seconds["default"] - seconds["hooks"]) / seconds["bare"], 3)
    shown["hidden beyond hooks"] = round((seconds["hidden"] - seconds["hooks"]) / seconds["bare"], 3)
    for name, value in shown.items():
        print(f"{name:>20}  {value}")
    if args.json:
        args.json.write_text(json.dumps(shown, indent=2) + "\n")


def mixture() -> torch.nn.Module:
    """A random OLMoE."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "olmoe",
        hidden_size=HIDDEN,
        intermediate_size=UNITS,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=1000,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [prompts, tokens] of prompts of unequal length."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(TOKENS // 2, TOKENS, BATCH)
    return pad([generator.integers(3, 1000, length).tolist() for length in lengths], torch.device("cpu"))


def run(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, sites: tuple[str, ...]) -> None:
    """One forward pass, sites pooled and dropped."""
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}
    pool, lengths = pools("mean"), mask.sum(dim=1, keepdim=True)
    with torch.inference_mode():
        if not sites:
            model.base_model(**inputs)
            return

        def keep(_: str, __: int, values: object) -> None:
            pool.finish(pool.start(values, mask), lengths).half()

        with hooks.visit(model, sites, keep):
            model.base_model(**inputs)


def timed(work: Callable[[], None]) -> float:
    """Seconds of the processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()

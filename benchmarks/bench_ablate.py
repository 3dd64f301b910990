"""Ablation matrices per second: relact, plain ``generate`` under forward hooks, nnsight and TransformerLens,
equal verdicts.

Run ``python benchmarks/bench_ablate.py`` (tens of minutes) or ``--quick`` (a minute). The matrix is that of
``make demo``: every starter relation's neurons, the intact model and ten random controls, each with every
test prompt, few-shot and zero-shot. The straightforward way runs one condition and one prompt at a time, two
tokens by ``model.generate``, hooks that zero the neurons: as the published scripts do. Its cost is the same
for every condition, so it and the other tools run a few of them and are scaled to the whole matrix; relact
runs it whole. Neurons are random, as many per layer as a top-400 mask has on average: speed does not depend
on which ones. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from relact.ablating.answers import generate, judge
from relact.ablating.conditions import Condition
from relact.models import loading
from relact.relations import prompts, sources

MODULES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}
Texts = list[list[str]]  # [condition][prompt]


def matrix(loaded: loading.LoadedModel, relations: Sequence[str], controls: int, k: int) -> list[Condition]:
    """``intact``, one condition per relation, and the controls:
    ``k`` random neurons of all MLP sites each.
    """
    shapes = {site: (loaded.n_layers, loaded.widths[site]) for site in MODULES}
    total = sum(layers * width for layers, width in shapes.values())
    found = [Condition("intact", {})]
    for seed, name in enumerate([*relations, *(f"random-{number}" for number in range(controls))]):
        flat = np.zeros(total, bool)
        flat[np.random.default_rng(seed).choice(total, k, replace=False)] = True
        parts = np.split(flat, np.cumsum([layers * width for layers, width in shapes.values()])[:-1])
        found.append(
            Condition(
                name, {site: part.reshape(shapes[site]) for site, part in zip(shapes, parts, strict=True)}
            )
        )
    return found


@contextmanager
def hooked(model: torch.nn.Module, condition: Condition):
    """Zero a condition's neurons with one plain forward hook per module."""
    handles = []
    for site, off in condition.off.items():
        for layer, block in enumerate(model.model.layers):
            neurons = torch.from_numpy(np.flatnonzero(off[layer]))

            def zero(module, inputs, output, neurons=neurons):
                output[..., neurons] = 0

            handles.append(getattr(block.mlp, MODULES[site]).register_forward_hook(zero))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def straightforward(
    loaded: loading.LoadedModel, rows: Sequence[Sequence[int]], conditions: Sequence[Condition]
) -> Texts:
    found = []
    for condition in conditions:
        with hooked(loaded.model, condition), torch.inference_mode():
            found.append([_greedy(loaded, row) for row in rows])
    return found


def _greedy(loaded: loading.LoadedModel, row: Sequence[int]) -> str:
    ids = torch.tensor([row])
    out = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=2,
        do_sample=False,
        pad_token_id=loaded.pad_id,
    )
    return loaded.tokenizer.decode(out[0, len(row) :], skip_special_tokens=True)


def with_nnsight(
    loaded: loading.LoadedModel, rows: Sequence[Sequence[int]], conditions: Sequence[Condition]
) -> Texts | None:
    """The same by nnsight's traces: a prompt and a condition at a time, a trace per token."""
    try:
        from nnsight import LanguageModel
    except ImportError:
        return None
    wrapped = LanguageModel(copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer)
    found = []
    for condition in conditions:
        neurons = {
            (MODULES[site], layer): np.flatnonzero(row).tolist()
            for site, off in condition.off.items()
            for layer, row in enumerate(off)
            if row.any()
        }
        texts = []
        for row in rows:
            ids = list(row)
            for _ in range(2):
                with torch.inference_mode(), wrapped.trace(torch.tensor([ids])):
                    for layer in range(loaded.n_layers):  # in the order in which the modules run
                        for name in MODULES.values():
                            if (name, layer) in neurons:
                                module = getattr(wrapped.model.layers[layer].mlp, name)
                                module.output[..., neurons[name, layer]] = 0
                    chosen = wrapped.lm_head.output[0, -1].argmax().save()
                ids.append(int(chosen))
            texts.append(loaded.tokenizer.decode(ids[len(row) :], skip_special_tokens=True))
        found.append(texts)
    return found


def with_transformer_lens(
    loaded: loading.LoadedModel, rows: Sequence[Sequence[int]], conditions: Sequence[Condition]
) -> Texts | None:
    """The same by TransformerLens' run_with_hooks, without its weight processing:
    a prompt and a condition at a time.
    """
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        return None
    bridge = TransformerBridge.boot_transformers(
        loaded.id, hf_model=copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer, device="cpu"
    )
    points = {"mlp.gate": "mlp.gate.hook_out", "mlp.up": "mlp.in.hook_out", "mlp.down": "mlp.out.hook_out"}
    found = []
    for condition in conditions:
        hooks = []
        for site, off in condition.off.items():
            for layer in np.flatnonzero(off.any(axis=1)):
                neurons = torch.from_numpy(np.flatnonzero(off[layer]))

                def zero(value, hook, neurons=neurons):
                    value[..., neurons] = 0
                    return value

                hooks.append((f"blocks.{layer}.{points[site]}", zero))
        texts = []
        for row in rows:
            ids = list(row)
            for _ in range(2):
                with torch.inference_mode():
                    logits = bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
                ids.append(int(logits[0, -1].argmax()))
            texts.append(loaded.tokenizer.decode(ids[len(row) :], skip_special_tokens=True))
        found.append(texts)
    return found


def timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def hook_cost(
    loaded: loading.LoadedModel, rows: Sequence[Sequence[int]], answers: list, conditions: Sequence[Condition]
) -> list[tuple[float, float]]:
    """Seconds of every forward pass of an evaluation with its overrides, and of the same pass without them.

    Both run in direct succession, in turn first, so that they meet the same state of the machine. In the
    second kind conditions join their batch as they would, but no site is visited: all of them are the intact
    model.
    """
    from relact.ablating import decode, overrides
    from relact.models import hooks

    passes: list[tuple[float, float]] = []
    overridden, advance = overrides.Chunk.overridden, decode.advance
    ways: list[Callable] = []

    @contextmanager
    def bare(chunk, joining):
        _, blocks = hooks.find_layers(chunk.model)
        with ExitStack() as stack:
            for layer, count in chunk.joining.items() if joining else ():
                stack.enter_context(overrides._grown(blocks[layer], count, hooks.Visit()))
            yield

    @contextmanager
    def remembered(self, *, joining, ends=None):
        ways[:] = [lambda: overridden(self, joining=joining, ends=ends), lambda: bare(self, joining)]
        yield
        ways.clear()

    def both(*args, cache=None, **options):
        if not ways:
            return advance(*args, cache=cache, **options)
        copies, seconds, found = [copy.deepcopy(cache), cache], [0.0, 0.0], [None, None]
        for way in (0, 1) if len(passes) % 2 else (1, 0):
            start = time.perf_counter()
            with ways[way]():
                found[way] = advance(*args, cache=copies[way], **options)
            seconds[way] = time.perf_counter() - start
        passes.append((seconds[0], seconds[1]))
        return found[0]

    with (
        mock.patch.object(overrides.Chunk, "overridden", remembered),
        mock.patch.object(decode, "advance", both),
        mock.patch.object(overrides, "advance", both),
    ):
        generate(loaded, rows, answers, conditions)
    return passes


def measure(
    loaded: loading.LoadedModel,
    table: pd.DataFrame,
    conditions: Sequence[Condition],
    few: int,
    fewer: int,
    slow_prompts: int,
) -> dict[str, object]:
    """Seconds for the whole matrix by every contender, and how many verdicts differ."""
    tests = table[table["split"] == "test"].reset_index(drop=True)
    rows, answers = loading.encode(loaded, tests["text"].tolist()), tests["answers"].tolist()
    size = len(conditions) * len(rows)
    ours, texts = timed(lambda: generate(loaded, rows, answers, conditions))
    verdicts = judge(texts, answers, "prefix")
    result: dict[str, object] = {
        "prompts": len(rows),
        "tokens_per_prompt": float(np.mean([len(row) for row in rows])),
        "conditions": len(conditions),
        "accuracy_intact": float(verdicts[0].mean()),
        "relact_s": ours,
    }
    at = np.unique(np.linspace(0, len(conditions) - 1, few).astype(int))
    contenders: list[tuple[str, Callable, np.ndarray, np.ndarray]] = [
        ("generate", straightforward, at, np.arange(len(rows))),
        ("nnsight", with_nnsight, at[:fewer], np.arange(len(rows))[:: max(1, len(rows) // slow_prompts)]),
        (
            "transformer_lens",
            with_transformer_lens,
            at[:fewer],
            np.arange(len(rows))[:: max(1, len(rows) // slow_prompts)],
        ),
    ]
    for name, run, which, asked in contenders:
        seconds, found = timed(
            lambda run=run, which=which, asked=asked: run(
                loaded, [rows[row] for row in asked], [conditions[one] for one in which]
            )
        )
        if found is None:
            result[f"{name}_s"] = None
            continue
        theirs = judge(np.array(found, object), [answers[row] for row in asked], "prefix")
        result[f"{name}_s"] = seconds * size / theirs.size
        result[f"{name}_measured"] = theirs.size
        result[f"{name}_other_verdicts"] = int((theirs != verdicts[np.ix_(which, asked)]).sum())
        result[f"{name}_over_relact"] = result[f"{name}_s"] / ours
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 relations, 8 prompts of each, 2 controls")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument(
        "--baseline", type=int, default=3, help="conditions that the straightforward way runs"
    )
    parser.add_argument("--hooks", action="store_true", help="only what overriding costs")
    options = parser.parse_args()
    loaded = loading.load("smollm2")
    relations = sources.load("starter")
    size, controls, few, slow = (50, 10, options.baseline, 40) if not options.quick else (8, 2, 2, 3)
    relations = relations[:3] if options.quick else relations
    conditions = matrix(loaded, [relation.name for relation in relations], controls, 400)
    results: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    for name, shots in () if options.hooks else (("few-shot", 5), ("zero-shot", 0)):
        table = prompts.prompts(relations, shots=shots, test_size=size, per_relation=2)
        found = measure(loaded, table, conditions, few, 2, slow)
        results[name] = found
        print(
            f"{name}: {found['conditions']} conditions x {found['prompts']} prompts "
            f"of {found['tokens_per_prompt']:.0f} tokens"
        )
        print(f"  relact             {found['relact_s']:8.1f} s")
        for peer in ("generate", "nnsight", "transformer_lens"):
            if found[f"{peer}_s"] is None:
                print(f"  {peer:<18} not installed")
                continue
            print(
                f"  {peer:<18} {found[f'{peer}_s']:8.1f} s, "
                f"{found[f'{peer}_over_relact']:.1f} times relact's; {found[f'{peer}_other_verdicts']} "
                f"of {found[f'{peer}_measured']} verdicts differ (measured on those)"
            )
            assert found[f"{peer}_other_verdicts"] <= found[f"{peer}_measured"] // 1000, "verdicts differ"
    few_shot = prompts.prompts(relations, shots=5, test_size=size, per_relation=2)
    tests = few_shot[few_shot["split"] == "test"]
    rows = loading.encode(loaded, tests["text"].tolist())
    costs = results["hook_cost"] = hook_cost(loaded, rows, tests["answers"].tolist(), conditions)
    own, bare = (sum(seconds) for seconds in zip(*costs, strict=True))
    middle = np.median([one / other - 1 for one, other in costs])
    print(
        f"overriding adds {100 * (own / bare - 1):.1f}% to {bare:.0f} s of {len(costs)} forward passes, "
        f"{100 * middle:.1f}% to the median one"
    )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

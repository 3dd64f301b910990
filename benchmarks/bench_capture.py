"""Prompts per second of capture: relact, the plain loop, TransformerLens, nnsight, and the ml-selfcond way.

Run ``python benchmarks/bench_capture.py`` (half an hour) or ``--quick`` (half a minute). All contenders run
in one go on the embedded model, the same prompts of mixed lengths and the same sites (all MLP neurons), and
end with pooled numbers in host memory or on disk:

- plain: ``model(**batch)`` in the given order, padded batches, forward hooks, mean over real tokens, written
  with numpy;
- selfcond: the same loop, max over all positions, one pickle per batch, as ml-selfcond does it;
- TransformerLens, nnsight: their own ways to read the same tensors, in the same batches, mean over real
  tokens;
- relact: ``capture`` into a store, fsync and checksums included;
- bare: the forward passes of relact's own batches, nothing read, nothing written: what hooks, pooling and
  writing add to. Every batch runs in both ways in turn, several times, and the best of each counts: the
  machine's noise in one pass of seconds is larger than what is measured;
- shared, unshared: few-shot prompts whose examples are computed once per relation, or again for every prompt.

The other contenders take turns, round by round; the figures are the best round of each.
"""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

from relact.capturing import capture as capturing
from relact.capturing import passes
from relact.capturing.capture import capture
from relact.models import loading
from relact.models.forward import pad
from relact.relations import prompts, sources

BATCH = 32  # prompts in a batch of the plain loop
FEWER = 600  # prompts by which the overhead is measured
TIMES = 4  # how often each of their batches runs in either way
MODULES = ("gate_proj", "up_proj", "down_proj")
SITES = ("mlp.gate", "mlp.up", "mlp.down")


def mixed_prompts(count: int) -> pd.DataFrame:
    """Prompts of the starter relations with 0 to 5 examples drawn anew for each: 6 to about 100 tokens,
    in random order.
    """
    relations = sources.load("starter")
    tables = [prompts.prompts(relations, shots=shots, test_size=3, seed=shots) for shots in range(6)]
    frame = pd.concat(tables).query("split == 'identify'").drop_duplicates("text")
    return frame.sample(count, random_state=0).reset_index(drop=True)


def few_shot_prompts(count: int) -> pd.DataFrame:
    """Five-shot prompts whose examples all prompts of a relation share."""
    frame = prompts.prompts(sources.load("starter"), shots=5, examples="shared", test_size=3)
    identify = frame.query("split == 'identify'")
    return identify.groupby("relation").head(-(-count // 12)).head(count).reset_index(drop=True)


def batches(loaded: loading.LoadedModel, texts: Sequence[str]) -> Iterator[Any]:
    """Padded batches in the given order."""
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "right"
    for start in range(0, len(texts), BATCH):
        yield tokenizer(list(texts[start : start + BATCH]), return_tensors="pt", padding=True)


def mean(values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """[batch, width] over real tokens."""
    return ((values * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).half().numpy()


def looped(loaded: loading.LoadedModel, texts: Sequence[str], folder: Path, pool: str) -> None:
    """The plain loop and the ml-selfcond way: hooks on every projection, one file per batch."""
    got: dict[tuple[int, str], np.ndarray] = {}
    mask = torch.empty(0)

    def reads(layer: int, name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            got[layer, name] = mean(output, mask) if pool == "mean" else output.amax(1).numpy()

        return hook

    handles = [
        getattr(block.mlp, name).register_forward_hook(reads(layer, name))
        for layer, block in enumerate(loaded.model.model.layers)
        for name in MODULES
    ]
    with torch.inference_mode():
        for number, batch in enumerate(batches(loaded, texts)):
            mask = batch["attention_mask"]
            loaded.model(**batch)
            with (folder / f"{number}.pickle").open("wb") as file:
                if pool == "mean":
                    np.savez(file, **{f"{layer}.{name}": values for (layer, name), values in got.items()})
                else:
                    pickle.dump(got, file)
    for handle in handles:
        handle.remove()


def transformer_lens(loaded: loading.LoadedModel) -> Callable[[Sequence[str], Path], None] | None:
    """Their bridge over the same model; None where it is not installed."""
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        return None
    twin = copy.deepcopy(loaded.model)
    bridge = TransformerBridge.boot_transformers(
        "smollm2", hf_model=twin, tokenizer=loaded.tokenizer, device="cpu"
    )
    ends = ("mlp.hook_pre", "mlp.hook_pre_linear", "hook_mlp_out")

    def run(texts: Sequence[str], folder: Path) -> None:
        with torch.inference_mode():
            for number, batch in enumerate(batches(loaded, texts)):
                mask = batch["attention_mask"]
                _, cache = bridge.run_with_cache(
                    batch["input_ids"], attention_mask=mask, names_filter=lambda name: name.endswith(ends)
                )
                np.savez(
                    folder / f"{number}.npz", **{name: mean(values, mask) for name, values in cache.items()}
                )

    return run


def nnsight(loaded: loading.LoadedModel) -> Callable[[Sequence[str], Path], None] | None:
    """Their tracing of the same model; None where it is not installed."""
    try:
        import nnsight
    except ImportError:
        return None
    traced = nnsight.NNsight(copy.deepcopy(loaded.model))

    def run(texts: Sequence[str], folder: Path) -> None:
        with torch.inference_mode():
            for number, batch in enumerate(batches(loaded, texts)):
                mask = batch["attention_mask"]
                with traced.trace(**batch):
                    found = nnsight.save([])
                    for layer in traced.model.layers:
                        for name in MODULES:
                            found.append((getattr(layer.mlp, name).output * mask[:, :, None]).sum(1))
                pooled = [(values / mask.sum(1, keepdim=True)).half().numpy() for values in found]
                np.savez(folder / f"{number}.npz", *pooled)

    return run


class AtOnce:
    """Stands in for the writer's thread: blocks are written between batches,
    where their whole cost is seen.
    """

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*args))
        return done


@dataclass
class Overhead:
    """Seconds of one capture by what they went to; every batch also ran bare."""

    before: float  # tokenizing, creating the store
    writing: float  # putting in place, checking, checksums, flushing: all that is not a pass
    batches: list[tuple[float, float]]  # each batch with hooks and pooling, and bare

    def __str__(self) -> str:
        read, bare = (sum(seconds) for seconds in zip(*self.batches, strict=True))
        parts = {
            "hooks, pooling and writing": read - bare + self.writing,
            "of it hooks and pooling": read - bare,
            "of it writing, had it not overlapped": self.writing,
            "and tokenizing, creating the store": self.before,
        }
        lines = [f"{name}: {100 * part / bare:+.1f}%" for name, part in parts.items()]
        return f"over {bare:.1f} s of {len(self.batches)} bare forward passes,\n" + "\n".join(lines)


def overhead(loaded: loading.LoadedModel, frame: pd.DataFrame, folder: Path, times: int) -> Overhead:
    """A capture of which every batch runs ``times`` times, and as often bare, in turn."""
    batches: list[tuple[float, float]] = []
    own_run, first, inside = passes._run_batch, 0.0, 0.0

    def bare(own: Sequence[Sequence[int]]) -> None:
        ids, mask = pad(own, loaded.device)
        loaded.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    def both(loaded: loading.LoadedModel, own: Sequence[Sequence[int]], *rest: Any) -> Any:
        nonlocal first, inside
        begun = time.perf_counter()
        first = first or begun
        best = [float("inf"), float("inf")]
        arrivals = None
        for way in [0, 1] * times:
            start = time.perf_counter()
            if way:
                bare(own)
            else:
                arrivals = own_run(loaded, own, *rest)
            best[way] = min(best[way], time.perf_counter() - start)
        batches.append((best[0], best[1]))
        inside += time.perf_counter() - begun
        return arrivals

    with (
        mock.patch.object(passes, "_run_batch", both),
        mock.patch.object(capturing, "ThreadPoolExecutor", AtOnce),
        # no shared prefixes: a bare pass of any batch stands alone
        mock.patch("relact.models.batches.SAVED_FLOOR", 10**9),
    ):
        start = time.perf_counter()
        capture(loaded, frame, folder / "s.zarr", sites=SITES)
        end = time.perf_counter()
    return Overhead(first - start, end - first - inside, batches)


class Course:
    """A temporary folder per run, and the best time of every contender."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, function: Callable[[Path], object]) -> None:
        folder = Path(tempfile.mkdtemp())
        start = time.perf_counter()
        function(folder)
        taken = time.perf_counter() - start
        shutil.rmtree(folder)
        self.seconds[name] = min(taken, self.seconds.get(name, taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few prompts, one round")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument(
        "--overhead", action="store_true", help="only what relact adds to its bare forward passes"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    count, rounds = (24, 1) if args.quick else (args.prompts, args.rounds)
    loaded = loading.load("smollm2")
    mixed, shots = mixed_prompts(count), few_shot_prompts(count)
    texts = mixed["text"].tolist()
    with tempfile.TemporaryDirectory() as folder:
        cost = overhead(loaded, mixed[:FEWER], Path(folder), 1 if args.quick else TIMES)
    if args.overhead:
        print(cost)
        return
    course = Course()
    peers = {"TransformerLens": transformer_lens(loaded), "nnsight": nnsight(loaded)}
    for _ in range(rounds):
        course.run("relact", lambda folder: capture(loaded, mixed, folder / "s.zarr", sites=SITES))
        course.run("plain", lambda folder: looped(loaded, texts, folder, "mean"))
        course.run("selfcond", lambda folder: looped(loaded, texts, folder, "max"))
        for name, peer in peers.items():
            if peer is not None:
                course.run(name, lambda folder, peer=peer: peer(texts, folder))
        course.run("shared", lambda folder: capture(loaded, shots, folder / "s.zarr", sites=SITES))
        with mock.patch("relact.models.batches.SAVED_FLOOR", 10**9):
            course.run("unshared", lambda folder: capture(loaded, shots, folder / "s.zarr", sites=SITES))
    seconds = course.seconds
    lengths = sorted(map(len, loading.encode(loaded, texts)))
    print(
        f"{count} prompts of {lengths[0]} to {lengths[-1]} tokens (median {lengths[count // 2]}), "
        f"{torch.get_num_threads()} threads\n"
    )
    print(
        "| contender | seconds | prompts per second | relact is so many times faster |\n|---|---:|---:|---:|"
    )
    for name in ("relact", "plain", "selfcond", "TransformerLens", "nnsight"):
        if name in seconds:
            print(
                f"| {name} | {seconds[name]:.1f} | {count / seconds[name]:.0f} "
                f"| {seconds[name] / seconds['relact']:.2f} |"
            )
        else:
            print(f"| {name} | not installed | | |")
    print(f"\n{cost}")
    print(f"few-shot prompts: sharing prefixes is {seconds['unshared'] / seconds['shared']:.2f} times faster")
    if args.json:
        args.json.write_text(
            json.dumps({"prompts": count, "seconds": seconds, "overhead": asdict(cost)}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

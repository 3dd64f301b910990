"""What a CUDA device gives, and how fast: one table, in eight minutes on one card.

Run ``make device``, or ``python benchmarks/device.py --device cpu --quick`` for a minute on small shapes,
where figures mean nothing but everything runs. First the device's answers are held to the CPU's
(`device_checks`); then figures are taken at the shape of Llama-2-7B with random weights in bfloat16, made
on the device: nothing is fetched. A section that fails says so, and the rest goes on; the exit status is
then 1. Figures are the best of some runs in turn.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import bench_store
import device_checks as checks
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers import models as token_models

import relact
from relact.ablating.answers import PAPER_TOKENS, Exam, generate
from relact.ablating.conditions import INTACT_MODEL, Condition
from relact.kernels import Labels, on_device, rank_statistics
from relact.kernels import device as device_kernels
from relact.models import loading
from relact.models.batches import Ways, schedule
from relact.models.forward import pad
from relact.schema import AVERAGE_PRECISION, SCORES, STATISTICS

NEURONS = 835_584  # of the three MLP sites of Llama-2-7B
SITES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}
CALLS = 4  # of a kernel, in two threads
VERSIONS = ("torch", "transformers", "numpy", "numba", "zarr")


@dataclass(frozen=True)
class Sizes:
    """What is run: as on a large card, or small."""

    model: dict[str, int] = field(default_factory=dict)  # of a LlamaConfig; none is Llama-2-7B
    captured: int = 2304  # prompts
    attributed: int = 192
    attributed_tokens: int = 2048  # of a batch
    facts: int = 240  # test prompts of an ablation
    off: int = 3000  # neurons of a condition
    plain: int = 2  # conditions that plain generate runs
    prompts: int = 6000  # that are scored
    columns: int = 11008  # neurons that are scored at once
    layers: int = 16  # of the store that is scored
    times: int = 3
    halved: tuple[int, int] = (1024, 512)  # hidden width and prompts of the model that is out of memory


QUICK = Sizes(
    {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 600,
    },
    captured=24,
    attributed=12,
    attributed_tokens=512,
    facts=24,
    off=40,
    prompts=600,
    columns=688,
    layers=1,
    times=2,
)


class Report:
    """Rows of a Markdown table, printed as they are found."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.failed = device, 0
        self.cuda = torch.device(device).type == "cuda"
        name = torch.cuda.get_device_name(device) if self.cuda else platform.machine()
        versions = ", ".join(f"{each} {importlib.metadata.version(each)}" for each in VERSIONS)
        print(f"{name}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}")
        if quick:
            print("Small shapes: that everything runs is all that is shown.")
        print("\n| figure | value | measured against |\n|---|---:|---|", flush=True)

    def row(self, figure: str, value: str, against: str = "") -> None:
        print(f"| {figure} | {value} | {against} |", flush=True)

    def held(self, found: Iterator[checks.Found]) -> None:
        """A row per difference; too large a one counts as a failure."""
        for each in found:
            fine = each.value <= each.limit
            self.failed += not fine
            value = f"{each.value:.2g}" + ("" if fine else f" **more than {each.limit:g}**")
            self.row(each.figure, value, each.against)

    @contextmanager
    def section(self, name: str, seconds: int) -> Iterator[None]:
        """One failure, or too much time, is told, and the next section runs."""

        def late(*_: object) -> None:
            raise TimeoutError(f"took more than {seconds} s")

        former = signal.signal(signal.SIGALRM, late)
        signal.alarm(seconds)
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.failed += 1
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0][:120]
            self.row(name, "**failed**", f"{type(error).__name__}: {first}")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, former)
            print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
            if self.cuda:
                torch.cuda.empty_cache()

    def best(self, times: int, runs: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Seconds of every contender, in turn, after one of each that does not count."""
        found = dict.fromkeys(runs, float("inf"))
        for turn in range(times + 1):
            for name, run in runs.items():
                self.wait()
                start = time.perf_counter()
                run()
                self.wait()
                if turn:
                    found[name] = min(found[name], time.perf_counter() - start)
        return found

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def random_model(device: str, sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> loading.LoadedModel:
    """Random weights, and a tokenizer of made-up words."""
    config = transformers.LlamaConfig(**sizes.model)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval().requires_grad_(False)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2}
    words |= {f"{chr(97 + n % 26)}{n}": n for n in range(3, config.vocab_size)}
    backend = Tokenizer(token_models.WordLevel(words, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    kind = str(dtype).removeprefix("torch.")
    return loading.LoadedModel(model, tokenizer, "random", None, "random", "made up", kind, "llama")


def random_tokens(
    loaded: loading.LoadedModel, count: int, lengths: tuple[int, int], shared: int = 0
) -> list[list[int]]:
    """Prompts of random tokens, so many of them the same in all of a twelfth."""
    random, words = np.random.default_rng(0), loaded.model.config.vocab_size
    examples = random.integers(3, words, (12, shared)).tolist()
    own = [random.integers(3, words, random.integers(*lengths)).tolist() for _ in range(count)]
    return [[1, *examples[at * 12 // count], *ids] for at, ids in enumerate(own)]


def rates(
    report: Report, what: str, passes: str, count: int, runs: dict[str, Callable[[], object]], times: int
) -> None:
    """Two rows: prompts per second of ``relact``, and how much of the ``bare`` rate that is."""
    found = report.best(times, runs)
    bare, own = (count / found[name] for name in ("bare", "relact"))
    report.row(f"{what}, prompts per second", f"{own:,.0f}", f"{passes}, {bare:,.0f}/s")
    report.row("share of the bare rate", f"{own / bare:.2f}", "goal 0.9")


def capture_figures(report: Report, loaded: loading.LoadedModel, sizes: Sizes) -> None:
    tokens = random_tokens(loaded, sizes.captured, (15, 60))
    settings = checks.settings_of(loaded)
    buffer = checks.buffer_of(loaded, settings, len(tokens))
    batches = list(schedule(tokens, settings.batch))

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                ids, mask = pad([tokens[row] for row in batch.rows], loaded.device)
                loaded.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    runs = {"bare": bare, "relact": partial(checks.captured, loaded, tokens, settings, buffer)}
    what = "capture of three MLP sites into memory"
    rates(report, what, "bare forward passes of the same batches", len(tokens), runs, sizes.times)
    del buffer
    report.held(checks.copies_equal(loaded, tokens[: len(tokens) // 4], settings))


def attribution_figures(report: Report, loaded: loading.LoadedModel, sizes: Sizes) -> None:
    tokens = random_tokens(loaded, sizes.attributed, (15, 60))
    head, embed = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    options = {"attribution": True, "batch_tokens": sizes.attributed_tokens, "sites": "mlp.hidden"}
    settings = checks.settings_of(loaded, **options)
    buffer = checks.buffer_of(loaded, settings, len(tokens))
    batches = list(schedule(tokens, settings.batch, Ways(whole=True)))

    def bare() -> None:
        for batch in batches:
            ids, mask = pad([tokens[row] for row in batch.rows], loaded.device)
            states, seen = embed(ids).detach().requires_grad_(), mask.long()
            out = loaded.model.base_model(inputs_embeds=states, attention_mask=seen, use_cache=False)[0]
            last = out[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
            torch.autograd.grad(head(last).float().log_softmax(-1)[:, 5].sum(), states)

    runs = {"bare": bare, "relact": partial(checks.captured, loaded, tokens, settings, buffer)}
    what = "attribution of `mlp.hidden`, with its activations"
    rates(report, what, "bare forward and backward passes to the embeddings", len(tokens), runs, sizes.times)


def conditions_of(loaded: loading.LoadedModel, count: int, off: int) -> list[Condition]:
    """``intact`` and so many sets of random neurons."""
    shapes = {site: (loaded.n_layers, loaded.widths[site]) for site in SITES}
    ends = np.cumsum([layers * width for layers, width in shapes.values()])
    found = [INTACT_MODEL]
    for seed in range(count):
        flat = np.zeros(ends[-1], bool)
        flat[np.random.default_rng(seed).choice(ends[-1], off, replace=False)] = True
        parts = zip(shapes, np.split(flat, ends[:-1]), strict=True)
        found.append(Condition.of(f"r{seed}", {site: part.reshape(shapes[site]) for site, part in parts}))
    return found


def plainly(
    loaded: loading.LoadedModel, tokens: Sequence[Sequence[int]], condition: Condition, batch: int
) -> None:
    """One condition: `model.generate` of batches padded on the left, under one hook per module."""
    handles = []
    for site, name in SITES.items():
        for layer, block in enumerate(loaded.model.model.layers):
            neurons = torch.from_numpy(condition.entries(site, layer)[0]).to(loaded.device)

            def zero(module: Any, inputs: Any, output: torch.Tensor, neurons: torch.Tensor = neurons) -> None:
                output[..., neurons] = 0

            handles.append(getattr(block.mlp, name).register_forward_hook(zero))
    order = sorted(tokens, key=len)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            longest = max(map(len, part))
            lacking = [longest - len(row) for row in part]
            ids = [[0] * lack + row for lack, row in zip(lacking, part, strict=True)]
            mask = torch.arange(longest)[None, :] >= torch.tensor(lacking)[:, None]
            loaded.model.generate(
                torch.tensor(ids, device=loaded.device),
                attention_mask=mask.long().to(loaded.device),
                max_new_tokens=PAPER_TOKENS,
                do_sample=False,
                pad_token_id=0,
            ).cpu()
    for handle in handles:
        handle.remove()


def ablation_figures(report: Report, loaded: loading.LoadedModel, sizes: Sizes) -> None:
    """Of intact and the relations: 12 and 3,000 neurons each."""
    conditions = conditions_of(loaded, 12, sizes.off)
    for form, shared in (("few-shot", 60), ("zero-shot", 0)):
        tokens = random_tokens(loaded, sizes.facts, (8, 16), shared)
        exam = Exam(tokens, [["a3"]] * len(tokens), published=True)

        def plain(tokens: Sequence[Sequence[int]] = tokens) -> None:
            for condition in conditions[: sizes.plain]:
                plainly(loaded, tokens, condition, 64)

        found = report.best(2, {"relact": partial(generate, loaded, exam, conditions), "plain": plain})
        scaled = found["plain"] * len(conditions) / sizes.plain
        answers = len(conditions) * len(tokens)
        against = (
            f"`generate` in batches of 64 under hooks, {scaled:.1f} s: {sizes.plain} conditions "
            f"in {found['plain']:.2f} s, extrapolated to {len(conditions)}"
        )
        figure = f"ablation, {form}, {answers:,} answers under {len(conditions)} conditions"
        report.row(figure, f"{found['relact']:.1f} s", against)
        report.row("times faster", f"{scaled / found['relact']:.1f}", "")


def columns_of(prompts: int, neurons: int) -> list[np.ndarray]:
    """Activations as a store maps them: blocks of 512 prompts."""
    values = np.random.default_rng(0).standard_normal((prompts, neurons), np.float32).astype(np.float16)
    return [values[start : start + 512] for start in range(0, prompts, 512)]


def in_turn(call: Callable[[], object]) -> None:
    """Calls in two threads, as `relact.score` makes them: one reads while the other one is computed."""
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(call) for _ in range(CALLS)]:
            done.result()


def score_figures(report: Report, sizes: Sizes) -> None:
    blocks = columns_of(sizes.prompts, sizes.columns)
    device, few = report.device, [block[:, :688] for block in blocks]
    for relations, negatives in ((12, None), (300, None), (12, 4)):
        names = [f"r{i % relations}" for i in np.random.default_rng(1).permutation(sizes.prompts)]
        labels = Labels.one_vs_rest(names)
        labels = labels.sampled(negatives, 0) if negatives else labels
        drawn = f", {negatives} negatives for a positive" if negatives else ""
        for statistics in ((AVERAGE_PRECISION,), STATISTICS):
            run = partial(in_turn, partial(on_device(device), blocks, labels, statistics))
            taken = report.best(sizes.times, {"device": run})["device"] / (CALLS * sizes.columns)
            core = (
                report.best(sizes.times, {"core": partial(rank_statistics, few, labels, statistics)})["core"]
                / 688
            )
            what = "average precision" if len(statistics) == 1 else f"{len(statistics)} statistics"
            report.row(
                f"scoring {sizes.prompts:,} prompts x {relations} relations{drawn}, {what}, µs per neuron",
                f"{1e6 * taken:.2f}",
                f"one CPU core {1e6 * core:.1f}, two {core / 2 / taken:.0f} times as long (goal 20); "
                f"{NEURONS:,} neurons: {NEURONS * taken:.1f} s, extrapolated",
            )
    bare_figures(report, sizes, blocks)


def bare_figures(report: Report, sizes: Sizes, blocks: Sequence[np.ndarray]) -> None:
    """What of it is a sort and a copy, and how much memory is taken."""
    rows = torch.from_numpy(np.concatenate(blocks))
    there = rows.to(report.device)
    columns = there.T.contiguous()
    pinned = rows.pin_memory() if report.cuda else rows
    runs = {"sort": lambda: columns.sort(dim=1), "copy": lambda: pinned.to(report.device, non_blocking=True)}
    found = {name: 1e6 * taken / sizes.columns for name, taken in report.best(sizes.times, runs).items()}
    report.row(
        "`torch.sort` of the same columns alone, µs per neuron",
        f"{found['sort']:.2f}",
        "values there already",
    )
    report.row(
        "copying them to the device alone, µs per neuron", f"{found['copy']:.2f}", "from pinned memory"
    )
    if report.cuda:
        del columns, there
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        labels = Labels.one_vs_rest([f"r{i % 12}" for i in range(sizes.prompts)])
        on_device(report.device)(blocks, labels, sorted(device_kernels.BUILT_IN))
        tile = min(sizes.columns, device_kernels.STAGED // (2 * sizes.prompts))
        used = torch.cuda.max_memory_allocated() / (tile * sizes.prompts)
        report.row(
            "memory on the device, bytes per value of a tile", f"{used:.0f}", f"planned {device_kernels.HELD}"
        )


def store_figures(report: Report, sizes: Sizes) -> None:
    """From a store to written scores."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        names = [f"r{i % 12}" for i in np.random.default_rng(1).permutation(sizes.prompts)]
        store = bench_store.create(path, sizes.prompts, sizes.layers, relations=names)
        shape = (store.manifest.capture.block, sizes.layers, bench_store.WIDTH)
        bench_store.write(store, np.random.default_rng(0).standard_normal(shape, np.float32))

        def scored(device: str) -> None:
            relact.score(path, device=device, statistics=STATISTICS)
            shutil.rmtree(path / SCORES)

        neurons = sizes.layers * bench_store.WIDTH
        runs = {"device": partial(scored, report.device), "cpu": partial(scored, "cpu")}
        found = {name: 1e6 * taken / neurons for name, taken in report.best(1, runs).items()}
    report.row(
        f"`relact.score` of a store, {neurons:,} neurons, 12 relations, 5 statistics, µs per neuron",
        f"{found['device']:.2f}",
        f"the same on all {os.cpu_count()} CPU cores {found['cpu']:.2f}",
    )


def halving(report: Report, sizes: Sizes) -> None:
    width, count = sizes.halved
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    }
    loaded = random_model(report.device, Sizes(shape), torch.float32)
    tokens = random_tokens(loaded, count, (30, 60))
    report.held(checks.halving_equal(loaded, tokens, 1 << 29, attribution=False))
    report.held(checks.halving_equal(loaded, tokens, 1 << 30, attribution=True))


def sections_of(report: Report, sizes: Sizes, quick: bool) -> dict[str, tuple[int, Callable[[], None]]]:
    """What is run, in this order, and for how many seconds at most."""
    device, held = report.device, list[loading.LoadedModel]()
    shape = (600, 97) if quick else (6000, 512)
    found: dict[str, tuple[int, Callable[[], None]]] = {
        "statistics": (60, lambda: report.held(checks.kernels_equal(device, *shape))),
        "pooling": (20, lambda: report.held(checks.pooling_close(device))),
    }
    for family in checks.FAMILIES:
        found[f"family {family}"] = 60, lambda family=family: report.held(checks.family_equal(device, family))
    found["bfloat16"] = 30, lambda: report.held(checks.bfloat16_close(device))
    if report.cuda:
        found["halving"] = 40, lambda: halving(report, sizes)
    found["scoring"] = 90, lambda: score_figures(report, sizes)
    found["store"] = 60, lambda: store_figures(report, sizes)
    found["model"] = 60, lambda: held.append(random_model(device, sizes))
    found["capture"] = 90, lambda: capture_figures(report, held[0], sizes)
    found["attribution"] = 60, lambda: attribution_figures(report, held[0], sizes)
    found["ablation"] = 90, lambda: ablation_figures(report, held[0], sizes)
    return found


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--device", help="cuda by default")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    parser.add_argument("--only", nargs="+", help="sections whose names begin so")
    options = parser.parse_args()
    if options.device is None and not torch.cuda.is_available():
        print("no CUDA device here: --device cpu --quick runs everything small")
        return 0
    report = Report(options.device or "cuda", options.quick)
    for name, (seconds, run) in sections_of(
        report, QUICK if options.quick else Sizes(), options.quick
    ).items():
        if not options.only or name.startswith(tuple(options.only)):
            with report.section(name, seconds):
                run()
    return int(report.failed > 0)


if __name__ == "__main__":
    sys.exit(main())

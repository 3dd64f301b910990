"""What runs in processes that the tests kill, start together or starve.

They are forked from a server that has everything imported and the kernels compiled, and no other threads: a
new one is there within milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from helpers import sample, tiny
from relact import kernels, schema
from relact.ablating import ablate
from relact.ablating import forecast as ablating
from relact.ablating.options import AblateOptions
from relact.capturing import capture, forecast, prepare
from relact.capturing.options import CaptureOptions
from relact.cli import app
from relact.errors import StoreError
from relact.models import checkpoints, cost, loading
from relact.scoring import masks, score
from relact.store import local, locks

TESTS = Path(__file__).parents[1]
STAGES = ("capture", "score", "select", "ablate")
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")  # audit events
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def context() -> ForkServerContext:
    """Where these processes come from."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(TESTS) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, paths)])
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["helpers.warm"])
    return forking


@cache
def loaded() -> loading.LoadedModel:
    """A tiny random model, the same in every process."""
    return loading.LoadedModel(tiny.model(), tiny.tokenizer(), "tiny", None, "f", "t", "float32", "llama")


def prompts(n: int = 14) -> pd.DataFrame:
    """``n`` prompts of two relations to identify and two of each to test."""
    numbers = [
        (split, number) for split, count in (("identify", n // 2), ("test", 2)) for number in range(count)
    ]
    rows = [
        {
            "text": f"{relation} of {split} {number} is" + "!" * (number % 4),
            "relation": relation,
            "subject": f"{split} {number}",
            "object": str(number),
            "answers": [str(number)],
            "template": f"{relation} of {{}} is",
            "language": "en",
            "split": split,
            "shots": 0,
        }
        for relation in ("size", "colour")
        for split, number in numbers
    ]
    return pd.DataFrame(rows)


def warm() -> None:
    """What every process would do first: compile, build the model."""
    names = ["a", "b", "a", "b"]
    kernels.rank_statistics(
        [np.ones((4, 2), np.float16)], kernels.Labels.one_vs_rest(names, ["a", "b"]), schema.STATISTICS
    )
    loaded()


def study(path: Path, started: Any, stage: Any) -> None:
    """Capture, score, select, ablate, from the one on that ``stage`` says; it shows which is running."""
    torch.set_num_threads(1)
    steps = (
        lambda: capture.capture(loaded(), prompts(), path, sites="mlp.gate", block=4, attribution=True),
        lambda: score.score(path, workers=1),
        lambda: masks.select(path, k=5),
        lambda: ablate.ablate(path, mask="top-5", model=loaded(), seeds=[0]),
    )
    started.set()
    for number in range(stage.value, len(steps)):
        stage.value = number
        steps[number]()


def hold(path: Path, held: Any, done: Any) -> None:
    """Hold the store's lock until told."""
    with locks.writing(path):
        held.set()
        done.wait()


def killed_at(change: int, action: Callable[..., None], *arguments: Any) -> None:
    """Run ``action`` and be killed just before the ``change``-th change it makes to the disk, counted from 1;
    0 for never.

    What happens inside groups that are being built aside does not count.
    """
    seen = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in CHANGES or (event == "open" and not details[2] & WRITING):
            return
        target = str(details[1] if event == "os.rename" else details[0])
        if "/new~" not in target:
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    if change:
        sys.addaudithook(watch)
    action(*arguments)


def create(path: Path, n: int, compress: bool = False) -> None:
    """Make an empty store."""
    sample.make(path, n, compress=compress)


def append(path: Path, n: int) -> None:
    """Let the store have ``n`` prompts."""
    store = local.open(path)
    with local.writing(store):
        prepare.append(store, sample.intake(n))


def fill(path: Path, blocks: list[int] | None = None) -> None:
    """Capture some blocks, or all that are missing."""
    sample.capture(local.open(path), blocks)


def put(path: Path, group: str, number: int) -> None:
    """Replace a stage."""
    store = local.open(path)
    with local.writing(store), store.stage(group, {"number": number}) as built:
        built.create_array("x", data=np.full(3, number), dimension_names=("i",))


def drop(path: Path, group: str) -> None:
    """Delete a stage."""
    local.drop(path, group)


def one_rank(path: Path, rank: int, size: int, block: int = 4) -> None:
    """Capture as one of the processes that ``accelerate launch`` or ``torchrun`` start."""
    as_rank(rank, size)
    capture.capture(loaded(), prompts(), path, block=block, attribution=True)


def as_rank(rank: int, size: int) -> None:
    """Be one of the processes of a launch from now on."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="localhost",
        MASTER_PORT="29500",
    )


def ablating_rank(path: Path, rank: int, size: int, hung: Any = None, go: Any = None) -> None:
    """Ablate as one of the processes of a launch. After a first piece, with a connection ``hung``: send word
    and stop for good; with ``go``: wait for word, so that the others find something to do.
    """
    as_rank(rank, size)

    def stop(stage: str, done: int, total: int, unit: str) -> None:
        if done and hung is not None:
            hung.send("hung")
            signal.pause()
        if done and go is not None and not go.closed:
            go.recv()
            go.close()

    ablate.ablate(path, mask="top-5", model=loaded(), seeds=[0], progress=stop)


def command(arguments: list[str], environment: dict[str, str]) -> None:
    """A command as a shell starts it."""
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.argv = ["relact", *arguments]
    app.main()


def located(file: Path, cache: Path, output: Path) -> None:
    """Decode a GGUF file into a cache, and say where it is; ``output`` has all that is said."""
    os.environ["RELACT_CACHE"] = str(cache)
    with output.open("w") as told:
        for descriptor in (1, 2):
            os.dup2(told.fileno(), descriptor)
    print(checkpoints.locate(str(file)).folder, flush=True)


def limited(path: Path, file_size: int, told: Any) -> None:
    """Capture where no file may become larger than ``file_size`` bytes; puts the problem into ``told``."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        capture.capture(loaded(), prompts(), path, sites="mlp.gate", dtype="float32", block=7)
    except StoreError as error:
        told.put(str(error))
    else:
        told.put("")


def measured(path: Path, told: Any, taken: dict[str, Any], count: int = 1400) -> None:
    """Capture within the memory that small blocks need; puts bytes into ``told``: planned, of that buffers
    and passes, the real peak and what it was before.

    Args:
        taken: options, whether attributions are captured too.
        count: of prompts.
    """
    torch.set_num_threads(1)
    model = tiny.model(intermediate_size=11264)
    broad = loading.LoadedModel(model, tiny.tokenizer(), "broad", None, "f", "t", "float32", "llama")
    options: dict[str, Any] = {"sites": "mlp.gate,mlp.up", "batch_tokens": 48, **taken}
    budget = forecast.forecast(CaptureOptions(**options, block=64), broad, prompts(count)).memory
    before = cost.peak()
    planned = forecast.forecast(CaptureOptions(**options, memory=budget), broad, prompts(count)).memory
    capture.capture(broad, prompts(count), path, **options, memory=budget)
    told.put((planned, planned - cost.held_bytes(broad, []), cost.peak(), before))


def ablated(path: Path, told: Any) -> None:
    """Ablate a store with its own model, perplexity and all; puts bytes into ``told``: the planned peak,
    the real one and what it was before.
    """
    torch.set_num_threads(1)
    before = cost.peak()
    options = AblateOptions(seeds=range(4), perplexity=True)
    planned = ablating.forecast(options, path, k=20).memory
    ablate.ablate_with(options, path, k=20)
    told.put((planned, cost.peak(), before))

"""Commands on damaged stores: each must give the right result or one line, never a wrong number.

    PYTHONPATH=.:tests python -m helpers.damage --count 20000 --seed 0 --jobs 2

One file of a store that holds every kind of result is removed, emptied, cut, changed by a bit, or replaced
by a folder or a pipe; one command is run in this process. It ends with what it gives of the whole store, byte
for byte, or with exit code 1 and one line on stderr that is no surprise. `verify` must name the file.
A case is a function of the seed and its number: `--first` and `--count` run a part, or one again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import typer.main
import zarr.core.sync
from safetensors.numpy import load

import relact
from helpers import disk
from relact import schema
from relact.cli import app
from relact.errors import RelactError

DAMAGES = ("removed", "emptied", "cut", "flipped", "folder", "pipe")
SECONDS = 120  # of one case, after which it hangs
OUT = "out"
RELATION = "size"
# what is asked, with the folder of the store for STORE and that of outputs for OUT
READING: dict[str, str] = {
    "top": f"top STORE --relation {RELATION} -n 30",
    "top by attribution": f"top STORE --relation {RELATION} --by attribution --json",
    "neuron": "neuron STORE mlp.gate 1 7",
    "neuron by attribution": "neuron STORE mlp.hidden 2 5 --by attribution --json",
    "compare": "compare STORE --mask top-6 --json",
    "compare k": "compare STORE --k 5,9 --json",
    "compare with": "compare STORE --mask top-6 --with attribution --json",
    "effects": "effects STORE --json",
    "effects by answers": "effects STORE --ablation zero --split answers --json",
    "stability": "stability STORE --k 6 --splits 1 --workers 1 --json",
    "info": "info STORE --json",
    "export json": "export STORE OUT/list.json --format json --mask both",
    "export csv": "export STORE OUT/list.csv --format csv --mask pair",
    "export safetensors": "export STORE OUT/list.safetensors --format safetensors --mask fdr",
    "export parquet": "export STORE OUT/table.parquet --format parquet --ablation sweep",
    "export errors": "export STORE OUT/errors.csv --format errors --ablation other",
    "export selfcond": "export STORE OUT/selfcond --format selfcond",
    "export concepts": "export STORE OUT/concepts --format concepts",
    "pack": "pack STORE OUT/p.zarr.zip",
    "pack activations": "pack STORE OUT/p.zarr.zip --activations --stages scores",
    "report": "report STORE -o OUT/report.html",
    "look": "look STORE --prompt 3 --json",
    "generate": "generate STORE size --mask gate --relation size --max-new-tokens 2 --json",
}
WRITING: dict[str, str] = {
    "select": "select STORE --k 7 --json",
    "select fdr": "select STORE --fdr 0.3 --json",
    "select algebra": f"select STORE --of top-6 --pair {RELATION},colour --name algebra --json",
    "score": "score STORE --statistics on_mean --workers 1 --json",
    "score again": "score STORE --workers 1 --json",
    "judge": "judge STORE --json",
    "ablate": "ablate STORE --mask gate --seeds 1 --name new --json",
    "look at mask": "look STORE --mask gate -n 2 --json",
}
OPEN, VERIFY = "relact.open", "verify"
COMMANDS = (*READING, *WRITING, OPEN, VERIFY)
# asked once in so many times as the others: what takes so many times as long
SLOW = {
    "report": 50,
    "judge": 14,
    OPEN: 12,
    "select fdr": 12,
    "look at mask": 10,
    "effects": 9,
    "pack": 9,
    "score": 9,
    "ablate": 8,
    "score again": 6,
    "select algebra": 6,
    "export parquet": 5,
    "select": 4,
    "effects by answers": 3,
    "pack activations": 3,
    "look": 2,
    "neuron": 2,
    "neuron by attribution": 2,
    "stability": 2,
}


class HangError(BaseException):
    """A case takes too long; no handler of errors takes it for one."""


@dataclass(frozen=True)
class Case:
    """One command on one damaged file; ``place`` and ``bit`` say where it is cut or changed."""

    command: str
    file: str
    damage: str
    place: float
    bit: int


@dataclass(frozen=True)
class Outcome:
    """Exit code, what was printed and written (by name), what was said on stderr."""

    code: int | str
    result: dict[str, bytes]
    said: str


class Range:
    """A store to be damaged again and again.

    Args:
        whole: it, which is not touched.
        folder: for the copies.
    """

    def __init__(self, whole: Path, folder: Path) -> None:
        self.whole, self.store, self.out = whole, folder / "s.zarr", folder / OUT
        self.files = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
        kinds: dict[tuple[str, ...], list[str]] = {}
        for name in self.files:
            parts = name.split("/")
            kinds.setdefault((parts[0], parts[-1] if parts[-1] == schema.DOCUMENT else "chunk"), []).append(
                name
            )
        self._kinds = list(kinds.values())
        self._expected: dict[str, Outcome] = {}
        self.store.mkdir()
        self._renew()

    def draw(self, seed: int, number: int) -> Case:
        """Case ``number``: every kind of file as often, whatever there are more of."""
        drawn = random.Random(f"{seed} {number}")
        command = drawn.choice(COMMANDS)
        while drawn.randrange(SLOW.get(command, 1)):
            command = drawn.choice(COMMANDS)
        files = self.files if drawn.random() < 0.5 else drawn.choice(self._kinds)
        damage = drawn.choice(DAMAGES)
        return Case(command, drawn.choice(files), damage, drawn.random(), drawn.randrange(8))

    def fault(self, case: Case) -> str | None:
        """What is wrong with how a case ends; None when nothing is."""
        expected = self.of_whole(case.command)
        changed = self._damage(case)
        try:
            found = self.ask(case.command)
        except HangError:
            return "hangs"
        except BaseException:  # a command that does not end as commands do is what is looked for
            return traceback.format_exc()
        finally:
            self._restore(case)
        return self._judge(case, found, expected, changed)

    def said(self, case: Case) -> str:
        """What a command that is refused says."""
        self._damage(case)
        try:
            return self.ask(case.command).said
        finally:
            self._restore(case)

    def _judge(self, case: Case, found: Outcome, expected: Outcome, changed: bool) -> str | None:
        lines = [line for line in found.said.splitlines() if line.startswith("relact:")]
        if found.code == 1 and case.command == VERIFY and changed:
            named = case.file in str(found.result.get(OUT)) or f"/{case.file}:" in found.said
            return None if named else f"does not name the file: {found.result}"
        if found.code == 1 and len(lines) == 1 and "unexpected problem" not in lines[0]:
            return None if changed else f"refuses a whole store: {found.said}"
        if found.code == 0 and (found.result == expected.result or _uncommits(case)):
            told = case.command != VERIFY or not changed or _told_missing(case, found)
            return None if told else "verify found nothing"
        if found.code == 0:
            names = [name for name in expected.result if found.result.get(name) != expected.result[name]]
            return f"another result, in {names}"
        return f"exit {found.code}: {found.said[-2000:]}"

    def of_whole(self, command: str) -> Outcome:
        """What a command gives of the whole store."""
        if command not in self._expected:
            self._expected[command] = found = self.ask(command)
            assert found.code == 0, (command, found)
            self._renew()
        return self._expected[command]

    def _damage(self, case: Case) -> bool:
        """Do it; whether the file has other bytes now."""
        path = self.store / case.file
        raw = path.read_bytes()
        path.unlink()
        if case.damage == "folder":
            path.mkdir()
        elif case.damage == "pipe":
            os.mkfifo(path)
        elif case.damage != "removed":
            path.write_bytes(_damaged(raw, case))
        return not path.is_file() or path.read_bytes() != raw

    def _restore(self, case: Case) -> None:
        """Put the file back; after a command that writes, all files, and nothing stays beside them."""
        if case.command in WRITING:
            self._renew()
            return
        path = self.store / case.file
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        os.link(self.whole / case.file, path)

    def _renew(self) -> None:
        for path in self.store.parent.glob(f".{self.store.name}*"):
            _remove(path)
        _link(self.whole, self.store)

    def ask(self, command: str) -> Outcome:
        """What a command gives of the store as it is now."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        with _within(SECONDS):
            if command == OPEN:
                return self._opened()
            text = {**READING, **WRITING, VERIFY: "verify STORE --json"}[command]
            words = [
                word.replace("STORE", str(self.store)).replace("OUT", str(self.out)) for word in text.split()
            ]
            code, printed, said = _run(words)
        files = [path for path in sorted(self.out.rglob("*")) if path.is_file()]
        written = {path.relative_to(self.out).as_posix(): _content(path) for path in files}
        return Outcome(code, {OUT: printed.encode(), **written}, said)

    def _opened(self) -> Outcome:
        """Everything that `relact.open` shows, read."""
        try:
            tree = relact.open(self.store)
            result = {
                f"{node.path}/{name}": _bytes(variable.values)
                for node in tree.subtree
                for name, variable in node.dataset.variables.items()
            }
            attributes = {f"{node.path}:": repr(sorted(node.attrs)).encode() for node in tree.subtree}
        except RelactError as error:
            return Outcome(1, {}, f"relact: {error}")
        return Outcome(0, {**attributes, **dict(sorted(result.items()))}, "")


def _link(whole: Path, copy: Path) -> None:
    """Make ``copy`` the same as ``whole``, of links to its files: nothing is written in place."""
    wanted = {entry.name: entry for entry in os.scandir(whole)}
    there = {}
    for entry in os.scandir(copy):
        one = wanted.get(entry.name)
        same = one is not None and (one.is_dir() if entry.is_dir() else entry.inode() == one.inode())
        if same:
            there[entry.name] = entry
        else:
            _remove(Path(entry.path))
    for name, entry in wanted.items():
        if entry.is_dir():
            (copy / name).mkdir(exist_ok=True)
            _link(whole / name, copy / name)
        elif name not in there:
            os.link(entry.path, copy / name)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _uncommits(case: Case) -> bool:
    """A block whose record is gone does not exist, and nothing tells that it did."""
    return case.damage == "removed" and case.file.startswith(f"{schema.COMMITS}/{schema.RECORD}/c.")


def _told_missing(case: Case, found: Outcome) -> bool:
    """Whether `verify` says of a block whose record is gone that it is not captured."""
    return _uncommits(case) and int(case.file.split(".")[-2]) in json.loads(found.result[OUT])["missing"]


def _damaged(raw: bytes, case: Case) -> bytes:
    at = int(case.place * len(raw))
    if case.damage == "flipped" and raw:
        return raw[:at] + bytes([raw[at] ^ 1 << case.bit]) + raw[at + 1 :]
    return raw[:at] if case.damage == "cut" else b""


def _content(path: Path) -> bytes:
    """A file's bytes; of safetensors, which have no order of their own, sorted."""
    raw = path.read_bytes()
    if path.suffix != ".safetensors":
        return raw
    return b"".join(name.encode() + _bytes(values) for name, values in sorted(load(raw).items()))


def _bytes(values: np.ndarray) -> bytes:
    plain = values if values.dtype.kind in "biuf" else np.array(values.tolist(), dtype=str)
    return repr((plain.dtype.str, plain.shape)).encode() + plain.tobytes()


def _run(words: Sequence[str]) -> tuple[int | str, str, str]:
    """A command in this process: exit code, stdout, stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv
    sys.argv = ["relact", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(
    whole: Path, folder: Path, numbers: Sequence[int], seed: int, say: Callable[[str], None] = print
) -> list[str]:
    """Run cases; returns what is wrong, a text each."""
    place, faults, spent = Range(whole, folder), [], Counter[str]()
    for done, number in enumerate(numbers, 1):
        case, began = place.draw(seed, number), time.monotonic()
        fault = place.fault(case)
        spent[case.command] += time.monotonic() - began
        if fault:
            faults.append(f"case {number}: {case}: {fault}")
            say(faults[-1])
        if done % 500 == 0:
            say(f"{done} cases, {len(faults)} faults")
    say(f"seconds: { {name: round(seconds) for name, seconds in spent.most_common()} }")
    return faults


def hurry() -> None:
    """What is the same for every case is done once in this process, and zarr runs in the thread that asks."""
    typer.main.get_command = functools.cache(typer.main.get_command)
    own = threading.local()

    def sync(coroutine: Coroutine[Any, Any, Any], loop: object = None, timeout: object = None) -> Any:
        if not hasattr(own, "loop"):
            own.loop = asyncio.new_event_loop()
        return own.loop.run_until_complete(coroutine)

    async def to_thread(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    before = zarr.core.sync.sync
    for module in [*sys.modules.values()]:
        if getattr(module, "sync", None) is before:
            module.sync = sync
    asyncio.to_thread = to_thread


def share(whole: Path, numbers: Sequence[int], seed: int) -> list[str]:
    """Run cases in a process of their own."""
    disk.do_not_wait()
    hurry()
    with TemporaryDirectory(dir=whole.parent) as folder:
        return run(whole, Path(folder), numbers, seed, functools.partial(print, flush=True))


def main() -> None:
    from helpers import everything, tiny

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cases")
    parser.add_argument("--store", type=Path, help="where the store is kept; made where it is not")
    args = parser.parse_args()
    disk.do_not_wait()
    with TemporaryDirectory(dir=disk.MEMORY if disk.MEMORY.is_dir() else None) as folder:
        whole = args.store or Path(folder) / "whole.zarr"
        if not whole.exists():
            model = tiny.save(whole.with_suffix(".model"))
            everything.make(whole, str(model), everything.prompts())
        start, numbers = time.monotonic(), range(args.first, args.first + args.count)
        with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
            shares = [
                pool.submit(share, whole, numbers[job :: args.jobs], args.seed) for job in range(args.jobs)
            ]
            faults = [fault for one in shares for fault in one.result()]
        seconds = time.monotonic() - start
    print(f"{args.count} cases from {args.first}, seed {args.seed}: {len(faults)} faults, {seconds:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()

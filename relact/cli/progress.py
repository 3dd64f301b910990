"""Progress of long stages on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from relact.cli.terminal import err

PLAIN_SECONDS = 5.0  # between two lines of progress where there is no terminal


class Stages:
    """Progress of long stages: a bar with throughput and time left on a terminal, plain lines otherwise.

    Use as a context manager; call it as `relact.progress.Progress`.
    """

    def __init__(self) -> None:
        self._live = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=err,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> Stages:
        if err.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if err.is_terminal:
            self._live.stop()

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if done < self._done.get(stage, 0):  # the stage comes again, as of a second ablation
            for known in (self._started, self._last, self._tasks):
                known.pop(stage, None)
        before, self._done[stage] = self._done.get(stage), done
        start = self._started.setdefault(stage, now)
        rate = done / (now - start) if now > start else 0.0
        shown = f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"
        if err.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._live.add_task(stage, total=total, unit=unit, rate="")
            self._live.update(self._tasks[stage], completed=done, total=total, rate=shown)
        elif done != before and (done == total or now - self._last.get(stage, start) >= PLAIN_SECONDS):
            self._last[stage] = now
            left = f", {_clock((total - done) / rate)} left" if rate and done < total else ""
            err.print(f"{stage}: {done:,}/{total:,} {unit}, {shown}{left}", highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

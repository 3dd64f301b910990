"""Progress of long stages on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from relact.cli.console import err

PLAIN_SECONDS = 5.0  # between two lines of progress where there is no terminal


class Left(ProgressColumn):
    """The time left of a stage at its rate since it began: it counts down between two pieces, however slow
    they are, and a stage whose first piece is not done says for how long it has been at it.
    """

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        if task.finished:
            return Text(f"in {_clock(task.finished_time or 0)}")
        if left is None:
            return Text(f"{_clock(task.elapsed or 0)} so far")
        since = time.monotonic() - task.fields.get("at", 0.0)
        return Text(f"{_clock(max(0.0, left - since))} left")


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
            Left(),
            console=err,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._first: dict[str, int] = {}  # what was done when the stage began, before this run

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
            for known in (self._started, self._last, self._tasks, self._first):
                known.pop(stage, None)
        before, self._done[stage] = self._done.get(stage), done
        start = self._started.setdefault(stage, now)
        new = done - self._first.setdefault(stage, done)
        rate = new / (now - start) if now > start else 0.0
        shown = f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"
        if err.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._live.add_task(stage, total=total, unit=unit, rate="", left=None)
            left_ = (total - done) / rate if rate else None
            self._live.update(
                self._tasks[stage], completed=done, total=total, rate=shown if new else "", left=left_, at=now
            )
        elif done != before and (
            (done == total and total) or now - self._last.get(stage, start) >= PLAIN_SECONDS
        ):
            self._last[stage] = now
            left = f", {_clock((total - done) / rate)} left" if rate and done < total else ""
            said = f", {shown}" if new else ""  # what was there before took no time
            err.print(f"{stage}: {done:,}/{total:,} {unit}{said}{left}", highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

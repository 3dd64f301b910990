"""What the commands print: progress on stderr, results on stdout, problems in one line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

PLAIN_SECONDS = 5.0  # between two lines of progress where there is no terminal
MATRIX_CELL = 6  # characters of one accuracy
out, err = Console(soft_wrap=True), Console(stderr=True)


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

    def __enter__(self) -> Stages:
        if err.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if err.is_terminal:
            self._live.stop()

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        start = self._started.setdefault(stage, now)
        rate = done / (now - start) if now > start else 0.0
        shown = f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s"
        if err.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._live.add_task(stage, total=total, unit=unit, rate="")
            self._live.update(self._tasks[stage], completed=done, total=total, rate=shown)
        elif done == total or now - self._last.get(stage, start) >= PLAIN_SECONDS:
            self._last[stage] = now
            left = f", {_clock((total - done) / rate)} left" if rate and done < total else ""
            err.print(f"{stage}: {done:,}/{total:,} {unit}, {shown}{left}", highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def say(text: str) -> None:
    """One line of result."""
    out.print(text, highlight=False, markup=False)


def problem(text: str) -> None:
    """One line on stderr, whatever it holds."""
    print(f"relact: {' '.join(text.split())}", file=sys.stderr)


def dump(value: Any) -> None:
    """JSON for machines: one document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def table(frame: pd.DataFrame, title: str | None = None) -> None:
    """A table of a frame; numbers right-aligned, floats to four digits."""
    shown = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in frame.columns:
        shown.add_column(str(name), justify="left" if frame[name].dtype.kind in "OTU" else "right")
    for row in frame.itertuples(index=False):
        shown.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else f"{cell}" for cell in row))
    out.print(shown)


def pairs(values: Mapping[str, Any]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, values))
    for name, value in values.items():
        out.print(Text(f"{name:<{width}}  ", style="bold") + Text(str(value)), highlight=False)


def ablation(result: xr.Dataset, k: int, drops: Mapping[str, Mapping[str, float]], influences: pd.DataFrame) -> None:
    """The matrix of one k, mean drops with their intervals, and who hurts or helps whom beyond chance."""
    say(f"accuracy in percent; columns: neurons of relation 1, 2, ... switched off (k = {k})\n")
    matrix(result)
    parts = [f"{name} {one['drop']:.1f} [{one['low']:.1f}, {one['high']:.1f}]" for name, one in drops.items()]
    say(f"\nmean drop in points, 95% intervals: {', '.join(parts)}\n")
    clear = influences[influences["own_clear"] & (influences["own"] > 0)]
    own = ", ".join(f"{row.switched_off} {row.own:.0f}" for row in clear.itertuples())
    say(f"own neurons matter, beyond chance and beyond random neurons: {own or 'nowhere'}")
    for row in influences.itertuples():
        for verb, others in (("hurts", row.hurts), ("helps", row.helps)):
            if others:
                say(f"{row.switched_off!s} {verb} {others!s}")
    if "perplexity" in result:
        names = [str(name) for name in result["condition"].values]
        values = zip(names, result["perplexity"].values.tolist(), strict=True)
        say("perplexity of the bundled text: " + ", ".join(f"{name} {value:.1f}" for name, value in values))


def matrix(ablation: xr.Dataset) -> None:
    """Accuracy of every relation (rows) intact, under random neurons, and under each relation's neurons (columns)."""
    accuracy = ablation["accuracy"].load()
    relations = [str(name) for name in accuracy["relation"].values]
    conditions = [str(name) for name in accuracy["condition"].values]
    random = [name for name in conditions if name.startswith("random-")]
    columns = [name for name in relations if name in conditions]
    label = max(map(len, relations))
    head = " " * (label + 3) + f"{'intact':>{MATRIX_CELL}} {'random':>{MATRIX_CELL}} |"
    out.print(head + "".join(f"{number:>{MATRIX_CELL}}" for number in range(1, len(columns) + 1)), highlight=False)
    for number, name in enumerate(relations, 1):
        intact = float(accuracy.sel(condition="intact", relation=name))
        control = float(accuracy.sel(condition=random, relation=name).mean()) if random else float("nan")
        line = Text(f"{number:>2} {name:<{label}}{100 * intact:{MATRIX_CELL}.1f} {100 * control:{MATRIX_CELL}.1f} |")
        for column in columns:
            value = float(accuracy.sel(condition=column, relation=name))
            line.append(f"{100 * value:{MATRIX_CELL}.1f}", style=_heat(intact - value, column == name))
        out.print(line, highlight=False)


def _heat(drop: float, own: bool) -> str:
    """Colour of a cell by its loss of accuracy; a relation's own neurons in bold."""
    shade = "red" if drop >= 0.15 else "yellow" if drop >= 0.05 else "green" if drop <= -0.05 else ""
    return f"bold {shade}".strip() if own else shade

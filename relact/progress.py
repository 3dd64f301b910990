"""How long stages tell how far they are: one callable, so that the library needs no terminal.

A stage calls ``progress(name, done, total)`` after each piece of work; ``unit`` says what is counted. The
command line draws a bar or prints lines from it; by default nothing happens, but in a notebook. A stage also
calls it with 0 done before its first piece, so that nobody looks at nothing. What cannot be counted, such as
loading a model, is told to `LOG`.
"""

from __future__ import annotations

import logging
import sys
import time
from html import escape
from typing import Any, Protocol

READABLE = 0.2  # seconds between two states of a bar
LOG = logging.getLogger("relact")  # what is going on before there is anything to count


class Progress(Protocol):
    """Called with the stage's name, how much is done and how much there is, in ``unit``."""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None: ...


def in_notebooks(stage: str, done: int, total: int, unit: str) -> None:
    """Report nothing; but in a notebook, where nobody would look for an argument, a bar appears."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel") and total:
        BARS.show(stage, done, total, unit)


class Bars:
    """Bars of a notebook, one per stage, in the output of the cell that runs it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, float, int, float]] = {}  # handle, start, first done, last drawn

    def show(self, stage: str, done: int, total: int, unit: str) -> None:
        """Draw a stage's bar, or bring it up to date; no more often than it can be read."""
        from IPython.display import HTML, display

        now = time.monotonic()
        handle, start, first, drawn = self._known.get(stage, (None, now, done, 0.0))
        if handle is not None and done < total and now - drawn < READABLE:
            return
        rate = (done - first) / (now - start) if now > start else 0.0
        left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        bar = f"<progress value='{done}' max='{total}'></progress> {done:,}/{total:,} {unit}{left}"
        drawing = HTML(f"<div>{escape(stage)} {bar}</div>")
        if handle is None:
            handle = display(drawing, display_id=True)
        else:
            handle.update(drawing)
        if done >= total:
            self._known.pop(stage, None)
        else:
            self._known[stage] = (handle, start, first, now)


BARS = Bars()

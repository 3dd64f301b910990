"""How long stages tell how far they are: one callable, so that the library needs no terminal.

A stage calls ``progress(name, done, total)`` after each piece of work; ``unit`` says what is counted. The
command line draws a bar or prints lines from it; by default nothing happens. A stage also calls it with 0
done before its first piece, so that nobody looks at nothing. What cannot be counted, such as loading a model,
is told to `LOG`.
"""

from __future__ import annotations

import logging
from typing import Protocol

LOG = logging.getLogger("relact")  # what is going on before there is anything to count


class Progress(Protocol):
    """Called with the stage's name, how much is done and how much there is, in ``unit``."""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None: ...


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Report nothing."""

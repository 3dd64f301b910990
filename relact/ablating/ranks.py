"""One ablation by all processes of a launch: each asks its part, rank 0 collects what was said and writes."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from relact.errors import BusyError
from relact.store import locks

POLL = 0.2  # seconds between two looks at the other ranks


class Work(Protocol):
    """What a launch has to do."""

    def begin(self) -> None:
        """Rank 0 alone: make what the others need."""

    def is_there(self) -> bool:
        """Whether the result is."""

    def share(self) -> None:
        """This rank's part."""

    def finish(self) -> None:
        """All that is left, and the result."""


def together(path: Path, crew: locks.Crew, work: Work) -> None:
    """Divide work on the store at ``path``; returns in every rank once the result is there.

    Whoever dies is done without: rank 0 does what the others left, and once it is gone itself, one of them.
    """
    with locks.writing_together(path, crew, work.begin, work.is_there):
        if not work.is_there():
            work.share()
            if crew.rank == 0:
                while not locks.alone(path):
                    time.sleep(POLL)
                work.finish()
    while not work.is_there():
        with suppress(BusyError), locks.writing(path):
            if not work.is_there():
                work.finish()
        time.sleep(POLL)

"""A real terminal: a command in tmux, and what stands on its screen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds until what is waited for must have been on the screen
BETWEEN = 0.1  # seconds between two looks


class Missing(RuntimeError):
    """There is no tmux on this machine."""


class Screen:
    """A terminal of 110 x 45 characters in which a Python program runs.

    Attributes:
        seen: every different picture so far.
    """

    def __init__(self, socket: str) -> None:
        self.socket, self.seen = socket, [""]

    def text(self) -> str:
        """What stands there now."""
        shown = self._tmux("capture-pane", "-p", "-S", "-200").rstrip()
        if shown != self.seen[-1]:
            self.seen.append(shown)
        return shown

    def wait_for(self, pattern: str) -> str:
        """The first picture that holds a pattern; an assertion shows the last one where none does."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if re.search(pattern, shown := self.text()):
                return shown
            time.sleep(BETWEEN)
        raise AssertionError(f"{pattern!r} never stood on the screen, at last:\n{shown}")

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self.socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def screen(arguments: Sequence[object], **environment: str) -> Iterator[Screen]:
    """``python ARGUMENTS``, until it ends and then a prompt ``[done]``; the terminal is gone afterwards."""
    if shutil.which("tmux") is None:
        raise Missing("no tmux on this machine: run `apt-get install tmux`")
    socket = f"relact-{os.getpid()}-{time.monotonic_ns()}"
    line = shlex.join([sys.executable, *map(str, arguments)])
    names = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "", **environment}
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in names.items() if value)
    script = f"env -u COLUMNS {settings} {line}; echo '[done]'; sleep 600"
    start = ["tmux", "-L", socket, "-f", "/dev/null", "new-session", "-d", "-x", "110", "-y", "45", script]
    subprocess.run(start, check=True, capture_output=True)
    try:
        yield Screen(socket)
    finally:
        subprocess.run(["tmux", "-L", socket, "kill-server"], capture_output=True, check=False)

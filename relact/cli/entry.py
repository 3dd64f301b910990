"""Where the command starts: told to stop at any moment, it says one line and leaves a store that resumes.

Nothing heavy is imported before the signals are attended to.
"""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

SAID = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "told to stop",
    signal.SIGHUP: "hung up",
}

KEPT = 10_000  # objects between two searches for garbage; at Python's 700 imports are searched all the time


class Stopped(BaseException):
    """A signal came; no `KeyboardInterrupt`, which libraries turn into other things."""

    def __init__(self, number: int) -> None:
        self.number = number


def main() -> None:
    """Run a command; a second signal ends it at once."""
    gc.set_threshold(KEPT)
    for number in SAID:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup`, or in the background of a script
            signal.signal(number, _stop)
    try:
        from relact.cli import app

        app.main()
    except Stopped as stopped:
        said = SAID[signal.Signals(stopped.number)]
        print(f"relact: {said}; run the same command again to resume", file=sys.stderr)
        sys.exit(128 + stopped.number)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in SAID:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)

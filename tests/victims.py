"""What runs in processes that the tests kill, start together or starve. They are forked from a server that has everything
imported and has no other threads: a new one is there within milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import sample  # noqa: F401  imported by the server, for all of them

from relact import locks

TESTS = Path(__file__).parent


def context() -> ForkServerContext:
    """Where these processes come from."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(TESTS) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, paths)])
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["victims"])
    return forking


def hold(path: Path, held: Any, done: Any) -> None:
    """Hold the store's lock until told."""
    with locks.writing(path):
        held.set()
        done.wait()

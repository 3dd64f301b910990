"""The disk as tests want it: nothing waits until it has written, and what every worker needs is made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

flush = os.fsync  # the real one, for tests of flushing


def do_not_wait() -> None:
    """Leave out every flush in this process: the system keeps what it was given, whoever is killed."""
    os.fsync = lambda descriptor: None


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name`` of this test run, which ``make(folder)`` fills in the worker that comes first."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with FileLock(root / f"{name}.lock"):
        if not (root / name).exists():
            make(root / f"{name}.new")
            (root / f"{name}.new").rename(root / name)
    return root / name

"""The disk as tests want it: in memory, without waiting; what every worker needs is made once."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from filelock import FileLock

MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30  # bytes that must be free there
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
flush = os.fsync  # the real one, for tests of flushing


def keep_in_memory() -> None:
    """Have the folders of tests in memory, where there is such a place with room for them."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # what `tmp_path` goes by


def place() -> str | None:
    """Where `tmp_path` has its folders; None where that is the system's own place."""
    return os.environ.get("PYTEST_DEBUG_TEMPROOT")


def new_folder() -> Path:
    """A folder beside those of `tmp_path`, for who has no fixtures."""
    return Path(mkdtemp(dir=place()))


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


def refuse_writing(patch: pytest.MonkeyPatch, within: Path, number: int = errno.EROFS) -> None:
    """Have the system refuse what would write ``within`` or beside it, as where it is mounted read-only."""

    def refused(path: object) -> bool:
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
        return str(text).startswith((str(within), str(within.with_name(f".{within.name}"))))

    def guarded(real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if any(map(refused, arguments)) and writes(*arguments, **options):
                raise OSError(number, os.strerror(number), str(arguments[0]))
            return real(*arguments, **options)

        return call

    def to_write(path: object, mode: object = "r", *_: object, **options: object) -> bool:
        asked = options.get("flags", options.get("mode", mode))
        return bool(asked & WRITES if isinstance(asked, int) else {*str(asked)} & {*"wax+"})

    for name in ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "symlink", "truncate", "utime"):
        patch.setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))
    access = os.access
    patch.setattr(
        os, "access", lambda path, mode, **rest: not (mode & os.W_OK and refused(path)) and access(path, mode)
    )
    for module in (os, io, builtins):
        patch.setattr(module, "open", guarded(module.open, to_write))

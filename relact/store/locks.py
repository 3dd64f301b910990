"""One writer at a time: a lock file beside the store, which the system frees when its owner dies (``flock``).

>>> with writing(Path("new.zarr")):  # BusyError names the process that is in the way
...     is_free(Path("new.zarr"))
False
>>> is_free(Path("new.zarr"))
True

The ranks of one launch share it: `writing_together`.

The file is ``.<name>.lock`` in the store's parent folder, never inside the hierarchy, and is removed with the
lock. Nested use in one thread counts once.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from relact import durable
from relact.errors import BusyError

POLL = 0.1  # seconds between two looks at a lock that another rank holds
# a probe (`is_free`, a waiting rank) holds the lock for microseconds: not worth refusing for
TRIES, PAUSE = 10, 0.05


@dataclass
class _Held:
    descriptor: int
    thread: int
    depth: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@dataclass(frozen=True)
class Crew:
    """The processes of one ``accelerate launch``: the rank of this, how many, what they have in common."""

    rank: int
    size: int
    launch: str

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Crew:
        """What ``torchrun`` and ``accelerate launch`` set; a crew of one without them."""
        rank, size = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
        names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
        return cls(rank, size, ":".join(environment.get(name, "") for name in names))


@contextmanager
def writing(store: Path) -> Iterator[None]:
    """Hold the store's lock inside the block; `BusyError` at once when another process or thread has it."""
    path = lock_path(store)
    with _guard:
        held = _held.get(path)
        if held is None:
            held = _held[path] = _Held(_acquire(path, store), threading.get_ident())
            _describe(held.descriptor, "")
        elif held.thread == threading.get_ident():
            held.depth += 1
        else:
            raise _busy(store, {"pid": os.getpid(), "host": socket.gethostname()})
    try:
        yield
    finally:
        with _guard:
            held.depth -= 1
            if not held.depth:
                del _held[path]
                _release(store, held.descriptor, fcntl.LOCK_EX)


@contextmanager
def writing_together(
    store: Path, crew: Crew, prepare: Callable[[], None], finished: Callable[[], bool]
) -> Iterator[None]:
    """Hold the lock together with the other ranks of one launch.

    Rank 0 takes it alone, runs ``prepare`` (make or recover the store), then lets its crew in; the others
    wait for that, or until ``finished`` says that there is nothing left to do.
    """
    if crew.size == 1:
        with writing(store):
            prepare()
            yield
        return
    path = lock_path(store)
    descriptor = _lead(path, store, crew, prepare) if crew.rank == 0 else _join(path, crew, finished)
    if descriptor is None:
        yield
        return
    with _guard:
        _held[path] = _Held(descriptor, threading.get_ident())
    try:
        yield
    finally:
        with _guard:
            del _held[path]
            _release(store, descriptor, fcntl.LOCK_SH)


def alone(store: Path) -> bool:
    """Whether no other rank holds the lock that this process shares; if so it is held alone from now on."""
    with _guard:
        held = _held[lock_path(store)]
    try:
        fcntl.flock(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(held.descriptor, fcntl.LOCK_SH)
        return False
    return True


def is_free(store: Path) -> bool:
    """Whether no process holds the store's lock at this moment."""
    path = lock_path(store)
    with _guard:
        if path in _held:
            return False
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def lock_path(store: Path) -> Path:
    """The lock file of a store."""
    absolute = store.absolute()
    return absolute.with_name(f".{absolute.name}.lock")


def _acquire(path: Path, store: Path) -> int:
    """A descriptor that holds the exclusive lock on the file which is at ``path`` now."""
    holder: dict[str, object] = {}
    for _ in range(TRIES):
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # otherwise its owner removed it between our open and our lock
                return descriptor
        except BlockingIOError:
            holder = _read(descriptor)
            time.sleep(PAUSE)
        os.close(descriptor)
    raise _busy(store, holder)


def _lead(path: Path, store: Path, crew: Crew, prepare: Callable[[], None]) -> int:
    """Rank 0: alone until the store is prepared, then shared."""
    descriptor = _acquire(path, store)
    with _guard:
        # what `prepare` calls may ask for the lock again
        _held[path] = _Held(descriptor, threading.get_ident())
    try:
        _describe(descriptor, "")
        prepare()
        _describe(descriptor, crew.launch)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except BaseException:
        with _guard:
            del _held[path]
        _release(store, descriptor, fcntl.LOCK_EX)
        raise
    return descriptor


def _join(path: Path, crew: Crew, finished: Callable[[], bool]) -> int | None:
    """The other ranks: share the lock that rank 0 of the launch holds; None once there is nothing to do."""
    while not finished():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            time.sleep(POLL)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it: left by a dead process
        except BlockingIOError:
            if _read(descriptor).get("launch") == crew.launch:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_at(path, descriptor):
                    return descriptor
        os.close(descriptor)
        time.sleep(POLL)
    return None


def _open(path: Path) -> int:
    with durable.explained(path):
        durable.make_folders(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _release(store: Path, descriptor: int, mode: int) -> None:
    """Let go; the last holder first removes the file, and the folder aside if nothing is in it."""
    path = lock_path(store)
    try:
        if mode == fcntl.LOCK_SH:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # not there, or not empty
            durable.aside_of(store).rmdir()
        if _is_at(path, descriptor):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # another rank still has it
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe(descriptor: int, launch: str) -> None:
    """Say in the file who holds it, for the refused and for the crew; on a full disk it stays empty."""
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "launch": launch}).encode()
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def _read(descriptor: int) -> dict[str, object]:
    try:
        return dict(json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return {}


def _busy(store: Path, holder: Mapping[str, object]) -> BusyError:
    return BusyError(
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')} is writing this store",
        where=store,
        fix="wait for it, or stop it; its lock ends with it",
    )


def _forget_in_child() -> None:
    """A forked child has the parent's descriptors but is not the writer."""
    global _guard
    _guard = threading.Lock()
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)

"""One writer at a time: a lock file beside the store, which the system frees when its owner dies (``flock``).

>>> with writing(Path("new.zarr")):  # BusyError names the process that is in the way
...     is_free(Path("new.zarr"))
False
>>> is_free(Path("new.zarr"))
True

The ranks of one launch share it: `writing_together`.

The file is ``.<name>.lock`` in the parent of the store's real folder, never inside the hierarchy, and is
removed with the lock. Nested use in one thread counts once. A file system that has no ``flock`` gets a second
file, ``.<name>.lock.held``, which only one process can make; it is free again once that process is gone from
the host it names.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from relact import durable
from relact.errors import BusyError, StoreError
from relact.store import aside

POLL = 0.1  # seconds between two looks at a lock that another rank holds
# a probe (`is_free`, a waiting rank) holds the lock for microseconds: not worth refusing for
TRIES, PAUSE = 10, 0.05
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
HELD = ".held"  # ends the name of the file that is a lock by being there
FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass
class _Held:
    descriptor: int  # of the lock file
    thread: int
    depth: int = 1
    claim: Path | None = None  # where there is no ``flock``: the file that holds instead


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
            held = _held[path] = _acquire(path, store)
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
                _release(store, held, fcntl.LOCK_EX)


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
    held = _lead(path, store, crew, prepare) if crew.rank == 0 else _join(path, store, crew, finished)
    if held is None:
        yield
        return
    with _guard:
        _held[path] = held
    try:
        yield
    finally:
        with _guard:
            del _held[path]
            _release(store, held, fcntl.LOCK_SH)


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
        descriptor = os.open(path, FLAGS)
    except OSError:
        return not _is_held(_claim_path(path))
    try:
        return _flock(descriptor) or not _is_held(_claim_path(path))
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def lock_path(store: Path) -> Path:
    """The lock file of a store."""
    real = aside.home(store)
    return real.with_name(f".{real.name}.lock")


def _acquire(path: Path, store: Path) -> _Held:
    """The exclusive lock on the file which is at ``path`` now."""
    holder: dict[str, object] = {}
    for _ in range(TRIES):
        descriptor = _open(path)
        try:
            claim = None if _flock(descriptor) else _claim(_claim_path(path))
            if _is_at(path, descriptor):  # otherwise its owner removed it between our open and our lock
                return _Held(descriptor, threading.get_ident(), claim=claim)
            if claim:
                claim.unlink(missing_ok=True)
        except (BlockingIOError, FileExistsError):
            holder = _read(descriptor) or _holder(_claim_path(path))
            time.sleep(PAUSE)
        os.close(descriptor)
    raise _busy(store, holder)


def _flock(descriptor: int, mode: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> bool:
    """Lock a file; False where the file system has no locks, `BlockingIOError` when another has it."""
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _claim_path(path: Path) -> Path:
    return path.with_name(path.name + HELD)


def _claim(path: Path) -> Path:
    """Make the file that holds by being there; `FileExistsError` while the process that made it may live."""
    if not _is_held(path):
        path.unlink(missing_ok=True)
    descriptor = os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o644)
    _describe(descriptor, "")
    os.close(descriptor)
    return path


def _is_held(path: Path) -> bool:
    """Whether the file is there, and not of a process that has ended on this host."""
    if not os.path.lexists(path):
        return False
    holder = _holder(path)
    process = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(process, int):
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lead(path: Path, store: Path, crew: Crew, prepare: Callable[[], None]) -> _Held:
    """Rank 0: alone until the store is prepared, then shared."""
    held = _acquire(path, store)
    with _guard:
        _held[path] = held  # what `prepare` calls may ask for the lock again
    try:
        if held.claim:
            raise _unshared(store)
        _describe(held.descriptor, "")
        prepare()
        _describe(held.descriptor, crew.launch)
        fcntl.flock(held.descriptor, fcntl.LOCK_SH)
    except BaseException:
        with _guard:
            del _held[path]
        _release(store, held, fcntl.LOCK_EX)
        raise
    return held


def _join(path: Path, store: Path, crew: Crew, finished: Callable[[], bool]) -> _Held | None:
    """The other ranks: share the lock that rank 0 of the launch holds; None once there is nothing to do."""
    while not finished():
        try:
            descriptor = os.open(path, FLAGS)
        except FileNotFoundError:
            time.sleep(POLL)
            continue
        try:
            if not _flock(descriptor):  # if it does, nobody holds it: left by a dead process
                raise _unshared(store)
        except BlockingIOError:
            if _read(descriptor).get("launch") == crew.launch:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is_at(path, descriptor):
                    return _Held(descriptor, threading.get_ident())
        os.close(descriptor)
        time.sleep(POLL)
    return None


def _open(path: Path) -> int:
    """The lock file, made if need be: a plain file of one name, for its content is replaced."""
    with durable.explained(path):
        durable.make_folders(path.parent)
        try:
            descriptor = os.open(path, FLAGS | os.O_CREAT | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise _odd(path) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(descriptor)
            raise _odd(path)
        return descriptor


def _release(store: Path, held: _Held, mode: int) -> None:
    """Let go; the last holder first removes the file, and the folder aside if nothing is in it."""
    path = lock_path(store)
    try:
        if mode == fcntl.LOCK_SH:
            fcntl.flock(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside.tidy(store)
        if _is_at(path, held.descriptor):
            path.unlink(missing_ok=True)
        if held.claim:
            held.claim.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # another rank still has it
    finally:
        os.close(held.descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe(descriptor: int, launch: str) -> None:
    """Say in the file who holds it, for the refused and for the crew; on a full disk it stays empty."""
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "launch": launch}).encode()
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def _read(descriptor: int) -> dict[str, object]:
    return _described(os.pread(descriptor, 4096, 0))


def _holder(claim: Path) -> dict[str, object]:
    try:
        return _described(durable.read(claim, 4096))
    except OSError:
        return {}


def _described(text: bytes) -> dict[str, object]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _busy(store: Path, holder: Mapping[str, object]) -> BusyError:
    claim, fix = _claim_path(lock_path(store)), "wait for it, or stop it; its lock ends with it"
    if claim.exists():
        fix = f"wait for it, or stop it; once it is gone, remove {claim}"
    return BusyError(
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')} is writing this store",
        where=store,
        fix=fix,
    )


def _odd(path: Path) -> StoreError:
    return StoreError("is a link or no plain file, which relact never makes", where=path, fix="remove it")


def _unshared(store: Path) -> StoreError:
    problem = "its file system has no locks, which several ranks would share"
    return StoreError(problem, where=store, fix="capture with one process, or to another disk")


def _forget_in_child() -> None:
    """A forked child has the parent's descriptors but is not the writer."""
    global _guard
    _guard = threading.Lock()
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)

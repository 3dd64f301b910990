"""Local files that survive a crash: written aside, flushed to the disk, then renamed.

The order is always the same: bytes durable under a temporary name, rename, directory durable. A name ending
in ``.partial`` is never data; `sweep` removes what an interrupted writer left.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import google_crc32c
import numpy as np

from relact.errors import StoreError

PARTIAL = ".partial"
SYNC_THREADS = 4  # fsyncs in flight; they wait on the disk, not on a core
READ_BYTES = 1 << 18  # per read when checking: stays in a core's cache
DOCUMENT_BYTES = 64 << 20  # of one zarr.json
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW  # never what a link points to
FIXES = {
    errno.ENOSPC: "make room and run the same command again: it resumes",
    errno.EFBIG: "raise the file size limit and run the same command again: it resumes",
    errno.EDQUOT: "make room and run the same command again: it resumes",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EXDEV: "keep all folders of a store on one file system",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
}
UNREAD = {  # what keeps a file from being read and is no damage
    errno.EMFILE: FIXES[errno.EMFILE],
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.EACCES: "ask for permission to read it",
    errno.EPERM: "ask for permission to read it",
    errno.ENOMEM: "raise the limit of memory (`ulimit -v`)",
}


def write_partial(path: Path, pieces: Iterable[bytes | memoryview]) -> int:
    """Write and flush ``path`` + ``.partial``, which `publish` makes visible; returns the content's CRC-32C.

    Raises:
        StoreError: disk full, no permission, and the like; the partial file is removed.
    """
    partial = path.with_name(path.name + PARTIAL)
    checksum = 0
    try:
        with explained(path), open(os.open(partial, NEW_FILE, 0o666), "wb") as file:
            for piece in pieces:
                checksum = google_crc32c.extend(checksum, np.frombuffer(piece, np.uint8))
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except StoreError:
        partial.unlink(missing_ok=True)
        raise
    return checksum


def publish(path: Path) -> None:
    """Rename ``path`` + ``.partial`` to ``path``; durable once the directory is synced."""
    os.replace(path.with_name(path.name + PARTIAL), path)


def sync(path: Path) -> None:
    """Flush one file, or the names in one directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, pieces: Iterable[bytes | memoryview]) -> int:
    """Put a small file in place, durably; returns its CRC-32C.

    A crash leaves the former content or the new.
    """
    checksum = write_partial(path, pieces)
    with explained(path):
        publish(path)
        sync(path.parent)
    return checksum


def open_plain(path: str | Path) -> io.FileIO:
    """A file to read, unbuffered; `OSError` at once for a pipe or a device, which may never answer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return io.FileIO(descriptor)


def read(path: Path, limit: int) -> bytes:
    """A whole file of at most ``limit`` bytes; `OSError` for a larger one, and for what is no plain file."""
    with open_plain(path) as file:
        return file.read(_size(file, path, limit))


def _size(file: io.FileIO, path: Path, limit: int | None) -> int:
    size = os.fstat(file.fileno()).st_size
    if limit is not None and size > limit:
        raise OSError(errno.EFBIG, f"{size} bytes, more than {limit}", str(path))
    return size


def checksum_of(path: Path, limit: int | None = None) -> int:
    """CRC-32C of a plain file of at most ``limit`` bytes, read in pieces; raises `OSError`."""
    checksum = 0
    piece = np.empty(READ_BYTES, np.uint8)
    with open_plain(path) as file:
        _size(file, path, limit)
        while count := file.readinto(piece.data):
            checksum = google_crc32c.extend(checksum, piece[:count])
    return checksum


def sync_tree(root: Path) -> None:
    """Flush every file and directory below ``root``: for small trees that another library wrote."""
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(sync, [root, *root.rglob("*")]))


def make_folders(path: Path) -> None:
    """Make ``path`` and its missing parents, durably."""
    if not path.exists():
        make_folders(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


@contextmanager
def building(target: Path, aside: Path, put: Callable[[Path], None]) -> Iterator[None]:
    """Build at ``aside`` inside the block, then ``put(aside)``; till then ``target`` stays as it was.

    Raises:
        StoreError: what the disk refuses, explained in the name of ``target``.
    """
    try:
        with explained(target):
            remove(aside)
            aside.parent.mkdir(parents=True, exist_ok=True)
            yield
            put(aside)
    finally:
        remove(aside)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; what refuses is left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def swap_in(new: Path, target: Path, parked: Path) -> None:
    """Put the finished folder ``new`` at ``target``; what was there is parked first, and deleted last.

    A crash between the two renames leaves ``parked`` and no ``target``: `restore` undoes it.
    """
    sync_tree(new)
    make_folders(target.parent)
    if target.exists():
        remove(parked)
        os.rename(target, parked)
        sync(parked.parent)
    os.rename(new, target)
    sync(target.parent)
    remove(parked)


def restore(parked: Path, target: Path) -> None:
    """Undo or finish an interrupted `swap_in`: the former folder comes back unless the new one is there."""
    if not parked.exists():
        return
    if target.exists():
        remove(parked)
    else:
        os.rename(parked, target)
        sync(target.parent)


def sweep(root: Path) -> int:
    """Remove ``*.partial`` files below ``root``; returns how many there were."""
    leftovers = list(root.rglob(f"*{PARTIAL}"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever the disk refuses inside the block is told in one line that names ``path``.

    Raises:
        StoreError: instead of any other `OSError`.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        problem = f"cannot write: {error.strerror or error}"
        raise StoreError(problem, where=path, fix=FIXES.get(error.errno or 0, "check the disk")) from error

"""What came over a network, kept on this machine's disk for the next process."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import google_crc32c

from relact import durable
from relact.caches import cache_folder
from relact.store.seal import hexadecimal

CACHE_BYTES = 1 << 30  # kept on disk, all stores together
OBJECT_BYTES = 32 << 20  # larger objects are not kept


class Cache:
    """Objects of one location on disk, named by their checksum; the oldest locations go when all are too
    large.
    """

    def __init__(self, shown: str) -> None:
        root = cache_folder() / "stores"
        self._folder = root / hashlib.blake2b(shown.encode(), digest_size=16).hexdigest()
        with suppress(OSError):
            _make_room(root, keep=self._folder)

    def get(self, checksum: str) -> bytes | None:
        """The object, if it is there and whole."""
        try:
            raw = (self._folder / checksum).read_bytes()
        except OSError:
            return None
        return raw if hexadecimal(google_crc32c.value(raw)) == checksum else None

    def put(self, checksum: str, raw: bytes) -> None:
        """Keep it, unless it is large; a disk that refuses is no reason to stop."""
        if len(raw) > OBJECT_BYTES:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f"{checksum}.{os.getpid()}.{threading.get_ident()}{durable.PARTIAL}"
            partial.write_bytes(raw)
            partial.replace(self._folder / checksum)


def _make_room(root: Path, keep: Path) -> None:
    """Drop the locations that were written longest ago until all together are small enough."""
    sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in root.iterdir()}
    total = sum(sizes.values())
    for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
        if total <= CACHE_BYTES:
            break
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            total -= sizes[folder]

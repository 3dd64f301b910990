"""What files of a package may be called: names that are one file, in one place, on every system."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from relact.errors import StoreError
from relact.packed.refusal import DISTRUST

NAME_BYTES = 255  # of one part of a path, as file systems have it
PATH_BYTES = 1000
RESERVED = '\\:*?"<>|'  # by some file system


def check_key(key: str, where: object) -> None:
    """A relative path with forward slashes whose parts are plain names."""
    parts = key.split("/")
    bad = (
        not key.isprintable()
        or any(char in key for char in RESERVED)
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
        or unicodedata.normalize("NFC", key) != key
        or _size(key) > PATH_BYTES
        or any(_size(part) > NAME_BYTES for part in parts)
    )
    if bad:
        raise StoreError(f"a file is named {key[:80]!r}", where=where, fix=DISTRUST)


def check_names(keys: Iterable[str], where: object) -> None:
    """No two names that some file system takes for one, no file that is a folder as well."""
    folded: dict[str, str] = {}
    for key in keys:
        other = folded.setdefault(key.casefold(), key)
        if other != key:
            raise StoreError(f"{key!r} and {other!r} differ only in case", where=where, fix=DISTRUST)
    for key in folded:
        at = key.rfind("/")
        while at > 0:
            if key[:at] in folded:
                raise StoreError(f"{key[:at]!r} is a file and a folder", where=where, fix=DISTRUST)
            at = key.rfind("/", 0, at)


def is_plain(text: str) -> bool:
    """Printable, not empty: no control characters that a terminal would obey."""
    return bool(text) and len(text) <= PATH_BYTES and text.isprintable()


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))

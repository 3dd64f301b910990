"""What masks, ablations, relations and files may be called: decided here, for all that write or read a name.

A *label* is shown: the name of a relation or of a condition. A *part* is one part of a path: the name of a
mask or an ablation, of a file in a package. What is a part on one system is one on every system.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from urllib.parse import quote

from relact.errors import InputError
from relact.schema.names import INTACT, RANDOM

__all__ = [
    "escaped",
    "file_names",
    "is_label",
    "parked_name",
    "require_label",
    "require_result",
    "size_of",
    "trouble_of_label",
    "trouble_of_part",
    "trouble_of_path",
    "trouble_of_paths",
]

PART_BYTES = 255  # of one part of a path, as file systems have it
PATH_BYTES = 1000
RESULT_BYTES = (
    120  # of a new mask's or ablation's name: parked, or with a journal, it is part of a longer one
)
LABEL_CHARS = 400  # of a new relation; set algebra makes one of two
READ_CHARS = 1000  # of a label that is read
JOINERS = "\u200c\u200d"  # not printable by themselves; Persian, Hindi and emoji are not written without them
RESERVED = '\\:*?"<>|'  # by some file system


def is_label(text: str) -> bool:
    """Whether a label can be shown: it is printable, with no control character that a terminal would obey."""
    return bool(text) and len(text) <= READ_CHARS and _printable(text)


def trouble_of_label(label: str) -> str:
    """What to do about the name of a new relation; empty where nothing is."""
    if label in (INTACT, RANDOM.rstrip("-")) or label.startswith(RANDOM):  # the report's mean of these, too
        return f"choose another name: {INTACT} and {RANDOM}... are conditions of every ablation"
    if not label.strip():
        return "fill it in"
    if not _printable(label):
        return "leave out what is not printable: control characters, tabs and line breaks"
    if label != label.strip():
        return "leave out the spaces around it"
    if len(label) > LABEL_CHARS:
        return f"use {LABEL_CHARS} characters at most"
    return ""


def require_label(label: object, where: object) -> None:
    """Refuse the name of a new relation; `InputError` says what to do."""
    if fix := trouble_of_label(label) if isinstance(label, str) else "give a text":
        raise InputError(f"{label!r:.80} cannot name a relation", where=where, fix=fix)


def trouble_of_part(part: str) -> str:
    """Why a text cannot be one part of a path on every system; empty where it can."""
    if part in ("", ".", ".."):
        return "it names no file"
    if not _printable(part):
        return "it has characters that are not printable"
    if found := sorted(set(part) & {*RESERVED, "/"}):
        return f"some file system reserves {' '.join(found)}"
    if part != part.strip():
        return "it begins or ends with a space"
    if unicodedata.normalize("NFC", part) != part:
        return "its letters and accents are apart (use Unicode's form NFC)"
    return "it is too long" if size_of(part) > PART_BYTES else ""


def trouble_of_path(path: str) -> str:
    """The same of a relative path with forward slashes."""
    if size_of(path) > PATH_BYTES:
        return "it is too long"
    return next(filter(None, map(trouble_of_part, path.split("/"))), "")


def trouble_of_paths(paths: Iterable[str]) -> str:
    """Why paths cannot be beside each other: some file system takes two for one, or one is also a folder."""
    folded: dict[str, str] = {}
    for path in paths:
        other = folded.setdefault(path.casefold(), path)
        if other != path:
            return f"{path!r} and {other!r} differ only in case"
    for path in folded:
        at = path.rfind("/")
        while at > 0:
            if path[:at] in folded:
                return f"{path[:at]!r} is a file and a folder"
            at = path.rfind("/", 0, at)
    return ""


def require_result(name: str, taken: Iterable[str], what: str) -> None:
    """Refuse a name that a new mask or ablation cannot have, before any work.

    Args:
        taken: names that its kind has already. what: the kind, for the message.
    """
    problem = trouble_of_part(name)
    if not problem and name.startswith("."):
        problem = "it begins with a dot"
    if not problem and len(parked_name(name).encode()) > RESULT_BYTES:
        problem = f"it is too long, {RESULT_BYTES} bytes at most"
    same = next((other for other in taken if other != name and other.casefold() == name.casefold()), None)
    if not problem and same is not None:
        problem = f"it differs from {same!r} only in case"
    if problem:
        fix = "choose another --name: letters, digits, dots and dashes"
        raise InputError(f"{name!r:.80} cannot name {what}: {problem}", where="--name", fix=fix)


def parked_name(group: str) -> str:
    """A group's name as one part of a path; `urllib.parse.unquote` undoes it."""
    return group.replace("%", "%25").replace("/", "%2F")


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """For every label one part of a path that no other has: itself where that can be, else quoted."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for label in labels:
        name = label if not trouble_of_part(label) and not label.startswith(".") else _quoted(label)
        if size_of(name) > RESULT_BYTES or name.casefold() in used:
            digest = hashlib.blake2b(label.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
            name = f"{_cut(name)}-{digest}"
        used.add(name.casefold())
        names[label] = name
    return names


def escaped(text: str, kept: str = "") -> str:
    """A text that a terminal can show: what is not printable is written as Python would, ``\\x1b``.

    Args:
        kept: characters that are left as they are, such as a line break.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in JOINERS or char in kept else repr(char)[1:-1] for char in text
    )


def size_of(text: str) -> int:
    """Bytes that a text has in a path."""
    return len(text.encode("utf-8", "surrogatepass"))


def _printable(text: str) -> bool:
    return text.isprintable() or all(char.isprintable() or char in JOINERS for char in text)


def _quoted(label: str) -> str:
    """Percent-encoded as in a URL, as little as may be."""
    composed = unicodedata.normalize("NFC", label) == label

    def one(char: str) -> str:
        plain = (
            _printable(char) and char not in RESERVED and char not in "/%" and (composed or char.isascii())
        )
        return char if plain else quote(char, safe="", errors="surrogatepass")

    quoted = "".join(map(one, label))
    for end in (" ", "."):
        if quoted.startswith(end):
            quoted = f"%{ord(end):02X}{quoted[1:]}"
        if quoted.endswith(end):
            quoted = f"{quoted[:-1]}%{ord(end):02X}"
    return quoted or "%00"


def _cut(name: str) -> str:
    raw = name.encode("utf-8", "surrogatepass")[: RESULT_BYTES - 9]
    return raw.decode("utf-8", "ignore")

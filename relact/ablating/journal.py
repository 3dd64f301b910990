"""A journal of replies beside the store: what an interrupted ablation had finished.

One line per piece of work, its checksum and JSON, flushed before the next piece starts. What follows the last
whole line was cut off, wherever it was cut, and is asked again. Replies are kept by the digest of their
condition, so names, order and company of conditions may change between two runs.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import google_crc32c

from relact import durable

Entry = tuple[str, float, float]  # text, log-probability, logit difference
DIGITS = 8  # of a line's checksum
MOST_BYTES = 1 << 32  # of a journal


class Journal:
    """Replies that are already there, by condition digest and prompt number.

    Args:
        path: of the journal; it need not exist.
        identity: of store, model and prompts; a journal of another one is started anew.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.replies: dict[str, dict[int, Entry]] = defaultdict(dict)
        raw = b""
        with suppress(OSError):  # not there, or not one that relact wrote
            raw = durable.read(path, MOST_BYTES)
        head, *lines = raw.split(b"\n")
        whole: list[bytes] = []
        for line in lines if head == identity.encode() else ():
            if (replies := _replies(line)) is None:
                break
            whole.append(line)
            for digest, found in replies.items():
                self.replies[digest].update(found)
        if not whole:
            path.unlink(missing_ok=True)
        elif raw != (rest := b"\n".join([head, *whole, b""])):
            durable.replace(path, [rest])

    def write(self, replies: Mapping[str, Mapping[int, Entry]]) -> None:
        """Add replies, durably."""
        text = json.dumps(replies, ensure_ascii=False).encode()
        line = f"{google_crc32c.value(text):08x}".encode() + text + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with durable.explained(self.path), open(os.open(self.path, flags, 0o644), "ab") as file:
            if not file.tell():
                file.write(f"{self.identity}\n".encode())
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def known(self, digests: Sequence[str], prompts: int) -> list[dict[int, Entry]]:
        """Replies of every condition, to the prompts below ``prompts``."""
        return [
            {at: reply for at, reply in self.replies[digest].items() if at < prompts} for digest in digests
        ]

    def remove(self) -> None:
        """The work is in the store: forget the journal."""
        self.path.unlink(missing_ok=True)


def _replies(line: bytes) -> dict[str, dict[int, Entry]] | None:
    """What one line says; None when it is not as it was written."""
    digits, text = line[:DIGITS], line[DIGITS:]
    if digits != f"{google_crc32c.value(text):08x}".encode():
        return None
    try:
        return {
            digest: {
                int(at): (str(said), float(certain), float(gap)) for at, (said, certain, gap) in found.items()
            }
            for digest, found in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError):
        return None

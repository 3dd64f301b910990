"""A journal of replies beside the store: what an interrupted ablation had finished.

One line per piece of work, its checksum and JSON, flushed before the next piece starts. What follows the last
whole line was cut off, wherever it was cut, and is asked again. Replies are kept by the digest of their
condition, so names, order and company of conditions may change between two runs. Every rank of a launch has a
file of its own and reads those of the others, so that the number of ranks may change, too.
"""

from __future__ import annotations

import glob
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import google_crc32c

from relact import durable

Entry = tuple[str, float, float]  # text, log-probability, logit difference
DIGITS = 8  # of a line's checksum
MOST_BYTES = 1 << 32  # of a journal
RANK = "~"  # before the number of a rank, in the name of its journal


class Journal:
    """Replies that are already there, by condition digest and prompt number.

    Args:
        path: of the journal; it need not exist.
        identity: of store, model and prompts; a journal of another one is started anew.
        rank: of this process in its launch; all but 0 add their number to the file's name.
    """

    def __init__(self, path: Path, identity: str, rank: int = 0) -> None:
        self.first, self.identity = path, identity
        self.path = path.with_name(f"{path.name}{RANK}{rank}") if rank else path
        self.replies: dict[str, dict[int, Entry]] = defaultdict(dict)
        for each in self._files():
            raw, whole = self._take(each)
            if each != self.path:
                continue
            if not whole:
                each.unlink(missing_ok=True)
            elif raw != (rest := b"\n".join([identity.encode(), *whole, b""])):
                durable.replace(each, [rest])

    def _files(self) -> Iterator[Path]:
        """Of all ranks."""
        yield self.first
        yield from sorted(self.first.parent.glob(f"{glob.escape(self.first.name)}{RANK}*"))

    def _take(self, path: Path) -> tuple[bytes, list[bytes]]:
        """Know what a journal says; returns it as it is, and its lines up to the first that was cut off."""
        raw = b""
        with suppress(OSError):  # not there, or not one that relact wrote
            raw = durable.read(path, MOST_BYTES)
        head, *lines = raw.split(b"\n")
        whole: list[bytes] = []
        for line in lines if head == self.identity.encode() else ():
            if (replies := _replies(line)) is None:
                break
            whole.append(line)
            for digest, found in replies.items():
                self.replies[digest].update(found)
        return raw, whole

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
        """The work is in the store: forget the journals of all ranks."""
        for path in self._files():
            path.unlink(missing_ok=True)


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

"""What a long command is about to do, and amounts of memory and files: integers only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from relact import schema
from relact.errors import InputError

METADATA = 4096  # bytes of one array's zarr.json and of its files' checksums in the seal, at most
NAME = 200  # bytes of one checksum in the seal, with its file's name
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


@dataclass(frozen=True)
class Plan:
    """What a long command is about to do.

    Attributes:
        files, bytes: that it writes; ``exact`` says whether they are a bound or the number.
        memory: upper bound of the process's peak.
        seconds: estimate; None when it cannot be known.
        notes: what the numbers rest on, where that is worth saying.
    """

    what: str
    files: int
    bytes: int
    exact: bool
    memory: int
    seconds: float | None = None
    notes: tuple[str, ...] = ()


def known(seconds: float) -> float | None:
    """Of a `Plan`: an estimate that is NaN, because what it rests on was never measured, is None."""
    return None if math.isnan(seconds) else seconds


def passes(record: schema.AttributionRecord | None, n_layers: int) -> tuple[int, int]:
    """(forward, backward) passes of every prompt through a model of ``n_layers``, for activations and these
    attributions.

    >>> passes(schema.AttributionRecord(("mlp.hidden",), "answer", "sum", "float32"), 30)
    (1, 1)
    """
    if record is None or record.method in schema.OF_LAST:
        return 1, 0
    if record.steps is None:
        return 1, 1
    along = record.steps * len(record.sites) * (n_layers if record.path == "layer" else 1)
    return 1 + along, along


def parse_bytes(text: str | int) -> int:
    """``"4GiB"``, ``"500 MB"`` or a plain number to bytes; `InputError` otherwise.

    >>> parse_bytes("4GiB"), parse_bytes(500)
    (4294967296, 500)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", str(text).lower())
    if match is None:
        raise InputError(f"{text!r} is not an amount of memory", fix="write for example 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def show_bytes(count: int) -> str:
    """Bytes for people: decimal units, three digits.

    >>> show_bytes(8_120_000_000)
    '8.12 GB'
    """
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def compressed(count: int) -> int:
    """Upper bound of ``count`` bytes after zstd, checksum included."""
    return count + count // 256 + 128

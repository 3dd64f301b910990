"""What a file's name and first bytes say: its kind, its compression, its encoding.

``opened(path)`` is its text, decompressed and decoded; line ends are left as they are.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from relact.errors import InputError

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
MARKS = {  # what a file may begin with -> its encoding; longer marks first
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
BROKEN = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8
BEYOND_ASCII = re.compile("[^\x00-\x7f]")
PIECE = 1 << 20  # bytes looked at together


def kind(path: Path) -> str:
    """The suffix that says what a file holds, in lower case: ``.csv`` of ``FACTS.CSV.gz``."""
    return _without_compression(path).suffix.lower()


def stem(path: Path) -> str:
    """A file's name without its kind and compression."""
    return _without_compression(path).stem


def _without_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """A file's text. Bytes that are not of its encoding become surrogates, which `row.unsound` refuses.

    Raises:
        InputError: it cannot be read, decompressed or decoded.
    """
    try:
        with _bytes(path) as raw:
            name = encoding(raw)
        with _bytes(path) as raw, io.TextIOWrapper(raw, name, "surrogateescape", newline="") as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(
            f"not readable ({error})", where=path, fix="repair or write the file again"
        ) from error


def encoding(raw: IO[bytes]) -> str:
    """The encoding of bytes by their mark; without one UTF-16 by its zeros, and UTF-8 or, where not a single
    letter is UTF-8, the one of old western files (Windows-1252).
    """
    piece = raw.read(PIECE)
    for mark, name in MARKS.items():
        if piece.startswith(mark):
            return name
    if piece[1:2] == b"\0" or piece[:1] == b"\0":
        return "utf-16-le" if piece[1:2] == b"\0" else "utf-16-be"
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    foreign = False
    while piece:
        if not piece.isascii():
            letters = decoder.decode(piece)
            broken = len(BROKEN.findall(letters))
            if len(BEYOND_ASCII.findall(letters)) > broken:
                return "utf-8"
            foreign = foreign or broken > 0
        piece = raw.read(PIECE)
    return "cp1252" if foreign else "utf-8"


def _bytes(path: Path) -> IO[bytes]:
    """A file's bytes, decompressed."""
    suffix = path.suffix.lower()
    if suffix == ".zst":
        import pyarrow  # only for those who read such a file

        stream: Any = pyarrow.input_stream(str(path), compression="zstd")
        return io.BufferedReader(stream)
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(IO[bytes], openers.get(suffix, io.open)(path, "rb"))

"""A zip archive read in parts: its index from one request for its end, each file with one more.

relact stores entries, it never compresses them: a part of the archive is a part of the file. What `zip -r`
made of a packed folder is read too: its entries for folders are passed over, a single folder around it is
taken off, and a compressed file is read whole, within bounds. Whatever else an archive may hold (links,
climbing paths, two files of one name, two names of one file) is refused before a byte of it is used.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from relact.errors import StoreError
from relact.packed.names import check_key, check_names
from relact.packed.refusal import AGAIN, DISTRUST
from relact.packed.urls import Place, RangesError
from relact.schema import DOCUMENT

TAIL = 1 << 15  # bytes of the first request: the index of a usual store lies in them
LEAD = 1 << 13  # fetched along with the root's metadata: the coordinates, which lie before it
WHOLE = 64 << 20  # largest archive fetched whole where the server sends no parts
ENTRIES = 1_000_000
MOST = 1 << 30  # bytes of a file that is compressed, once it is not
FURTHEST = 250  # times smaller that a file of a store gets: more is a bomb
LOCAL = 30  # bytes of a local header before name and extra field
EXTRA = 64  # room for the extra field: read with the entry, in one request
SIGNATURE = b"PK\x03\x04"
ENCRYPTED = 1  # bit of the flags


@dataclass(frozen=True)
class Entry:
    """One file: where its local header starts, its size, CRC-32, name in the archive, and bytes it takes."""

    at: int
    size: int
    crc: int
    name: str
    packed: int
    method: int = zipfile.ZIP_STORED


class Archive:
    """The files of a zip archive at a place.

    Raises:
        StoreError: not a zip archive, cut off, or with an entry that relact would not have written.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        try:
            self._end, self.size = place.tail("", TAIL)
        except RangesError:
            self._end = place.get("", WHOLE)
            self.size = len(self._end)
        self.entries = self._index()
        self._starts: dict[str, int] = {}  # where a file's own bytes begin
        self._inflated = "", b""  # the last compressed file that a part was asked of

    def get(self, key: str, limit: int) -> bytes:
        """The whole file, checked against the archive's CRC-32; `StoreError` when none has that name."""
        entry = self._entry(key)
        if entry.size > limit:
            raise StoreError(f"has {entry.size} bytes, more than {limit}", where=self._name(key))
        if key == DOCUMENT:
            self._extend(max(0, entry.at - LEAD))
        head = entry.at + LOCAL + len(entry.name.encode())
        raw = self._bytes(entry.at, min(self.size, head + EXTRA + entry.packed))
        skip = self._header(key, raw)
        data = raw[skip : skip + entry.packed]
        if entry.method == zipfile.ZIP_DEFLATED:
            data = self._inflate(key, data, entry.size)
        if len(data) != entry.size:
            problem = f"{len(data)} of {entry.size} bytes are there"
            raise StoreError(problem, where=self._name(key), fix=AGAIN)
        if zlib.crc32(data) != entry.crc:
            problem = "damaged: its CRC-32 does not match the archive's"
            raise StoreError(problem, where=self._name(key), fix=AGAIN)
        return data

    def part(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of one file."""
        entry = self._entry(key)
        if not 0 <= start <= stop <= entry.size:
            raise StoreError(f"bytes {start} to {stop} of {entry.size} were asked for", where=self._name(key))
        if entry.method == zipfile.ZIP_DEFLATED:
            if self._inflated[0] != key:
                self._inflated = key, self.get(key, MOST)
            return self._inflated[1][start:stop]
        if key not in self._starts:
            head = self._bytes(entry.at, min(self.size, entry.at + LOCAL + len(entry.name.encode()) + EXTRA))
            self._starts[key] = entry.at + self._header(key, head)
        return self._bytes(self._starts[key] + start, self._starts[key] + stop)

    def tail(self, key: str, count: int) -> tuple[bytes, int]:
        """The last bytes of one file, and its size."""
        entry = self._entry(key)
        return self.part(key, max(0, entry.size - count), entry.size), entry.size

    def _header(self, key: str, raw: bytes) -> int:
        """Length of the local header that ``raw`` begins with; it must say what the index says."""
        entry = self.entries[key]
        name = entry.name.encode()
        head = LOCAL + len(name)
        try:
            signature, flags, method, name_length, extra = struct.unpack_from("<4s2xHH16xHH", raw)
        except struct.error as error:
            raise StoreError("cut off", where=self._name(key), fix=AGAIN) from error
        stored = (signature, method, name_length, raw[LOCAL:head])
        same = stored == (SIGNATURE, entry.method, len(name), name)
        if not same or flags & ENCRYPTED or extra > EXTRA:
            raise StoreError(
                "its header differs from the archive's index", where=self._name(key), fix=DISTRUST
            )
        return head + extra

    def _inflate(self, key: str, data: bytes, size: int) -> bytes:
        """What was compressed; no more of it than there should be."""
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise StoreError(f"cannot be decompressed ({error})", where=self._name(key), fix=AGAIN) from error

    def _bytes(self, start: int, stop: int) -> bytes:
        """Of the archive; from its end where that is here already."""
        first = self.size - len(self._end)
        if start >= first:
            return self._end[start - first : stop - first]
        return self._place.part("", start, stop)

    def _extend(self, start: int) -> None:
        """Let the end that is here begin at ``start``."""
        first = self.size - len(self._end)
        if start < first:
            self._end = self._place.part("", start, first) + self._end

    def _entry(self, key: str) -> Entry:
        if key not in self.entries:
            raise StoreError("not in this archive", where=self._name(key), fix=AGAIN)
        return self.entries[key]

    def _name(self, key: str) -> str:
        return f"{self._place.shown}: {key}"

    def _index(self) -> dict[str, Entry]:
        """Every file by its name, from the archive's central directory."""
        where = self._place.shown
        try:
            with zipfile.ZipFile(_Window(self.size, self._bytes)) as opened:
                infos = opened.infolist()
        except StoreError:
            raise
        # BadZipFile, struct.error, UnicodeDecodeError, ...: zipfile promises no tree
        except Exception as error:
            raise StoreError(f"not a zip archive, or cut off ({error})", where=where, fix=AGAIN) from error
        if len(infos) > ENTRIES:
            raise StoreError(f"{len(infos)} files", where=where, fix=DISTRUST)
        entries: dict[str, Entry] = {}
        for info in infos:
            _refuse_odd(info, where)
            check_key(info.orig_filename.removesuffix("/"), where)
            if info.filename in entries:
                raise StoreError(f"two files are named {info.filename!r}", where=where, fix=DISTRUST)
            entries[info.filename] = Entry(
                info.header_offset,
                info.file_size,
                info.CRC,
                info.filename,
                info.compress_size,
                info.compress_type,
            )
        self._check_disjoint(entries)
        return _without_folders(entries, where)

    def _check_disjoint(self, entries: dict[str, Entry]) -> None:
        """No byte belongs to two files, or lies outside the archive."""
        reach = 0
        for key, entry in sorted(entries.items(), key=lambda item: item[1].at):
            stop = entry.at + LOCAL + entry.packed
            if entry.at < reach or stop > self.size:
                problem = "overlaps another file or the archive's end"
                raise StoreError(problem, where=self._name(key), fix=DISTRUST)
            reach = stop


def _without_folders(entries: dict[str, Entry], where: str) -> dict[str, Entry]:
    """The files alone, by their names in the store: without the folder that may be around all of it."""
    files = {name: entry for name, entry in entries.items() if not name.endswith("/")}
    around = f"{next(iter(files), '').partition('/')[0]}/"
    if DOCUMENT not in files and all(name.startswith(around) for name in files):
        files = {name.removeprefix(around): entry for name, entry in files.items()}
    check_names(files, where)
    return files


def _refuse_odd(info: zipfile.ZipInfo, where: str) -> None:
    """Only plain files, as relact and `zip -r` write them, and empty entries for folders."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    problem = None
    if info.is_dir():
        problem = "a folder with content" if info.file_size or kind not in (0, stat.S_IFDIR) else None
    elif kind not in (0, stat.S_IFREG):
        problem = "a link" if kind == stat.S_IFLNK else "not a plain file"
    elif info.compress_type == zipfile.ZIP_DEFLATED:
        too_far = info.file_size > min(MOST, FURTHEST * info.compress_size)
        problem = "compressed too far" if too_far else None
    elif info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        problem = "compressed in a way that relact does not read"
    elif info.flag_bits & ENCRYPTED:
        problem = "encrypted"
    if problem:
        raise StoreError(f"{info.filename!r} is {problem}", where=where, fix=DISTRUST)


class _Window(io.RawIOBase):
    """The archive as a file to seek in, for zipfile."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read, self._at = size, read, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._size, self._at + size)
        data = self._read(self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data

"""A store's files as they are read: each against its recorded checksum, before a byte of it is used.

A chunk that is not there is the fill value to zarr, so a file that was lost would be a result: 0, False or
NaN. Here the seals say which files there are (`seal`), and commit records say it of shards. What no seal
lists does not exist; what one lists is there and whole, or `StoreError` names it and its repair. A seal is
read again when its file was replaced: a stage may be computed anew while the store is open.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from relact import durable, schema
from relact.errors import StoreError
from relact.schema import DOCUMENT
from relact.store import commits
from relact.store.commits import CommitLog
from relact.store.seal import (
    EMPTY_GROUP,
    files_below,
    hexadecimal,
    intact,
    names_below,
    recorded,
    unlisted,
    was_sealed,
)

MAKERS = {  # stage -> its command
    schema.SCORES: "score",
    schema.MASKS: "select",
    schema.ABLATIONS: "ablate",
    schema.LOOKS: "look",
    schema.SUPER_UNITS: "ablate",
    schema.REGISTRATIONS: "ablate",
}
PARENTS = (schema.MASKS, schema.ABLATIONS, schema.LOOKS, schema.REGISTRATIONS)  # of stages
SKELETON = (schema.PROMPTS, *schema.ARRAYS, schema.COMMITS)  # covered by the root's seal and the log
RECORDS = f"{schema.COMMITS}/{schema.RECORD}"
CAPTURE = "relact capture MODEL PROMPTS {store} --repair"
DAMAGED = "damaged: its checksum does not match"
SHARD = re.compile(
    rf"(?P<quantity>{'|'.join(schema.ARRAYS)})/(?P<site>[^/]+)/(?P<array>\w+)/c\.(?P<block>\d+)\.(?P<layer>\d+)\.0"
)
MOST_BYTES = 1 << 31  # of an array's chunk, which is read whole

Version = tuple[int, int, int]


def stage_of(key: str) -> str:
    """The group whose seal lists a file: a stage such as ``masks/top-400``; "" for the root's."""
    first, *rest = key.split("/")
    if not rest or first in SKELETON:
        return ""
    return f"{first}/{rest[0]}" if first in PARENTS and len(rest) > 1 else first


def repairs_of(store: object, group: str) -> list[str]:
    """The commands, in order, that make a damaged group anew; "" and the parts of the capture by the root."""
    stage = group.split("/")[0]
    if stage in ("", *SKELETON):
        return [CAPTURE.format(store=store)]
    return [f"relact verify {store} --drop", f"relact {MAKERS.get(stage, 'run')} {store}"]


class _Seal(NamedTuple):
    """A group's document, the checksums that it lists (None: it lists none), and names by folder below it."""

    version: Version
    raw: bytes
    files: Mapping[str, str] | None
    names: Mapping[str, frozenset[str]]


class Sealed:
    """The files of a store's folder.

    Args:
        path: the folder.
        pinned: what was replaced since it was first read is refused: values read later belong to the metadata
            read before.

    Attributes:
        log: which blocks are committed; without it no shard can be read.
        most: bytes of a shard of every stream.
    """

    def __init__(self, path: Path, *, pinned: bool = False) -> None:
        self.path, self._pinned = path, pinned
        self.log: CommitLog | None = None
        self.most: Mapping[str, int] = {}
        self._seals: dict[str, _Seal] = {}
        self._sound: dict[str, Version] = {}  # shards that were whole, as they were then

    def pinned(self) -> Sealed:
        """The same files, as they are from the first reading on."""
        other = Sealed(self.path, pinned=True)
        other.log, other.most, other._sound = self.log, self.most, self._sound
        return other

    def read(self, key: str) -> bytes | None:
        """A whole file, checked; None when the store has none of that name.

        Raises:
            StoreError: missing, unreadable, or not the bytes that were written.
        """
        group = stage_of(key)
        before = self._seals.get(group)
        try:
            return self._read(key, group)
        except StoreError:
            if self._pinned or self._seal(group) is before:
                raise
            return self._read(key, group)  # its stage was replaced in between

    def part(self, key: str, request: ByteRequest) -> bytes | None:
        """Some bytes of a file, which is checked as a whole (a shard once)."""
        if self._place(key) is None:
            raw = self.read(key)
            return None if raw is None else raw[slice(*_bounds(request, len(raw)))]
        return self._of_shard(key, request)

    def has(self, key: str) -> bool:
        """Whether there is a file of that name, by what its seal lists."""
        group = stage_of(key)
        seal = self._seal(group)
        if key == f"{group}/{DOCUMENT}" or key == DOCUMENT:
            return seal is not None
        if self._grows(key) or seal is None or seal.files is None:
            return (self.path / key).is_file()
        return _below(key, group) in seal.files

    def names(self, folder: str) -> list[str]:
        """Names of files and folders directly in ``folder``, sorted; none when it does not exist."""
        group = stage_of(f"{folder}/x") if folder else ""
        seal = self._seal(group)
        listed = folder == group or folder.startswith(f"{group}/" if group else SKELETON)
        if seal is None or seal.files is None or not listed or folder in PARENTS:
            return self._groups_in(folder) if folder in PARENTS else self._on_disk(folder)
        found = set(seal.names.get(_below(folder, group), ()))
        if folder == group:
            found |= {DOCUMENT, *([] if group else self._groups_in(""))}
        return sorted(found)

    def children(self, group: str) -> list[str]:
        """Names of the groups and arrays in ``group``, sorted."""
        inside = f"{group}/" if group else ""
        found = [name for name in self.names(group) if name != DOCUMENT]
        return [name for name in found if self.has(f"{inside}{name}/{DOCUMENT}")]

    def document(self, group: str) -> dict[str, Any]:
        """The zarr.json of a group or array; empty where there is none."""
        raw = self.read(f"{group}/{DOCUMENT}" if group else DOCUMENT)
        return {} if raw is None else dict(json.loads(raw))

    def require_shard(self, path: str, stream: str, block: int, place: int) -> None:
        """`StoreError` unless the shard at ``path`` has the bytes that its block's commit record says.

        Args:
            place: of its layer among the stream's.
        """
        key = Path(path).relative_to(self.path).as_posix
        try:
            version = _version(path)
            if self._sound.get(path) == version:
                return
            checksum = durable.checksum_of(Path(path), self.most.get(stream))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._problem(key(), "missing") from error
        except OSError as error:
            raise self._problem(key(), error) from error
        assert self.log is not None
        fields = [at for at, name in enumerate(self.log.fields) if name.rpartition("/")[0] == stream]
        expected = int(self.log.record(block)[fields[place]])
        if checksum != expected:
            raise self._problem(key(), _differs(hexadecimal(checksum), hexadecimal(expected)))
        self._sound[path] = version

    def _read(self, key: str, group: str) -> bytes | None:
        if self._place(key) is not None:
            return self._of_shard(key, None)
        seal = self._seal(group)
        if key in (DOCUMENT, f"{group}/{DOCUMENT}"):
            return seal.raw if seal else None
        if key.startswith(f"{RECORDS}/c."):
            return self._record(key)
        if seal is None or seal.files is None or self._grows(key):  # not sealed, or not as relact names it
            return self._bytes(key)
        expected = seal.files.get(_below(key, group))
        if expected is None:
            return None
        path = self.path / key
        large = path.is_file() and durable.DOCUMENT_BYTES < path.stat().st_size <= MOST_BYTES
        if large and (checksum := hexadecimal(durable.checksum_of(path))) != expected:
            raise self._problem(key, _differs(checksum, expected))  # before it takes as much memory
        raw = self._bytes(key)
        if raw is None:
            raise self._problem(key, "missing")
        checksum = hexadecimal(google_crc32c.value(raw))
        if checksum != expected:
            raise self._problem(key, _differs(checksum, expected))
        return raw

    def _seal(self, group: str) -> _Seal | None:
        """A group's document as it is now, checked; None when the group does not exist."""
        key = f"{group}/{DOCUMENT}" if group else DOCUMENT
        try:
            version = _version(str(self.path / key))
        except OSError:  # nothing there, or above it
            if [name for name in self._on_disk(group) if not name.endswith(durable.PARTIAL)]:
                raise self._problem(key, "missing") from None
            self._seals.pop(group, None)
            return None
        known = self._seals.get(group)
        if known is not None and known.version == version:
            return known
        raw = self._bytes(key)
        if raw is None:
            raise self._problem(key, "missing")
        raw = short if intact(short := unlisted(raw)) else raw
        if self._pinned and known is not None and known.raw != raw:
            raise StoreError("was replaced since it was opened", where=self.path / key, fix="open it again")
        files = self._listed(group, key, raw)
        self._seals[group] = found = _Seal(version, raw, files, names_below(files or ()))
        return found

    def _listed(self, group: str, key: str, raw: bytes) -> Mapping[str, str] | None:
        """What a document lists; None where it is not sealed and need not be."""
        try:
            attributes = json.loads(raw)["attributes"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._problem(key, DAMAGED) from error
        if schema.PACKAGE in attributes:  # signed in its own way
            return None
        files = recorded(raw)
        if was_sealed(raw) and not (files is not None and intact(raw)):
            raise self._problem(key, DAMAGED)
        if files is None and raw != EMPTY_GROUP and group in MAKERS and schema.ATTRIBUTE not in attributes:
            raise self._problem(key, DAMAGED)
        return files

    def _place(self, key: str) -> tuple[str, int, int] | None:
        """(stream, block, layer) of a shard."""
        found = SHARD.fullmatch(key)
        if found is None or found["array"] != schema.ARRAYS[found["quantity"]]:
            return None
        quantity, site = found["quantity"], found["site"]
        stream = site if quantity == schema.ACTIVATIONS else f"{quantity}/{site}"
        return stream, int(found["block"]), int(found["layer"])

    def _grows(self, key: str) -> bool:
        """Whether a file comes with the capture: a shard, by whatever name, or a commit record."""
        quantity, *rest = key.split("/")
        of_stream = len(rest) > 2 and rest[1] == schema.ARRAYS.get(quantity) and rest[2] != DOCUMENT
        return of_stream or key.startswith(f"{RECORDS}/c.")

    def _of_shard(self, key: str, request: ByteRequest | None) -> bytes | None:
        """Bytes of a shard, or all of it; None while its block is not committed."""
        place, path = self._place(key), str(self.path / key)
        assert self.log is not None and place is not None
        if not self.log.has(place[1]):
            return None
        self.require_shard(path, *place)
        with open(path, "rb") as file:
            if request is None:
                return file.read()
            start, stop = _bounds(request, os.fstat(file.fileno()).st_size)
            file.seek(start)
            return file.read(stop - start)

    def _record(self, key: str) -> bytes | None:
        """A commit record, which has its own checksum."""
        raw = self._bytes(key)
        if raw is not None and self.log is not None:
            try:
                commits.decode(raw, len(self.log.fields))
            except ValueError as error:
                raise self._problem(key, f"damaged ({error})") from error
        return raw

    def _bytes(self, key: str) -> bytes | None:
        small = key.endswith(DOCUMENT) or key.startswith(f"{RECORDS}/c.")
        try:
            return durable.read(self.path / key, durable.DOCUMENT_BYTES if small else MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._problem(key, error) from error

    def _on_disk(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path / folder))
        except OSError:
            return []

    def _groups_in(self, folder: str) -> list[str]:
        """What is no editor's or notebook's in the root or a parent of stages, whose groups no seal lists."""
        found = [name for name in self._on_disk(folder) if not name.startswith(".")]
        if folder:  # a stage that has lost its document is damaged
            return [name for name in found if name == DOCUMENT or (self.path / folder / name).is_dir()]
        ours = {*SKELETON, *MAKERS, DOCUMENT}
        return [name for name in found if name in ours or (self.path / name / DOCUMENT).is_file()]

    def _problem(self, key: str, what: str | OSError) -> StoreError:
        fix = "run " + ", then ".join(f"`{command}`" for command in repairs_of(self.path, stage_of(key)))
        if isinstance(what, OSError):  # the file may be whole
            fix = durable.UNREAD.get(what.errno or 0, fix)
            what = f"cannot be read ({what.strerror})"
        return StoreError(what, where=self.path / key, fix=fix)


class Objects(Store):
    """The same files as a read-only zarr store."""

    def __init__(self, files: Sealed) -> None:
        super().__init__(read_only=True)
        self.files = files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects) and other.files is self.files

    def __str__(self) -> str:
        return str(self.files.path)

    __hash__ = None  # type: ignore[assignment]

    supports_writes = supports_deletes = supports_partial_writes = False
    supports_listing = True

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if byte_range is None and key.endswith(DOCUMENT):  # sooner read than a thread is begun
            raw = self.files.read(key)
        elif byte_range is None:
            raw = await asyncio.to_thread(self.files.read, key)
        else:
            raw = await asyncio.to_thread(self.files.part, key, byte_range)
        return None if raw is None else prototype.buffer.from_bytes(raw)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        return self.files.has(key)

    async def list(self) -> AsyncIterator[str]:
        for key in files_below(self.files.path):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in self.files.names(prefix.strip("/")):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        raise StoreError("opened to be read", where=self.files.path)

    async def delete(self, key: str) -> None:
        raise StoreError("opened to be read", where=self.files.path)


def _version(path: str) -> Version:
    status = os.stat(path)  # noqa: PTH116  (called for every chunk)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _below(key: str, group: str) -> str:
    return key[len(group) + 1 :] if group else key


def _differs(checksum: str, expected: str) -> str:
    return f"damaged: its checksum is {checksum}, recorded {expected}"


def _bounds(request: ByteRequest, size: int) -> tuple[int, int]:
    match request:
        case RangeByteRequest(start, end):
            return start, min(end, size)
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
        case OffsetByteRequest(offset):
            return offset, size
    raise NotImplementedError(request)

"""A packed store as objects: its metadata from one request, every other object checked as it arrives.

The root's zarr.json lists all that there is (`contents`). So nothing is asked that is not there, and a byte
that changed on the way is found before it is used. Objects of equal checksum (the coordinates of every site)
are fetched once, and kept on disk for the next process.
"""

from __future__ import annotations

import google_crc32c

from relact.errors import StoreError
from relact.packed.archive import Archive
from relact.packed.cache import Cache
from relact.packed.chunks import check_chunk, check_object, check_shard_index
from relact.packed.contents import RECORDS, read_contents
from relact.packed.metadata import DOCUMENT_BYTES
from relact.packed.refusal import AGAIN, DISTRUST
from relact.packed.urls import MissingError, Place, is_archive, is_url
from relact.schema import DOCUMENT
from relact.store.seal import hexadecimal

SMALL_OBJECT = 1 << 16  # bytes; kept in memory: coordinates, which every site has


class Package:
    """The objects of a packed store (`open_package`).

    Attributes:
        shown: the location as it was given.
        contents: what is in it.

    Raises:
        StoreError: not a packed store, cut off, damaged, or with metadata that relact would not write.
    """

    def __init__(self, objects: Place | Archive, shown: str, cache: bool) -> None:
        self._objects, self.shown = objects, shown
        self.contents = read_contents(objects.get(DOCUMENT, DOCUMENT_BYTES), shown)
        self._small: dict[str, bytes] = {}  # by checksum
        self._asked_anew = False
        self._ends: dict[str, bytes] = {}  # the index of every shard that was asked for
        self._cache = Cache(shown) if cache else None

    def get(self, key: str) -> bytes | None:
        """One object, checked; None when the store has none of that name. Not for the root's zarr.json."""
        if not self.has(key):
            return None
        name, facts = self.contents.owner(key)
        chunk_of = facts if facts is not None and key != f"{name}/{DOCUMENT}" else None
        limit = chunk_of.limit if chunk_of else DOCUMENT_BYTES
        checksum = self.contents.sums.get(key)
        try:
            raw = self._summed(key, checksum, limit) if checksum else self._objects.get(key, limit)
        except MissingError:
            if checksum or self._is_of_block(key):
                raise
            return None  # a block that is not committed
        if chunk_of:
            check_object(raw, chunk_of, f"{self.shown}: {key}")
        return raw

    def forget(self) -> None:
        """Ask where the store is for every object from now on, also where the same bytes came before."""
        self._asked_anew = True

    def unsealed(self, key: str) -> bytes:
        """The zarr.json of a group between the root and the stages, which no seal covers."""
        return self._objects.get(key, DOCUMENT_BYTES)

    def has(self, key: str) -> bool:
        """Whether the store promises this object; a shard or a commit record may still be missing."""
        if key in self.contents.sums:
            return True
        if not self.contents.grows_with(key) or not self.contents.about.activations:
            return False
        if (committed := self.contents.is_committed(key)) is not None:
            return committed
        return not isinstance(self._objects, Archive) or key in self._objects.entries

    def part(self, key: str, start: int, stop: int) -> bytes | None:
        """One chunk of a shard, by its range."""
        facts = self.contents.owner(key)[1]
        if not self.has(key) or facts is None:
            return None
        where = f"{self.shown}: {key}"
        if not 0 <= stop - start <= facts.limit:
            raise StoreError(f"a chunk of {stop - start} bytes", where=where, fix=DISTRUST)
        raw = self._objects.part(key, start, stop)
        check_chunk(raw, facts, where)
        return raw

    def tail(self, key: str, count: int) -> bytes | None:
        """The last bytes of a shard: its index, checked."""
        facts = self.contents.owner(key)[1]
        if not self.has(key) or facts is None or facts.shard is None:
            return None
        if key not in self._ends:
            try:
                end, size = self._objects.tail(key, count)
            except MissingError:
                if self._is_of_block(key):
                    raise
                return None
            check_shard_index(end, size, facts.chunks_per_shard, f"{self.shown}: {key}")
            self._ends[key] = end
        return self._ends[key][-count:]

    def _is_of_block(self, key: str) -> bool:
        """Whether a shard's block is committed: then it is missing, not yet to come."""
        contents = self.contents
        if not contents.grows_with(key) or contents.is_committed(key):
            return True
        record = f"{RECORDS}/c.{key.rpartition('/')[2].split('.')[1]}.0"
        return key != record and self.has(record) and self.get(record) is not None

    def _summed(self, key: str, checksum: str, limit: int) -> bytes:
        """An object of known checksum: from memory, from disk, or from where the store is."""
        raw = None if self._asked_anew else self._known(checksum)
        if raw is None:
            raw = self._objects.get(key, limit)
            arrived = hexadecimal(google_crc32c.value(raw))
            if arrived != checksum:
                problem = f"damaged: its checksum is {arrived}, recorded {checksum}"
                raise StoreError(problem, where=f"{self.shown}: {key}", fix=AGAIN)
            if self._cache:
                self._cache.put(checksum, raw)
        if len(raw) <= SMALL_OBJECT:
            self._small[checksum] = raw
        return raw

    def _known(self, checksum: str) -> bytes | None:
        return self._small.get(checksum) or (self._cache.get(checksum) if self._cache else None)


def open_package(location: Place) -> Package:
    """The packed store at a place: a zip archive when its name ends in ``.zip``, a folder otherwise.

    What comes over a network is kept on disk for the next process.
    """
    objects = Archive(location) if is_archive(location.shown) else location
    return Package(objects, location.shown, cache=is_url(location.shown))

"""Seals: a folder's zarr.json records the CRC-32C of every file below it, and one of itself.

The attribute ``checksums`` of a sealed group is ``{"files": {relative path: hex}, "this_file": hex}``.
``this_file`` is the checksum of the zarr.json's own bytes with these eight digits replaced by zeros: no byte
of a sealed folder is left out. The root's listing (`relact.store.listing`) is added after that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from relact import durable
from relact.schema import DOCUMENT

ATTRIBUTE = "checksums"
CONSOLIDATED = "consolidated_metadata"  # zarr's name of a listing
FILES, SELF = "files", "this_file"
BLANK = "0" * 8  # where the digits of a document's own checksum will stand
# every byte of a plain group
EMPTY_GROUP = b'{\n  "attributes": {},\n  "zarr_format": 3,\n  "node_type": "group"\n}'

LISTED, LAST = (
    f',\n  "{CONSOLIDATED}": '.encode(),
    b"\n}",
)  # the last member, and what ends a document without


def seal(folder: Path) -> None:
    """Record the checksums of all files below ``folder`` in its zarr.json."""
    names = [name for name in files_below(folder) if name != DOCUMENT]
    document = json.loads((folder / DOCUMENT).read_bytes())
    checksums = {name: hexadecimal(durable.checksum_of(folder / name)) for name in names}
    document["attributes"] = {**document.get("attributes", {}), ATTRIBUTE: {FILES: checksums, SELF: BLANK}}
    durable.write_partial(folder / DOCUMENT, [render(document)])
    durable.publish(folder / DOCUMENT)


def render(document: dict[str, Any]) -> bytes:
    """A sealed zarr.json as its bytes, its own checksum made anew."""
    document["attributes"][ATTRIBUTE][SELF] = BLANK
    return signed(json.dumps(document, indent=2, ensure_ascii=False).encode(), SELF)


def recorded(raw: bytes) -> dict[str, str] | None:
    """Checksums of the files that a zarr.json lists; None when it is not sealed or cannot be read."""
    try:
        return dict(json.loads(raw)["attributes"][ATTRIBUTE][FILES])
    except (ValueError, KeyError, TypeError):
        return None


def was_sealed(raw: bytes) -> bool:
    """Whether a zarr.json that need not be readable speaks of a seal."""
    return ATTRIBUTE.encode() in raw or SELF.encode() in raw


def intact(raw: bytes, key: str = SELF) -> bool:
    """Whether a signed document still has the bytes it was signed with; a listing was added since."""
    return any(
        _is_signed(text, key) for text in (raw, *([unlisted(raw)] if CONSOLIDATED.encode() in raw else []))
    )


def unlisted(raw: bytes) -> bytes:
    """A document's bytes as they were signed, before it had a listing; as they are where it has none.

    A listing is hundreds of kilobytes where the rest is few: as relact writes it, it is cut off unread.
    """
    if CONSOLIDATED.encode() not in raw:
        return raw
    kept, found, _ = raw.partition(LISTED)
    if found and _is_signed(kept + LAST, SELF):
        return kept + LAST
    try:
        document = json.loads(raw)
        del document[CONSOLIDATED]
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _is_signed(raw: bytes, key: str) -> bool:
    digits = _digits(key).findall(raw)
    return len(digits) == 1 and _digits(key).findall(signed(raw, key)) == digits


def signed(raw: bytes, key: str) -> bytes:
    """A document with its CRC-32C as the eight digits of ``key``, computed with zeros in their place."""
    blank = _digits(key).sub(_member(key, BLANK), raw)
    return blank.replace(_member(key, BLANK), _member(key, hexadecimal(google_crc32c.value(blank))))


def files_below(folder: Path) -> Iterator[str]:
    """Relative names of all files below ``folder``, sorted, with forward slashes."""
    yield from sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def names_below(files: Iterable[str]) -> dict[str, frozenset[str]]:
    """Names directly in every folder, of files given by their paths."""
    found: dict[str, set[str]] = {}
    for name in files:
        while name:
            folder, _, last = name.rpartition("/")
            inside = found.setdefault(folder, set())
            if last in inside:
                break
            inside.add(last)
            name = folder
    return {folder: frozenset(names) for folder, names in found.items()}


def hexadecimal(checksum: int) -> str:
    """As recorded: eight lower-case digits."""
    return f"{checksum:08x}"


def _member(key: str, digits: str) -> bytes:
    return f'"{key}": "{digits}"'.encode()


def _digits(key: str) -> re.Pattern[bytes]:
    return re.compile(_member(key, "([0-9a-f]{8})"))

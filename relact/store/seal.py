"""Seals: a folder's zarr.json records the CRC-32C of every file below it, and one of itself.

The attribute ``checksums`` of a sealed group is ``{"files": {relative path: hex}, "this_file": hex}``. ``this_file`` is the
checksum of the zarr.json's own bytes with these eight digits replaced by zeros: no byte of a sealed folder is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from relact import durable

NAME = "zarr.json"
ATTRIBUTE = "checksums"
FILES, SELF = "files", "this_file"
_OWN = re.compile(rb'"this_file": "([0-9a-f]{8})"')
_ZEROS = b'"this_file": "00000000"'
EMPTY_GROUP = b'{\n  "attributes": {},\n  "zarr_format": 3,\n  "node_type": "group"\n}'  # every byte of a plain group


def seal(folder: Path, skip: Iterable[str] = ()) -> None:
    """Record the checksums of all files below ``folder`` in its zarr.json; ``skip`` names subfolders that are not part of it."""
    skipped = tuple(f"{name}/" for name in skip)
    names = [name for name in files_below(folder) if name != NAME and not name.startswith(skipped)]
    document = json.loads((folder / NAME).read_bytes())
    sums = {name: hexadecimal(durable.checksum_of(folder / name)) for name in names}
    document["attributes"] = {**document.get("attributes", {}), ATTRIBUTE: {FILES: sums, SELF: "0" * 8}}
    durable.write_partial(folder / NAME, [render(document)])
    durable.publish(folder / NAME)


def render(document: dict[str, Any]) -> bytes:
    """A sealed zarr.json as its bytes, its own checksum made anew."""
    document["attributes"][ATTRIBUTE][SELF] = "0" * 8
    return _signed(json.dumps(document, indent=2, ensure_ascii=False).encode())


def recorded(raw: bytes) -> dict[str, str] | None:
    """Checksums of the files that a zarr.json lists; None when it is not sealed or cannot be read."""
    try:
        return dict(json.loads(raw)["attributes"][ATTRIBUTE][FILES])
    except (ValueError, KeyError, TypeError):
        return None


def intact(raw: bytes) -> bool:
    """Whether a sealed zarr.json still has the bytes it was sealed with."""
    own = _OWN.findall(raw)
    return len(own) == 1 and _OWN.search(_signed(raw)).group(1) == own[0]  # type: ignore[union-attr]


def files_below(folder: Path) -> Iterator[str]:
    """Relative names of all files below ``folder``, sorted, with forward slashes."""
    yield from sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hexadecimal(checksum: int) -> str:
    """As recorded: eight lower-case digits."""
    return f"{checksum:08x}"


def without_seal(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a group as its author wrote them."""
    return {name: value for name, value in attributes.items() if name != ATTRIBUTE}


def _signed(raw: bytes) -> bytes:
    blank = _OWN.sub(_ZEROS, raw)
    return blank.replace(_ZEROS, b'"this_file": "%08x"' % google_crc32c.value(blank))

"""The catalogue: a JSON file that lists published stores, as ``stores/index.json`` of this repository does.

    {"format": 1, "stores": [{"name", "location", "sha256", "bytes", "model", "relations", "neurons",
    "licence"}, ...]}

``location`` is a URL, or a path beside the catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import relact
from relact import durable
from relact.errors import InputError
from relact.packed.metadata import parse_document
from relact.packed.names import check_key
from relact.packed.urls import is_url, place
from relact.sharing.pack import Packed

NAME = "index.json"
FORMAT = 1
LIMIT = 1 << 20  # bytes of a catalogue
CHECKOUT = Path(relact.__file__ or "").parent.parent / "stores" / NAME  # this repository's own
INSTALLED = Path(__file__).parent / "stores" / NAME  # the same, in a wheel


@dataclass(frozen=True)
class Listed:
    """One published store; ``location`` can be opened as it is."""

    name: str
    location: str
    sha256: str | None
    bytes: int
    model: str
    relations: int
    neurons: int
    licence: str


def stores(index: str | Path | None = None) -> list[Listed]:
    """The stores of a catalogue: a path or URL; by default the one that comes with relact.

    Raises:
        InputError: not a catalogue. StoreError: it cannot be fetched.
    """
    where = str(index or (CHECKOUT if CHECKOUT.is_file() else INSTALLED))
    if not is_url(where) and not Path(where).is_file():
        raise InputError("no such catalogue", where=where, fix="give the path or URL of an index.json")
    document = parse_document(place(where).get("", LIMIT), where)
    rows = document.get("stores")
    if document.get("format") != FORMAT or not isinstance(rows, list):
        raise InputError(
            "not a catalogue of stores", where=where, fix="give the path or URL of an index.json"
        )
    return [_listed(row, where) for row in rows]


def add(packed: Packed, index: str | Path) -> None:
    """Enter a packed store into the catalogue in its folder, in the place of one of the same name."""
    path, card = Path(index), packed.card
    name = packed.path.name.removesuffix(".zip").removesuffix(".zarr")
    row = Listed(
        name=name,
        location=packed.path.name,
        sha256=packed.sha256,
        bytes=packed.path.stat().st_size if packed.path.is_file() else packed.bytes,
        model=card["model"],
        relations=len(card["relations"]),
        neurons=sum(n_layers * width for n_layers, width in card["sites"].values()),
        licence=card["licence"],
    )
    rows = json.loads(path.read_text())["stores"] if path.is_file() else []
    rows = [*(other for other in rows if other["name"] != name), asdict(row)]
    document = {"format": FORMAT, "stores": sorted(rows, key=lambda row: row["name"])}
    durable.replace(path, [(json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()])


def _listed(row: Any, where: str) -> Listed:
    """One entry, every value of the type that `Listed` says."""
    kinds: Mapping[str, Any] = {
        "name": str,
        "location": str,
        "sha256": (str, type(None)),
        "bytes": int,
        "model": str,
        "relations": int,
        "neurons": int,
        "licence": str,
    }
    good = (
        isinstance(row, dict)
        and set(row) == set(kinds)
        and all(isinstance(row[key], kinds[key]) for key in kinds)
    )
    if not good or not all(value.isprintable() for value in row.values() if isinstance(value, str)):
        raise InputError(f"an entry that cannot be read: {row!r:.80}", where=where)
    location = row["location"]
    if not is_url(location):
        check_key(location, where)  # beside the catalogue, not anywhere
        location = f"{where.rpartition('/')[0]}/{location}" if "/" in where else location
    return Listed(**{**row, "location": location})

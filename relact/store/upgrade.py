"""Upgrade: what earlier versions of relact did not write yet is put into a store; nothing measured changes.

>>> upgrade("study.zarr").done  # of a store that this version wrote
()
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from relact import durable, schema
from relact.schema import DOCUMENT
from relact.store import listing, local
from relact.store.seal import CONSOLIDATED, render, unlisted

LISTING = "the listing by which xarray opens it in one look"
ID = "an id, to which what lies beside the store belongs"


@dataclass(frozen=True)
class Upgraded:
    """The store's format, before and after, and in words what was put in; empty where nothing was missing."""

    store: Path
    format: int
    done: tuple[str, ...]


def upgrade(store: str | Path) -> Upgraded:
    """Bring the store at ``store`` up to what this version writes; docs/format.md has a table of formats.

    A store keeps its format, so that earlier versions still read it, and what is captured and computed every
    byte. Interrupted, it is done again.

    Raises:
        StoreError: no store; of a format that this version does not read; packed; damaged.
        BusyError: somebody is writing it.
    """
    path = Path(store)
    opened = local.open(path)
    listed = CONSOLIDATED in _root(path)
    with local.writing(opened):  # which lists what is there
        done = [] if listed else [LISTING]
        if not opened.manifest.id:
            document = json.loads(unlisted(durable.read(path / DOCUMENT, durable.DOCUMENT_BYTES)))
            document["attributes"][schema.ATTRIBUTE]["id"] = secrets.token_hex(16)
            durable.replace(path / DOCUMENT, [render(document)])
            listing.write(path)
            done.append(ID)
    return Upgraded(path, opened.manifest.format, tuple(done))


def _root(path: Path) -> dict[str, object]:
    """The root's document."""
    return dict(json.loads(durable.read(path / DOCUMENT, durable.DOCUMENT_BYTES)))

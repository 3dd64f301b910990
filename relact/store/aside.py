"""What lies beside a store: one hidden folder in which groups are built and old ones are parked.

>>> place(Path("new.zarr"), "old", "masks/top-400").relative_to(Path.cwd()).as_posix()
'.new.zarr.aside/new/old~masks%2Ftop-400'

All of it lies below the id of the store that it belongs to: what a crash left is never applied to another
store that has come to the same path. Links are followed to the store and nowhere else: a store that is a link
has its folder beside the folder it points to, on that file system; a link in the place of the folder, or of
anything in it, is not what relact made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from relact import durable
from relact.errors import StoreError
from relact.schema import ATTRIBUTE, DOCUMENT, parked_name

NOBODY = "new"  # owner where there is no store yet
ID = re.compile("[0-9a-f]{32}")


def home(store: Path) -> Path:
    """Where a store really lies: the same whatever name or link it is called by."""
    return Path(os.path.realpath(store))


def folder_of(store: Path) -> Path:
    """The folder beside ``store``; it need not be there."""
    real = home(store)
    return real.with_name(f".{real.name}.aside")


def own_folder(store: Path) -> Path:
    """The part of it that belongs to the store which is at this path now."""
    return folder_of(store) / owner(store)


def place(store: Path, kind: Literal["new", "old", "gone"], group: str) -> Path:
    """Where a group of ``store`` lies while it is built, replaced or deleted."""
    return own_folder(store) / f"{kind}~{parked_name(group)}"


def prepare(store: Path) -> Path:
    """`own_folder`, made if need be; `StoreError` where a link is in its place."""
    own = own_folder(store)
    for folder in (own.parent, own):
        if folder.is_symlink():
            raise StoreError("is a link, which relact never makes", where=folder, fix="remove it")
        with durable.explained(folder):
            durable.make_folders(folder)
    return own


def is_there(store: Path) -> bool:
    """Whether anything lies beside the store, its own or another's."""
    folder = folder_of(store)
    return folder.is_dir() and not folder.is_symlink()


def parked(store: Path, pattern: str) -> list[Path]:
    """What matches in the store's own folder, in order; links are none of it."""
    own = own_folder(store)
    if not is_there(store) or own.is_symlink():
        return []
    return sorted(path for path in own.glob(pattern) if not path.is_symlink())


def restore(store: Path) -> None:
    """Undo or finish every interrupted swap of a group of ``store``, and of nothing outside of it."""
    for old in parked(store, "old~*"):
        group = unquote(old.name.removeprefix("old~"))
        if _is_inside(group):
            durable.restore(old, store / group)


def clear(store: Path) -> None:
    """Delete all that lies beside the store, another's as well; by the holder of the lock."""
    durable.remove(folder_of(store))


def tidy(store: Path) -> None:
    """Delete the folder if nothing is in it."""
    own = own_folder(store)
    for folder in (own, own.parent):
        with suppress(OSError):  # not there, or not empty
            folder.rmdir()


def owner(store: Path) -> str:
    """The id of the store at this path. One from before there were ids has a digest of what never changes in
    it; one whose root cannot be read a digest of its bytes.
    """
    try:
        raw = durable.read(store / DOCUMENT, durable.DOCUMENT_BYTES)
    except FileNotFoundError:
        return NOBODY
    except OSError:
        raw = b""
    known: Any = None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        known = json.loads(raw)["attributes"][ATTRIBUTE]
        if ID.fullmatch(known.get("id", "")):
            return str(known["id"])
        kept = {name: known[name] for name in ("model", "tokenizer", "capture", "created")}
        raw = json.dumps(kept, sort_keys=True).encode()
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _is_inside(group: str) -> bool:
    """Whether a name is one of a group: no part of it climbs."""
    return "\0" not in group and all(part not in ("", ".", "..") for part in group.split("/"))

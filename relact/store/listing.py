"""The listing: the root's zarr.json repeats the metadata of everything below it, in zarr's consolidated form.

Plain xarray opens a store by it, in one look and without a warning. It is never stale: a group is taken off
it before it is replaced or deleted, and put on it once it is in place, so what a crash leaves is less, not
older. It repeats what is sealed elsewhere and is no part of the root's seal: `zarr.consolidate_metadata` may
write it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from relact import durable
from relact.schema import DOCUMENT
from relact.store.seal import ATTRIBUTE, CONSOLIDATED, intact, unlisted

Node = dict[str, Any]


def write(root: Path, without: str | None = None) -> None:
    """Make the listing what lies below ``root``, but for the group ``without``; a damaged root is left as it
    is.
    """
    path = root / DOCUMENT
    try:
        raw = durable.read(path, durable.DOCUMENT_BYTES)
    except OSError:
        return
    if intact(raw):
        listed = with_listing(unlisted(raw), dict(_nodes(root, without)))
        if listed != raw:
            durable.replace(path, [listed])


def with_listing(raw: bytes, nodes: Mapping[str, Node]) -> bytes:
    """A root's document with the listing of these groups and arrays."""
    document = json.loads(raw)
    document[CONSOLIDATED] = {"kind": "inline", "must_understand": False, "metadata": dict(nodes)}
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def problem_of(root: Path, raw: bytes) -> str:
    """What is wrong with the listing of a root with the document ``raw``; empty where it is right or not
    there.

    What it lacks is no problem: an interrupted writer has left it so.
    """
    document = json.loads(raw)
    if CONSOLIDATED not in document:
        return ""
    listing, there = document[CONSOLIDATED], dict(_nodes(root, None))
    metadata = listing.get("metadata") if isinstance(listing, dict) else None
    if not isinstance(metadata, dict) or {**listing, "metadata": 0} != {
        "kind": "inline",
        "must_understand": False,
        "metadata": 0,
    }:
        return "its consolidated metadata is damaged"
    odd = next((path for path, node in metadata.items() if _plain(node) != there.get(path)), None)
    return f"its consolidated metadata of {odd}/{DOCUMENT} is not what lies there" if odd is not None else ""


def _nodes(root: Path, without: str | None) -> Iterator[tuple[str, Node]]:
    """Metadata of every group and array below ``root``, as it is listed, in order of their paths."""
    for folder, folders, files in os.walk(root):
        path = Path(folder).relative_to(root).as_posix()
        folders[:] = sorted(name for name in folders if f"{path}/{name}".removeprefix("./") != without)
        if path == ".":
            continue
        if DOCUMENT not in files:
            folders.clear()
            continue
        try:
            node = json.loads(durable.read(Path(folder) / DOCUMENT, durable.DOCUMENT_BYTES))
        except (OSError, ValueError, RecursionError):
            folders.clear()  # what cannot be read is not listed, nor what lies in it
            continue
        yield path, _plain(node)


def _plain(node: Any) -> Any:
    """A node as it is listed: without its seal, which is of its own file, and without a listing."""
    if not isinstance(node, dict):
        return node
    kept = {name: value for name, value in node.items() if name != CONSOLIDATED}
    if isinstance(attributes := kept.get("attributes"), dict):
        kept["attributes"] = {name: value for name, value in attributes.items() if name != ATTRIBUTE}
    return kept

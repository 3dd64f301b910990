"""Records as JSON has them, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from relact.errors import StoreError


def plain(record: Any) -> dict[str, Any]:
    """A record as JSON has it: tuples are lists, and what is optional and not there is left out."""
    values = ((entry, getattr(record, entry.name)) for entry in fields(record))
    return {
        entry.name: _json(value) for entry, value in values if value is not None or entry.default is MISSING
    }


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _json(item) for name, item in value.items()}
    return plain(value) if is_dataclass(value) else value


def known(cls: type, raw: Mapping[str, Any], where: object, lists: Sequence[str]) -> dict[str, Any]:
    """The fields of a record among stored attributes; ``lists`` name those that are tuples here."""
    for entry in fields(cls):
        if entry.default is MISSING and entry.name not in raw:
            raise StoreError(f"its attributes have no {entry.name!r}", where=where, fix="run `relact verify`")
    names = [entry.name for entry in fields(cls) if entry.name in raw]
    return {
        name: tuple(raw[name]) if name in lists and isinstance(raw[name], list) else raw[name]
        for name in names
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

"""Families that users add without touching the package: rows of a TOML file.

``$RELACT_FAMILIES`` names the file::

    [[family]]
    names = ["my_model"]       # exact model_type
    like = "llama"             # a row whose paths and widths are the same
    layers = "model.layers"    # only where the decoder layers are elsewhere

What such a row says is checked when a model is loaded: every site is read once, and the self-check runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.sites.taps import Family

VARIABLE = "RELACT_FAMILIES"
_KEYS = {"names", "like", "layers"}


def rows(known: Mapping[str, Family]) -> dict[str, Family]:
    """Rows of the user's file by ``model_type``; none where no file is named.

    Args:
        known: the package's own rows.

    Raises:
        InputError: no such file, or an entry that cannot be a row.
    """
    if not (place := os.environ.get(VARIABLE)):
        return {}
    import tomllib

    try:
        listed = tomllib.loads(Path(place).expanduser().read_text(encoding="utf-8")).get("family", [])
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({error})", where=f"{VARIABLE}={place}", fix="name a TOML file of families"
        ) from error
    found: dict[str, Family] = {}
    for number, entry in enumerate(listed, 1):
        found |= _row(entry, known, f"{place}, family {number}")
    return found


def _row(entry: Any, known: Mapping[str, Family], where: str) -> dict[str, Family]:
    fix = 'write names = ["my_model"] and like = "llama", and layers where they are elsewhere'
    if not isinstance(entry, dict) or not {"names", "like"} <= set(entry) <= _KEYS:
        raise InputError("has other keys than names, like and layers", where=where, fix=fix)
    names, like = entry["names"], entry["like"]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"names {names!r:.80} are no list of texts", where=where, fix=fix)
    if like not in known:
        raise InputError(
            f"no family {like!r:.80}", where=where, fix=f"choose from {', '.join(sorted(known))}"
        )
    taken = sorted(set(names) & set(known))
    if taken:
        raise InputError(f"{taken[0]} is in the table already", where=where, fix="leave it out")
    layers = str(entry.get("layers", known[like].layers))
    return dict.fromkeys(names, replace(known[like], names=tuple(names), layers=layers))

"""Cells of tables as texts: lists, records of known form, and lists that were written as text.

A CSV cannot hold a list, so its writers leave ``["a", "b"]``, ``['a', 'b']`` or ``['a' 'b']`` (JSON, Python,
NumPy) in a cell. Those are answers. What is nobody's text, as ``{'id': 7}`` or ``<object at 0x7f>``, is
refused.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from relact.relations.row import short

FIELDS = ("text", "value", "str", "label", "name", "aliases")  # of a record, where its answers stand
ARRAY = re.compile(r"array\((\[.*\])(?:, dtype=\w+)?\)", re.DOTALL)
SPACED = re.compile(r"\[\s*(?:'[^']*'|\"[^\"]*\")(?:\s+(?:'[^']*'|\"[^\"]*\"))+\s*\]")  # NumPy has no commas
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
NO_TEXT = re.compile(r"<.* at 0x[0-9a-fA-F]+>|\{\s*['\"]\w+['\"]\s*:.*\}", re.DOTALL)


def texts(value: Any, mark: str | None = None) -> list[str]:
    """The texts of a cell, without outer blanks: all of a list, of a record those in `FIELDS`.

    Args:
        mark: parts several texts in one.

    Raises:
        ValueError: the cell holds no text, and is not empty.
    """
    if isinstance(value, str):
        listed = _listed(value.strip())
        if listed is not None:
            return texts(listed)
        if NO_TEXT.fullmatch(value.strip()):
            raise ValueError(f"{short(value)} is the text of an object")
        return [part.strip() for part in (value.split(mark) if mark else [value]) if part.strip()]
    if is_nothing(value):
        return []
    if hasattr(value, "tolist"):
        return texts(value.tolist(), mark)
    if isinstance(value, list | tuple):
        return list(dict.fromkeys(text for part in value for text in texts(part)))
    if isinstance(value, Mapping):
        known = [value[name] for name in FIELDS if name in value]
        if not known:
            raise ValueError(f"a record with {', '.join(map(str, value)) or 'no fields'} is no text")
        return texts(known)
    if isinstance(value, bytes | set):
        raise ValueError(f"{short(value)} is no text")
    return [str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)]


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: None, or the NaN of tables with numbers."""
    return value is None or (isinstance(value, float) and value != value)


def _listed(text: str) -> Any:
    """The list or record that a text writes out; None of any other text."""
    if found := ARRAY.fullmatch(text):
        text = found[1]
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return None
    if SPACED.fullmatch(text):
        return [one or other for one, other in QUOTED.findall(text)]
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if _is_of_texts(value) else None
    return None


def _is_of_texts(value: Any) -> bool:
    """Whether a list or record holds texts, however deep: ``[1]`` may be a text itself."""
    if isinstance(value, list | tuple):
        return all(isinstance(part, str | list | tuple | dict) for part in value)
    return isinstance(value, dict) and any(name in value for name in FIELDS)

"""One row of anybody's file: what every reader yields, and the way it says that a row cannot be used.

A row is a fact (subject, object, templates) or a ready text with a label (its template is a bare ``{}``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relact.errors import InputError

READY = ("{}",)  # the template of a text that needs no filling in
SHORT = 80  # characters of a value that a message shows

Bad = Callable[[InputError], None]  # raises the error, or notes it and goes on


@dataclass(slots=True)
class Row:
    """What one line of a file says. ``where`` is ``file:line`` or ``file: sample 3``, for messages."""

    relation: str
    subject: str
    object: str = ""
    aliases: tuple[str, ...] = ()
    key: str = ""
    language: str = ""
    templates: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)  # description, source, licence, leaks
    where: str = ""


def read_json(path: Path) -> Any:
    """The file's JSON; a byte order mark is passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise InputError("is empty", where=path, fix="give a file with facts")
        return json.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"not readable as JSON ({error})", where=path, fix="repair or remove the file"
        ) from error


def has_one_slot(template: object) -> bool:
    """Whether it is a text that marks the subject's place once, as ``{}``."""
    return isinstance(template, str) and template.count("{}") == 1


def slots_wrong(templates: Iterable[str], where: str, bad: Bad) -> bool:
    """Whether a file's templates are not usable; the first of those is reported."""
    for template in templates:
        if not has_one_slot(template):
            fix = "mark the subject's place once, as {}"
            bad(InputError(f"template {template!r} has no single {{}}", where=where, fix=fix))
            return True
    return False


def short(value: Any) -> str:
    """A value, or what an error says, as a message shows it."""
    text = repr(value) if not isinstance(value, Exception) else str(value)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."

"""One row of anybody's file: what every reader yields, and the way it says that a row cannot be used.

A row is a fact (subject, object, templates) or a ready text with a label (its template is a bare ``{}``). A
label that is asked for is a fact again: the text is its subject, the label its object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations.opening import opened

READY = ("{}",)  # the template of a text that needs no filling in
SHORT = 80  # characters of a value that a message shows

SUBJECT = re.compile(r"\{(?:subject|0)?\}|\[X\]", re.IGNORECASE)  # marks of the subject's place
ANSWER = re.compile(r"\{(?:object|1)\}|\[Y\]", re.IGNORECASE)
END = re.compile(r"[\s.,;:!?。！？…'\"”’»)]*")  # what may follow the answer's mark
OPENING = ' \t\n"“„«('  # what may stand between a template and the answer's mark

HALF = re.compile("[\ud800-\udfff]")
ESCAPED = {chr(0xDC00 + byte) for byte in range(0x80, 0x100)}  # bytes that are no UTF-8, as Python has them

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
    about: Mapping[str, str] = field(default_factory=dict)  # description, source, licence, leaks, family
    where: str = ""


def read_json(path: Path) -> Any:
    """The file's JSON; a byte order mark is passed over."""
    with opened(path) as file:
        text = file.read()
    if not text.strip():
        raise InputError("is empty", where=path, fix="give a file with facts")
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"not readable as JSON ({error})", where=path, fix="repair or remove the file"
        ) from error


def slotted(template: object, where: object = "template") -> str:
    """A template with the subject's place as ``{}``, ending where the answer follows.

    ``{}``, ``{subject}``, ``{0}`` and ``[X]`` mark the subject. A mark for the answer (``[Y]``, ``{object}``,
    ``{1}``) is cut off with the full stop behind it.

    Raises:
        InputError: no single mark for the subject, or more than punctuation after the answer's.
    """
    text = template if isinstance(template, str) else ""
    asked, mark, rest = (text, "", "") if not (found := ANSWER.search(text)) else _parted(text, found)
    if len(SUBJECT.findall(text)) != 1:
        fix = "mark the subject's place once, as {}, {subject}, {0} or [X]"
        raise InputError(f"template {template!r} has no single {{}}", where=where, fix=fix)
    if not END.fullmatch(rest):
        fix = f"put {mark} at the end: a model answers after all of it"
        raise InputError(f"template {template!r} goes on after {mark}", where=where, fix=fix)
    return SUBJECT.sub("{}", asked)


def _parted(text: str, found: re.Match[str]) -> tuple[str, str, str]:
    return text[: found.start()].rstrip(OPENING), found[0], text[found.end() :]


def all_slotted(templates: Iterable[object], where: str, bad: Bad) -> tuple[str, ...]:
    """A file's templates, each once, see `slotted`; none where one is not usable, which is reported."""
    try:
        return tuple(dict.fromkeys(slotted(template, where) for template in templates))
    except InputError as error:
        bad(error)
        return ()


def unsound(row: Row) -> InputError | None:
    """What is wrong with the letters of a row: halves of surrogate pairs, which no file can hold."""
    texts = (row.relation, row.subject, row.object, *row.aliases, row.key, row.language, *row.templates)
    for text in texts:
        if not text.isascii() and (found := HALF.search(text)):
            if found[0] in ESCAPED:
                return InputError("is not UTF-8", where=row.where, fix="save the file as UTF-8")
            fix = "write the whole letter, or remove the row"
            return InputError(f"half a letter (a lone surrogate) in {short(text)}", where=row.where, fix=fix)
    return None


def short(value: Any) -> str:
    """A value, or what an error says, as a message shows it."""
    text = repr(value) if not isinstance(value, Exception) else str(value)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."

"""Other people's files as plain rows: ``rows(path)`` for a folder or file of any format relact reads.

A row is a fact (subject, object, templates) or a ready text with a label (its template is a bare ``{}``). Rows are
yielded one by one; ``relact.facts`` turns them into relations. Formats are recognised by content, not by options.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relact.errors import InputError

READY = ("{}",)  # the template of a text that needs no filling in


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


def rows(
    path: Path, *, label_column: str | None = None, skip_bad: bool = False, skipped: list[str] | None = None
) -> Iterator[Row]:
    """Rows of a file or folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            yield from json_rows(file)
        return
    yield from json_rows(path)


def json_rows(path: Path) -> Iterator[Row]:
    """LRE file, relact relation: told apart by the keys they have."""
    data = read_json(path)
    if isinstance(data, dict) and "samples" in data:
        return lre_rows(path, data)
    if isinstance(data, dict) and "facts" in data:
        return relation_rows(path, data)
    raise InputError("has neither samples (LRE) nor facts", where=path, fix="see docs/relations.md")


def read_json(path: Path) -> Any:
    """The file's JSON; a byte order mark is passed over."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"not readable as JSON ({error})", where=path, fix="repair or remove the file") from error


def lre_rows(path: Path, data: dict[str, Any]) -> Iterator[Row]:
    """LRE: name, prompt_templates, prompt_templates_zs, samples of subject and object. The relation is the file's stem."""
    templates = tuple(dict.fromkeys([*data.get("prompt_templates", []), *data.get("prompt_templates_zs", [])]))
    about = {"description": str(data.get("name", "")), "source": "LRE (Hernandez et al. 2023)", "licence": "MIT"}
    for number, sample in enumerate(data["samples"], 1):
        yield Row(
            path.stem, unescape(sample["subject"]), unescape(sample["object"]), templates=templates, about=about,
            where=f"{path}: sample {number}",
        )


def relation_rows(path: Path, data: dict[str, Any]) -> Iterator[Row]:
    """relact's own files: subjects and objects per language under one key."""
    about = {name: data[name] for name in ("description", "source", "licence", "leaks") if name in data}
    templates = {language: tuple(texts) for language, texts in data["templates"].items()}
    for number, fact in enumerate(data["facts"], 1):
        for language, subject in fact["subject"].items():
            answer, *aliases = fact["object"][language]
            yield Row(
                data["name"], subject, answer, tuple(aliases), fact["key"], language, templates[language], about,
                f"{path}: fact {number}",
            )


def unescape(text: str) -> str:
    r"""LRE files escaped some letters twice: a literal ``\u00ed`` in the decoded text means the letter."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)

"""relact's own relation files, as it brings them along: JSON with ``facts`` and ``templates`` by language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations.row import Bad, Row, all_slotted, short

ABOUT = ("description", "source", "licence", "leaks")


def recognised(data: Any) -> bool:
    """Whether a file's JSON is a relation of this form."""
    return isinstance(data, dict) and isinstance(data.get("facts"), list)


def rows(path: Path, data: dict[str, Any], bad: Bad) -> Iterator[Row]:
    """A row per fact and language: subjects and objects by language stand under one key."""
    if not isinstance(data.get("templates"), dict) or not data["templates"]:
        return bad(InputError("has no templates per language", where=path, fix='give {"en": ["... {} ..."]}'))
    templates = {
        language: all_slotted(texts, str(path), bad) for language, texts in data["templates"].items()
    }
    if not all(templates.values()):
        return
    about = {name: str(data[name]) for name in ABOUT if name in data}
    for number, fact in enumerate(data["facts"], 1):
        where = f"{path}: fact {number}"
        try:
            told = [(language, text, fact["object"][language]) for language, text in fact["subject"].items()]
            rows_of_fact = [
                Row(
                    data["name"],
                    subject,
                    answers[0],
                    tuple(answers[1:]),
                    fact["key"],
                    language,
                    templates[language],
                    about,
                    where,
                )
                for language, subject, answers in told
            ]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            problem = f"{error!r} in {short(fact)}"
            bad(InputError(problem, where=where, fix="give key, subject and object per language"))
        else:
            yield from rows_of_fact

"""Tables in JSON as records, in whatever shape: the orientations of pandas, a list below ``data``, SQuAD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relact.relations.columns import KNOWN, plain

WRAPPERS = ("data", "rows", "records", "examples", "instances", "facts")


def records(data: Any) -> list[Any] | None:
    """The records of a table; None where the data is none."""
    if isinstance(data, list):
        return data
    if not isinstance(data, dict):
        return None
    for name in WRAPPERS:
        listed = data.get(name)
        if isinstance(listed, list) and listed:
            names = data.get("columns")
            if isinstance(names, list) and all(isinstance(row, list) for row in listed):
                return [dict(zip(names, row, strict=False)) for row in listed]  # pandas' "split"
            return list(_questions(listed)) if _is_squad(listed) else listed
    named = any(plain(name) in KNOWN for name in data)
    if named and all(isinstance(column, list) for column in data.values()):
        return [dict(zip(data, row, strict=False)) for row in zip(*data.values(), strict=False)]
    inner = list(data.values())
    if not inner or not all(isinstance(part, dict) for part in inner):
        return None
    if named:  # pandas' "columns": of every column, index -> cell
        places = dict.fromkeys(place for column in inner for place in column)
        return [{name: column.get(place) for name, column in data.items()} for place in places]
    if any(plain(name) in KNOWN for name in inner[0]):
        return inner  # pandas' "index": of every row, column -> cell
    return None


def _is_squad(articles: list[Any]) -> bool:
    return all(
        isinstance(article, dict) and isinstance(article.get("paragraphs"), list) for article in articles
    )


def _questions(articles: list[Any]) -> Iterator[Any]:
    """SQuAD's questions, out of the paragraphs of its articles."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            yield from paragraph.get("qas", ()) if isinstance(paragraph, dict) else ()

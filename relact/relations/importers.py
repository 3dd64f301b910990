"""Other people's files as plain rows: ``rows(path)`` for a folder or file of any format relact reads.

Rows are yielded one by one, so memory does not grow with the file; `assembly` turns them into relations.
A file's format is recognised by its suffix and by what it holds; each has a module of its own:

- `lre`: JSON with ``samples`` and ``prompt_templates``; also a folder of them.
- `concepts` (ml-selfcond and lang_neuron): JSON with ``sentences`` (positive, negative); also their folder
  with ``concept_list.csv``.
- `native`, relact's own relation files: JSON with ``facts`` and ``templates``.
- `tabular` (.jsonl, .csv, .tsv, .parquet, a JSON list): facts (subject, object) or ready prompts (text), a
  relation or any other label column.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations import concepts, lre, native, tabular
from relact.relations.row import Bad, Row, read_json, unsound


def rows(
    path: Path, *, label_column: str | None = None, skip_bad: bool = False, skipped: list[str] | None = None
) -> Iterator[Row]:
    """Rows of a file or folder.

    Args:
        label_column: the column of a table that names the relation, whatever it is called.
        skip_bad: pass over what cannot be used; a line about each is appended to ``skipped``.

    Raises:
        InputError: with the file and the line, row or sample that cannot be used.
    """
    notes: list[str] = [] if skipped is None else skipped

    def bad(error: InputError) -> None:
        if not skip_bad:
            raise error
        notes.append(str(error))

    for row in _any(path, bad, label_column):
        if wrong := unsound(row):
            bad(wrong)
        else:
            yield row


def _any(path: Path, bad: Bad, label_column: str | None) -> Iterator[Row]:
    """Rows of a folder or file as its reader gives them."""
    if path.is_dir():
        yield from _folder(path, bad)
    elif path.suffix == ".json":
        yield from _json(path, read_json(path), bad, label_column)
    elif path.name == concepts.LIST:
        yield from concepts.rows(concepts.files(path, bad), bad)
    elif path.suffix in tabular.SUFFIXES:
        yield from tabular.rows(path, bad, label_column)
    else:
        known = ", ".join((".json", *tabular.SUFFIXES))
        raise InputError(f"unknown kind of file {path.suffix!r}", where=path, fix=f"use {known}")


def _folder(folder: Path, bad: Bad) -> Iterator[Row]:
    """Every JSON file below it, or what its concept list names; concepts last, for they share negatives."""
    listed = folder / concepts.LIST
    if listed.is_file():
        yield from concepts.rows(concepts.files(listed, bad), bad)
        return
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise InputError(
            "holds no .json files", where=folder, fix="give LRE's folder, or one file of another format"
        )
    of_concepts = []
    for path in paths:
        try:
            data = read_json(path)
        except InputError as error:
            bad(error)
            continue
        if concepts.recognised(data):
            of_concepts.append(path)
        else:
            yield from _json(path, data, bad, None)
    yield from concepts.rows(of_concepts, bad)


def _json(path: Path, data: Any, bad: Bad, label_column: str | None) -> Iterator[Row]:
    """Rows of a JSON file that holds ``data``."""
    if isinstance(data, list):
        entries = ((f"{path}: entry {number}", entry) for number, entry in enumerate(data, 1))
        yield from tabular.rows_of(entries, path, bad, label_column)
    elif concepts.recognised(data):
        yield from concepts.rows([path], bad)
    elif lre.recognised(data):
        yield from lre.rows(path, data, bad)
    elif native.recognised(data):
        yield from native.rows(path, data, bad)
    else:
        problem = "has none of samples (LRE), sentences (concept data set), facts (relact)"
        bad(InputError(problem, where=path, fix="see docs/relations.md for the formats"))

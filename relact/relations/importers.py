"""Other people's files as plain rows: ``rows(path)`` for a folder or file of any format relact reads.

Rows are yielded one by one, so memory does not grow with the file; `assembly` turns them into relations.
A file's format is recognised by its suffix and by what it holds; each has a module of its own:

- `lre`: JSON with ``samples`` and ``prompt_templates``; also a folder of them.
- `concepts` (ml-selfcond and lang_neuron): JSON with ``sentences`` (positive, negative); also their folder
  with ``concept_list.csv``.
- `native`, relact's own relation files: JSON with ``facts`` and ``templates``.
- `tabular` (.jsonl, .csv, .tsv, .txt, .parquet, a table in JSON, see `shapes`): facts (subject, object) or
  ready prompts (text), a relation or any other label column; which is which is decided in `columns`.

Files may be compressed, and in UTF-8, UTF-16 or an old western encoding (`opening`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations import concepts, lre, native, shapes, tabular
from relact.relations.columns import Naming
from relact.relations.opening import COMPRESSED, kind
from relact.relations.row import Bad, Row, read_json, unsound


def rows(
    path: Path, *, naming: Naming | None = None, skip_bad: bool = False, skipped: list[str] | None = None
) -> Iterator[Row]:
    """Rows of a file or folder.

    Args:
        naming: which column of a table is what, where the caller says so; it takes note of what was chosen.
        skip_bad: pass over what cannot be used; a line about each is appended to ``skipped``.

    Raises:
        InputError: with the file and the line, row or sample that cannot be used.
    """
    notes: list[str] = [] if skipped is None else skipped

    def bad(error: InputError) -> None:
        if not skip_bad:
            raise error
        notes.append(str(error))

    for row in _any(path, bad, naming or Naming()):
        if wrong := unsound(row):
            bad(wrong)
        else:
            yield row


def _any(path: Path, bad: Bad, naming: Naming) -> Iterator[Row]:
    """Rows of a folder or file as its reader gives them."""
    if path.is_dir():
        yield from _folder(path, bad, naming)
    elif kind(path) == ".json":
        yield from _json(path, read_json(path), bad, naming)
    elif path.name == concepts.LIST:
        yield from concepts.rows(concepts.files(path, bad), bad, own_negatives=naming.own_negatives)
    elif kind(path) in tabular.SUFFIXES:
        yield from tabular.rows(path, bad, naming)
    else:
        known = ", ".join((".json", *tabular.SUFFIXES))
        problem = f"unknown kind of file {kind(path)!r}"
        raise InputError(problem, where=path, fix=f"use {known}, or one of them with {', '.join(COMPRESSED)}")


def _folder(folder: Path, bad: Bad, naming: Naming) -> Iterator[Row]:
    """Every JSON file and table below it, or what its concept list names; concepts last, sharing negatives.

    Files of plain text are left alone: they may be anything.
    """
    listed = folder / concepts.LIST
    if listed.is_file():
        yield from concepts.rows(concepts.files(listed, bad), bad, own_negatives=naming.own_negatives)
        return
    kinds = {".json", *tabular.SUFFIXES} - {".txt"}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and kind(path) in kinds)
    if not paths:
        raise InputError(
            "holds no .json files and no tables",
            where=folder,
            fix="give LRE's folder, one of .jsonl or .parquet files, or one file of another format",
        )
    of_concepts = []
    for path in paths:
        try:
            if kind(path) != ".json":
                yield from tabular.rows(path, bad, naming)
                continue
            data = read_json(path)
        except InputError as error:
            bad(error)
            continue
        if concepts.recognised(data):
            of_concepts.append(path)
        else:
            yield from _json(path, data, bad, naming)
    yield from concepts.rows(of_concepts, bad, own_negatives=naming.own_negatives)


def _json(path: Path, data: Any, bad: Bad, naming: Naming) -> Iterator[Row]:
    """Rows of a JSON file that holds ``data``."""
    if concepts.recognised(data):
        yield from concepts.rows([path], bad, own_negatives=naming.own_negatives)
    elif lre.recognised(data):
        yield from lre.rows(path, data, bad)
    elif native.recognised(data):
        yield from native.rows(path, data, bad)
    elif (listed := shapes.records(data)) is not None:
        entries = ((f"{path}: entry {number}", entry) for number, entry in enumerate(listed, 1))
        yield from tabular.rows_of(entries, path, bad, naming)
    else:
        problem = "has none of samples (LRE), sentences (concept data set), facts (relact), records (a table)"
        bad(InputError(problem, where=path, fix="see docs/relations.md for the formats"))

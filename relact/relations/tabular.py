"""Tables of facts or of ready prompts, one record a line: .csv, .tsv, .jsonl, .parquet, or a JSON list.

Facts have a subject and an object, ready prompts a text; a relation or any other label column says what they
are labelled with. Lines are read one by one, a Parquet file batch by batch: memory does not grow with the
file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations.identity import same
from relact.relations.row import READY, Bad, Row, short, slotted

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
NAMES = {  # what we need -> what a column of it may be called
    "relation": ("relation", "label", "concept"),
    "text": ("text", "prompt", "sentence"),
    "subject": ("subject",),
    "object": ("object", "answer"),
    "aliases": ("aliases", "answers"),
    "key": ("key",),
    "language": ("language", "lang"),
    "template": ("template", "templates"),
}
LONGEST_CELL = 1 << 27  # characters of a CSV's cell
BATCH = 4096  # rows of a Parquet file in memory at once


def rows(path: Path, bad: Bad, label_column: str | None) -> Iterator[Row]:
    """Rows of a table by the suffix of its file."""
    if path.stat().st_size == 0:
        raise InputError("is empty", where=path, fix="give a table with facts or prompts")
    if path.suffix == ".parquet":
        lines = _parquet_lines(path, label_column)
    else:
        lines = _jsonl_lines(path) if path.suffix == ".jsonl" else csv_lines(path)
    yield from rows_of(lines, path, bad, label_column)


def rows_of(
    records: Iterable[tuple[str, Any]], path: Path, bad: Bad, label_column: str | None
) -> Iterator[Row]:
    """Rows of (where, record); which column is which is decided at the first good record."""
    columns: dict[str, str] | None = None
    for where, record in records:
        if not isinstance(record, dict):
            bad(InputError(f"not a record ({short(record)})", where=where, fix="repair or remove the line"))
            continue
        if columns is None:
            columns = _columns(record, path, label_column)
        row = _row(record, columns, where, path.stem)
        if isinstance(row, InputError):
            bad(row)
        else:
            yield row


# --- lines to (where, record); what is not a record is an error, for `rows_of` to report


def csv_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Lines as dictionaries. The delimiter is the one that the header holds most of."""
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), restkey="", restval=None)
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if "" in record and any(record.pop("")):
                yield where, ValueError("more cells than the header has columns")
            else:
                yield where, record


def _jsonl_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except json.JSONDecodeError as error:
                    yield f"{path}:{number}", error


def _parquet_lines(path: Path, label_column: str | None) -> Iterator[tuple[str, Any]]:
    """The columns we know: a wide or long file costs no more memory than a small one."""
    import pyarrow.parquet  # only for those who read such a file

    known = {name for names in NAMES.values() for name in names}
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            wanted = [name for name in there if name == label_column or name.strip().lower() in known]
            if not wanted or (label_column is not None and label_column not in there):
                raise _no_columns(path, there, label_column)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"not readable as Parquet ({error})", where=path, fix="write the file again"
        ) from error


# --- which column is which


def _columns(record: Mapping[str, Any], path: Path, label_column: str | None) -> dict[str, str]:
    """What we need (a key of `NAMES`) -> what the table calls it."""
    there = {str(name).strip().lower(): name for name in record}
    columns: dict[str, str] = {}
    for need, names in NAMES.items():
        for name in names:
            if name in there:
                columns.setdefault(need, there[name])
    if label_column is not None:
        columns["relation"] = label_column
    if (label_column or "") not in ("", *record) or (
        "text" not in columns and not {"subject", "object"} <= columns.keys()
    ):
        raise _no_columns(path, record, label_column)
    return columns


def _no_columns(path: Path, there: Iterable[Any], label_column: str | None) -> InputError:
    names = list(map(str, there))
    if label_column is not None and label_column not in names:
        return InputError(f"no column {label_column!r}", where=path, fix=f"columns are {', '.join(names)}")
    problem = f"neither facts nor prompts among the columns {', '.join(names)}"
    return InputError(problem, where=path, fix="name them subject and object, or text")


# --- records to rows


def _row(record: Mapping[str, Any], columns: Mapping[str, str], where: str, stem: str) -> Row | InputError:
    """The row of one record, or what is wrong with it. ``stem``: the relation where no column names it."""

    def cell(need: str) -> Any:
        return record.get(columns[need]) if need in columns else None

    ready = ("text" in columns and "template" not in columns) or not {"subject", "object"} <= columns.keys()
    subject = cell("text" if ready else "subject")
    answers = [*_texts(cell("object")), *_texts(cell("aliases"), "|")]
    relation = _label(cell("relation"), columns["relation"]) if "relation" in columns else stem
    missing = [
        columns[need]
        for need, value in (("relation", relation), ("text" if ready else "subject", subject))
        if not isinstance(value, str) or not value.strip()
    ]
    if not ready and not answers:
        missing.append(columns["object"])
    if missing:
        return InputError(
            f"column {missing[0]!r} has no text", where=where, fix="fill it in or remove the line"
        )
    try:
        templates = READY if ready else tuple(slotted(text, where) for text in _texts(cell("template")))
    except InputError as error:
        return error
    key = str(cell("key") or "") or same(str((cell("subject") if "subject" in columns else "") or subject))
    language = str(cell("language") or "")
    subject = subject if ready else subject.strip()
    answer, *aliases = dict.fromkeys(answers) if answers else ("",)
    return Row(relation, subject, answer, tuple(aliases), key, language, templates, where=where)


def _label(value: Any, column: str) -> Any:
    """A label as a relation's name. Bare numbers and truth values carry their column's: ``toxic=1``."""
    if isinstance(value, bool | int | float) or (
        isinstance(value, str) and re.fullmatch(r"-?[\d.]+|(?i:true|false)", value)
    ):
        return f"{column}={value}"
    return value.strip() if isinstance(value, str) else value


def _texts(value: Any, mark: str | None = None) -> list[str]:
    """A cell as texts: a list, a JSON list, texts parted by a mark, a single one, or none."""
    if isinstance(value, str):
        if value.startswith('["'):
            try:
                return _texts(json.loads(value))
            except json.JSONDecodeError:
                pass
        return [part.strip() for part in (value.split(mark) if mark else [value]) if part.strip()]
    if isinstance(value, list | tuple):
        return [str(part).strip() for part in value if part is not None and str(part).strip()]
    return [] if value is None else [str(value)]

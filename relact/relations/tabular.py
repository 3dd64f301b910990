"""Tables of facts or of ready prompts, one record a line: .csv, .tsv, .txt, .jsonl, .parquet, or JSON.

Facts have a subject and an object, ready prompts a text; a relation or any other label column says what they
are labelled with. Lines are read one by one, a Parquet file batch by batch: memory does not grow with the
file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from relact.errors import InputError
from relact.relations.cells import is_nothing, texts
from relact.relations.columns import KNOWN, NAMES, SAMPLE, Naming, no_columns, plain
from relact.relations.identity import same
from relact.relations.opening import kind, opened, stem
from relact.relations.row import READY, Bad, Row, short, slotted

SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt", ".parquet")
LONGEST_CELL = 1 << 27  # characters of a CSV's cell
BATCH = 4096  # rows of a Parquet file in memory at once
TAB = "\t"


def rows(path: Path, bad: Bad, naming: Naming) -> Iterator[Row]:
    """Rows of a table by the suffix of its file."""
    if path.stat().st_size == 0:
        raise InputError("is empty", where=path, fix="give a table with facts or prompts")
    lines = {".parquet": _parquet_lines, ".jsonl": _jsonl_lines, ".txt": _txt_lines}
    read = lines.get(kind(path))
    yield from rows_of(read(path, naming) if read else csv_lines(path), path, bad, naming)


def rows_of(records: Iterable[tuple[str, Any]], path: Path, bad: Bad, naming: Naming) -> Iterator[Row]:
    """Rows of (where, record); which column is which is decided by the first good records."""
    flat = ((where, _flat(record)) for where, record in records)
    first = list(islice(flat, SAMPLE))
    sample = [record for _, record in first if isinstance(record, dict)]
    columns = naming.columns(sample, path) if sample else {}
    for where, record in chain(first, flat):
        if not isinstance(record, dict):
            bad(InputError(f"not a record ({short(record)})", where=where, fix="repair or remove the line"))
            continue
        if not columns:
            columns = naming.columns([record], path)
        row = _row(record, columns, where, stem(path), naming)
        if isinstance(row, InputError):
            bad(row)
        else:
            yield row


def _flat(record: Any) -> Any:
    """A record with the fields of a record in it that holds the subject, as CounterFact's rewrites."""
    if isinstance(record, dict):
        for value in record.values():
            if isinstance(value, dict) and any(plain(name) in NAMES["subject"] for name in value):
                return {**value, **record}
    return record


# --- lines to (where, record); what is not a record is an error, for `rows_of` to report


def csv_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Lines as dictionaries. The delimiter is the one that the header holds most of.

    A column without a name is the index of a table of pandas, and left out.
    """
    csv.field_size_limit(LONGEST_CELL)
    with opened(path) as file:
        first = next((line for line in file if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    raw = delimiter == TAB and not _encloses_in_quotes(path)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if raw else csv.QUOTE_MINIMAL
    with opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        header: list[str] | None = None
        for where, cells in _parsed(reader, path):
            if isinstance(cells, list) and header is None:
                header = cells
            elif not isinstance(cells, list) or header is None:
                yield where, cells
            elif any(cells[len(header) :]):
                yield where, ValueError("more cells than the header has columns")
            else:
                pairs = zip_longest(header, cells[: len(header)])
                yield where, {name: cell for name, cell in pairs if name.strip()}


def _parsed(reader: Any, path: Path) -> Iterator[tuple[str, list[str] | csv.Error]]:
    """Cells of every line that is not empty, or why it has none; after a bad quote the next line is read."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield f"{path}:{start}", error
            continue
        if cells is None:
            return
        if cells:
            yield f"{path}:{reader.line_num}", cells


def _encloses_in_quotes(path: Path) -> bool:
    """Whether a tab-separated file encloses cells in quotes, or has quotes as letters, as GLUE's files do.

    They are letters where they do not pair up, or where cells that they enclose would swallow lines which
    have every cell without that.
    """
    with opened(path) as file:
        lines = (line for line in file if line.strip())
        width = next(lines, "").count(TAB)
        full, quotes, number = True, False, 1
        for line in lines:
            number += 1
            full = full and line.count(TAB) == width
            quotes = quotes or '"' in line
    if not quotes:
        return False
    with opened(path) as file:
        reader = csv.reader(file, delimiter=TAB, strict=True)
        try:
            parsed = sum(1 for cells in reader if "".join(cells).strip())
        except csv.Error:
            return False
    return parsed == number or not full


def _txt_lines(path: Path, naming: Naming) -> Iterator[tuple[str, Any]]:
    """JSON lines or a table; pairs of words without a header (BATS), where a slash parts answers."""
    with opened(path) as file:
        first = next((line for line in file if line.strip()), "")
    cells = first.split(TAB)
    if first.lstrip().startswith("{"):
        yield from _jsonl_lines(path, naming)
    elif len(cells) != 2 or {plain(cell) for cell in cells} & KNOWN or naming.given:
        yield from csv_lines(path)
    else:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                subject, _, answers = line.strip().partition(TAB)
                if subject:
                    yield f"{path}:{number}", {"subject": subject, "aliases": answers.split("/")}


def _jsonl_lines(path: Path, naming: Naming) -> Iterator[tuple[str, Any]]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    yield f"{path}:{number}", error


def _parquet_lines(path: Path, naming: Naming) -> Iterator[tuple[str, Any]]:
    """The columns we know: a wide or long file costs no more memory than a small one."""
    import pyarrow.parquet  # only for those who read such a file

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            naming.require(schema.names, path)
            wanted = [
                column.name
                for column in schema
                if plain(column.name) in KNOWN
                or column.name in naming.given.values()
                or _holds_subject(column)
            ]
            if not wanted:
                raise no_columns(path, schema.names)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"not readable as Parquet ({error})", where=path, fix="write the file again"
        ) from error


def _holds_subject(column: Any) -> bool:
    """Whether a column is of records with a subject, see `_flat`."""
    import pyarrow

    fields = column.type if pyarrow.types.is_struct(column.type) else ()
    return any(plain(field.name) in NAMES["subject"] for field in fields)


# --- records to rows


def _row(
    record: Mapping[str, Any], columns: Mapping[str, str], where: str, stem: str, naming: Naming
) -> Row | InputError:
    """The row of one record, or what is wrong with it. ``stem``: the relation where no column names it."""

    def cell(need: str) -> Any:
        return record.get(columns[need]) if need in columns else None

    ready, label = "text" in columns, naming.label(cell("relation"))
    subject = cell("text" if ready else "subject")
    relation = _relation(label, cell("group"), columns) if "relation" in columns else stem
    asked = naming.asked if ready and _only_labels(columns) else None
    try:
        answers = [*texts(cell("object")), *texts(cell("aliases"), "|")] if asked is None else [_word(label)]
        own = READY if asked is None else (asked,)
        templates = own if ready else tuple(slotted(text, where) for text in texts(cell("template")))
    except InputError as error:
        return error
    except ValueError as error:
        return InputError(str(error), where=where, fix="give a text, a list of texts, or nothing")
    missing = [
        columns[need]
        for need, value in (("relation", relation), ("text" if ready else "subject", subject))
        if not isinstance(value, str) or not value.strip()
    ]
    if not ready and not answers:
        missing.append(columns.get("object", columns.get("aliases", "")))
    if missing:
        return InputError(
            f"column {missing[0]!r} has no text", where=where, fix="fill it in or remove the line"
        )
    about = cell("subject")
    key = _word(cell("key")) or same(_word(about) or subject)
    subject = subject if ready and asked is None else subject.strip()
    answer, *aliases = dict.fromkeys(answers) if answers else ("",)
    told, about = _word(cell("language")), {} if asked is None else {"family": stem}
    return Row(relation, subject, answer, tuple(aliases), key, told, templates, about, where)


def _only_labels(columns: Mapping[str, str]) -> bool:
    """Whether texts have labels and no answers."""
    return "relation" in columns and not {"object", "aliases"} & columns.keys()


def _word(value: Any) -> str:
    """A cell that says a name, as a text; empty where it holds nothing."""
    return "" if is_nothing(value) else str(value).strip()


def _relation(label: Any, group: Any, columns: Mapping[str, str]) -> Any:
    """A relation's name: its label, or ``group=label`` where a column names groups."""
    if "group" not in columns:
        return _label(label, columns["relation"])
    return "" if is_nothing(label) or is_nothing(group) else f"{_word(group)}={_word(label)}"


def _label(value: Any, column: str) -> Any:
    """A label as a relation's name. Bare numbers and truth values carry their column's: ``toxic=1``."""
    if is_nothing(value):
        return ""
    if isinstance(value, bool | int | float) or (
        isinstance(value, str) and re.fullmatch(r"-?(?:\d[\d.]*|\.\d+)|(?i:true|false)", value)
    ):
        return f"{column}={value}"
    return value.strip() if isinstance(value, str) else value

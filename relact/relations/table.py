"""The prompt table: one prompt a row, its columns, its files, and what it holds in short."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pandas

from relact import schema
from relact.errors import InputError
from relact.relations.identity import same
from relact.relations.row import HALF

COLUMNS = ("text", "relation", "subject", "object", "answers", "template", "language", "split", "shots")
SPLITS = (schema.IDENTIFY, schema.TEST)


def summary(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A row per relation: identify and test prompts, templates, shots, and a note of what was left out.

    Relations that were dropped come last, without prompts, and the note says why.
    """
    by_relation = frame.groupby("relation", sort=False)
    columns = {role: (frame["split"] == role).groupby(frame["relation"], sort=False).sum() for role in SPLITS}
    table = pandas.DataFrame(
        {**columns, "templates": by_relation["template"].nunique(), "shots": by_relation["shots"].max()}
    ).reset_index()
    notes = frame.attrs.get("notes", {})
    table = table.assign(note=[notes.get(name, "") for name in table["relation"]])
    dropped = frame.attrs.get("dropped", {})
    if not dropped:
        return table
    nothing = dict.fromkeys(table.columns, 0)
    rows = [{**nothing, "relation": name, "note": f"dropped: {why}"} for name, why in dropped.items()]
    return pandas.concat([table, pandas.DataFrame(rows)], ignore_index=True)


def preview(frame: pandas.DataFrame, *, per_relation: int = 1) -> str:
    """The first prompts of every relation as plain text, the answer behind an arrow."""
    parts = []
    for name, rows in frame.groupby("relation", sort=False):
        parts.append(f"[{name}]")
        for text, answers in list(zip(rows["text"], rows["answers"], strict=True))[:per_relation]:
            parts.append(f"{text}  ->  {' | '.join(answers) or '(no answer)'}")
    return "\n".join(parts)


def write(frame: pandas.DataFrame, path: str | Path) -> Path:
    """Write a checked prompt table as .parquet, .csv or .jsonl; the file appears whole or not at all."""
    path = Path(path)
    frame = check(frame, where=path)
    part = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(frame, path, part)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(
            f"cannot be written ({error.strerror})", where=path, fix="choose another place"
        ) from error
    return path


def _encode(frame: pandas.DataFrame, path: Path, part: Path) -> None:
    if path.suffix == ".parquet":
        frame.to_parquet(part, index=False)
    elif path.suffix == ".csv":
        plain = frame.assign(
            answers=[json.dumps(answers, ensure_ascii=False) for answers in frame["answers"]]
        )
        plain.to_csv(part, index=False)
    elif path.suffix == ".jsonl":
        with part.open("w", encoding="utf-8") as file:
            for row in frame.to_dict("records"):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        raise _unknown_kind(path)


def read(prompts: pandas.DataFrame | str | Path) -> pandas.DataFrame:
    """Read and check a prompt table, from a file or in memory.

    Only ``text`` and ``relation`` are required; the rest has defaults.

    Raises:
        InputError: one line with the file, the row and the column.
    """
    if isinstance(prompts, pandas.DataFrame):
        return check(prompts)
    path = Path(prompts)
    if not path.is_file():
        raise InputError("no such prompt file", where=path, fix="make one with `relact prompts ... -o FILE`")
    try:
        if path.suffix == ".parquet":
            frame = pandas.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            frame = pandas.DataFrame([json.loads(line) for line in lines if line.strip()], dtype=object)
        else:
            raise _unknown_kind(path)
    except (ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"not readable ({error})", where=path, fix="make it again with `relact prompts`"
        ) from error
    return check(frame, where=path)


def recognised(path: Path) -> bool:
    """Whether a file holds a prompt table as `write` leaves it, rather than facts to make prompts of."""
    if not path.is_file():
        return False
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet  # only for those who read such a file

            names = pyarrow.parquet.read_schema(path).names
        elif path.suffix == ".csv":
            names = list(pandas.read_csv(path, nrows=0, encoding="utf-8-sig"))
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as file:
                names = list(json.loads(file.readline()))
        else:
            return False
    except (ValueError, TypeError, OSError):
        return False
    return set(COLUMNS) <= set(names)


def _unknown_kind(path: Path) -> InputError:
    return InputError(f"unknown kind of file {path.suffix!r}", where=path, fix="use .parquet, .csv or .jsonl")


def check(frame: pandas.DataFrame, *, where: object = "prompts") -> pandas.DataFrame:
    """The table with exactly the columns of ``COLUMNS`` and plain values.

    Raises:
        InputError: with the row and the column.
    """
    for column in ("text", "relation"):
        if column not in frame:
            fix = f"a prompt table has {' '.join(COLUMNS)}: `relact prompts FILE -o prompts.parquet`"
            raise InputError(f"column {column!r} is missing", where=where, fix=fix)
    if not len(frame):
        raise InputError("has no prompts", where=where, fix="give at least two")
    absent: dict[str, object] = {"language": "en", "split": schema.IDENTIFY, "shots": 0}
    cells: dict[str, list[object]] = {}
    for column in COLUMNS:
        if column == "answers" and column not in frame:
            values: list[object] = [[value] if value else [] for value in cells["object"]]
        else:
            values = list(frame[column]) if column in frame else [absent.get(column, "")] * len(frame)
        cells[column] = []
        for row, value in enumerate(values, 1):
            cell, fix = _cell(column, value)
            if fix:
                raise InputError(f"row {row}, column {column!r}: {value!r}", where=where, fix=fix)
            cells[column].append(cell)
    checked = pandas.DataFrame(cells, columns=list(COLUMNS))
    _require_held_out(checked, where)
    checked.attrs = dict(frame.attrs)
    return checked


def _require_held_out(frame: pandas.DataFrame, where: object) -> None:
    """Refuse a subject of a relation that identifies and is tested: tables come from anywhere."""
    roles: dict[tuple[str, str], str] = {}
    for row, relation, subject, split in zip(
        range(1, len(frame) + 1), frame["relation"], frame["subject"], frame["split"], strict=True
    ):
        if subject.strip() and roles.setdefault((relation, same(subject)), split) != split:
            problem = f"row {row}: {subject!r:.80} of {relation} is in both splits"
            raise InputError(problem, where=where, fix="let every subject identify or be tested, not both")


def _cell(column: str, value: object) -> tuple[object, str]:
    """A cell's plain value, and what to do where it is not usable."""
    if column == "answers":
        return _answers(value)
    if column == "shots":
        number = str(value).removesuffix(".0")
        return (int(number), "") if number.isdecimal() else (0, "give a number, 0 or more")
    if not isinstance(value, str):
        return "", "give a text"
    if HALF.search(value):
        return "", "write whole letters: this is half of one (a lone surrogate)"
    if column in ("text", "relation", "language") and not value.strip():
        return "", "fill it in"
    if column == "split" and value not in SPLITS:
        return "", "use identify or test"
    return value, schema.trouble_of_label(value) if column == "relation" else ""


def _answers(value: object) -> tuple[object, str]:
    """A list of texts as it is, or as a CSV holds it, in JSON."""
    try:
        listed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        listed = None
    if isinstance(listed, Iterable) and not isinstance(listed, str | dict):
        answers = list(listed)
        if all(isinstance(answer, str) and not HALF.search(answer) for answer in answers):
            return answers, ""
    return [], 'write a list of texts: ["Paris"]'

"""Other people's files as plain rows: ``rows(path)`` for a folder or file of any format relact reads.

A row is a fact (subject, object, templates) or a ready text with a label (its template is a bare ``{}``).
Rows are yielded one by one, a Parquet file batch by batch, so memory does not grow with the file;
``relact.facts`` turns them into relations. Formats are recognised by what a file holds:

- LRE: JSON with ``samples`` and ``prompt_templates``; also a folder of them.
- ml-selfcond and lang_neuron: JSON with ``sentences`` (positive, negative); also their folder with
  ``concept_list.csv``.
- relact's own relation files: JSON with ``facts`` and ``templates``.
- Tables (.jsonl, .csv, .tsv, .parquet, a JSON list): facts (subject, object) or ready prompts (text), a
  relation or any other label column.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relact.errors import InputError

READY = ("{}",)  # the template of a text that needs no filling in
NEGATIVE = "negative"  # the relation of a concept data set's negative sentences
TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
NAMES = {  # what a column may be called
    "relation": ("relation", "label", "concept"),
    "text": ("text", "prompt", "sentence"),
    "subject": ("subject",),
    "object": ("object", "answer"),
    "aliases": ("aliases", "answers"),
    "key": ("key",),
    "language": ("language", "lang"),
    "template": ("template", "templates"),
}


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


Bad = Callable[[InputError], None]  # raises the error, or notes it and goes on


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

    if path.is_dir():
        yield from _folder(path, bad)
    elif path.suffix == ".json":
        yield from _json(path, bad, label_column)
    elif path.name == "concept_list.csv":
        yield from _concepts(_concept_files(path, bad), bad)
    elif path.suffix in TABLES:
        yield from _table(path, bad, label_column)
    else:
        raise InputError(
            f"unknown kind of file {path.suffix!r}", where=path, fix=f"use .json, {', '.join(TABLES)}"
        )


# --- folders and JSON
# -------------------------------------------------------------------------------------------------


def _folder(folder: Path, bad: Bad) -> Iterator[Row]:
    listed = folder / "concept_list.csv"
    if listed.is_file():
        yield from _concepts(_concept_files(listed, bad), bad)
        return
    files = sorted(folder.rglob("*.json"))
    if not files:
        raise InputError(
            "holds no .json files", where=folder, fix="give LRE's folder, or one file of another format"
        )
    concepts = []
    for path in files:
        try:
            data = read_json(path)
        except InputError as error:
            bad(error)
            continue
        if _is_concept(data):
            concepts.append(path)
        else:
            yield from _json(path, bad, None, data)
    yield from _concepts(concepts, bad)


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


def _json(path: Path, bad: Bad, label_column: str | None, data: Any = None) -> Iterator[Row]:
    data = read_json(path) if data is None else data
    if isinstance(data, list):
        yield from _records(
            ((f"{path}: entry {at}", one) for at, one in enumerate(data, 1)), path, bad, label_column
        )
    elif _is_concept(data):
        yield from _concepts([path], bad)
    elif isinstance(data, dict) and isinstance(data.get("samples"), list):
        yield from lre_rows(path, data, bad)
    elif isinstance(data, dict) and isinstance(data.get("facts"), list):
        yield from relation_rows(path, data, bad)
    else:
        what = "has none of samples (LRE), sentences (concept data set), facts (relact)"
        bad(InputError(what, where=path, fix="see docs/relations.md for the formats"))


def lre_rows(path: Path, data: dict[str, Any], bad: Bad) -> Iterator[Row]:
    """LRE: prompt_templates, prompt_templates_zs, samples of subject and object.
    The relation is the file's stem.
    """
    templates = tuple(
        dict.fromkeys([*data.get("prompt_templates", ()), *data.get("prompt_templates_zs", ())])
    )
    if _slots_wrong(templates, str(path), bad):
        return
    about = {
        "description": str(data.get("name", "")),
        "source": "LRE (Hernandez et al. 2023)",
        "licence": "MIT",
    }
    for number, sample in enumerate(data["samples"], 1):
        where = f"{path}: sample {number}"
        given = [sample.get(name) for name in ("subject", "object")] if isinstance(sample, dict) else []
        pair = [_unescape(text) for text in given if isinstance(text, str) and text.strip()]
        if len(pair) == 2:
            yield Row(path.stem, pair[0], pair[1], templates=templates, about=about, where=where)
        else:
            bad(
                InputError(
                    f"no subject and object in {_short(sample)}", where=where, fix="give both as texts"
                )
            )


def relation_rows(path: Path, data: dict[str, Any], bad: Bad) -> Iterator[Row]:
    """relact's own files: subjects and objects per language under one key."""
    about: dict[str, str] = {
        name: str(data[name]) for name in ("description", "source", "licence", "leaks") if name in data
    }
    if not isinstance(data.get("templates"), dict) or not data["templates"]:
        return bad(InputError("has no templates per language", where=path, fix='give {"en": ["... {} ..."]}'))
    templates = {language: tuple(texts) for language, texts in data["templates"].items()}
    if _slots_wrong([text for texts in templates.values() for text in texts], str(path), bad):
        return
    for number, fact in enumerate(data["facts"], 1):
        where = f"{path}: fact {number}"
        try:
            told = [(one, subject, fact["object"][one]) for one, subject in fact["subject"].items()]
            made = [
                Row(
                    data["name"],
                    subject,
                    answers[0],
                    tuple(answers[1:]),
                    fact["key"],
                    one,
                    templates[one],
                    about,
                    where,
                )
                for one, subject, answers in told
            ]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            bad(
                InputError(
                    f"{error!r} in {_short(fact)}",
                    where=where,
                    fix="give key, subject and object per language",
                )
            )
        else:
            yield from made


def _unescape(text: str) -> str:
    r"""LRE files escaped some letters twice: a literal ``\u00ed`` in the decoded text means the letter."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text).strip()


def _slots_wrong(templates: Iterable[str], where: str, bad: Bad) -> bool:
    for text in templates:
        if not isinstance(text, str) or text.count("{}") != 1:
            fix = "mark the subject's place once, as {}"
            bad(InputError(f"template {text!r} has no single {{}}", where=where, fix=fix))
            return True
    return False


# --- concept data sets
# ------------------------------------------------------------------------------------------------


def _is_concept(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("sentences"), dict)


def _concept_files(listed: Path, bad: Bad) -> list[Path]:
    """The JSON of every group and concept in the list: ``group/concept.json`` beside it,
    or below ``json/``.
    """
    found = []
    for where, line in _csv_lines(listed):
        group, concept = str(line.get("group") or ""), str(line.get("concept") or "")
        places = [listed.parent / top / group / f"{concept}.json" for top in ("", "json")]
        there = [place for place in places if place.is_file()]
        if there and concept:
            found.append(there[0])
        else:
            bad(
                InputError(
                    f"no file {group}/{concept}.json", where=where, fix="remove the line or add the file"
                )
            )
    return found


def _concepts(paths: Iterable[Path], bad: Bad) -> Iterator[Row]:
    """Positive sentences under their concept, then every negative once under ``negative``.

    A sentence that is a concept's positive is no negative, even where another concept lists it so: with
    several concepts, the others' positives are negatives anyway. A name that two groups use becomes
    ``group/concept``.
    """
    read = []
    for path in paths:
        data = read_json(path)
        if _is_concept(data):
            read.append(
                (path, str(data.get("group", "")), str(data.get("concept") or path.stem), data["sentences"])
            )
        else:
            bad(InputError("has no sentences", where=path, fix="give positive and negative sentences"))
    names = [concept for _, _, concept, _ in read]
    used: set[str] = set()
    for path, group, concept, sentences in read:
        name = concept if names.count(concept) == 1 else f"{group}/{concept}"
        for row in _sentences(path, name, sentences, "positive", bad):
            used.add(row.subject)
            yield row
    for path, _, _, sentences in read:
        for row in _sentences(path, NEGATIVE, sentences, "negative", bad):
            if row.subject not in used:
                used.add(row.subject)
                yield row


def _sentences(path: Path, relation: str, sentences: dict[str, Any], kind: str, bad: Bad) -> Iterator[Row]:
    for number, text in enumerate(sentences.get(kind) or (), 1):
        where = f"{path}: {kind} sentence {number}"
        if isinstance(text, str) and text.strip():
            yield Row(relation, text, templates=READY, where=where)
        else:
            bad(InputError(f"{_short(text)} is not a text", where=where, fix="fill it in or remove it"))


# --- tables
# -----------------------------------------------------------------------------------------------------------


def _table(path: Path, bad: Bad, label_column: str | None) -> Iterator[Row]:
    if path.stat().st_size == 0:
        raise InputError("is empty", where=path, fix="give a table with facts or prompts")
    if path.suffix == ".parquet":
        lines = _parquet_lines(path, label_column)
    else:
        lines = _jsonl_lines(path) if path.suffix == ".jsonl" else _csv_lines(path)
    yield from _records(lines, path, bad, label_column)


def _jsonl_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except json.JSONDecodeError as error:
                    yield f"{path}:{number}", error


def _csv_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Lines as dictionaries. The delimiter is the one that the header holds most of."""
    csv.field_size_limit(1 << 27)
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


def _parquet_lines(path: Path, label_column: str | None) -> Iterator[tuple[str, Any]]:
    """Rows of the columns we know, 4096 at a time: a wide
    or long file costs no more memory than a small one.
    """
    import pyarrow.parquet  # here, because every other import of relact.facts would pay for it

    known = {name for names in NAMES.values() for name in names}
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            wanted = [name for name in there if name == label_column or name.strip().lower() in known]
            if not wanted or (label_column is not None and label_column not in there):
                raise _no_columns(path, there, label_column)
            number = 0
            for batch in file.iter_batches(batch_size=4096, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"not readable as Parquet ({error})", where=path, fix="write the file again"
        ) from error


def _records(
    lines: Iterable[tuple[str, Any]], path: Path, bad: Bad, label_column: str | None
) -> Iterator[Row]:
    """Rows of a table's records; which column is which is decided at the first good record."""
    columns: dict[str, str] | None = None
    for where, record in lines:
        if not isinstance(record, dict):
            bad(InputError(f"not a record ({_short(record)})", where=where, fix="repair or remove the line"))
            continue
        if columns is None:
            columns = _columns(record, path, label_column)
        row = _row(record, columns, where, path.stem)
        if isinstance(row, InputError):
            bad(row)
        else:
            yield row


def _columns(record: Mapping[str, Any], path: Path, label_column: str | None) -> dict[str, str]:
    """What we need -> what the table calls it."""
    there = {str(name).strip().lower(): name for name in record}
    found: dict[str, str] = {}
    for what, names in NAMES.items():
        for name in names:
            if name in there:
                found.setdefault(what, there[name])
    if label_column is not None:
        found["relation"] = label_column
    if (label_column or "") not in ("", *record) or (
        "text" not in found and not {"subject", "object"} <= found.keys()
    ):
        raise _no_columns(path, record, label_column)
    return found


def _no_columns(path: Path, there: Iterable[Any], label_column: str | None) -> InputError:
    names = list(map(str, there))
    if label_column is not None and label_column not in names:
        return InputError(f"no column {label_column!r}", where=path, fix=f"columns are {', '.join(names)}")
    what = f"neither facts nor prompts among the columns {', '.join(names)}"
    return InputError(what, where=path, fix="name them subject and object, or text")


def _row(record: Mapping[str, Any], columns: Mapping[str, str], where: str, stem: str) -> Row | InputError:
    def cell(what: str) -> Any:
        return record.get(columns[what]) if what in columns else None

    ready = ("text" in columns and "template" not in columns) or not {"subject", "object"} <= columns.keys()
    subject = cell("text" if ready else "subject")
    answers = [*_texts(cell("object")), *_texts(cell("aliases"), "|")]
    relation = _label(cell("relation"), columns["relation"]) if "relation" in columns else stem
    missing = [
        columns[what]
        for what, value in (("relation", relation), ("text" if ready else "subject", subject))
        if not isinstance(value, str) or not value.strip()
    ]
    if not ready and not answers:
        missing.append(columns["object"])
    if missing:
        return InputError(
            f"column {missing[0]!r} has no text", where=where, fix="fill it in or remove the line"
        )
    if any(re.search("[\ud800-\udfff]", text) for text in (subject, relation, *answers)):
        return InputError("is not UTF-8", where=where, fix="save the file as UTF-8")
    template = READY if ready else tuple(_texts(cell("template")))
    if any(text.count("{}") != 1 for text in template):
        return InputError(
            f"template {template[0]!r} has no single {{}}", where=where, fix="mark the subject's place as {}"
        )
    key = str(cell("key") or (cell("subject") if "subject" in columns else "") or subject)
    language = str(cell("language") or "")
    first, *aliases = dict.fromkeys(answers) if answers else ("",)
    return Row(
        relation,
        subject if ready else subject.strip(),
        first,
        tuple(aliases),
        key,
        language,
        template,
        {},
        where,
    )


def _label(value: Any, column: str) -> Any:
    """A label as a relation's name. Bare numbers and truth values are named with their column:
    ``toxic=1``.
    """
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


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, Exception) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Which column of a table is what: those that are named by the caller, and well-known names of the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations.cells import is_nothing
from relact.relations.row import SUBJECT

NAMES = {  # what we need -> what a column of it may be called, in lower case; the first one there is taken
    "relation": ("relation", "label", "concept", "relation_id", "predicate_id", "predicate"),
    "text": ("text", "prompt", "sentence", "statement", "question", "tweet"),
    "subject": ("subject", "sub_label", "subject_label", "subjectentity", "input", "head"),
    "object": (
        "object",
        "answer",
        "obj_label",
        "object_label",
        "output",
        "ground_truth",
        "attribute",
        "target_true",
        "tail",
    ),
    "aliases": ("aliases", "answers", "objectentities", "ground_truths"),
    "key": ("key",),
    "language": ("language", "lang"),
    "template": ("template", "templates"),
    "group": (),
}
KNOWN = frozenset(name for names in NAMES.values() for name in names)
CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")  # of a language: de, pt-BR
SAMPLE = 1000  # records that are looked at before the choice


@dataclass
class Naming:
    """What the caller says of tables, and what was chosen.

    Attributes:
        given: a key of `NAMES` -> the column.
        chosen: a line a table.
        asked: the template that asks for the label of a ready text; None where none is asked for.
        called: a label as the table has it -> as it shall be called.
        met: the labels that were met, as they stand there; collected where any is called otherwise.
        own_negatives: of a concept data set are its own relation, called as the concept.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)
    asked: str | None = None
    called: Mapping[str, str] = field(default_factory=dict)
    own_negatives: bool = False
    met: set[str] = field(default_factory=set)

    def columns(self, sample: Sequence[Mapping[str, Any]], path: Path) -> dict[str, str]:
        """What we need -> what the table calls it. A column is one thing only.

        Raises:
            InputError: a column that is not there, or neither facts nor prompts.
        """
        names = list(dict.fromkeys(name for record in sample for name in record))
        self.require(names, path)
        if {"text", "template"} <= self.given.keys():
            fix = "name the subjects and objects, or only the texts"
            raise InputError("ready texts have no template to fill", where=path, fix=fix)
        columns = dict(self.given)
        there = {plain(name): name for name in names if name not in columns.values()}
        for need, known in NAMES.items():
            found = next((there[name] for name in known if name in there), None)
            if need not in columns and found is not None and (need != "language" or _codes(sample, found)):
                columns[need] = found
        if "template" not in columns and has_facts(columns) and _are_templates(sample, columns.get("text")):
            columns["template"] = columns.pop("text")
        if "text" in self.given or not has_facts(columns):
            columns.pop("template", None)
        elif "template" in columns or {"subject", "object"} & self.given.keys():
            columns.pop("text", None)
        if "text" not in columns and not has_facts(columns):
            raise no_columns(path, names)
        told = ", ".join(f"{need} from {name}" for need, name in columns.items())
        self.chosen.append(f"{path}: {told}")
        return columns

    def label(self, value: Any) -> Any:
        """A label as the caller calls it, or as it is."""
        if is_nothing(value) or not self.called:
            return value
        told = str(value).strip()
        self.met.add(told)
        return self.called.get(told, value)

    def require(self, names: Iterable[Any], path: Path) -> None:
        """Raise where a column that the caller names is not there."""
        there = list(map(str, names))
        for name in self.given.values():
            if name not in there:
                fix = f"columns are {', '.join(there)}"
                raise InputError(f"no column {name!r}", where=path, fix=fix)


def plain(name: Any) -> str:
    """A column's name as `NAMES` has it."""
    return str(name).strip().lower()


def has_facts(columns: Mapping[str, str]) -> bool:
    """Whether there are subjects and answers."""
    return "subject" in columns and bool({"object", "aliases"} & columns.keys())


def no_columns(path: Path, names: Iterable[Any]) -> InputError:
    """Neither facts nor prompts."""
    problem = f"neither facts nor prompts among the columns {', '.join(map(str, names))}"
    fix = "say which with --subject-column and --object-column, or with --text-column"
    return InputError(problem, where=path, fix=fix)


def _codes(sample: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column called language holds codes of languages, and no names of programming ones."""
    told = [value for record in sample if (value := record.get(column)) and not is_nothing(value)]
    return all(isinstance(value, str) and CODE.fullmatch(value.strip()) for value in told)


def _are_templates(sample: Sequence[Mapping[str, Any]], column: str | None) -> bool:
    """Whether a column of texts marks the subject's place everywhere."""
    texts = [record.get(column) for record in sample] if column else []
    return bool(texts) and all(isinstance(text, str) and SUBJECT.search(text) for text in texts)

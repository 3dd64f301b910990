"""How files become relations, and relations prompts: every choice with its default, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from relact.errors import InputError

EXAMPLES = ("drawn", "shared")
TEMPLATES = ("first", "all")
FORMS = {"statement": "", "paper": "? Answer:"}  # what follows the filled template


@dataclass(frozen=True)
class PromptOptions:
    """Choices of `relact.prompts`, which says what each means.

    Raises:
        InputError: a choice that does not exist, or a number that is too small.
    """

    language: str = "en"
    shots: int = 0
    examples: str = "drawn"
    templates: str = "first"
    form: str = "statement"
    per_relation: int | None = None
    test_size: int = 50
    seed: int = 0
    paraphrase: bool = False
    keep_leaks: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        for where, kind, known in (
            ("templates", "choice", TEMPLATES),
            ("examples", "choice", EXAMPLES),
            ("form", "form", tuple(FORMS)),
        ):
            value = getattr(self, where)
            if value not in known:
                raise InputError(f"unknown {kind} {value!r}", where=where, fix=f"use {' or '.join(known)}")
        least = {"shots": 0, "test_size": 0, "per_relation": 2}
        for where, smallest in least.items():
            value = getattr(self, where)
            if value is not None and value < smallest:
                raise InputError(f"{value} is too small", where=where, fix=f"give {smallest} or more")


@dataclass(frozen=True)
class ReadingOptions:
    """Choices of `sources.load`, which says what each means: how a file becomes relations."""

    label_column: str | None = None
    template: str | None = None
    language: str = "en"
    limit: int | None = None
    seed: int = 0
    duplicates: str = "merge"
    skip_bad: bool = False
    subject_column: str | None = None
    object_column: str | None = None
    text_column: str | None = None
    template_column: str | None = None
    group_column: str | None = None
    label_names: Mapping[str, str] | None = None
    own_negatives: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """What a table's columns are -> the column, as far as it is named here."""
        named = {
            "relation": self.label_column,
            "subject": self.subject_column,
            "object": self.object_column,
            "text": self.text_column,
            "template": self.template_column,
            "group": self.group_column,
        }
        return {need: column for need, column in named.items() if column is not None}

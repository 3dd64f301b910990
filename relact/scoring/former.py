"""Former scores: what a scoring keeps of those that are stored. Nothing is dropped that was not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from relact import schema
from relact.errors import InputError
from relact.scoring.options import ScoreOptions
from relact.scoring.quantities import Wanted, wanted
from relact.store.reading import Store


def beside(store: Store, stored: schema.ScoresRecord, record: schema.ScoresRecord) -> schema.ScoresRecord:
    """With the stored relations that are not asked for: they stay as they are.

    Raises:
        InputError: they were scored under other settings, or before an append.
    """
    others = [name for name in stored.relations if name not in record.relations]
    if not others or replace(stored, relations=()) == replace(record, relations=()):
        added = [name for name in record.relations if name not in stored.relations]
        return replace(record, relations=(*stored.relations, *added))
    why = "before prompts were appended"
    if stored.prompts == record.prompts:
        settings = [entry.name for entry in fields(record) if entry.compare and entry.name != "relations"]
        pairs = [(name, getattr(stored, name), getattr(record, name)) for name in settings]
        told = (f"{name} {before} (asked for: {asked})" for name, before, asked in pairs if before != asked)
        why = f"with {', '.join(told)}"
    names = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    raise InputError(
        f"{names} were scored {why}: relations that are compared are scored alike",
        where=store.path,
        fix="score all relations: leave --relations out",
    )


def with_stored(store: Store, options: ScoreOptions) -> ScoreOptions:
    """The options with the statistics that are stored already, so that none is dropped."""
    asked = [name for part in wanted(store.streams, options.statistics) for name in part.names]
    more = [name for name in store.statistics() if name not in asked]
    return replace(options, statistics=(*dict.fromkeys(asked), *more)) if more else options


def kept(store: Store, record: schema.ScoresRecord, parts: Sequence[Wanted]) -> list[str]:
    """Relations whose stored scores were computed from the same prompts, labels and model,
    with these statistics.
    """
    if not store.has(schema.SCORES):
        return []
    stored = store.scores_record()
    if replace(stored, relations=()) != replace(record, relations=()):
        return []
    if not all(part.site in store.scored(name) for part in parts for name in part.names):
        return []
    return [name for name in record.relations if name in stored.relations]

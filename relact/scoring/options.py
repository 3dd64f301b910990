"""How neurons are scored: every choice with its default, once. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relact import schema

THREADS = "threads"  # the scheduler of this process


@dataclass(frozen=True)
class ScoreOptions:
    """Choices of `relact.score`, which says what each means."""

    relations: Sequence[str] | None = None
    negatives: int | None = None
    seed: int = 0
    statistics: Sequence[str] = schema.STATISTICS
    workers: int | None = None
    memory: str | int = "4GiB"
    scheduler: str = THREADS
    device: str = "cpu"

"""How neurons are scored and selected: every choice with its default, once. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relact import schema
from relact.errors import InputError
from relact.scoring.criteria import named

THREADS = "threads"  # the scheduler of this process
KINDS = ("top", "bottom", "both")
DEVICE_WORKERS = 2  # threads for a device: one reads while the neurons of another one are computed
COUNTED = (schema.UNIT, schema.NEURON)
CHOSEN = (schema.NEURON, schema.EXPERT)  # what a set is made of


@dataclass(frozen=True)
class ScoreOptions:
    """Choices of `relact.score`, which says what each means."""

    relations: Sequence[str] | None = None
    negatives: int | None = None
    seed: int = 0
    statistics: Sequence[str] = (*schema.STATISTICS, *schema.ATTRIBUTION_STATISTICS)
    workers: int | None = None
    memory: str | int = "4GiB"
    scheduler: str = THREADS
    device: str = "cpu"
    own_negatives: bool = False


@dataclass(frozen=True)
class SelectOptions:
    """Choices of `relact.select`, which says what each means.

    Raises:
        InputError: choices that do not exist or do not go together.
    """

    k: int | None = None
    kind: str = KINDS[0]
    fdr: float | None = None
    min_ap: float | None = None
    sites: str | Sequence[str] | None = None
    by: str | None = None
    statistic: str | None = None
    counted: str = schema.UNIT
    keep_super_units: bool = False
    seed: int = 0
    unit: str = schema.NEURON

    def __post_init__(self) -> None:
        if (self.k is None) == (self.fdr is None):
            raise InputError(
                "name k, or a rate of false discoveries", where="--k/--fdr", fix="give exactly one of them"
            )
        choices = (
            ("kind", self.kind, KINDS),
            ("counted", self.counted, COUNTED),
            ("unit", self.unit, CHOSEN),
        )
        for name, value, known in choices:
            if value not in known:
                raise InputError(
                    f"unknown {name} {value!r}", where=name, fix=f"choose from {', '.join(known)}"
                )
        self._require_rates()

    @property
    def criterion(self) -> str:
        """The stored statistic that ``by`` and ``statistic`` name."""
        return named(self.by, self.statistic)

    def _require_rates(self) -> None:
        """What goes with a rate of false discoveries, and only with it."""
        if self.fdr is None:
            if self.min_ap is not None:
                raise InputError("it bounds what beats chance", where="--min-ap", fix="give --fdr with it")
            return
        if self.kind != SelectOptions.kind or self.criterion != schema.AVERAGE_PRECISION:
            raise InputError(
                "a rate of false discoveries is of the top average precisions",
                where="--fdr",
                fix="leave out --kind and --statistic",
            )
        for where, value in (("--fdr", self.fdr), ("--min-ap", self.min_ap)):
            if value is not None and not 0 < value < 1:
                raise InputError(f"{value:g} is not between 0 and 1", where=where, fix="give a share")

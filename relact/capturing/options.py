"""How activations are captured: every choice with its default, once. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relact import schema, sites
from relact.errors import InputError
from relact.plan import parse_bytes
from relact.store.layout import BLOCK


@dataclass(frozen=True)
class CaptureOptions:
    """Choices of `relact.capture`, which says what each means.

    Raises:
        InputError: a choice that does not exist, or a number that is too small.
    """

    sites: str | Sequence[str] = "mlp"
    pool: str = "mean"
    dtype: str = "float16"
    block: int | None = None
    batch_tokens: int = 2048
    special_tokens: bool = True
    memory: str | int | None = None
    compress: bool = False

    def __post_init__(self) -> None:
        sites.expand(self.sites)
        for value, known, option in (
            (self.pool, schema.POOLS, "--pool"),
            (self.dtype, schema.DTYPES, "--dtype"),
        ):
            if value not in known:
                raise InputError(
                    f"{value!r} is not known", where=option, fix=f"choose one of {', '.join(known)}"
                )
        for number, option in ((self.block, "--block"), (self.batch_tokens, "--batch-tokens")):
            if number is not None and number < 1:
                raise InputError(f"{number} is too small", where=option, fix="give at least 1")

    @property
    def budget(self) -> int | None:
        """Bytes of the whole process; None for no limit."""
        return None if self.memory is None else parse_bytes(self.memory)

    def record(self) -> schema.CaptureRecord:
        """What a store records of them; rows per block are settled later where none are named."""
        return schema.CaptureRecord(
            sites=sites.expand(self.sites),
            pool=self.pool,
            dtype=self.dtype,
            block=self.block or BLOCK,
            batch=self.batch_tokens,
            special_tokens=self.special_tokens,
        )

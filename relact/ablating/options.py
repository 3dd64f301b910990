"""How neurons are switched off: every choice with its default, once. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relact.errors import InputError

TOKENS = ("all", "last")


@dataclass(frozen=True)
class AblateOptions:
    """Choices of `relact.ablate`, which says what each means.

    Raises:
        InputError: a choice of tokens that does not exist.
    """

    kind: str = "top"
    sites: str | Sequence[str] | None = None
    seeds: Sequence[int] = tuple(range(10))
    mode: str = "zero"
    tokens: str = "all"
    match: str = "prefix"
    perplexity: bool = False
    batch_tokens: int = 3072  # of one forward pass: enough for fast matrix products, few enough for memory

    def __post_init__(self) -> None:
        if self.tokens not in TOKENS:
            raise InputError(
                f"unknown choice of tokens {self.tokens!r}", where="tokens", fix="use all or last"
            )

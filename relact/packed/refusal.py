"""How a package is refused: what is wrong with it, where, and whether fetching it again can help."""

from __future__ import annotations

from relact.errors import StoreError

AGAIN = "fetch it again, or ask its author for its checksum"
DISTRUST = "do not use it; relact writes no such store"


def require(good: bool, problem: str, where: object) -> None:
    """Refuse what relact would never have written."""
    if not good:
        raise StoreError(f"not acceptable: {problem}", where=where, fix=DISTRUST)

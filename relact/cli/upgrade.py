"""`relact upgrade`: a store of an earlier version."""

from __future__ import annotations

from relact.cli.options import Json, StorePath
from relact.cli.printing import show


def upgrade(store: StorePath, as_json: Json = False) -> None:
    """Put into a store what earlier versions did not write yet; no number of it changes."""
    from relact.store.upgrade import upgrade as bring_up

    found = bring_up(store)
    words = "; ".join(found.done) or "nothing: it is as this version writes it"
    done = list(found.done) if as_json else words
    show({"store": str(found.store), "format": found.format, "put in": done}, as_json)

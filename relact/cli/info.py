"""`relact info`: what a store holds, what a model has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from relact.cli.options import Json
from relact.cli.printing import show
from relact.schema import COMMITS, DOCUMENT


def info(
    what: Annotated[str, typer.Argument(metavar="STORE|MODEL", help="a store, or a model to describe")],
    as_json: Json = False,
) -> None:
    """What a store holds, or which sites and how many neurons a model has."""
    from relact.packed.store import is_packed, open_store

    if any((Path(what) / name).exists() for name in (DOCUMENT, COMMITS)) or is_packed(what):
        show(open_store(what).describe(), as_json)
        return
    from relact.models import loading

    show(asdict(loading.describe(what)), as_json)

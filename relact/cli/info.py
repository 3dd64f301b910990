"""`relact info`: what a store holds, what a model has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from relact.cli.options import Json, TrustRemoteCode
from relact.cli.printing import NOT_KNOWN, show, told_of
from relact.schema import COMMITS, DOCUMENT, RESULTS


def info(
    what: Annotated[str, typer.Argument(metavar="STORE|MODEL", help="a store, or a model to describe")],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """What a store holds, or which sites and how many neurons a model has."""
    from relact.packed.store import is_packed

    stored = any((Path(what) / name).exists() for name in (DOCUMENT, COMMITS)) or is_packed(what)
    if stored or Path(what).suffix == ".zarr":  # a model is not called so: a store that is not there
        show(told_of(what, *RESULTS).describe(), as_json)
        return
    from relact.models.outline import describe

    found = asdict(describe(what, trust_remote_code=trust_remote_code))
    if found["tokens_per_second"] is None and not as_json:
        found["tokens_per_second"] = NOT_KNOWN
    show(found, as_json)

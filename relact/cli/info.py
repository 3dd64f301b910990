"""`relact info`: what a store holds, what a model has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from relact.cli.options import Json, TrustRemoteCode
from relact.cli.printing import NOT_KNOWN, show, show_store, told_of
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
        show_store(told_of(what, *RESULTS), as_json)
        return
    from relact.models.outline import describe

    found = asdict(describe(what, trust_remote_code=trust_remote_code))
    show(found if as_json else _in_words(found), as_json)


def _in_words(found: dict[str, Any]) -> dict[str, Any]:
    """What a model has, for people."""
    from relact.plan import show_bytes

    told = {
        "weight_bytes": show_bytes(found["weight_bytes"]),
        "capture_bytes": {name: show_bytes(size) for name, size in found["capture_bytes"].items()},
        "tokens_per_second": found["tokens_per_second"] or NOT_KNOWN,
    }
    lists = {name: value for name, value in (found | told).items() if isinstance(value, dict)}
    return (
        found
        | told
        | {name: ", ".join(f"{k} {v}" for k, v in value.items()) for name, value in lists.items()}
    )

"""`relact pack`, `unpack`, `push`, `pull` and `stores`: stores for others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from relact.cli.options import Activations, Json, Licence, PackedStages, StorePath, StorePlace, Timeout
from relact.cli.printing import listed, show, show_frame, show_store, told_of
from relact.cli.progress import Stages
from relact.schema import RESULTS


def pack(
    store: StorePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="an archive when it ends in .zip, a folder otherwise")
    ],
    stages: PackedStages = "scores,masks,ablations",
    activations: Activations = False,
    licence: Licence = None,
    as_json: Json = False,
) -> None:
    """Pack a store for others: one file or folder that opens where it lies, with its card."""
    from relact.sharing.pack import pack as write_package

    with Stages() as progress:
        packed = write_package(
            told_of(store, *RESULTS),
            out,
            stages=listed(stages) or (),
            activations=activations,
            licence=licence,
            progress=progress,
        )
    show(
        {"packed": str(packed.path), "files": packed.files, "bytes": packed.bytes, "sha256": packed.sha256},
        as_json,
    )


def unpack(
    packed: StorePlace,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder of the store to make")],
    sha256: Annotated[str | None, typer.Option(help="that the archive must have")] = None,
    as_json: Json = False,
) -> None:
    """Make a packed store one that can be worked on; every byte is checked first."""
    from relact.sharing.unpack import unpack as write_store

    with Stages() as progress:
        opened = write_store(packed, out, sha256=sha256, progress=progress)
    show_store(opened, as_json)


def push(
    store: Annotated[str, typer.Argument(metavar="STORE", help="a store, or one that is packed")],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="s3://bucket/name.zarr.zip, hf://datasets/OWNER/NAME/...")
    ],
    stages: PackedStages = "scores,masks,ablations",
    activations: Activations = False,
    licence: Licence = None,
    replace: Annotated[bool, typer.Option("--replace", help="what was published there before")] = False,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Pack a store and publish it on an object store or the hub."""
    from relact.sharing.publish import push as publish

    with Stages() as progress:
        publish(
            store,
            url,
            stages=listed(stages) or (),
            activations=activations,
            licence=licence,
            replace=replace,
            timeout=timeout,
            progress=progress,
        )
    show({"published": url}, as_json)


def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="http(s), s3, hf://datasets/... or a path")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder of the store, or .zip to keep the archive")
    ],
    sha256: Annotated[str | None, typer.Option(help="that the archive must have")] = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Fetch a published store and check all of it."""
    from relact.sharing.publish import pull as fetch

    with Stages() as progress:
        where = fetch(url, out, sha256=sha256, timeout=timeout, progress=progress)
    show({"store": str(where)}, as_json)


def list_stores(
    index: Annotated[str | None, typer.Argument(metavar="INDEX", help="path or URL of an index.json")] = None,
    as_json: Json = False,
) -> None:
    """List published stores: the catalogue of this repository, or another one."""
    import pandas as pd

    from relact.plan import show_bytes
    from relact.sharing.catalogue import stores

    rows = [asdict(entry) for entry in stores(index)]
    if as_json:
        return show_frame(pd.DataFrame(rows), as_json)
    shown = [{**row, "bytes": show_bytes(row["bytes"])} for row in rows]
    show_frame(
        pd.DataFrame(shown, columns=["name", "model", "relations", "neurons", "bytes", "location"]), as_json
    )

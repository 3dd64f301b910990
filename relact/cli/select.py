"""`relact select`: sets of neurons as a mask."""

from __future__ import annotations

from typing import Annotated

import typer

from relact.cli.options import Json, Kind, MaskSites, StorePath
from relact.cli.printing import listed, show


def select(
    store: StorePath,
    k: Annotated[int | None, typer.Option("--k", help="neurons per relation")] = None,
    kind: Kind = "top",
    fdr: Annotated[
        float | None, typer.Option(help="instead of k: all neurons that beat chance at this rate")
    ] = None,
    of: Annotated[
        str | None, typer.Option(metavar="MASK", help="set algebra on this mask: --only or --pair")
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="each relation's neurons that no other has")] = False,
    pair: Annotated[str | None, typer.Option(metavar="A,B", help="A and B, A without B, B without A")] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the mask; by default what it is, such as top-400")
    ] = None,
    sites: MaskSites = None,
    as_json: Json = False,
) -> None:
    """Keep a set of neurons for every relation as a mask."""
    from relact.scoring import masks
    from relact.store import local

    if of:
        two = listed(pair)
        if bool(pair) == only or (two and len(two) != 2):
            raise typer.BadParameter("give --only, or --pair with two relations", param_hint="--of")
        mask = masks.combine(store, of, (two[0], two[1]) if two else None, name=name)
    else:
        mask = masks.select(store, k=k, kind=kind, fdr=fdr, name=name, sites=sites)
    relations, sets = masks.read(local.open(store), mask)
    sizes = dict(zip(relations, masks.flatten(sets).sum(axis=1).tolist(), strict=True))
    show({"mask": mask, "store": str(store), **({"neurons": sizes} if as_json else sizes)}, as_json)

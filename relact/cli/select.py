"""`relact select`: sets of neurons as a mask."""

from __future__ import annotations

from typing import Annotated

import typer

from relact import schema
from relact.cli import terminal
from relact.cli.options import (
    By,
    CountNeurons,
    Json,
    KeepSuperUnits,
    Kind,
    MaskSites,
    Statistic,
    StorePath,
    Unit,
)
from relact.cli.printing import listed, show, told_of
from relact.scoring.options import SelectOptions


def select(
    store: StorePath,
    k: Annotated[int | None, typer.Option("--k", help="neurons per relation, or experts")] = None,
    kind: Kind = "top",
    fdr: Annotated[
        float | None, typer.Option(help="instead of k: all neurons that beat chance at this rate")
    ] = None,
    min_ap: Annotated[
        float | None, typer.Option("--min-ap", help="with --fdr: and of at least this average precision")
    ] = None,
    by: By = None,
    statistic: Statistic = None,
    of: Annotated[
        str | None, typer.Option(metavar="MASK", help="set algebra on this mask: --only or --pair")
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="each relation's neurons that no other has")] = False,
    pair: Annotated[str | None, typer.Option(metavar="A,B", help="A and B, A without B, B without A")] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the mask; by default what it is, such as top-400")
    ] = None,
    sites: MaskSites = None,
    unit: Unit = SelectOptions.unit,
    count_neurons: CountNeurons = False,
    keep_super_units: KeepSuperUnits = False,
    seed: Annotated[int, typer.Option(help="of what decides between equals")] = SelectOptions.seed,
    as_json: Json = False,
) -> None:
    """Keep a set of neurons for every relation as a mask."""
    from relact.scoring import masks
    from relact.store import local

    told_of(store, schema.MASKS if of else schema.SCORES)
    if of:
        two = listed(pair)
        if bool(pair) == only or (two and len(two) != 2):
            raise typer.BadParameter("give --only, or --pair with two relations", param_hint="--of")
        mask = masks.combine(store, of, (two[0], two[1]) if two else None, name=name)
    else:
        counted = schema.NEURON if count_neurons else schema.UNIT
        among = k, kind, fdr, min_ap, sites, by, statistic
        options = SelectOptions(*among, counted, keep_super_units, seed, unit)
        mask = masks.select_with(options, store, name=name)
    opened = local.open(store)
    relations, sets = masks.numbers(opened, mask)
    sizes = dict(zip(relations, sets.sizes.tolist(), strict=True))
    record = opened.mask_record(mask)
    ties = {
        name: {"share": share, "taken": taken}
        for name, (share, taken) in zip(relations, record.ties or (), strict=bool(record.ties))
        if share > taken
    }
    said = {"neurons": sizes, "ties": ties} if as_json else sizes
    show({"mask": mask, "store": str(store), **said}, as_json)
    for name, edge in ({} if as_json else ties).items():
        terminal.say(
            f"ties at the edge: {edge['share']} neurons share the last score of {name}, "
            f"{edge['taken']} are in, by {record.ties_by}"
        )

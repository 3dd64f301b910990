"""`relact top` and `relact neuron`: look into a store."""

from __future__ import annotations

from typing import Annotated

import typer

from relact import sites
from relact.cli import terminal
from relact.cli.options import By, Json, Output, Statistic, StorePlace
from relact.cli.printing import show_frame, told_of
from relact.schema import SCORES


def top(
    store: StorePlace,
    relation: Annotated[str, typer.Option(help="relation")],
    n: Annotated[int, typer.Option("-n", help="how many")] = 20,
    sites: Annotated[str | None, typer.Option(help="only these sites")] = None,
    by: By = None,
    statistic: Statistic = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """A relation's best neurons."""
    from relact.analysis import query
    from relact.scoring.criteria import named

    statistic = named(by, statistic)
    opened = told_of(store, SCORES)
    frame = query.top(opened, relation=relation, n=n, sites=sites, statistic=statistic)
    show_frame(frame, as_json, output, heat=(statistic,))


def neuron(
    store: StorePlace,
    site: Annotated[str, typer.Argument(metavar="SITE", help="site, such as mlp.gate")],
    layer: Annotated[int, typer.Argument(metavar="LAYER", help="layer, from 0")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="neuron in its layer, from 0")],
    n: Annotated[
        int, typer.Option("-n", help="prompts that drive it most, and as many that drive it least")
    ] = 5,
    by: By = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """One neuron in every relation, and the prompts that drive it most and least."""
    from relact.analysis import query

    opened = told_of(store, SCORES)
    frame = query.neuron(opened, site, layer, index, by=by)
    held = query.quantity_of(opened, sites.expand(site)[0], by)
    prompts = query.extremes(opened, site, layer, index, n, by=held) if held else None
    if as_json:
        document = {"site": site, "layer": layer, "neuron": index, "relations": frame.to_dict("records")}
        terminal.dump(document | ({} if prompts is None else {"prompts": prompts.to_dict("records")}))
    elif output:
        show_frame(frame, False, output)
    else:
        from relact.cli import drawing

        everywhere = None if prompts is None else query.activations(opened, site, layer, index, by=held)
        drawing.neuron(frame, prompts, everywhere)

"""`relact top` and `relact neuron`: look into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relact import sites
from relact.cli import terminal
from relact.cli.options import By, Json, Output, PlaceModel, Statistic, StorePlace, TrustRemoteCode
from relact.cli.printing import show_columns, show_frame, spoken, told_of
from relact.schema import ACTIVATION, LOOKS, PROMOTED, SCORES, SUPPRESSED

if TYPE_CHECKING:
    from relact.analysis.looks import Driver
    from relact.store.reading import Store

KINDS = (PROMOTED, SUPPRESSED)
PLACE = ("site", "layer", "neuron")


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
    columns = query.top_columns(opened, relation=relation, n=n, sites=sites, statistic=statistic)
    if opened.children(LOOKS):
        import numpy as np

        from relact.analysis.looks import of_neuron, written_by

        known = written_by(opened)
        places = zip(*(columns[name].tolist() for name in PLACE), strict=True)
        words = [of_neuron(known, *place) for place in places]
        columns["promotes"] = np.array([spoken(found[0], 4) if found else "" for found in words], object)
    show_columns(columns, as_json, output, heat=(statistic,))


def neuron(
    store: StorePlace,
    site: Annotated[str, typer.Argument(metavar="SITE", help="site, such as mlp.gate")],
    layer: Annotated[int, typer.Argument(metavar="LAYER", help="layer, from 0")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="neuron in its layer, from 0")],
    n: Annotated[
        int, typer.Option("-n", help="prompts that drive it most, and as many that drive it least")
    ] = 5,
    by: By = None,
    writes: Annotated[
        bool,
        typer.Option("--writes", help="load the model for what it writes, if the store does not have it"),
    ] = False,
    model: PlaceModel = None,
    trust_remote_code: TrustRemoteCode = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """One neuron in every relation, and the prompts that drive it most and least."""
    from relact.analysis import query

    opened = told_of(store, SCORES)
    frame = query.neuron(opened, site, layer, index, by=by)
    held = query.quantity_of(opened, sites.expand(site)[0], by)
    prompts = query.extremes(opened, site, layer, index, n, by=held) if held else None
    if not held:
        terminal.problem(
            f"no {by or ACTIVATION}s of {site} in this store, so neither distributions nor the prompts that "
            "drive the neuron. A package has them where it was packed with --activations"
        )
    words = _words(opened, sites.expand(site)[0], layer, index, writes, model, trust_remote_code)
    if as_json:
        document = {"site": site, "layer": layer, "neuron": index, "relations": frame.to_dict("records")}
        document |= {} if prompts is None else {"prompts": prompts.to_dict("records")}
        terminal.dump(document | ({} if words is None else dict(zip(KINDS, words, strict=True))))
    elif output:
        show_frame(frame, False, output)
    else:
        from relact.cli import drawing

        everywhere = None if prompts is None else query.activations(opened, site, layer, index, by=held)
        drawing.neuron(frame, prompts, everywhere)
        if words is not None:
            drawing.written(*words)
        drawing.drivers(_drivers(opened, sites.expand(site)[0], layer, index))


def _words(
    store: Store, site: str, layer: int, index: int, writes: bool, model: str | None, trust_remote_code: bool
) -> tuple[list[str], list[str]] | None:
    """What a neuron promotes and suppresses: as stored, or read off the model where that is asked for."""
    from relact.analysis.looks import of_neuron, written_by

    found = of_neuron(written_by(store), site, layer, index)
    if found is not None or not writes:
        return found
    from relact.studies.looks import words_of

    return words_of(store, site, layer, index, model=model, trust_remote_code=trust_remote_code)


def _drivers(store: Store, site: str, layer: int, index: int) -> list[Driver]:
    """The prompts that drive a neuron most, token by token, of the first mask that was looked at for them."""
    from relact.analysis.looks import drivers

    found = (drivers(store, name).get((site, layer, index), []) for name in store.children(LOOKS))
    return next((some for some in found if some), [])

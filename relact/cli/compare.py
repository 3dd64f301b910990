"""`relact compare`: neurons that relations share, and what two stores agree on."""

from __future__ import annotations

from typing import Annotated

import typer

from relact.cli.options import Json, Output, StorePlace
from relact.cli.printing import numbers, show_frame
from relact.cli.progress import Stages
from relact.schema import AVERAGE_PRECISION, EXPERT


def compare(
    store: StorePlace,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="another store, to compare with")
    ] = None,
    mask: Annotated[str | None, typer.Option(help="a stored mask; the only one by default")] = None,
    k: Annotated[
        str | None, typer.Option("--k", help="instead of a mask, the top k: one or several, 100,400")
    ] = None,
    other_mask: Annotated[
        str | None, typer.Option("--with", help="another mask: what both choose for each relation")
    ] = None,
    statistic: Annotated[
        str, typer.Option(help="with --k: the top by this stored statistic, such as attribution_z")
    ] = AVERAGE_PRECISION,
    by: Annotated[
        str | None,
        typer.Option(help="count in every `site` or `layer` apart; `expert`: which of them a relation uses"),
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(help="with --k: beside it, scored against so many sampled negatives per positive"),
    ] = None,
    relation: Annotated[
        str | None,
        typer.Option(
            help="with OTHER: the neurons of this relation that moved; with --by expert: this alone"
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", help="with OTHER and --relation: how many, 20; with --by expert: of a layer, 3"),
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Neurons that relations share, against chance; that two masks share; or how far two stores agree."""
    from relact.analysis import compare as comparing
    from relact.cli import drawing

    sizes = numbers(k) if k else None
    if other is not None and negatives is not None:
        raise typer.BadParameter("of one store only", param_hint="--negatives")
    if other_mask is not None:
        if mask is None or other is not None:
            raise typer.BadParameter("give --mask, and one store", param_hint="--with")
        frame = comparing.in_common(store, mask, other_mask)
    elif by == EXPERT and other is None:
        from relact.analysis.experts import expert_use

        if sizes is not None:
            raise typer.BadParameter("of a mask, or of all prompts", param_hint="--k")
        frame = expert_use(store, mask, relation=relation, n=n or 3)
    elif other is None:
        with Stages() as progress:
            shared = comparing.overlap(
                store, mask, k=sizes, statistic=statistic, by=by, negatives=negatives, progress=progress
            )
        frame = comparing.pairs(shared)
        if output is None and not as_json:
            drawing.overlaps(shared)
            return
    elif relation:
        frame = comparing.moved(store, other, relation=relation, n=n or 20)
    else:
        if isinstance(sizes, list):
            raise typer.BadParameter("two stores are compared at one k", param_hint="--k")
        frame = comparing.agreement(store, other, k=sizes or comparing.TOP)
    show_frame(frame, as_json, output, heat=("correlation", "jaccard", "change", "use"))

"""`relact score`: statistics of every neuron and all relations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relact.cli.options import (
    DryRun,
    Json,
    Memory,
    Negatives,
    OwnNegatives,
    Relations,
    StorePath,
    Workers,
)
from relact.cli.printing import listed, say_stale, show_plans, show_store
from relact.cli.progress import Stages
from relact.schema import ABLATIONS, MASKS
from relact.scoring.options import ScoreOptions

if TYPE_CHECKING:
    from relact.progress import Progress
    from relact.store.local import LocalStore


def score(
    store: StorePath,
    relations: Relations = None,
    negatives: Negatives = None,
    seed: Annotated[
        int, typer.Option(help="of sampled negatives, and of the neurons that --check draws")
    ] = ScoreOptions.seed,
    statistics: Annotated[
        str | None, typer.Option(help="names, comma-separated; auroc and on_mean beside the default")
    ] = None,
    workers: Workers = None,
    memory: Memory = str(ScoreOptions.memory),
    scheduler: Annotated[
        str, typer.Option(help="threads, or the address of a Dask scheduler: tcp://host:8786")
    ] = ScoreOptions.scheduler,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: the same within float32 rounding")
    ] = ScoreOptions.device,
    own_negatives: OwnNegatives = ScoreOptions.own_negatives,
    check: Annotated[
        int,
        typer.Option(metavar="N", help="recompute N random neurons with scikit-learn, say the difference"),
    ] = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Average precision and more for every neuron and all relations."""
    names = listed(statistics) or ScoreOptions.statistics
    options = ScoreOptions(
        listed(relations), negatives, seed, names, workers, memory, scheduler, device, own_negatives
    )
    if dry_run:
        from relact.scoring.forecast import forecast

        return show_plans([forecast(options, store)], as_json)
    from relact.scoring.score import score_with
    from relact.store.coarse import tell

    with Stages() as progress:
        opened = score_with(options, store, progress=progress)
        checked = {"check": _checked(opened, check, seed, progress)} if check else {}
    show_store(opened, as_json, **checked)
    say_stale(opened, MASKS, ABLATIONS)
    tell(opened)  # last: what is before may find a damaged result, and that alone is said then


def _checked(store: LocalStore, neurons: int, seed: int, progress: Progress) -> str:
    from relact.scoring.check import check

    checked = check(store, neurons, seed=seed, progress=progress)
    compared = f"{checked.neurons} neurons x {checked.relations} relations as scikit-learn has them"
    return f"{compared}, largest difference {checked.largest:.1e}"

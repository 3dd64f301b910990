"""Leaderboard: ablate the neurons of every criterion and k on the prompts for choosing, show the best on the
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from relact import schema
from relact.ablating.ablate import ablate_with
from relact.ablating.options import AblateOptions
from relact.analysis.leaderboard import chosen, leaderboard_of
from relact.errors import InputError
from relact.models.loading import LoadedModel
from relact.progress import Progress, silent
from relact.scoring.score import score
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store

CRITERIA = (schema.AVERAGE_PRECISION, "auroc", "d_prime", "margin", "z")  # need nothing but the store
LAPE = "lape"  # too, where an activation is the share of tokens on which a neuron is positive
KS = (50, 100, 200, 400)
SEEDS = 5


def leaderboard(
    store: str | Path | Store,
    criteria: Sequence[str] | None = None,
    *,
    k: Sequence[int] = KS,
    seeds: int = SEEDS,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> pd.DataFrame:
    """Compare criteria for choosing neurons: criteria x k, chosen on ``dev`` prompts, shown on ``test``.

    Every criterion's top k are ablated on the third of the test prompts that is for choosing
    (`relations.split.parts_of`). The best k of every criterion is then ablated on the others, which chose
    nothing. What the store holds already is not computed again.

    Args:
        criteria: statistics that the store's activations are scored by; those that are not stored are added.
            By default all that need the store alone: `CRITERIA`, and ``lape`` of a store with the pool
            ``positive``, which it is defined for.
        k: numbers of neurons per relation. seeds: random controls.

    Returns:
        `analysis.leaderboard.leaderboard_of` of both parts, with a first column ``part``; rows of ``test``
        first, best first as ``dev`` has it.

    Raises:
        InputError: an unknown criterion. IdentityError: another model than the store's.
    """
    opened = local.writable(store)
    if criteria is None:
        criteria = [*CRITERIA, *([LAPE] if opened.manifest.capture.pool == "positive" else [])]
    _score(opened, criteria)
    for criterion in criteria:
        for size in k:
            _ablate(opened, criterion, size, schema.DEV, seeds, model, device, progress)
    board = leaderboard_of(opened, part=schema.DEV)
    board = board[board["criterion"].isin(criteria) & board["k"].isin(k)]
    best = chosen(board)
    for criterion, size in zip(best["criterion"], best["k"], strict=True):
        _ablate(opened, str(criterion), int(size), schema.TEST, seeds, model, device, progress)
    shown = best[["criterion", "k"]].merge(leaderboard_of(opened, part=schema.TEST), how="left")
    parts = [shown.assign(part=schema.TEST), board.assign(part=schema.DEV)]
    joined = pd.concat(parts, ignore_index=True)
    return joined[["part", *(name for name in joined if name != "part")]]


def _score(store: LocalStore, criteria: Sequence[str]) -> None:
    """Add the criteria to the store's scores."""
    stored = store.statistics() or schema.STATISTICS
    missing = [name for name in criteria if name not in stored]
    if missing:
        record = store.scores_record() if store.has(schema.SCORES) else None
        if record and record.imported:
            fix = f"choose from {', '.join(stored)}"
            raise InputError(f"imported scores have no {missing[0]}", where=store.path, fix=fix)
        score(
            store,
            relations=record.relations if record else None,
            negatives=record.negatives if record else None,
            seed=record.seed or 0 if record else 0,
            statistics=[*stored, *missing],
        )


def _ablate(
    store: LocalStore,
    criterion: str,
    k: int,
    part: str,
    seeds: int,
    model: str | LoadedModel | None,
    device: str,
    progress: Progress,
) -> None:
    """One cell of the board."""
    options = AblateOptions(statistic=criterion, seeds=tuple(range(seeds)), part=part)
    ablate_with(options, store, k=k, model=model, device=device, progress=progress)

"""Leaderboard: ablate the neurons of every criterion and k on the prompts for choosing, show the best on the
others.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from relact import schema
from relact.ablating.ablate import ablate_with
from relact.ablating.options import AblateOptions
from relact.analysis.leaderboard import Place, called, chosen, leaderboard_of, require_alike
from relact.errors import InputError
from relact.models.loading import LoadedModel
from relact.progress import Progress, in_notebooks
from relact.scoring.criteria import PROBE
from relact.scoring.score import score
from relact.store import local
from relact.store.local import LocalStore

# need nothing but the store
CRITERIA = (schema.AVERAGE_PRECISION, "auroc", "d_prime", "margin", "z", PROBE)
LAPE = "lape"  # too, where an activation is the share of tokens on which a neuron is positive
KS = (50, 100, 200, 400)
SEEDS = 5


def leaderboard(
    store: Place | Sequence[Place],
    criteria: Sequence[str] | None = None,
    *,
    k: Sequence[int] = KS,
    seeds: int = SEEDS,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """Compare criteria for choosing neurons: criteria x k, chosen on ``dev`` prompts, shown on ``test``.

    Every criterion's top k are ablated on the third of the test prompts that is for choosing
    (`relations.split.parts_of`). The best k of every criterion is then ablated on the others, which chose
    nothing. What a store holds already is not computed again.

    Args:
        store: or several, captured from the same prompts in different ways: criteria of attributions are
            then of each, those of activations of the first that has them (`leaderboard.called`).
        criteria: statistics that stores are scored by; those that are not stored are added. By default all
            that need a store alone: `CRITERIA`; ``lape`` with the pool ``positive``, which it is defined for;
            `schema.ATTRIBUTION_STATISTICS` where there are attributions.
        k: numbers of neurons per relation. seeds: random controls.

    Returns:
        `analysis.leaderboard.leaderboard_of` of both parts, with a first column ``part``; rows of ``test``
        first, best first as ``dev`` has it.

    Raises:
        InputError: an unknown criterion, stores attributed in one way. IdentityError: another model than the
            store's, stores of different models or test prompts.
    """
    stores = [local.writable(place) for place in ([store] if isinstance(store, Place) else store)]
    require_alike(stores)
    cells = _cells(stores, criteria)
    for opened in stores:
        _score(opened, [statistic for where, statistic in cells.values() if where is opened])
    for opened, statistic in cells.values():
        for size in k:
            _ablate(opened, statistic, size, schema.DEV, seeds, model, device, trust_remote_code, progress)
    board = leaderboard_of(stores, part=schema.DEV)
    board = board[board["criterion"].isin(cells) & board["k"].isin(k)]
    best = chosen(board)
    for criterion, size in zip(best["criterion"], best["k"], strict=True):
        _ablate(
            *cells[str(criterion)], int(size), schema.TEST, seeds, model, device, trust_remote_code, progress
        )
    shown = best[["criterion", "k"]].merge(leaderboard_of(stores, part=schema.TEST), how="left")
    parts = [shown.assign(part=schema.TEST), board.assign(part=schema.DEV)]
    joined = pd.concat(parts, ignore_index=True)
    return joined[["part", *(name for name in joined if name != "part")]]


def _cells(stores: Sequence[LocalStore], criteria: Sequence[str] | None) -> dict[str, tuple[LocalStore, str]]:
    """What is called a criterion on the board -> the store and the statistic of it, each once."""
    cells: dict[str, tuple[LocalStore, str]] = {}
    for opened in stores:
        capture = opened.manifest.capture
        usual = [*CRITERIA, *([LAPE] if capture.pool == "positive" else [])]
        usual += schema.ATTRIBUTION_STATISTICS if capture.attribution else ()
        for statistic in usual if criteria is None else criteria:
            if statistic.startswith(schema.OF_ATTRIBUTIONS) and not capture.attribution and len(stores) > 1:
                continue
            cells.setdefault(called(opened, statistic, stores[0]), (opened, statistic))
    return cells


def _score(store: LocalStore, criteria: Sequence[str]) -> None:
    """Add the criteria to the store's scores."""
    stored = store.statistics() or _default(store)
    missing = [name for name in criteria if name not in stored]
    if missing or (criteria and not store.has(schema.SCORES)):
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


def _default(store: LocalStore) -> list[str]:
    """What a store is scored by that is not scored yet."""
    attributed = store.manifest.capture.attribution is not None
    return [*schema.STATISTICS, *(schema.ATTRIBUTION_STATISTICS if attributed else ())]


def _ablate(
    store: LocalStore,
    criterion: str,
    k: int,
    part: str,
    seeds: int,
    model: str | LoadedModel | None,
    device: str,
    trust_remote_code: bool,
    progress: Progress,
) -> None:
    """One cell of the board."""
    options = AblateOptions(statistic=criterion, seeds=tuple(range(seeds)), part=part)
    ablate_with(
        options,
        store,
        k=k,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )

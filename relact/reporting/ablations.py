"""What a report says of ablations: every stored matrix as long tables, and what may be claimed of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis.claims import claims, criterion_of
from relact.analysis.effects import kinds_of
from relact.analysis.evidence import LEVEL, evidence
from relact.reporting.spoken import said_of
from relact.schema import ACCURACY, KIND_INTACT, KIND_OWN, KIND_RANDOM
from relact.store.reading import Store

if TYPE_CHECKING:
    import xarray as xr

MEAN = " mean of all relations"  # as a relation in tables: no relation's name begins with a blank
CONTROL = "random"  # column of the mean over the random controls
OWN, OTHER = "own", "other"  # with CONTROL: whose neurons are switched off
COLUMNS = [
    "choice",
    "condition",
    "relation",
    "accuracy",
    "intact",
    "drop",
    "low",
    "high",
    "log_drop",
    "clear",
    "log_clear",
    "prompts",
]


@dataclass(frozen=True)
class Choice:
    """One ablation: k, mean drops in points, what may be claimed, and which prompts it shows; ``foreign`` are
    other prompts than the store's; ``statistic`` is what its neurons were chosen by, if that is known;
    ``sets`` how many random sets stand beside them; ``spoken`` what was said to some of the prompts, see
    `spoken.said_of`.
    """

    k: int
    statistic: str
    own: float
    other: float
    random: float
    said: tuple[str, ...]
    asked: str
    foreign: bool
    sets: int
    spoken: tuple[dict[str, Any], ...] = ()

    @property
    def gap(self) -> float:
        """Points that own neurons cost more than another relation's."""
        return self.own - float(np.nan_to_num(self.other))


def ablations_of(store: Store) -> tuple[dict[str, Choice], pd.DataFrame, pd.DataFrame]:
    """Every stored matrix by its name (and k where one group holds several): those of the store's own prompts
    first, the clearest of them before all.

    Returns:
        The choices, `Contents.accuracy` and `Contents.sweep`.
    """
    choices, kinds, prompts = {}, {}, cache(store.prompts)  # read once for all matrices
    matrices = [pd.DataFrame(columns=COLUMNS)]
    sweeps = [pd.DataFrame(columns=["choice", "k", "relation", "whose", "drop"])]
    for choice, k, dataset in _each(store):
        found = evidence(dataset)
        means = dict(zip(found["group"].values.tolist(), found["mean_drop"].values.tolist(), strict=True))
        own, other, random = (float(means.get(name, np.nan)) for name in (OWN, OTHER, CONTROL))
        said, foreign = tuple(claims(found)), schema.ANSWERS in dataset
        statistic = criterion_of(dataset)[0]
        asked, spoken = _asked(dataset, foreign), tuple(said_of(prompts, dataset))
        sets = int(found.attrs["n_random"])
        choices[choice] = Choice(k, statistic, own, other, random, said, asked, foreign, sets, spoken)
        settings = (str(dataset.attrs.get(name)) for name in ("mode", "scale", "tokens", "match", "part"))
        kinds[choice] = [statistic, *settings]
        matrices.append(_matrix(choice, dataset, found))
        sweeps.append(_sweep(choice, k, matrices[-1]))
    order = sorted(choices, key=lambda choice: (choices[choice].foreign, -choices[choice].gap))
    alike = {choice for choice in order if kinds[choice] == kinds[order[0]]}
    sweep = pd.concat(sweeps)
    # a k may be there twice
    sweep = sweep[sweep["choice"].isin(alike)].drop_duplicates(["k", "relation", "whose"])
    return {choice: choices[choice] for choice in order}, pd.concat(matrices), sweep


def _each(store: Store) -> Iterator[tuple[str, int, xr.Dataset]]:
    """(name, k, everything) of every matrix in the store."""
    for name in store.children(schema.ABLATIONS):
        dataset = store.dataset(f"{schema.ABLATIONS}/{name}").load()
        if "k" not in dataset[ACCURACY].dims:
            yield name, int(dataset.attrs.get("k", 0)), dataset
            continue
        for k in dataset["k"].values.tolist():
            yield f"{name}, k = {k}", int(k), dataset.sel(k=k)


def _asked(dataset: xr.Dataset, foreign: bool) -> str:
    """Which prompts a matrix shows."""
    parts = set(dataset[schema.PART].values.tolist()) if schema.PART in dataset else {schema.TEST}
    kind = {
        frozenset({schema.DEV}): "dev prompts, for choosing",
        frozenset({schema.IDENTIFY}): "identification prompts, on which the neurons were chosen",
    }.get(frozenset(parts), "test prompts")
    return f"{dataset.sizes['prompt']} {'other ' if foreign else ''}{kind}"


def _matrix(choice: str, dataset: xr.Dataset, found: xr.Dataset) -> pd.DataFrame:
    """Rows of `Contents.accuracy`: every condition, and the mean of the random ones."""
    kinds = kinds_of(dataset)
    intact = dataset[ACCURACY].isel(condition=kinds.index(KIND_INTACT), drop=True).to_series() * 100
    wanted = ("drop", "low", "high", "log_drop", "q_intact", "q_log_intact")
    rows = found[[name for name in wanted if name in found]].to_dataframe().reset_index()
    kind_of = dict(zip(dataset["condition"].values.tolist(), kinds, strict=True))
    rows["kind"] = rows["condition"].map(kind_of)
    for name in ("log_drop", "q_log_intact"):
        if name not in rows:
            rows[name] = np.nan
    random = rows[rows["kind"] == KIND_RANDOM]
    control = random.groupby("relation", sort=False)[["drop", "log_drop"]].mean().reset_index()
    own = rows[rows["kind"] == KIND_OWN]
    own = own.assign(clear=own["q_intact"] < LEVEL, log_clear=own["q_log_intact"] < LEVEL)
    unknown = {"low": np.nan, "high": np.nan, "clear": False, "log_clear": False}
    rows = pd.concat([own, control.assign(condition=CONTROL, **unknown)])
    rows["intact"] = rows["relation"].map(intact).astype(float)
    asked = pd.Series(dataset[schema.RELATION_OF].values).value_counts()
    rows["prompts"] = rows["relation"].map(asked).astype(int)
    return rows.assign(choice=choice, accuracy=rows["intact"] - rows["drop"])[COLUMNS]


def _sweep(choice: str, k: int, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `Contents.sweep` of one matrix."""
    whose = np.where(rows["condition"] == rows["relation"], OWN, OTHER)
    table = rows.assign(whose=np.where(rows["condition"] == CONTROL, CONTROL, whose))
    table = table.groupby(["relation", "whose"], sort=False)["drop"].mean().reset_index()
    mean = table.groupby("whose", sort=False)["drop"].mean().reset_index().assign(relation=MEAN)
    return pd.concat([mean, table]).assign(choice=choice, k=k)[["choice", "k", "relation", "whose", "drop"]]

"""Evidence: which effects of an ablation are more than chance, from its stored verdicts alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from relact.analysis.effects import cells
from relact.schema import INTACT, RANDOM

RESAMPLES = 10_000
LEVEL = 0.05  # of corrected p-values
TESTS = ("p_intact", "p_random")


def evidence(ablation: xr.Dataset, *, resamples: int = RESAMPLES, seed: int = 0) -> xr.Dataset:
    """An interval and two paired tests for every cell of one ablation (``correct`` [condition, prompt],
    no sweep).

    Args:
        resamples: bootstrap draws of each relation's test prompts, the same draws for all conditions.

    Returns:
        Over [condition, relation], without ``intact``:

        - drop, in points of 100 against intact, with low and high: its 95% percentile bootstrap interval
        - lost and gained: prompts whose verdict changed against intact
        - p_intact: exact McNemar test against intact
        - p_random: the same against the majority of the random controls (intact where they are even); NaN
          without them
        - q_intact, q_random: corrected for the number of cells (Benjamini and Hochberg 1995), random
          conditions not counted

        Over [group] (own, other, random): mean_drop, mean_low, mean_high, the mean over the group's cells.
    """
    names = [str(name) for name in ablation["condition"].values]
    relations = [str(name) for name in ablation["relation"].values]
    relation_of = np.array([str(name) for name in ablation["relation_of"].values])
    every = ablation["correct"].values  # [condition, prompt]
    intact = every[names.index(INTACT)]
    conditions = [name for name in names if name != INTACT]
    verdicts = every[[names.index(name) for name in conditions]]
    random = np.array([name.startswith(RANDOM) for name in conditions])
    control = _majority(verdicts[random], intact)
    generator = np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("drop", "low", "high", "lost", "gained", *TESTS)
    }
    samples = np.empty((resamples, len(conditions), len(relations)), np.float32)
    for column, relation in enumerate(relations):
        own = np.flatnonzero(relation_of == relation)
        # [condition, prompt]: 1 is a loss
        here, loss = verdicts[:, own], intact[own].astype(int) - verdicts[:, own]
        weights = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples) / len(own)
        samples[:, :, column] = 100 * weights @ loss.T
        low, high = np.percentile(samples[:, :, column], (2.5, 97.5), axis=0)
        values = (
            100 * loss.mean(axis=1),
            low,
            high,
            (loss > 0).sum(axis=1),
            (loss < 0).sum(axis=1),
            mcnemar(intact[own], here),
            mcnemar(control[own], here) if random.any() else np.full(len(here), np.nan),
        )
        for name, column_values in zip(found, values, strict=True):
            found[name].append(column_values)
    table = {name: np.stack(columns, axis=1) for name, columns in found.items()}
    table |= {name.replace("p_", "q_"): _corrected(table[name], ~random) for name in TESTS}
    means: dict[str, list[float]] = {"mean_drop": [], "mean_low": [], "mean_high": []}
    groups = {name: mask for name, mask in cells(conditions, relations).items() if mask.any()}
    for mask in groups.values():
        drawn = samples[:, mask].mean(axis=1)
        bounds = np.percentile(drawn, (2.5, 97.5))
        for name, value in zip(means, (table["drop"][mask].mean(), *bounds), strict=True):
            means[name].append(float(value))
    return xr.Dataset(
        {name: (("condition", "relation"), values) for name, values in table.items()}
        | {name: (("group",), values) for name, values in means.items()},
        coords={"condition": conditions, "relation": relations, "group": list(groups)},
    )


def _majority(random: np.ndarray, intact: np.ndarray) -> np.ndarray:
    """bool [prompt]: the verdict of most random controls, intact's where they are even."""
    twice = 2 * random.sum(axis=0)
    majority: np.ndarray = np.where(twice == len(random), intact, twice > len(random))
    return majority


def mcnemar(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Exact two-sided McNemar test of paired verdicts: p-values [condition] of before [prompt],
    after [condition, prompt].

    Of the prompts whose verdict changed, half should change each way: a binomial test.
    Source: McNemar 1947.
    """
    lost, gained = (before & ~after).sum(axis=1), (~before & after).sum(axis=1)
    return np.minimum(1.0, 2 * scipy.stats.binom.cdf(np.minimum(lost, gained), lost + gained, 0.5))


def _corrected(p: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """p-values [condition, relation] corrected for the cells of the ``counted`` conditions;
    NaN in the others.
    """
    q = np.full(p.shape, np.nan)
    if counted.any() and not np.isnan(p[counted]).any():
        q[counted] = scipy.stats.false_discovery_control(p[counted].ravel()).reshape(p[counted].shape)
    return q


def influences(found: xr.Dataset, *, level: float = LEVEL) -> pd.DataFrame:
    """Who hurts whom and who helps whom, read off `evidence`: one row per condition that is not random.

    A relation is hurt where accuracy falls, and helped (interference is released) where it rises,
    significantly against intact and, if there are controls, against random.

    Returns:
        switched_off; own (points lost on itself, NaN where it isn't a relation); hurts, helps: the other
        relations' names with points, strongest first; versatility: how many others it hurts; interference:
        how many it helps.
    """
    rows = []
    relations = [str(name) for name in found["relation"].values]
    for name in map(str, found["condition"].values):
        if name.startswith(RANDOM):
            continue
        one = found.sel(condition=name)
        drops, clear = one["drop"].values, one["q_intact"].values < level
        against_random = one["q_random"].values
        clear &= np.isnan(against_random) | (against_random < level)
        others = [
            at for at in np.argsort(-np.abs(drops), kind="stable") if clear[at] and relations[at] != name
        ]
        hurt, helped = ([at for at in others if sign * drops[at] > 0] for sign in (1, -1))
        rows.append(
            {
                "switched_off": name,
                "own": float(drops[relations.index(name)]) if name in relations else float("nan"),
                "own_clear": bool(clear[relations.index(name)]) if name in relations else False,
                "hurts": ", ".join(f"{relations[at]} {drops[at]:.0f}" for at in hurt),
                "helps": ", ".join(f"{relations[at]} {-drops[at]:.0f}" for at in helped),
                "versatility": len(hurt),
                "interference": len(helped),
            }
        )
    return pd.DataFrame(rows)

"""Evidence: which effects of an ablation are more than chance, from its stored verdicts alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from relact.analysis.effects import cells
from relact.schema import CORRECT, INTACT, RANDOM, RELATION_OF

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap
LEVEL = 0.05  # of corrected p-values
TESTS = ("p_intact", "p_random")


def evidence(ablation: xr.Dataset, *, resamples: int = RESAMPLES, seed: int = 0) -> xr.Dataset:
    """An interval and two paired tests for every cell of one ablation, from its verdicts.

    Args:
        ablation: with ``correct`` [condition, prompt]; of a sweep, one k.
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
    conditions = [name for name in names if name != INTACT]
    relations = [str(name) for name in ablation["relation"].values]
    relation_of = np.array([str(name) for name in ablation[RELATION_OF].values])
    correct = ablation[CORRECT].values  # [condition, prompt]
    intact, verdicts = correct[names.index(INTACT)], correct[[names.index(name) for name in conditions]]
    random = np.array([name.startswith(RANDOM) for name in conditions])
    control = _majority(verdicts[random], intact) if random.any() else None
    generator = np.random.default_rng(seed)
    samples = np.empty((resamples, len(conditions), len(relations)), np.float32)
    columns = []
    for at, relation in enumerate(relations):
        rows = np.flatnonzero(relation_of == relation)
        loss = intact[rows].astype(int) - verdicts[:, rows]  # [condition, prompt]: 1 is lost, -1 gained
        samples[:, :, at] = _resampled(loss, resamples, generator)
        tests = _tests(intact[rows], None if control is None else control[rows], verdicts[:, rows])
        columns.append({**_drops(loss, samples[:, :, at]), **tests})
    table = {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}
    table |= {name.replace("p_", "q_"): _corrected(table[name], ~random) for name in TESTS}
    groups = {name: mask for name, mask in cells(conditions, relations).items() if mask.any()}
    return xr.Dataset(
        {name: (("condition", "relation"), values) for name, values in table.items()}
        | {name: (("group",), values) for name, values in _means(table["drop"], samples, groups).items()},
        coords={"condition": conditions, "relation": relations, "group": list(groups)},
    )


def _resampled(loss: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Drops [draw, condition], in points, when the prompts of loss [condition, prompt] are drawn anew."""
    n = loss.shape[1]
    weights = generator.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    drops: np.ndarray = 100 * weights @ loss.T
    return drops


def _drops(loss: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
    """What one relation loses, per condition: of loss [condition, prompt] and samples [draw, condition]."""
    low, high = np.percentile(samples, INTERVAL, axis=0)
    return {
        "drop": 100 * loss.mean(axis=1),
        "low": low,
        "high": high,
        "lost": (loss > 0).sum(axis=1),
        "gained": (loss < 0).sum(axis=1),
    }


def _tests(intact: np.ndarray, control: np.ndarray | None, verdicts: np.ndarray) -> dict[str, np.ndarray]:
    """p-values [condition] of one relation's verdicts [condition, prompt], against intact and control."""
    return {
        name: mcnemar(before, verdicts) if before is not None else np.full(len(verdicts), np.nan)
        for name, before in zip(TESTS, (intact, control), strict=True)
    }


def _means(
    drops: np.ndarray, samples: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """Mean drop of every group of cells [condition, relation], and its interval."""
    means: dict[str, list[float]] = {"mean_drop": [], "mean_low": [], "mean_high": []}
    for mask in groups.values():
        low, high = np.percentile(samples[:, mask].mean(axis=1), INTERVAL)
        for values, value in zip(means.values(), (drops[mask].mean(), low, high), strict=True):
            values.append(float(value))
    return means


def _majority(random: np.ndarray, intact: np.ndarray) -> np.ndarray:
    """bool [prompt]: the verdict of most random controls, intact's where they are even."""
    twice = 2 * random.sum(axis=0)
    majority: np.ndarray = np.where(twice == len(random), intact, twice > len(random))
    return majority


def mcnemar(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Exact two-sided McNemar test of paired verdicts: p-values [condition].

    ``before`` is bool [prompt], ``after`` [condition, prompt]. Of the prompts whose verdict changed, half
    should change each way: a binomial test. Source: McNemar 1947.
    """
    lost, gained = (before & ~after).sum(axis=1), (~before & after).sum(axis=1)
    return np.minimum(1.0, 2 * scipy.stats.binom.cdf(np.minimum(lost, gained), lost + gained, 0.5))


def _corrected(p: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """p-values [condition, relation] corrected for the cells of ``counted`` conditions; NaN in the others."""
    q = np.full(p.shape, np.nan)
    if counted.any() and not np.isnan(p[counted]).any():
        q[counted] = scipy.stats.false_discovery_control(p[counted].ravel()).reshape(p[counted].shape)
    return q


def influences(found: xr.Dataset, *, level: float = LEVEL) -> pd.DataFrame:
    """Who hurts whom and who helps whom, read off `evidence`: a row per condition that is not random.

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
        row = found.sel(condition=name)
        drops, clear = row["drop"].values, row["q_intact"].values < level
        against_random = row["q_random"].values
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

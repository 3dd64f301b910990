"""Evidence: which effects of an ablation are more than chance, and more than random neurons do.

What `evidence` gives:

Over [condition, relation], without ``intact``; ``kind`` goes along condition:

- drop, in points of 100, with low and high (`newcombe`); lost and gained: prompts
- p_intact: exact McNemar test against intact; q_intact corrects it in two families, own cells and
  the others of chosen neurons; NaN under random ones
- p_random, q_random: own cells against random sets (`beyond_random`), corrected over the diagonal
- log_drop, mean nats lost, with log_low and log_high (`of_means`); logit_drop, mean loss of
  the logit difference; p_log_intact: Wilcoxon signed-rank over prompts; q_log_intact, p_log_random
  and q_log_random as above

Over [relation]: rank and rank_log, the place of the own drop among the random sets' (1 is larger than
all, ties count against it); cause, isolation and disentanglement (`_disentangled`); separates and
separates_log: loses something, more than under random sets on average, with q against intact and,
where there are random sets, against those below 0.05.

Over [group], of `GROUPS` those that exist, every relation weighing the same: mean_size, the mean of cells'
drops in points without their signs, which do not cancel (chance alone makes it more than 0: compare with
random ones; NaN of differences); mean_drop with mean_low and mean_high, mean_log_drop with mean_log_low and
mean_log_high (`over_relations`; where verdicts changed alike on every prompt a bootstrap is a point, and the
bounds in points are those of all prompts taken together, `_pooled`).

Attributes: n_relations, n_prompts, n_random; wilcoxon_other, wilcoxon_random, wilcoxon_log_other,
wilcoxon_log_random: p over relations of own drops against the others', NaN where undefined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from relact import schema
from relact.analysis.asked import require_ablation
from relact.analysis.claims import claims, influences
from relact.analysis.effects import averaged
from relact.analysis.hypotheses import LEVEL, beyond_random, corrected, mcnemar, signed_rank
from relact.analysis.intervals import alike, newcombe, of_means, over_relations
from relact.analysis.losses import Losses, losses

__all__ = ["LEVEL", "claims", "evidence", "influences"]

RESAMPLES = 10_000
GROUPS = ("own", "other", "random", "own_minus_other", "own_minus_random")


def evidence(ablation: xr.Dataset, *, resamples: int = RESAMPLES, seed: int = 0) -> xr.Dataset:
    """Intervals and paired tests of one ablation, one k, from what it stored of every prompt.

    Random controls are matched to a relation's own set, so only own cells (the diagonal) are compared with
    them. Intervals are of 95 %. Variables of log-probability are left out where it is not stored.

    Args:
        resamples: bootstrap draws. seed: of the draws; equal seeds give equal results.

    Returns:
        Over [condition, relation], [relation] and [group]: the variables that this module's text lists.

    Raises:
        InputError: several k, no intact condition, or no prompts.
    """
    require_ablation(ablation)
    taken = losses(ablation)
    generator = np.random.default_rng(seed)
    table = {**_of_verdicts(taken), **_of_nats(taken, resamples, generator)}
    groups, means, tests = _of_groups(taken, resamples, generator)
    by_relation = {**_of_relations(taken, table), **_disentangled(taken)}
    sizes_of = {name: averaged(np.abs(table["drop"]), taken.groups[name]) for name in GROUPS[:3]}
    means["mean_size"] = np.array([sizes_of.get(name, np.nan) for name in groups])
    sizes = {
        "n_relations": len(taken.relations),
        "n_prompts": sum(map(len, taken.intact)),
        "n_random": taken.n_random,
    }
    return xr.Dataset(
        {name: (("condition", "relation"), values) for name, values in table.items()}
        | {name: (("relation",), values) for name, values in by_relation.items()}
        | {name: (("group",), values) for name, values in means.items()},
        coords={
            "condition": taken.conditions,
            schema.KIND: ("condition", taken.kinds),
            "relation": taken.relations,
            "group": groups,
        },
        attrs={**sizes, **tests},
    )


def _of_verdicts(taken: Losses) -> dict[str, np.ndarray]:
    """What is known of every cell [condition, relation] from verdicts."""
    columns = []
    for before, after in zip(taken.intact, taken.verdicts, strict=True):
        lost, gained = (before & ~after).sum(axis=1), (~before & after).sum(axis=1)
        both, neither = (before & after).sum(axis=1), (~before & ~after).sum(axis=1)
        low, high = newcombe(both, lost, gained, neither)
        drop = 100 * (lost - gained) / len(before)
        bounds = {"drop": drop, "low": 100 * low, "high": 100 * high}
        columns.append({**bounds, "lost": lost, "gained": gained, "p_intact": mcnemar(before, after)})
    table = _stacked(columns)
    floor = np.array([100 / len(before) for before in taken.intact])  # one prompt: no drop is known better
    return {**table, **_tested(taken, table, floor, log="")}


def _of_nats(taken: Losses, resamples: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """What is known of every cell [condition, relation] from log-probabilities; empty without them."""
    if taken.nats is None:
        return {}
    columns = []
    for nats in taken.nats:
        low, high = of_means(nats, resamples, generator)
        column = {"log_drop": _mean(nats), "log_low": low, "log_high": high}
        columns.append({**column, "p_log_intact": signed_rank(nats)})
    if taken.logits is not None:
        for column, logits in zip(columns, taken.logits, strict=True):
            column["logit_drop"] = _mean(logits)
    table = _stacked(columns)
    floor = np.array([_chance_of_prompts(nats[_compared(taken, at)]) for at, nats in enumerate(taken.nats)])
    return {**table, **_tested(taken, table, floor, log="log_")}


def _compared(taken: Losses, relation: int) -> np.ndarray:
    """Mask [condition]: the sets that a relation's own drop is compared among, itself and the random ones."""
    mask: np.ndarray = taken.groups["own"][:, relation] | taken.groups["random"][:, relation]
    return mask


def _chance_of_prompts(values: np.ndarray) -> float:
    """Standard error of one row's mean of values [set, prompt], were it chance which prompts a set hits.

    What is left when the means of sets and of prompts are taken out, over the root of the number of prompts.
    Of fewer than two sets or prompts: 0.
    """
    n_sets, n = values.shape
    if n_sets < 2 or n < 2:
        return 0.0
    rest = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean()
    return float(np.sqrt((rest**2).sum() / ((n_sets - 1) * (n - 1)) / n))


def _tested(
    taken: Losses, table: dict[str, np.ndarray], floor: np.ndarray, log: str
) -> dict[str, np.ndarray]:
    """Own cells against random sets, and all corrected p-values, [condition, relation]."""
    own, other = taken.groups["own"], taken.groups["other"]
    drops, intact = table[f"{log}drop"], table[f"p_{log}intact"]
    p = beyond_random(taken.diagonal(drops), taken.random(drops), floor)
    random = np.where(own, p, np.nan)
    q_own, q_other = corrected(intact, own), corrected(intact, other)
    return {
        f"q_{log}intact": np.where(own, q_own, q_other),
        f"p_{log}random": random,
        f"q_{log}random": corrected(random, own),
    }


def _of_relations(taken: Losses, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rank and verdict of every relation, by accuracy and by log-probability where that is known."""
    found: dict[str, np.ndarray] = {}
    for suffix, log in (("", ""), ("_log", "log_")):
        if f"{log}drop" not in table:
            continue
        own, random = taken.diagonal(table[f"{log}drop"]), taken.random(table[f"{log}drop"])
        clear = (own > 0) & (taken.diagonal(table[f"q_{log}intact"]) < LEVEL)
        rank = np.full(own.shape, np.nan)
        if taken.n_random:
            rank = np.where(np.isnan(own), np.nan, 1 + (random >= own[:, None]).sum(axis=1))
            clear &= (own > random.mean(axis=1)) & (taken.diagonal(table[f"q_{log}random"]) < LEVEL)
        found |= {f"rank{suffix}": rank, f"separates{suffix}": clear}
    return found


def _disentangled(taken: Losses) -> dict[str, np.ndarray]:
    """Cause, isolation and their mean, [relation], each a share of 1; NaN where nothing is known of it.

    cause: of what the intact model answers of a relation, what its own neurons' loss takes away. isolation:
    of what it answers of another relation, what stays right under them, averaged over those relations. After
    Huang et al. 2024 (RAVEL, arXiv 2402.17700), who put another value in place; here an answer is only lost.
    """
    known = zip(taken.intact, taken.verdicts, strict=True)
    stays = np.stack([_mean(after[:, before].astype(float)) for before, after in known], axis=1)
    own = taken.groups["own"]
    cause = 1 - taken.diagonal(stays)
    isolation = np.full(len(taken.relations), np.nan)
    for at in np.flatnonzero(own.any(axis=0)):
        others = np.delete(stays[np.argmax(own[:, at])], at)
        isolation[at] = _mean(others[None, ~np.isnan(others)])[0]
    return {"cause": cause, "isolation": isolation, "disentanglement": (cause + isolation) / 2}


def _of_groups(
    taken: Losses, resamples: int, generator: np.random.Generator
) -> tuple[list[str], dict[str, np.ndarray], dict[str, float]]:
    """Groups that exist, their means over relations with intervals, and signed-rank tests over relations."""
    groups = taken.groups
    exists = [groups[name].any() for name in GROUPS[:3]]
    exists += [(groups["own"].any(axis=0) & groups[name].any(axis=0)).any() for name in GROUPS[1:3]]
    measures = {"": [100.0 * change for change in taken.changes()], "log_": taken.nats}
    means: dict[str, np.ndarray] = {}
    tests: dict[str, float] = {}
    for log, values in measures.items():
        if values is None:
            tests |= {f"wilcoxon_{log}{name}": float("nan") for name in GROUPS[1:3]}
            continue
        tables = [_by_group(taken, at, lost) for at, lost in enumerate(values)]
        points = np.stack([_mean(table) for table in tables], axis=1)  # [group, relation]
        low, high = over_relations(tables, resamples, generator)
        if not log:
            low, high = np.where(alike(tables), _pooled(taken), (low, high))
        for name, column in (("drop", _mean(points)), ("low", low), ("high", high)):
            means[f"mean_{log}{name}"] = column[exists]
        for name, differences in zip(GROUPS[1:3], points[3:], strict=True):
            known = differences[~np.isnan(differences)]
            tests[f"wilcoxon_{log}{name}"] = (
                float(signed_rank(known[None])[0]) if known.size > 1 else float("nan")
            )
    return [name for name, there in zip(GROUPS, exists, strict=True) if there], means, tests


def _by_group(taken: Losses, relation: int, lost: np.ndarray) -> np.ndarray:
    """A relation's losses [condition, prompt] as [group, prompt], means over the conditions of `GROUPS`.

    NaN where it has no condition of a group.
    """
    rows = [lost[taken.groups[name][:, relation]] for name in GROUPS[:3]]
    own, other, random = (_mean(part.T) for part in rows)
    return np.stack([own, other, random, own - other, own - random])


def _pooled(taken: Losses) -> np.ndarray:
    """Bounds [low or high, group] in points, of the prompts of all relations as one sample of pairs.

    The two verdicts of a pair are before and after, or for differences after another set and after one's own.
    Of several conditions, counts are means over them. NaN where no relation has a group.
    """
    counts = np.zeros((4, len(GROUPS)))
    for at, (before, after) in enumerate(zip(taken.intact, taken.verdicts, strict=True)):
        rows = [after[taken.groups[name][:, at]].astype(float) for name in GROUPS[:3]]
        own, other, random = (_mean(part.T) for part in rows)
        one = np.stack([before, before, before, other, random]).astype(float)
        two = np.stack([own, other, random, own, own])  # [group, prompt]
        pairs = (one * two, one * (1 - two), (1 - one) * two, (1 - one) * (1 - two))
        counts += [np.nansum(pair, axis=1) for pair in pairs]
    tried = counts.sum(axis=0) > 0
    bounds = np.full((2, len(GROUPS)), np.nan)
    bounds[:, tried] = 100 * np.stack(newcombe(*counts[:, tried]))
    return bounds


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of every row of values [row, unit] over what is not NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _stacked(columns: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays [condition] of every relation as [condition, relation]."""
    return {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}

"""Claims: what the evidence of an ablation allows to be said, as a table and as sentences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from relact.analysis.asked import require_evidence
from relact.analysis.hypotheses import LEVEL
from relact.schema import ATTRIBUTE, KIND, KIND_OWN, KIND_RANDOM

COMPARED = {"own_minus_other": "another relation's", "own_minus_random": "matched random ones"}
MEASURES = {"": "accuracy", "_log": "log-probability"}  # by the ending of variables over relations


def influences(found: xr.Dataset, *, level: float = LEVEL) -> pd.DataFrame:
    """Who hurts whom and who helps whom, read off `evidence`: a row per condition that is not random.

    Another relation is hurt where accuracy falls, and helped (interference is released) where it rises,
    significantly against intact; the random controls are not matched to those cells and have no say there.

    Returns:
        switched_off; own (points lost on itself, NaN where it isn't a relation); own_clear (`separates` of
        `evidence`); hurts, helps: the other relations' names with points, strongest first; versatility: how
        many others it hurts; interference: how many it helps; own_log (nats) and own_log_clear, NaN and
        False where log-probabilities are not stored.
    """
    require_evidence(found)
    rows = []
    relations = [str(name) for name in found["relation"].values]
    for condition, (name, kind) in enumerate(zip(found["condition"].values, found[KIND].values, strict=True)):
        if kind == KIND_RANDOM:
            continue
        row = found.isel(condition=condition)
        at = relations.index(name) if name in relations else None
        drops, clear = row["drop"].values, row["q_intact"].values < level
        others = [to for to in np.argsort(-np.abs(drops), kind="stable") if clear[to] and to != at]
        hurt, helped = ([to for to in others if sign * drops[to] > 0] for sign in (1, -1))
        logs = "log_drop" in found and at is not None
        rows.append(
            {
                "switched_off": str(name),
                "own": float(drops[at]) if at is not None else float("nan"),
                "own_clear": bool(found["separates"].values[at]) if at is not None else False,
                "hurts": ", ".join(f"{relations[to]} {drops[to]:.0f}" for to in hurt),
                "helps": ", ".join(f"{relations[to]} {-drops[to]:.0f}" for to in helped),
                "versatility": len(hurt),
                "interference": len(helped),
                "own_log": float(row["log_drop"].values[at]) if logs else float("nan"),
                "own_log_clear": bool(found["separates_log"].values[at]) if logs else False,
            }
        )
    return pd.DataFrame(rows)


def claims(found: xr.Dataset) -> list[str]:
    """What `evidence` allows to be said, a sentence or two per line, plain words, for people to read.

    How much own neurons cost on average, and more than others and random ones, by accuracy and by
    log-probability; what is not established, its interval holding 0, or Wilcoxon's test not rejecting where
    it could; what they do to other relations either way; which relations separate; their ranks among the
    random sets.
    """
    require_evidence(found)
    lines = _average(found, "", "points", 1)
    if "mean_log_drop" in found:
        lines += _average(found, "log_", "nats of the answer's log-probability", 2)
    return [*lines, *_others(found), *_separate(found), *_ranks(found)]


def criterion_of(ablation: xr.Dataset) -> tuple[str, tuple[str, ...]]:
    """By which statistic of which sites the neurons of an ablation were chosen; ("", ()) where it says
    nothing of it.
    """
    mask = ablation.attrs.get(ATTRIBUTE, {}).get("mask", {})
    record = mask[0] if isinstance(mask, list) else mask  # a sweep has one per k, alike
    return str(record.get("statistic", "")), tuple(record.get("sites", ()))


def summary(found: xr.Dataset) -> str:
    """What `evidence` says in one line: mean drops in points, others' also without their signs, and how many
    relations separate.
    """
    parts = []
    for group, whose in (("own", "own neurons"), ("other", "another relation's"), ("random", "random ones")):
        if group in found["group"].values:
            size = float(found["mean_size"].sel(group=group))
            either = f" ({size:.1f} either way)" if group != "own" else ""
            parts.append(f"{whose} {_interval(found, '', group, 1)}{either}")
    separate = int(found["separates"].values.sum())
    return f"points lost by {', '.join(parts)}; {separate} of {_n_own(found)} relations separate"


def _average(found: xr.Dataset, log: str, unit: str, digits: int) -> list[str]:
    """The line of mean drops in one unit, and what of it is not established."""
    if "own" not in found["group"].values:
        return []
    groups = ["own", *(name for name in COMPARED if name in found["group"].values)]
    own, *more = (_interval(found, log, name, digits) for name in groups)
    parts = [own.replace(" ", f" {unit} ", 1)]
    parts += [f"{size} more than {COMPARED[name]}" for size, name in zip(more, groups[1:], strict=True)]
    p_of = {name: found.attrs[f"wilcoxon_{log}{name.removeprefix('own_minus_')}"] for name in groups[1:]}
    known = [f"{value:.2g}" for value in p_of.values() if not np.isnan(value)]
    wilcoxon = f"; Wilcoxon p = {_listed(known)}" if known else ""
    over = "relations and prompts" if found.attrs["n_relations"] > 1 else "prompts"
    line = f"own neurons cost {_listed(parts)} (95 % intervals over {over}{wilcoxon})"
    able = 2.0 ** (1 - found.attrs["n_relations"]) < LEVEL  # the least p that so few relations can have
    doubted = [
        name for name in groups if _holds_zero(found, log, name) or (able and p_of.get(name, 0.0) >= LEVEL)
    ]
    if not doubted:
        return [line]
    doubts = [f"more than {COMPARED[name]}" if name in COMPARED else "anything" for name in doubted]
    return [line, f"not established by interval and test: that they cost {_listed(doubts)}"]


def _listed(parts: list[str]) -> str:
    """As a sentence lists things: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _interval(found: xr.Dataset, log: str, group: str, digits: int) -> str:
    """A group's mean with its bounds, as 1.2 [0.1, 2.3]."""
    row = found.sel(group=group)
    # adding 0 turns -0.0 into 0.0
    values = [round(float(row[f"mean_{log}{name}"]), digits) + 0.0 for name in ("drop", "low", "high")]
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def _holds_zero(found: xr.Dataset, log: str, group: str) -> bool:
    """Whether a group's interval does not exclude 0; where there is none, nothing is excluded."""
    row = found.sel(group=group)
    return not (float(row[f"mean_{log}low"]) > 0 or float(row[f"mean_{log}high"]) < 0)


def _others(found: xr.Dataset) -> list[str]:
    """The line of how much neurons of one relation change others, where losses and gains do not cancel."""
    groups = found["group"].values
    if "other" not in groups:
        return []
    chosen = found[KIND].values != KIND_RANDOM
    other = chosen[:, None] & (found["condition"].values[:, None] != found["relation"].values)
    clear = other & (found["q_intact"].values < LEVEL)
    losses = int((clear & (found["drop"].values > 0)).sum())
    sizes = {name: f"{float(found['mean_size'].sel(group=name)):.1f}" for name in groups}
    beside = f" (random sets: {sizes['random']})" if "random" in groups else ""
    return [
        f"other relations change by {sizes['other']} points on average, losses and gains alike{beside}; "
        f"{clear.sum()} of {other.sum()} cells beyond chance ({losses} lose, {clear.sum() - losses} gain)"
    ]


def _separate(found: xr.Dataset) -> list[str]:
    """The line that counts and names the relations that separate."""
    n_random = int(found.attrs["n_random"])
    if n_random == 1:
        return ["whether any relation separates cannot be told from one random set"]
    parts = []
    for drop, suffix, digits in (("drop", "", 0), ("log_drop", "_log", 2)):
        if drop in found:
            clear = [str(name) for name in found["relation"].values[found[f"separates{suffix}"].values]]
            sizes = [float(found[drop].sel(condition=name, relation=name)) for name in clear]
            names = ", ".join(f"{name} {size:.{digits}f}" for name, size in zip(clear, sizes, strict=True))
            count = f"{len(clear)} of {_n_own(found)} by {MEASURES[suffix]}"
            parts.append(f"{count} ({names})" if names else count)
    return [f"separate beyond chance{' and random sets' if n_random else ''}: {', '.join(parts)}"]


def _ranks(found: xr.Dataset) -> list[str]:
    """The line of the own drops' ranks; none without random sets."""
    n_random, n_own = int(found.attrs["n_random"]), _n_own(found)
    if not (n_random and n_own):
        return []
    parts = []
    for suffix, measure in MEASURES.items():
        if f"rank{suffix}" in found:
            ranks = found[f"rank{suffix}"].to_series().dropna()
            rest = ", ".join(f"{name} {rank:.0f}" for name, rank in ranks[ranks > 1].items())
            parts.append(
                f"1 in {(ranks == 1).sum()} of {n_own} by {measure}" + (f" ({rest})" if rest else "")
            )
    sets = f"{n_random} random sets, 1 if larger than all" if n_random > 1 else "1 random set"
    return [f"rank of the own drop among {sets}: {', '.join(parts)}"]


def _n_own(found: xr.Dataset) -> int:
    """How many relations were tried under their own neurons."""
    chosen = found["condition"].values[found[KIND].values == KIND_OWN]
    return int(np.isin(found["relation"].values, chosen).sum())

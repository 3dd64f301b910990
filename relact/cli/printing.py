"""What several commands print in the same way, and how they read lists."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from relact import schema
from relact.cli import terminal
from relact.plan import Plan, show_bytes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr

    from relact.store.reading import Store
    from relact.studies.run import Study

NOT_KNOWN = "not known on this device yet: any `relact capture` of some seconds measures it"


def show(values: dict[str, Any], as_json: bool) -> None:
    """Names and values, one pair a line or as JSON."""
    terminal.dump(values) if as_json else terminal.pairs(values)


def show_store(store: Store, as_json: bool, **more: Any) -> None:
    """What a store holds: in words, or as values in JSON."""
    if not as_json:
        return terminal.pairs(store.describe() | more)
    from relact.store.described import facts

    terminal.dump(facts(store) | more)


def told_of(place: str | Path, *stages: str) -> Store:
    """A store to read; what of the stages in it is older than its prompts is said on stderr."""
    from relact.packed.store import open_store

    opened = open_store(place)
    say_stale(opened, *stages)
    return opened


def say_stale(store: Store, *stages: str) -> None:
    """Say on stderr what is older than the store's prompts."""
    from relact.store.stale import stale

    if groups := stale(store, stages):
        names = ", ".join(groups[:3]) + (f" and {len(groups) - 3} more" if len(groups) > 3 else "")
        terminal.problem(
            f"stale: {names} were computed before prompts were appended. Run `relact score {store.path}`, "
            "then select and ablate again, or the same `relact run`"
        )


def show_plans(plans: Sequence[Plan], as_json: bool) -> None:
    """What commands are about to do: exact numbers plain, bounds with a sign, times as estimates."""
    import pandas as pd

    if as_json:
        terminal.dump([asdict(step) for step in plans])
        return
    rows = []
    for step in plans:
        bound = "" if step.exact else "≤ "
        time = (
            "unknown" if step.seconds is None else f"about {timedelta(seconds=max(1, round(step.seconds)))}"
        )
        rows.append(
            {
                "step": step.what,
                "files": f"{bound}{step.files:,}",
                "on disk": f"{bound}{show_bytes(step.bytes)}",
                "memory": f"≤ {show_bytes(step.memory)}",
                "time": time,
            }
        )
    terminal.table(pd.DataFrame(rows))
    for note in dict.fromkeys(note for step in plans for note in step.notes):
        terminal.problem(note)
    if any(step.seconds is None for step in plans):
        terminal.problem(f"time is {NOT_KNOWN}")


def show_frame(
    frame: pd.DataFrame, as_json: bool, output: Path | None = None, heat: tuple[str, ...] = ()
) -> None:
    """A table on the terminal, as JSON, or into a file."""
    if output:
        from relact.analysis import tables

        output = tables.write_table(frame, output)
    if as_json:
        terminal.dump(_records(frame))
    elif output:
        terminal.say(f"written: {output}")
    else:
        terminal.table(frame, heat=heat)


def show_columns(
    columns: Mapping[str, np.ndarray], as_json: bool, output: Path | None = None, heat: tuple[str, ...] = ()
) -> None:
    """The same of arrays by name, without pandas but for a file."""
    if output:
        import pandas as pd

        show_frame(pd.DataFrame(columns), as_json, output)
    elif as_json:
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        terminal.dump(
            [{name: _known(value) for name, value in zip(columns, row, strict=True)} for row in rows]
        )
    else:
        terminal.table(columns, heat=heat)


def numbers(text: str) -> int | list[int]:
    """``400`` or ``10,50,200``."""
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a number nor numbers with commas", param_hint="--k"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes


def decimals(text: str, option: str) -> list[float]:
    """``0.5,1.5,2``."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} are not numbers with commas", param_hint=option) from None


def neurons_of(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """``mlp.hidden/13/1023`` as (site, layer, index)."""
    found = []
    for name in names:
        site, *numbers_ = name.split("/")
        try:
            layer, index = map(int, numbers_)
        except ValueError:
            problem = f"{name!r} is not SITE/LAYER/INDEX, such as mlp.hidden/13/1023"
            raise typer.BadParameter(problem, param_hint="--neuron") from None
        found.append((site, layer, index))
    return found


def spoken(words: Sequence[str], most: int = 6) -> str:
    """Tokens side by side, their leading blanks left out."""
    return "  ".join(word.strip() or repr(word) for word in words[:most])


def listed(names: str | None) -> list[str] | None:
    """Names separated by commas; one that has a comma itself stands in double quotes: ``"a, b",c``."""
    if not names:
        return None
    return [name.strip() for row in csv.reader([names], skipinitialspace=True) for name in row]


def show_sources(chosen: list[str], skipped: list[str]) -> None:
    """Which columns of tables were taken for what, and the rows that were left out."""
    for line in chosen:
        terminal.say(line)
    if skipped:
        more = "; ..." if len(skipped) > 3 else ""
        terminal.say(f"{len(skipped)} rows skipped: {'; '.join(skipped[:3])}{more}")


def show_ablation(result: xr.Dataset, as_json: bool) -> None:
    """An ablation, or a sweep k by k: the matrix, mean drops, and who hurts or helps whom beyond chance."""
    content = _ablation(result, as_json)
    if as_json:
        terminal.dump({"store": None, **content})


def show_study(study: Study, as_json: bool) -> None:
    """Every ablation of a study, and at the end what was found: a line per criterion, and one on both."""
    from relact.scoring.criteria import meaning

    contents = {}
    for name, result in study.ablations.items():
        if not as_json and len(study.ablations) > 1:
            terminal.say(f"\n{name}: {meaning(study.store.mask_record(name).statistic)}\n")
        contents[name] = _ablation(result, as_json)
    if as_json:
        return terminal.dump(
            {
                "store": study.store.path,
                **next(iter(contents.values()), {}),
                "ablations": contents,
                "found": study.found(),
            }
        )
    terminal.say(f"\nstore: {study.store.path}")
    for line in study.found():
        terminal.say(line)


def _ablation(result: xr.Dataset, as_json: bool) -> dict[str, Any]:
    """Print an ablation unless JSON is asked for; returns what JSON says of it."""
    from relact.analysis.effects import cumulativity

    sweep = "k" in result.dims
    parts = [result.sel(k=k) for k in result["k"].values] if sweep else [result]
    summaries = [
        _show_part(part.load(), int(part["k"] if sweep else result.attrs["k"]), as_json) for part in parts
    ]
    steps = cumulativity(result) if sweep else None
    if steps is not None and not as_json:
        terminal.table(steps[steps["relation"].isin(["macro", "micro"])], title="cumulativity")
    names = {name: result[name].values.tolist() for name in ("condition", "relation")}
    content = {**names, **({"sweep": summaries} if sweep else summaries[0])}
    if steps is not None:
        content["cumulativity"] = _records(steps)
    return content


def _show_part(part: xr.Dataset, k: int, as_json: bool) -> dict[str, Any]:
    """Print the matrix of one k unless JSON is asked for; returns what JSON says of it."""
    from relact.analysis.claims import claims
    from relact.analysis.evidence import evidence, influences
    from relact.cli import drawing

    tested = evidence(part)
    table, said = influences(tested), claims(tested)
    if not as_json:
        drawing.ablation(part, k, said, table)
    accuracy = part[schema.ACCURACY].values.tolist()
    summary: dict[str, Any] = {"k": k, "prompts": drawing.asked(part), "drops": _drops(tested, "mean_")}
    if "mean_log_drop" in tested:
        summary["log_drops"] = _drops(tested, "mean_log_")
    summary |= {"claims": said, "accuracy": accuracy, "influences": _records(table)}
    summary["relations"] = _records(_of_relations(tested))
    if schema.PERPLEXITY in part:
        summary["perplexity"] = part[schema.PERPLEXITY].values.tolist()
    return summary


def _drops(tested: xr.Dataset, prefix: str) -> dict[str, dict[str, float]]:
    """Mean drop of every group of cells with its interval."""
    columns = (tested[name].values for name in ("group", *(f"{prefix}{x}" for x in ("drop", "low", "high"))))
    return {
        str(group): {"drop": float(drop), "low": float(low), "high": float(high)}
        for group, drop, low, high in zip(*columns, strict=True)
    }


def _of_relations(tested: xr.Dataset) -> pd.DataFrame:
    """What `evidence` says of every relation."""
    names = [str(name) for name, values in tested.data_vars.items() if values.dims == ("relation",)]
    return tested[names].to_dataframe().reset_index()


def _known(value: object) -> object:
    """What JSON can say: it has no NaN."""
    return None if value != value else value


def _records(table: pd.DataFrame) -> list[Any]:
    """Rows for JSON, which has no NaN."""
    return list(table.astype(object).where(table.notna(), None).to_dict("records"))

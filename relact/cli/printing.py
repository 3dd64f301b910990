"""What several commands print in the same way, and how they read lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from relact.cli import terminal


def show(values: dict[str, Any], as_json: bool) -> None:

    terminal.dump(values) if as_json else terminal.pairs(values)


def show_plans(plans: Sequence[Any], as_json: bool) -> None:
    """What commands are about to do: exact numbers plain, bounds with a sign, times as estimates."""
    import pandas as pd

    from relact import plan

    if as_json:
        terminal.dump([asdict(one) for one in plans])
        return
    rows = [
        {
            "step": one.what,
            "files": f"{'' if one.exact else '≤ '}{one.files:,}",
            "on disk": f"{'' if one.exact else '≤ '}{plan.show_bytes(one.bytes)}",
            "memory": f"≤ {plan.show_bytes(one.memory)}",
            "time": "unknown"
            if one.seconds is None
            else f"about {timedelta(seconds=max(1, round(one.seconds)))}",
        }
        for one in plans
    ]
    terminal.table(pd.DataFrame(rows))


def show_frame(frame: Any, as_json: bool, output: Path | None = None, heat: tuple[str, ...] = ()) -> None:

    if output:
        from relact.analysis import tables

        output = tables.write_table(frame, output)
    if as_json:
        terminal.dump(frame.to_dict("records"))
    elif output:
        terminal.say(f"written: {output}")
    else:
        terminal.table(frame, heat=heat)


def numbers(text: str) -> int | list[int]:
    """``400`` or ``10,50,200``."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a number nor numbers with commas", param_hint="--k"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def listed(names: str | None) -> list[str] | None:
    """Names separated by commas."""
    return [name.strip() for name in names.split(",")] if names else None


def show_ablation(result: Any, as_json: bool, where: Path | None = None) -> None:
    from relact.analysis.effects import cumulativity
    from relact.analysis.evidence import evidence, influences
    from relact.cli import drawing

    sweep = "k" in result.dims
    found = []
    for part in [result.sel(k=k) for k in result["k"].values] if sweep else [result]:
        part = part.load()
        k = int(part["k"]) if sweep else result.attrs["k"]
        shown = evidence(part)
        summary = {
            str(group): {"drop": float(drop), "low": float(low), "high": float(high)}
            for group, drop, low, high in zip(
                shown["group"].values, shown["mean_drop"], shown["mean_low"], shown["mean_high"], strict=True
            )
        }
        table = influences(shown)
        found.append(
            {
                "k": k,
                "drops": summary,
                "accuracy": part["accuracy"].values.tolist(),
                "influences": table.astype(object).where(table.notna(), None).to_dict("records"),
            }
        )
        if "perplexity" in part:
            found[-1]["perplexity"] = part["perplexity"].values.tolist()
        if not as_json:
            drawing.ablation(part, k, summary, table)
    steps = cumulativity(result) if sweep else None
    if as_json:
        names = {
            "condition": result["condition"].values.tolist(),
            "relation": result["relation"].values.tolist(),
        }
        content: dict[str, Any] = {"sweep": found} if sweep else found[0]
        if steps is not None:
            content["cumulativity"] = steps.astype(object).where(steps.notna(), None).to_dict("records")
        terminal.dump({"store": where, **names, **content})
        return
    if steps is not None:
        terminal.table(steps[steps["relation"].isin(["macro", "micro"])], title="cumulativity")
    if where:
        terminal.say(f"store: {where}")

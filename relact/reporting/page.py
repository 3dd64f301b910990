"""Page: everything that a report shows as one HTML file that needs nothing else.

The chart libraries come from vl-convert, the same that draw the files. Text of the store enters the page in
two ways only: as escaped text of the template, and as JSON in which no ``<`` is left.
"""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from relact import __version__, durable
from relact.errors import StoreError
from relact.reporting import figures, matrices
from relact.reporting.ablations import MEAN
from relact.reporting.gather import ALL, FALSE, Contents
from relact.reporting.looks import DARK, LIGHT
from relact.reporting.neurons import LISTED, LISTED_BY_SITE, SHOWN
from relact.schema import MASKS
from relact.scoring.criteria import meaning, of_attributions

STALE = "computed before prompts were appended"
COLUMNS = {
    "own": ["panel", "relation", "whose", "drop", "low", "high"],
    "ablation": ["condition", "relation", "prompts", "accuracy", "intact", "change", "low", "high", "clear"],
    "log_ablation": ["condition", "relation", "prompts", "change", "log_clear"],
    "board": ["criterion", "k", "whose", "drop", "low", "high"],
    "sweep": ["k", "swept", "whose", "drop"],
    "overlap": ["relation", "other", "shared", "expected", "jaccard"],
    "growth": ["k", "relation", "other", "share", "chance"],
    "layers": ["relation", "layer", "neurons", "chance"],
    "experts": ["layer", "rank", "expert", "use", "others", "neurons", "chance"],
    "distribution": ["low", "high", "neurons", "chance"],
}  # of "The numbers" under each figure
FILTERS: dict[str, list[str]] = {
    "own": [],
    "ablation": ["choice"],
    "log_ablation": ["choice"],
    "board": [],
    "sweep": ["swept"],
    "overlap": ["site"],
    "growth": [],
    "layers": ["site"],
    "experts": ["relation"],
    "distribution": ["relation", "site"],
}  # signals that choose the rows of each figure's numbers
# pixels: row labels, the narrowest readable cell, the narrowest plain chart
LABELS, CELL, PLAIN = 170, 34, 300


def render(contents: Contents) -> str:
    """The page as text."""
    import jinja2
    import vl_convert

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    about = contents.provenance["store"]
    data = _data(contents)
    return environment.from_string(_file("page.html.j2")).render(
        version=__version__,
        model=contents.model,
        lead=_lead(contents, next(iter(contents.choices), None)),
        facts=[
            *((name, about[name]) for name in ("model", "prompts", "sites")),
            *_counted(contents),
            *([("left out of all sets", contents.super_units)] if contents.super_units else []),
            *([(STALE, ", ".join(contents.stale))] if contents.stale else []),
        ],
        relations=contents.relations,
        sites=contents.sites,
        mean=MEAN,
        choices=list(contents.choices),
        criteria=_criteria(contents),
        one_k=figures.one_k(contents),
        figures=list(data["uses"]),
        mask=contents.mask,
        shared=_shared(contents),
        chance=_chance(contents),
        detectors=not of_attributions(_statistic(contents)),
        neurons=contents.n_neurons,
        spoken=any(made.spoken for made in contents.choices.values()),
        units=bool(contents.units),
        nulls=contents.nulls.to_dict("records"),
        one_in=round(1 / FALSE),
        listed=LISTED,
        listed_by_site=LISTED_BY_SITE,
        with_prompts=SHOWN if contents.details else 0,
        labels=LABELS,
        cell=CELL,
        plain=PLAIN,
        provenance=[(name, _readable(value)) for name, value in contents.provenance.items()],
        style=_file("page.css"),
        script=_file("page.js"),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script"),
        data=_inert(data),
    )


def _counted(contents: Contents) -> list[tuple[str, str]]:
    """How many neurons there are; and relations, where not all are shown."""
    shown, known = len(contents.relations), contents.n_relations
    some = [("relations", f"{shown:,} of {known:,} are shown here")] if shown < known else []
    return [("neurons", f"{contents.n_neurons:,}"), *some]


def write(contents: Contents, path: str | Path) -> Path:
    """Write the page to ``path``, whole or not at all; returns it.

    Raises:
        StoreError: the place cannot be written.
    """
    target = Path(path)
    try:
        durable.replace(target, [render(contents).encode("utf-8", "replace")])
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror or error})", where=target) from error
    return target


def _file(name: str) -> str:
    return files("relact.reporting").joinpath(name).read_text(encoding="utf-8")


def _readable(value: Any) -> str:
    """What a stage records, for reading: checksums of files are left to `relact verify`."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _inert(value: Any) -> str:
    """JSON that no HTML parser sees markup in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(contents: Contents) -> dict[str, Any]:
    """What the script works with; the rows of a chart are shared by its light and its dark form."""
    specs: dict[str, dict[str, Any]] = {}
    datasets: dict[str, list[dict[str, Any]]] = {}
    for theme, look in (("light", LIGHT), ("dark", DARK)):
        drawn = {name: chart.to_dict() for name, chart in figures.charts(contents, look, live=True).items()}
        for spec in drawn.values():
            datasets |= spec.pop("datasets")
        specs[theme] = drawn
    places = {site: at for at, site in enumerate(contents.sites)}
    return {
        "relations": contents.relations,
        "sites": contents.sites,
        "choices": list(contents.choices),
        "leads": {choice: _lead(contents, choice) for choice in contents.choices},
        "claims": {choice: _claims(contents, choice) for choice in contents.choices},
        "abouts": {choice: _about(contents, choice) for choice in contents.choices},
        "specs": specs,
        "datasets": datasets,
        "uses": {name: sorted(_named(spec)) for name, spec in specs["light"].items()},
        "signals": {
            name: [param["name"] for param in spec.get("params", ())] for name, spec in specs["light"].items()
        },
        "filters": FILTERS,
        "columns": COLUMNS,
        "neurons": {
            "site": [places[site] for site in contents.neurons["site"]],
            "layer": contents.neurons["layer"].tolist(),
            "neuron": contents.neurons["neuron"].tolist(),
            "ap": [_known(contents.neurons[name]) for name in contents.relations],
        },
        "spoken": {choice: made.spoken for choice, made in contents.choices.items()},
        "units": contents.units,
        "details": contents.details,
        "prompts": contents.prompts,
    }


def _known(numbers: pd.Series) -> list[float | None]:
    """What JSON has of numbers of which some may not be known."""
    return [None if math.isnan(number) else number for number in numbers.astype(float)]


def _shared(contents: Contents) -> str:
    """What two relations have in common, in words where it is nothing."""
    if figures.shares_some(contents) or len(contents.relations) < 2:
        return ""
    chance = _chance(contents)
    return f"No two relations share a neuron: none of {contents.k:,}, chance {chance:.1f} ({contents.mask})."


def _chance(contents: Contents) -> float:
    """Neurons that two random sets of these sizes would share, on average over relations."""
    table = contents.overlap[contents.overlap["relation"] != contents.overlap["other"]]
    return float(table.loc[table["site"] == ALL, "expected"].mean())


def _statistic(contents: Contents) -> str:
    """What chose the sets of which overlaps and layers tell; average precision where none are stored."""
    return str(contents.provenance.get(f"{MASKS}/{contents.mask}", {}).get("statistic", ""))


def _named(spec: Any) -> set[str]:
    """Names of the datasets that a chart refers to."""
    if isinstance(spec, list):
        return set().union(*map(_named, spec))
    if not isinstance(spec, dict):
        return set()
    data = spec.get("data")
    names = {data["name"]} if isinstance(data, dict) and "name" in data else set()
    return names.union(*map(_named, spec.values()))


def _criteria(contents: Contents) -> list[dict[str, str]]:
    """What each way of choosing neurons finds, a row each; nothing where there is only one."""
    rows = [
        {
            "criterion": str(row.criterion),
            "prompts": f"{row.prompts:,}",
            "meaning": meaning(str(row.criterion)),
            "k": str(row.k),
            **{
                whose: f"{getattr(row, whose):.1f} [{getattr(row, f'{whose}_low'):.1f}, "
                f"{getattr(row, f'{whose}_high'):.1f}]{either}"
                for whose, either in (
                    ("own", ""),
                    ("other", f" ({row.size_other:.1f})"),
                    ("random", f" ({row.size_random:.1f})"),
                )
            },
            "separate": f"{row.separate} of {row.relations}",
        }
        for row in contents.board.itertuples()
    ]
    return rows if len({row["criterion"] for row in rows}) > 1 else []


def _about(contents: Contents, choice: str) -> str:
    """What the matrices of an ablation are of: model, k, criterion, prompts, random sets."""
    table = contents.accuracy[contents.accuracy["choice"] == choice]
    fewest, most = int(table["prompts"].min()), int(table["prompts"].max())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    sets = contents.choices[choice].sets
    random = f"{sets:,} random set{'s' * (sets != 1)}" if sets else "no random sets"
    return f"{matrices.about(contents, choice)} ({each} of every relation), {random}"


def _claims(contents: Contents, choice: str) -> list[str]:
    """Everything that may be claimed of an ablation, a sentence each."""
    return [f"{sentence[:1].upper()}{sentence[1:]}." for sentence in contents.choices[choice].said]


def _lead(contents: Contents, choice: str | None) -> str:
    """The answer, as far as it may be claimed."""
    if choice is None:
        scored = f"{len(contents.relations)} relations and {contents.n_neurons:,} neurons are scored"
        return f"{scored}; none was switched off yet."
    made = contents.choices[choice]
    said = " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in made.said[:1])
    if made.statistic:
        said = f"{made.k:,} neurons by {made.statistic}, {meaning(made.statistic)}. {said}"
    said = f"{said} Shown on {made.asked}."
    table = contents.accuracy
    on_itself = table[(table["choice"] == choice) & (table["condition"] == table["relation"])]
    if on_itself.empty:
        return said
    hit = on_itself.sort_values("drop", ascending=False).iloc[0]
    change = f"from {hit['intact']:.0f}\u00a0% right to {hit['accuracy']:.0f}\u00a0%"
    return f"{said} Hit hardest: {hit['relation']}, {change}."

"""Page: a study as one HTML file that needs nothing else.

The chart libraries come from vl-convert, the same that draw the files. Text of the store enters the page in
two ways only: as escaped text of the template, and as JSON in which no ``<`` is left.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from relact import __version__, durable
from relact.errors import StoreError
from relact.reporting import figures
from relact.reporting.gather import CONTROL, FALSE, LISTED, LISTED_BY_SITE, OTHER, OWN, SHOWN, Study

COLUMNS = {
    "ablation": ["condition", "relation", "accuracy", "intact", "change"],
    "sweep": ["k", "swept", "whose", "drop"],
    "overlap": ["relation", "other", "shared", "expected", "jaccard"],
    "growth": ["k", "relation", "other", "share", "chance"],
    "layers": ["relation", "layer", "neurons", "chance"],
    "distribution": ["low", "high", "neurons", "chance"],
}  # of "The numbers" under each figure
# pixels: row labels, the narrowest readable cell, the narrowest plain chart
LABELS, CELL, PLAIN = 170, 34, 300


def render(study: Study) -> str:
    """The page as text."""
    import jinja2
    import vl_convert

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    about = study.provenance["store"]
    data = _data(study)
    return environment.from_string(_file("page.html.j2")).render(
        version=__version__,
        model=study.provenance["capture"]["model"]["id"],
        lead=_lead(study, next(iter(study.choices), None)),
        facts=[
            *((name, about[name]) for name in ("model", "prompts", "sites")),
            ("neurons", f"{study.n_neurons:,}"),
        ],
        relations=study.relations,
        sites=study.sites,
        choices=list(study.choices),
        figures=list(data["uses"]),
        mask=study.mask,
        nulls=study.nulls.to_dict("records"),
        one_in=round(1 / FALSE),
        listed=LISTED,
        listed_by_site=LISTED_BY_SITE,
        with_prompts=SHOWN if study.details else 0,
        labels=LABELS,
        cell=CELL,
        plain=PLAIN,
        provenance=[(name, _readable(value)) for name, value in study.provenance.items()],
        style=_file("page.css"),
        script=_file("page.js"),
        vega=vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script"),
        data=_inert(data),
    )


def write(study: Study, path: str | Path) -> Path:
    """Write the page to ``path``, whole or not at all; returns it.

    Raises:
        StoreError: the place cannot be written.
    """
    target = Path(path)
    try:
        durable.replace(target, [render(study).encode("utf-8", "replace")])
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


def _data(study: Study) -> dict[str, Any]:
    """What the script works with; the rows of a chart are shared by its light and its dark form."""
    specs: dict[str, dict[str, Any]] = {}
    datasets: dict[str, list[dict[str, Any]]] = {}
    for theme, look in (("light", figures.LIGHT), ("dark", figures.DARK)):
        drawn = {name: chart.to_dict() for name, chart in figures.charts(study, look, live=True).items()}
        for spec in drawn.values():
            datasets |= spec.pop("datasets")
        specs[theme] = drawn
    places = {site: at for at, site in enumerate(study.sites)}
    return {
        "relations": study.relations,
        "sites": study.sites,
        "choices": list(study.choices),
        "leads": {choice: _lead(study, choice) for choice in study.choices},
        "specs": specs,
        "datasets": datasets,
        "uses": {name: sorted(_named(spec)) for name, spec in specs["light"].items()},
        "signals": {
            name: [param["name"] for param in spec.get("params", ())] for name, spec in specs["light"].items()
        },
        "filters": {
            "ablation": ["choice"],
            "sweep": ["swept"],
            "overlap": ["site"],
            "growth": [],
            "layers": ["site"],
            "distribution": ["relation", "site"],
        },
        "columns": COLUMNS,
        "neurons": {
            "site": [places[site] for site in study.neurons["site"]],
            "layer": study.neurons["layer"].tolist(),
            "neuron": study.neurons["neuron"].tolist(),
            "ap": [study.neurons[name].tolist() for name in study.relations],
        },
        "details": study.details,
        "prompts": study.prompts,
    }


def _named(spec: Any) -> set[str]:
    """Names of the datasets that a chart refers to."""
    if isinstance(spec, list):
        return set().union(*map(_named, spec)) if spec else set()
    if not isinstance(spec, dict):
        return set()
    own = {spec["data"]["name"]} if isinstance(spec.get("data"), dict) and "name" in spec["data"] else set()
    return own.union(*map(_named, spec.values()))


def _lead(study: Study, choice: str | None) -> str:
    """The answer in two sentences."""
    if choice is None:
        return f"{len(study.relations)} relations and {study.n_neurons:,} neurons are scored; none was switched off yet."
    found = study.choices[choice]
    parts = [
        f"Switching off a relation's own best {found['k']:,} neurons costs it {found[OWN]:.1f} points of accuracy on average"
    ]
    if found[OTHER] == found[OTHER]:
        parts.append(f"another relation's cost {found[OTHER]:.1f}")
    if found[CONTROL] == found[CONTROL]:
        parts.append(f"random ones {found[CONTROL]:.1f}")
    own = study.accuracy[
        (study.accuracy["choice"] == choice) & (study.accuracy["condition"] == study.accuracy["relation"])
    ]
    if own.empty:
        return f"{', '.join(parts)}."
    hit = own.sort_values("drop", ascending=False).iloc[0]
    change = f"from {hit['intact']:.0f}\u00a0% right to {hit['accuracy']:.0f}\u00a0%"
    return f"{', '.join(parts)}. Hit hardest: {hit['relation']}, {change}."

"""Page: a study as one HTML file that needs nothing else.

The chart libraries come from vl-convert, the same that draw the files. Text of the store enters the page in two ways only: as
escaped text of the template, and as JSON in which no ``<`` is left.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from relact import __version__, durable, figures
from relact.errors import StoreError
from relact.report.study import CONTROL, FALSE, LISTED, LISTED_BY_SITE, OTHER, OWN, PROMPTS, SHOWN, Study

COLUMNS = {
    "ablation": ["condition", "relation", "accuracy", "intact", "change"],
    "sweep": ["k", "relation", "whose", "drop"],
    "overlap": ["relation", "other", "shared", "expected", "jaccard"],
    "growth": ["k", "relation", "other", "share", "chance"],
    "layers": ["relation", "layer", "neurons", "chance"],
    "distribution": ["low", "high", "neurons", "chance"],
}  # of "The numbers" under each figure
LABELS, CELL, PLAIN = 170, 34, 300  # pixels: row labels, the narrowest readable cell, the narrowest plain chart


def render(study: Study) -> str:
    """The page as text."""
    import jinja2
    import vl_convert

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True).from_string(
        _file("page.html.j2")
    )
    about = study.provenance["store"]
    return template.render(
        version=__version__,
        model=study.provenance["capture"]["model"]["id"],
        lead=_lead(study, next(iter(study.choices), None)),
        facts=[(name, about[name]) for name in ("model", "prompts", "sites", "pool", "dtype")]
        + [("neurons", f"{study.n_neurons:,}")],
        relations=study.relations,
        sites=study.sites,
        choices=list(study.choices),
        sections=_sections(study),
        neurons_text=_neurons_text(study),
        provenance=[
            (name, json.dumps(value, indent=2, ensure_ascii=False, default=str))
            for name, value in study.provenance.items()
        ],
        style=_file("page.css"),
        script=_file("page.js"),
        vega=vl_convert.javascript_bundle().replace("</script", "<\\/script"),
        data=_inert(_data(study)),
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
    return files("relact.report").joinpath(name).read_text(encoding="utf-8")


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
        "signals": {name: [param["name"] for param in spec.get("params", ())] for name, spec in specs["light"].items()},
        "filters": {"ablation": ["choice"], "sweep": ["relation"], "overlap": ["site"], "growth": [], "layers": ["site"],
                    "distribution": ["relation", "site"]},
        "columns": COLUMNS,
        "neurons": {
            "site": [places[site] for site in study.neurons["site"]],
            "layer": study.neurons["layer"].tolist(),
            "neuron": study.neurons["neuron"].tolist(),
            "ap": [study.neurons[name].tolist() for name in study.relations],
        },
        "details": study.details,
        "prompts": study.prompts,
    }  # fmt: skip


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
        best = study.nulls.sort_values("found", ascending=False)
        return f"{len(study.relations)} relations, {study.n_neurons:,} neurons scored; nothing has been switched off yet. Most neurons answer to {best['relation'].iloc[0]}."
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
    hit = own.sort_values("drop", ascending=False).iloc[0]
    return f"{', '.join(parts)}. Hit hardest: {hit['relation']}, from {hit['intact']:.0f} % right to {hit['accuracy']:.0f} %."


def _sections(study: Study) -> list[dict[str, Any]]:
    """Title, text and narrowest width of every figure there is."""
    n = len(study.relations)
    found = ", ".join(f"{row.relation} {row.found:,}" for row in study.nulls.itertuples())
    first = study.nulls.iloc[0]
    texts = {
        "ablation": ("What breaks", "Each column switches one relation's neurons off and each row is a relation's held-out prompts: points of accuracy lost (orange) or gained (blue). Framed: a relation under its own neurons. The random column is the mean of seeded controls with as many neurons in every site and layer.", LABELS + CELL * (n + 2)),
        "sweep": ("How many neurons it takes", "Mean accuracy lost over the number of neurons switched off. Relation-specific neurons show as a gap between own and the other two.", PLAIN),
        "overlap": ("Who shares neurons", f"How many of their neurons ({study.mask}) two relations have in common; the brighter, the larger the share. Hover for what chance would give.", LABELS + CELL * n),
        "growth": ("Sharing over k", "The share of the top k that two relations have in common. Pairs with the chosen relation stand out; the dashed line is what random sets of that size share.", PLAIN),
        "layers": ("Where they are", f"Neurons of every relation ({study.mask}) in each layer, of all sites or of the chosen one.", LABELS + 260),
        "distribution": ("How many neurons are better than chance", f"Average precision of all neurons for the chosen relation, beside random rankings of the same prompts (mean {first.chance:.3f} for {first.positives} of {first.prompts} prompts). With one false discovery in {round(1 / FALSE)} allowed, beyond chance: {found}. Counts are on a logarithmic scale.", PLAIN),
    }  # fmt: skip
    shown = figures.charts(study, live=True)
    return [{"name": name, "title": texts[name][0], "text": texts[name][1], "width": texts[name][2]} for name in shown]


def _neurons_text(study: Study) -> str:
    text = f"Sorted by average precision: the best {LISTED} of every relation and {LISTED_BY_SITE} of each of its sites are listed. Choose a relation and a site above."
    if study.details:
        text += f" Open one of the best {SHOWN} to see the {PROMPTS} prompts that drive it most and least."
    return text

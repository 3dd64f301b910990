"""A store that holds every kind of result that relact writes, of a tiny model: seconds to make."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import relact
from relact.ablating.ablate import ablate_with
from relact.ablating.doses import ablate_doses
from relact.ablating.options import AblateOptions
from relact.capturing.capture import capture_with
from relact.capturing.options import CaptureOptions
from relact.models import loading
from relact.schema import ATTRIBUTION_STATISTICS, STATISTICS
from relact.scoring import masks
from relact.store.local import LocalStore

SITES = "mlp.gate,mlp.down"
K = 6
MASKS = {  # name -> how it is chosen
    "top-6": {"k": K},
    "bottom": {"k": K, "kind": "bottom"},
    "both": {"k": K, "kind": "both"},
    "fdr": {"fdr": 0.5},
    "floor": {"fdr": 0.5, "min_ap": 0.6},
    "gate": {"k": K, "sites": "mlp.gate"},
    "neurons": {"k": K, "counted": "neuron"},
    "auroc": {"k": K, "statistic": "auroc"},
    "probe": {"k": K, "statistic": "probe"},
    "attribution": {"k": K, "by": "attribution"},
    "super": {"k": K, "keep_super_units": True},
}
ALGEBRA = {"only": None, "pair": ("size", "colour")}
ABLATIONS = {  # name -> how neurons are switched off; `make` adds sweep, other, doses and registered
    "zero": {},
    "mean": {"mode": "mean"},
    "last": {"tokens": "last"},
    "uniform": {"control": "uniform"},
    "magnitude": {"control": "magnitude"},
    "exact": {"match": "exact"},
    "paper": {"match": "paper"},
    "dev": {"part": "dev"},
    "identify": {"part": "identify"},
    "text": {"perplexity": True},
    "objects": {"perplexity": True, "perplexity_of": "objects"},
}
HALVES = ("average_precision-half-6-0a", "average_precision-half-6-0b")
MORE = ("sweep", "other", "doses-x0.5", "doses-x2", "registered", "by-attribution", *HALVES)


def prompts() -> pd.DataFrame:
    """Zero-shot prompts of two made-up relations."""
    rows = [
        {
            "text": f"{relation} of thing {number} is",
            "relation": relation,
            "subject": f"thing {number}",
            "object": str(number),
            "answers": [str(number)],
            "template": f"{relation} of {{}} is",
            "language": "en",
            "split": "identify" if number < 8 else "test",
            "shots": 0,
        }
        for relation in ("size", "colour")
        for number in range(11)
    ]
    return pd.DataFrame(rows)


def make(path: Path, model: str, prompts: pd.DataFrame) -> LocalStore:
    """Capture, score, select and ablate in every way."""
    loaded = loading.load(model)
    options = CaptureOptions(sites=SITES, block=5, attribution=True)
    capture_with(options, loaded, prompts, path)
    statistics = (*STATISTICS, *ATTRIBUTION_STATISTICS, "auroc", "margin", "attribution_margin", "probe")
    store = relact.score(path, statistics=statistics)
    for name, choice in MASKS.items():
        masks.select(store, name=name, **choice)
    for name, pair in ALGEBRA.items():
        masks.combine(store, "top-6", pair, name=name)
    seeds = (0, 1)
    for name, choice in ABLATIONS.items():
        relact.ablate(store, mask="top-6", name=name, model=loaded, seeds=seeds, **choice)
    relact.ablate(store, mask="attribution", name="by-attribution", model=loaded, seeds=seeds)
    relact.ablate(store, k=[4, 8], name="sweep", model=loaded, seeds=seeds, perplexity=True)
    others = prompts[prompts["split"] == "test"].assign(language="de")
    relact.ablate(store, mask="top-6", name="other", model=loaded, seeds=seeds, tests=others)
    asked = AblateOptions(seeds=seeds)
    ablate_doses(asked, store, [0.5, 2.0], mask="top-6", model=loaded, name="doses")
    ablate_with(asked, store, mask="top-6", model=loaded, name="registered", hypotheses=["It costs."])
    relact.stability(store, k=K, splits=1, ablate=True, seeds=seeds, model=loaded)
    return store

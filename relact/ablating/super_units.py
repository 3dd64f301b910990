"""Super-units: a few neurons without which a model breaks, whatever it is asked.

Their values are hundreds of times those of other neurons (Sun et al. 2024, arXiv 2402.17762, on massive
activations; Yu et al. 2024, arXiv 2411.07191, on single weights of this kind). A set that holds one, of a
relation or of a random control, breaks everything: it says nothing about a relation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from relact import schema
from relact.ablating.conditions import INTACT_MODEL, Condition
from relact.ablating.perplexity import perplexity
from relact.models.loading import LoadedModel
from relact.progress import Progress, in_notebooks
from relact.scoring import magnitudes
from relact.store.local import LocalStore

LEAST_COST = 0.5  # nats per token of a text about this and that; an ordinary neuron costs thousandths


def ensure_super_units(
    store: LocalStore, model: Callable[[], LoadedModel], progress: Progress = in_notebooks
) -> pd.DataFrame:
    """The store's super-units, looked for where that has not been done: `schema.SUPER_UNITS`.

    Neurons of the captured sites with a mean |activation| far above the median of their site are switched off
    one at a time, while the bundled text is read; those that cost `LEAST_COST` nats per token or more are
    kept. Nothing is looked for in a store without activations.

    Args:
        model: gives the store's model; called only if there is something to be tried.

    Returns:
        site, layer, neuron, magnitude (mean |activation|), ratio (to the site's median), cost (nats per
        token); the most expensive first.
    """
    manifest = store.manifest
    record = schema.SuperUnitsRecord(
        model=manifest.model.fingerprint,
        prompts=manifest.prompts_digest(schema.IDENTIFY),
        ratio=magnitudes.RATIO,
        cost=LEAST_COST,
    )
    if store.missing_blocks():
        return magnitudes.super_units(store)
    if magnitudes.super_units_record(store) == record:
        return magnitudes.super_units(store)
    found = magnitudes.candidates(store)
    if len(found):
        costs = _costs(model(), found, manifest.capture.special_tokens, progress)
        found = found.assign(cost=costs.astype(np.float32))
        found = found[found["cost"] >= LEAST_COST].sort_values("cost", ascending=False)
    else:
        found = found.assign(cost=np.empty(0, np.float32))
    magnitudes.write_super_units(store, found.reset_index(drop=True), record)
    return found.reset_index(drop=True)


def _costs(
    loaded: LoadedModel, candidates: pd.DataFrame, special_tokens: bool, progress: Progress
) -> np.ndarray:
    """Nats per token of the bundled text that the model loses without each candidate: float64 [candidate]."""
    alone = [
        Condition(f"{unit.site} {unit.layer} {unit.neuron}", {str(unit.site): _place(unit)})
        for unit in candidates.itertuples()
    ]
    values = perplexity(loaded, [INTACT_MODEL, *alone], special_tokens=special_tokens, progress=progress)
    costs: np.ndarray = np.log(values[1:]) - np.log(values[0])
    return costs


def _place(unit: object) -> np.ndarray:
    return np.array([[unit.layer, unit.neuron]], np.int64)  # type: ignore[attr-defined]

"""How large activations are, and the super-units: neurons so large that the model breaks without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from relact import schema
from relact.errors import InputError
from relact.schema import BY_EXPERT, HIDDEN, ROUTER, SUPER_UNITS
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.skeleton import write_coordinates, write_whole

RATIO = 50.0  # times the median of their site: far above any ordinary neuron
PLACE, SIZE, COST = ("site", "layer", "neuron"), ("magnitude", "ratio"), "cost"
DTYPES = {"layer": "int64", "neuron": "int64", "magnitude": "float32", "ratio": "float32", COST: "float32"}


def magnitudes(store: Store, site: str) -> np.ndarray:
    """Mean |activation| over the identification prompts, float64 [layer, neuron]; an inner chunk at a time.

    The store must be complete; `InputError` when the site's activations are not in it.
    """
    if site not in store.layouts:
        raise InputError(
            f"no activations of {site} in this store",
            where=store.path,
            fix="choose another control, or capture the site's activations too",
        )
    lay = store.layouts[site]
    sums = np.zeros((lay.n_layers, lay.width))
    for layer in range(lay.n_layers):
        for start in range(0, lay.width, lay.span):
            for block in store.columns(site, layer, start, start + lay.span):
                sums[layer, start : start + lay.span] += np.abs(block).sum(axis=0, dtype=np.float64)
    return sums / store.n_prompts


def candidates(store: Store, n: int = 20, ratio: float = RATIO) -> pd.DataFrame:
    """The ``n`` neurons of all captured sites that are largest beside the others of their site.

    Returns:
        site, layer, neuron, magnitude (mean |activation|), ratio (of that to the site's median over all
        layers): those of at least ``ratio``, the largest first.
    """
    sites = [site for site in store.layouts if site != ROUTER]  # nothing follows from setting logits
    parts = [_largest(site, magnitudes(store, site), store.layers(site), n, ratio) for site in sites]
    found = pd.concat(parts, ignore_index=True).sort_values("ratio", ascending=False, kind="stable")
    return found.head(n).reset_index(drop=True)


def _largest(site: str, values: np.ndarray, numbers: Sequence[int], n: int, ratio: float) -> pd.DataFrame:
    used = values[values > 0] if site in BY_EXPERT and (values > 0).any() else values  # others never ran
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = values / np.median(used)  # of a median of 0 infinite, and NaN where all is 0
    flat = np.where(np.isnan(ratios), 0.0, ratios).reshape(-1)
    order = np.argsort(-flat, kind="stable")[:n]
    order = order[flat[order] >= ratio]
    places, neurons = np.divmod(order, values.shape[1])
    layers = np.asarray(numbers)[places]
    size = {"magnitude": values.reshape(-1)[order], "ratio": flat[order]}
    return pd.DataFrame(
        {"site": np.full(len(order), site, object), "layer": layers, "neuron": neurons, **size}
    )


def super_units(store: Store) -> pd.DataFrame:
    """The store's super-units: site, layer, neuron, magnitude, ratio, cost (nats per token that the model
    loses without it). Empty where there are none, or none were looked for (`super_units_record`).
    """
    if not store.has(SUPER_UNITS):
        stored = {name: np.empty(0, object) for name in (*PLACE, *SIZE, COST)}
    else:
        data = store.dataset(SUPER_UNITS)
        stored = {name: data[name].values for name in (*PLACE, *SIZE, COST)}
    frame = pd.DataFrame(stored).astype(DTYPES)
    return frame.assign(site=frame["site"].map(str))


def super_units_record(store: Store) -> schema.SuperUnitsRecord | None:
    """How super-units were looked for; None where they were not."""
    if not store.has(SUPER_UNITS):
        return None
    return schema.SuperUnitsRecord.from_attributes(store.attributes(SUPER_UNITS), store.path)


def super_unit_masks(store: Store, sites: Iterable[str]) -> dict[str, np.ndarray]:
    """bool [layer, neuron] of every site: what selections and controls leave out.

    Of a hidden unit that is all its neurons: the model breaks without it, whichever of them shows it.
    """
    shapes = {site: store.shape(site) for site in sites}
    masks = {site: np.zeros(shape, bool) for site, shape in shapes.items()}
    for found, part in super_units(store).groupby("site"):
        for site in masks:
            if site == found or {site, found} <= set(HIDDEN):
                places = [store.layout_of(site).place_of(layer) for layer in part["layer"]]
                masks[site][places, part["neuron"]] = True
    return masks


def write_super_units(store: LocalStore, frame: pd.DataFrame, record: schema.SuperUnitsRecord) -> None:
    """Write ``super_units``: columns as `super_units` returns them."""
    with store.stage(SUPER_UNITS, record.to_attributes()) as built:
        write_coordinates(built, unit=range(len(frame)))
        write_whole(built, "site", np.array(frame["site"].tolist(), dtype="T"), ("unit",))
        for name, dtype in DTYPES.items():
            write_whole(built, name, frame[name].to_numpy(dtype), ("unit",))

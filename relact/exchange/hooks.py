"""Hooks: a mask's neurons by the names that TransformerLens, nnsight and plain PyTorch hooks know.

All three are one JSON file: library, model, fingerprint, family, mask, and under ``relations`` what to
override of each, in the order in which the model runs. For ``transformer-lens`` that is the numbers of the
neurons by hook name, counted through heads (a hook's last axes made one). For ``nnsight`` and ``hooks`` it
is, by the name of the module in transformers, the columns of its ``input`` or ``output``: of a fused
projection those of all its sites.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from relact import sites as table
from relact.errors import InputError
from relact.packed.store import open_store
from relact.scoring import masks
from relact.sites import EXPERTS, Family, Tap
from relact.store.reading import Store

TRANSFORMER_LENS = "transformer-lens"
LIBRARIES = (TRANSFORMER_LENS, "nnsight", "hooks")
BY_MODULE = "choose neurons of other sites: mlp.hidden is a module's whole input in every family"
LENS = {
    "mlp.gate": "mlp.hook_pre",
    "mlp.up": "mlp.hook_pre_linear",
    "mlp.hidden": "mlp.hook_post",
    "mlp.down": "mlp.hook_out",
    "attn.q": "attn.hook_q",
    "attn.k": "attn.hook_k",
    "attn.v": "attn.hook_v",
    "attn.o": "attn.hook_out",
}  # of TransformerLens, inside a block whose MLP has a gate
PLAIN = {"mlp.up": "mlp.hook_pre", "mlp.act": "mlp.hook_post"}  # and where it has none


def neurons(store: str | Path | Store, mask: str, out: str | Path, library: str) -> Path:
    """Write a mask's neurons of every relation for one of ``LIBRARIES``; returns the path.

    Raises:
        InputError: a site that no hook of the library shows alone, as units of experts.
    """
    opened, path = open_store(store), Path(out)
    relations, chosen = masks.by_relation(opened, mask)
    name = _lens if library == TRANSFORMER_LENS else _module
    named = {site: name(opened, site) for site in chosen}
    listed = {
        relation: _of_relation(opened, {site: sets[at] for site, sets in chosen.items()}, named)
        for at, relation in enumerate(relations)
    }
    model = opened.manifest.model
    document = {
        "library": library,
        "model": model.id,
        "fingerprint": model.fingerprint,
        "family": model.family,
        "mask": mask,
        "relations": listed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def _of_relation(
    store: Store, sets: Mapping[str, np.ndarray], named: Mapping[str, tuple[str, str, int]]
) -> dict[str, Any]:
    """One relation's neurons by hook, from bool [layer, neuron] per site."""
    found: dict[str, Any] = {}
    places = [
        (store.layers(site)[place], site, mask[place])
        for site, mask in sets.items()
        for place in np.flatnonzero(mask.any(axis=1))
    ]
    order = _order(_family(store))
    places.sort(key=lambda one: (one[0], order.index(one[1])))
    for layer, site, mask in places:
        pattern, side, first = named[site]
        columns, hook = (first + np.flatnonzero(mask)).tolist(), pattern.format(layer)
        if not side:
            found[hook] = columns
            continue
        sides = found.setdefault(hook, {})
        sides[side] = sorted([*sides.get(side, []), *columns])
    return found


def _order(row: Family) -> list[str]:
    """Sites in the order in which a layer runs them, as nnsight takes them: what mixes tokens, then the MLP.

    Its non-linearity comes between two projections that are apart, and after one.
    """
    order = sorted(table.SITES, key=lambda site: site.startswith("mlp."))
    up = row.taps.get("mlp.up")
    if "mlp.gate" not in row.taps or (up is not None and up.fused):
        order.remove("mlp.act")
        order.insert(order.index("mlp.up") + 1, "mlp.act")
    return order


def _lens(store: Store, site: str) -> tuple[str, str, int]:
    """TransformerLens's name of a site, with the layer to fill in."""
    row = _family(store)
    names = LENS if "mlp.gate" in row.taps else {**LENS, **PLAIN}
    if site not in names or _tap(store, row, site).side == EXPERTS:
        problem = f"{site} of {row.names[0]} has no hook in TransformerLens"
        raise InputError(problem, where=store.path, fix="choose neurons of other sites, such as mlp.hidden")
    return f"blocks.{{}}.{names[site]}", "", 0


def _module(store: Store, site: str) -> tuple[str, str, int]:
    """A site's module in transformers, with the layer to fill in; its side, and its first column there."""
    row = _family(store)
    tap = _tap(store, row, site)
    if tap.side == EXPERTS or tap.item is not None:
        raise InputError(
            f"{site} of {row.names[0]} is inside a module, where no hook sees it",
            where=store.path,
            fix="`relact.overridden` reaches it",
        )
    return f"{row.layers}.{{}}.{tap.module}", tap.side, _first(store, site, tap)


def _family(store: Store) -> Family:
    """The row of the store's model; `InputError` where the table needs its configuration, too."""
    row = table.family(SimpleNamespace(model_type=store.manifest.model.family))
    if row.text:
        problem = f"{row.names[0]} has the modules of its text model, which this store does not name"
        raise InputError(problem, where=store.path, fix="capture the text model alone")
    return row


def _tap(store: Store, row: Family, site: str) -> Tap:
    """Where the site is, if that is the same in all layers."""
    taps = {group.taps[site] for group in row.groups if site in group.taps}
    if len(taps) != 1:
        problem = f"{site} of {row.names[0]} is in {len(taps) or 'no'} places of its layers"
        raise InputError(problem, where=store.path, fix=BY_MODULE)
    return taps.pop()


def _first(store: Store, site: str, tap: Tap) -> int:
    """The column of a module's output at which a site's own begin."""
    if not tap.fused:
        return 0
    before = tap.fused[: tap.fused.index(site)]
    widths = [store.layout_of(name).width for name in before if name in store.sites]
    if {*tap.fused} == {"mlp.gate", "mlp.up"}:  # as wide as each other
        return len(before) * store.layout_of(site).width
    if tap.per or len(widths) < len(before):
        problem = f"{site} is not a run of columns of {tap.module} that this store knows"
        raise InputError(problem, where=store.path, fix=BY_MODULE)
    return sum(widths)

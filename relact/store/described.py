"""Described: what a store holds, as values for machines; `Store.describe` says the same in words."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from relact import schema
from relact.store.reading import Store


def facts(store: Store) -> dict[str, Any]:
    """What ``relact info --json`` prints: names, lists and numbers.

    ``bytes`` are of a whole capture, ``captured`` of what is there; ``sites`` have layers and neurons of
    each; ``scores`` are the stored statistics, ``coarse`` neurons of sites that float16 is too coarse for.
    """
    manifest, present = store.manifest, len(store.log.present())
    size = sum(layout.bytes for layout in store.streams.values())
    scored, attributed = store.has(schema.SCORES), manifest.capture.attribution
    return {
        "store": str(store.path),
        "model": asdict(manifest.model),
        "relations": store.relations(),
        "prompts": {schema.IDENTIFY: store.n_prompts, schema.TEST: manifest.n_prompts(schema.TEST)},
        "sites": {site: [layout.n_layers, layout.width] for site, layout in store.layouts.items()},
        "neurons": sum(layout.n_layers * layout.width for layout in store.layouts.values()),
        "pool": manifest.capture.pooled,
        "dtype": manifest.capture.dtype,
        schema.ATTRIBUTIONS: asdict(attributed) if attributed else None,
        "bytes": size,
        "captured": size * present // store.n_blocks,
        "blocks": {"committed": present, "all": store.n_blocks},
        schema.SCORES: store.statistics() if scored else [],
        "coarse": dict((scored and store.scores_record().coarse) or {}),
        schema.MASKS: store.children(schema.MASKS),
        schema.ABLATIONS: store.children(schema.ABLATIONS),
    }

"""Again: repeat the study that a store records, from the prompts, settings and model that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from relact.models import loading
from relact import pipeline, remote, schema
from relact.store import local
from relact.errors import IdentityError, InputError
from relact.progress import Progress, silent


def repeat(
    like: str | Path | local.Store,
    store: str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
    ablation: str | None = None,
    progress: Progress = silent,
) -> tuple[local.Store, xr.Dataset]:
    """Run what made ``like`` again, into a new store: the same prompts, model, settings, k and seeds.

    Args:
        like: a store, packed or not; path or URL.
        model: where the model is, when it is not where the store says; its fingerprint must be the recorded one.
        ablation: the one to repeat; the first by default.

    Raises:
        IdentityError: another model. InputError: the store has no ablation, or one that `run` cannot repeat.
    """
    source = remote.open(like)
    recorded = source.manifest.model
    recipe = steps(source, ablation)
    commit = None if (recorded.revision or "").startswith("sha256:") or model else recorded.revision
    loaded = loading.load(model or recorded.id, dtype=recorded.dtype, revision=commit, device=device)
    if loaded.fingerprint != recorded.fingerprint:
        raise IdentityError(
            f"the store records model fingerprint {recorded.fingerprint} ({recorded.id}), this one has "
            f"{loaded.fingerprint} ({loaded.id})",
            where=source.path,
            fix="give the model that was captured with --model",
        )
    return pipeline.run(prompts_of(source), model=loaded, store=store, progress=progress, **recipe)


def steps(store: local.Store, ablation: str | None = None) -> dict[str, Any]:
    """Options of `pipeline.run` that repeat what the store records."""
    capture = store.manifest.capture
    names = store.children(schema.ABLATIONS)
    if not names or (ablation and ablation not in names):
        known = ", ".join(names) or "none"
        raise InputError(f"no ablation {ablation or ''} to repeat", where=store.path, fix=f"there are: {known}")
    ablated = store.attributes(f"{schema.ABLATIONS}/{ablation or names[0]}")
    mask, scores = ablated["mask"], ablated["mask"]["scores"]
    plain = mask["statistic"] == "average_precision" and tuple(mask["sites"]) == tuple(capture.sites)
    if not plain or ablated["mode"] != "zero" or not isinstance(ablated["k"], int):
        raise InputError("its mask or ablation is not one that `relact run` makes", where=store.path,
                         fix="repeat the steps one by one: select, ablate")  # fmt: skip
    return {
        "k": ablated["k"],
        "capture": {
            "sites": list(capture.sites),
            "pool": capture.pool,
            "dtype": capture.dtype,
            "block": capture.block,
            "batch_tokens": capture.batch,
            "special_tokens": capture.special_tokens,
        },
        "scores": {"relations": scores["relations"], "negatives": scores["negatives"], "seed": scores["seed"] or 0},
        "ablate": {"seeds": ablated["seeds"], "match": ablated["match"]},
    }


def prompts_of(store: local.Store) -> pd.DataFrame:
    """Both prompt sets as one table, as `capture` takes it."""
    parts = [store.prompts(split).assign(split=split) for split in (schema.IDENTIFY, schema.TEST)]
    parts[0][schema.ANSWERS] = [[text] for text in parts[0]["object"]]
    return pd.concat(parts, ignore_index=True).drop(columns="n_tokens")

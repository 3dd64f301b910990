"""Again: repeat the study that a store records, from the prompts, settings and model that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from relact import schema
from relact.ablating.options import CONTROLS, AblateOptions
from relact.capturing.options import CaptureOptions
from relact.errors import IdentityError, InputError
from relact.models.loading import load
from relact.packed.store import open_store
from relact.progress import Progress, in_notebooks
from relact.scoring.options import ScoreOptions
from relact.store.reading import Store
from relact.studies.presets import Recipe
from relact.studies.run import Study, follow, require_alone


def repeat(
    like: str | Path | Store,
    store: str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    ablation: str | None = None,
    progress: Progress = in_notebooks,
) -> Study:
    """Run what made ``like`` again, into a new store: the same prompts, model, settings, k and seeds.

    Args:
        like: a store, packed or not; path or URL.
        model: where the model is, when it is not where the store says; its fingerprint must be the recorded
            one.
        ablation: the one to repeat; the first by default.

    Raises:
        IdentityError: another model. InputError: the store has no ablation, or one that `run` cannot repeat.
    """
    require_alone()
    source = open_store(like)
    recorded = source.manifest.model
    recipe = recipe_of(source, ablation)
    commit = None if (recorded.revision or "").startswith("sha256:") or model else recorded.revision
    loaded = load(
        model or recorded.id,
        dtype=recorded.dtype,
        revision=commit,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    if loaded.fingerprint != recorded.fingerprint:
        raise IdentityError(
            f"the store records model fingerprint {recorded.fingerprint} ({recorded.id}), this one has "
            f"{loaded.fingerprint} ({loaded.id})",
            where=source.path,
            fix="give the model that was captured with --model",
        )
    return follow(recipe, loaded, prompts_of(source), store, progress=progress)


def recipe_of(store: Store, ablation: str | None = None) -> Recipe:
    """What the store records, as a recipe that repeats it."""
    capture = store.manifest.capture
    names = store.children(schema.ABLATIONS)
    if ablation or not names:
        store.named(schema.ABLATIONS, ablation)
    records = {name: store.ablation_record(name) for name in ([ablation] if ablation else names)}
    # of a study with attributions `run` makes a second one, beside that which the recipe names
    published = [each for each in records.values() if each.masks[0].statistic == schema.AVERAGE_PRECISION]
    record = published[0] if published else next(iter(records.values()))
    mask = record.masks[0]
    plain = mask.statistic == schema.AVERAGE_PRECISION and mask.sites == tuple(capture.sites)
    plain &= mask.kind == AblateOptions.kind and mask.fdr is None and not mask.seed
    if not plain or record.mode != "zero" or not isinstance(record.k, int):
        raise InputError(
            "its mask or ablation is not one that `relact run` makes",
            where=store.path,
            fix="repeat the steps one by one: select, ablate",
        )
    return Recipe(
        k=record.k,
        capture=CaptureOptions(
            sites=capture.sites,
            pool=capture.pool,
            dtype=capture.dtype,
            block=capture.block,
            batch_tokens=capture.batch,
            special_tokens=capture.special_tokens,
            skip_first_token=bool(capture.skip_first_token),
            **_attribution(capture.attribution),
        ),
        scores=_scoring(mask.scores),
        ablate=AblateOptions(
            counted=mask.counted,
            keep_super_units=mask.without is None,
            unit=mask.unit or AblateOptions.unit,
            seeds=record.seeds,
            # what controls were before they were matched to each relation's own set cannot be drawn any more
            control=record.control if record.control in CONTROLS else AblateOptions.control,
            match=record.match,
            part=record.part,
        ),
    )


def _scoring(record: schema.ScoresRecord) -> ScoreOptions:
    return ScoreOptions(
        relations=record.relations,
        negatives=record.negatives,
        seed=record.seed or 0,
        own_negatives=bool(record.own_negatives),
    )


def _attribution(record: schema.AttributionRecord | None) -> dict[str, Any]:
    """How attributions were made, as options of a capture."""
    if record is None:
        return {}
    return {
        "attribution": True,
        "attribution_sites": record.sites,
        "attribution_pool": record.pool,
        "attribution_dtype": record.dtype,
        "target": record.target,
        "target_token": record.token,
        "attribution_method": record.method,
        "attribution_steps": record.steps,
        "attribution_path": record.path,
    }


def prompts_of(store: Store) -> pd.DataFrame:
    """Both prompt sets as one table, as `capture` takes it."""
    parts = [store.prompts(split).assign(split=split) for split in (schema.IDENTIFY, schema.TEST)]
    parts[0][schema.ANSWERS] = [[text] for text in parts[0]["object"]]
    return pd.concat(parts, ignore_index=True).drop(columns=schema.N_TOKENS)

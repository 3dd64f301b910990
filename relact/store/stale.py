"""Stale results: computed from fewer prompts than the store has since some were appended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relact import schema
from relact.store.reading import Store


def stale(store: Store, stages: Sequence[str] = schema.RESULTS) -> list[str]:
    """Groups of the stages that were computed before prompts were appended, as ``masks/top-400``.

    What another tool computed is never stale, nor are halves whose prompts nobody recorded.
    """
    return [group for stage in schema.RESULTS if stage in stages for group in _of(store, stage)]


def _of(store: Store, stage: str) -> Iterator[str]:
    prompts = store.manifest.prompts_digest(schema.IDENTIFY)
    if not store.appended() and stage != schema.ABLATIONS:
        return
    if stage == schema.SCORES and store.has(stage):
        record = store.scores_record()
        if not record.imported and record.prompts != prompts:
            yield stage
    elif stage == schema.SUPER_UNITS and store.has(stage):
        if store.attributes(stage).get("prompts") != prompts:
            yield stage
    elif stage == schema.MASKS:
        for name in store.children(stage):
            if _is_old(store.mask_record(name), prompts):
                yield f"{stage}/{name}"
    elif stage == schema.LOOKS:
        for name in store.children(stage):
            attributes = store.attributes(f"{stage}/{name}")
            if _is_old(schema.LooksRecord.from_attributes(attributes, store.path).mask, prompts):
                yield f"{stage}/{name}"
    elif stage == schema.ABLATIONS:
        for name in store.children(stage):
            if _asked_before(store, name, prompts):
                yield f"{stage}/{name}"


def _is_old(mask: schema.MaskRecord, prompts: str) -> bool:
    if mask.halved or mask.kind == schema.HALF:
        return mask.halved not in (None, prompts)
    return not mask.scores.imported and mask.scores.prompts != prompts


def _asked_before(store: Store, name: str, prompts: str) -> bool:
    """Whether an ablation's masks are stale, or the store has test prompts that it did not ask."""
    record = store.ablation_record(name)
    if store.appended() and any(_is_old(mask, prompts) for mask in record.masks):
        return True
    foreign = store.has(f"{schema.ABLATIONS}/{name}/{schema.ANSWERS}")  # they bring their own answers
    split = schema.IDENTIFY if record.part == schema.IDENTIFY else schema.TEST
    return not foreign and record.prompts != store.manifest.prompts_digest(split)

"""Prepare: what a capture starts from, and the store it goes to: made, resumed, grown or repaired.

A store's prompts keep the order in which they were given. An append adds the rows of a table that the store
does not have yet after those it has, whether the table repeats the old ones or not.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import zarr

from relact import schema
from relact.capturing.objectives import Objective, objective_of, resolved
from relact.errors import InputError, StoreError
from relact.models.loading import LoadedModel, encode
from relact.relations.identity import named_subjects
from relact.schema import DOCUMENT
from relact.store import local, skeleton
from relact.store.layout import array_of, site_of
from relact.store.local import LocalStore
from relact.store.seal import files_below
from relact.store.sealed import SKELETON
from relact.store.shards import VERIFY
from relact.store.skeleton import Blueprint
from relact.store.verify import Verdict, verify

SHOWN_VERSIONS = ("relact", "torch", "transformers", "zarr", "numpy")
Tables = Mapping[str, pd.DataFrame]  # split -> rows with n_tokens, the test split with answers


@dataclass(frozen=True)
class Intake:
    """What a new store of the given prompts is made of.

    Attributes:
        tokens: ids of its identification prompts.
        objective: what of them is attributed, if anything.
    """

    blueprint: Blueprint
    tokens: Sequence[Sequence[int]]
    objective: Objective | None = None

    @property
    def manifest(self) -> schema.Manifest:
        """The identity of the capture."""
        return self.blueprint.manifest

    @property
    def tables(self) -> Tables:
        """Both prompt sets."""
        return self.blueprint.tables

    def with_block(self, rows: int) -> Intake:
        """The same with so many rows per block."""
        manifest = replace(self.manifest, capture=replace(self.manifest.capture, block=rows))
        return replace(self, blueprint=replace(self.blueprint, manifest=manifest))


def take_in(
    loaded: LoadedModel, table: pd.DataFrame, settings: schema.CaptureRecord, *, compress: bool = False
) -> Intake:
    """Tokenize a prompt table for a model; `InputError` names a prompt that is empty or too long for it, or
    has no answer to be attributed.
    """
    settings = resolved(loaded, settings)
    tables, tokens = _encode(loaded, table, settings)
    objective = objective_of(loaded, tables[schema.IDENTIFY], tokens, settings)
    manifest = schema.Manifest(
        model=schema.ModelRecord(
            loaded.id,
            loaded.revision,
            loaded.fingerprint,
            loaded.dtype,
            loaded.family,
            loaded.code,
            loaded.quantised,
        ),
        tokenizer=loaded.tokenizer_fingerprint,
        capture=settings,
        prompts=describe(tables),
        versions={name: version(name) for name in SHOWN_VERSIONS},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        id=secrets.token_hex(16),
    )
    every = loaded.widths
    widths = {stream: every[site_of(stream)] for stream in settings.streams}
    return Intake(Blueprint(manifest, tables, loaded.n_layers, widths, compress), tokens, objective)


def tokens_of(loaded: LoadedModel, prompts: pd.DataFrame, intake: Intake) -> Sequence[Sequence[int]]:
    """Ids of a store's identification prompts, in its order: encoded anew unless they are the intake's."""
    texts = [str(text) for text in prompts["text"]]
    if texts == intake.tables[schema.IDENTIFY]["text"].astype(str).tolist():
        return intake.tokens
    return encode(loaded, texts, special_tokens=intake.manifest.capture.special_tokens)


def objective_in(
    loaded: LoadedModel, store: LocalStore, tokens: Sequence[Sequence[int]], intake: Intake
) -> Objective | None:
    """What of a store's identification prompts is attributed, whenever they came to it; `InputError` for one
    that has no contrast where that is asked for.
    """
    objective, prompts = intake.objective, store.prompts(schema.IDENTIFY)
    if objective and (tokens is not intake.tokens or store.appended()):
        objective = objective_of(loaded, prompts, tokens, store.manifest.capture, store.appended())
    if objective:
        objective.require_contrast(prompts)
    return objective


def measure(blueprint: Blueprint) -> tuple[int, int]:
    """(files, bytes) of a new store before any block is captured."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        skeleton.build(path, blueprint)
        sizes = [(path / name).stat().st_size for name in files_below(path)]
    return len(sizes), sum(sizes)


def resume(store: LocalStore, intake: Intake) -> LocalStore:
    """The same store, when it records the same identity; `IdentityError` otherwise."""
    prompts = dict(intake.manifest.prompts)
    if appended := store.appended():
        prompts[schema.IDENTIFY] = {**prompts[schema.IDENTIFY], schema.APPENDED: appended}
    local.require_identity(store, replace(intake.manifest, prompts=prompts))
    return store


def is_superseded(store: LocalStore, intake: Intake) -> bool:
    """Whether a store is of another capture and holds nothing: one that failed before its first block, where
    the advice was another setting.
    """
    empty = not store.log.present() and not {*store.children("")} - {*SKELETON}
    return empty and bool(store.manifest.differences(intake.manifest))


def append(store: LocalStore, intake: Intake) -> LocalStore:
    """The store with room for the rows of the intake that it does not have; errors as of `grown`."""
    blueprint = grown(store, intake)
    return local.rebuild(store.path, blueprint) if blueprint else store


def grown(store: LocalStore, intake: Intake) -> Blueprint | None:
    """The store with the rows of the intake that it does not have after its own; None when it has them all.

    Raises:
        IdentityError: another model, tokenizer or setting. StoreError: the store's own prompts are damaged.
        InputError: a subject would be in both splits.
    """
    local.require_identity(store, replace(intake.manifest, prompts=store.manifest.prompts))
    old, new = old_rows(store), new_rows(store, intake)
    if not any(len(rows) for rows in new.values()):
        return None
    merged = {split: pd.concat([old[split], new[split]], ignore_index=True) for split in old}
    _require_separate(old, new)
    described = describe(merged)
    cuts = store.appended() + ([store.n_prompts] if len(new[schema.IDENTIFY]) else [])
    if cuts:
        described[schema.IDENTIFY][schema.APPENDED] = cuts
    manifest = replace(store.manifest, prompts=described)
    return replace(intake.blueprint, tables=merged, manifest=manifest, compress=store.compressed)


def old_rows(store: LocalStore) -> dict[str, pd.DataFrame]:
    """The prompts the store has, checked against their digests."""
    rows = {split: store.prompts(split) for split in (schema.IDENTIFY, schema.TEST)}
    for split, described in describe(rows).items():
        digest, recorded = described[schema.ROWS_DIGEST], store.manifest.prompts_digest(split)
        if digest != recorded:
            raise StoreError(
                f"{schema.PROMPTS}/{split} has digest {digest}, the store records {recorded}",
                where=store.path,
                fix=VERIFY,
            )
    return rows


def new_rows(store: LocalStore, intake: Intake) -> dict[str, pd.DataFrame]:
    """Rows of the intake that the store does not have, each as often as it is missing, in their order."""
    rows = {}
    for split, table in intake.tables.items():
        unmatched = Counter(_keys(store.prompts(split)))
        fresh = []
        for key in _keys(table):
            fresh.append(not unmatched[key])
            unmatched[key] -= bool(unmatched[key])
        rows[split] = table.loc[fresh].reset_index(drop=True)
    return rows


def repair(path: Path, intake: Intake) -> tuple[LocalStore, Verdict]:
    """Rebuild damaged prompts and metadata; damaged blocks are missing from now on.

    The intake must be what the store was captured from. Damaged results (scores, masks, ablations) are not
    touched.

    Returns:
        the store, and what was found damaged.
    """
    before = after = verify(path)
    if before.damaged_skeleton():
        root_lost = any(problem.file == DOCUMENT for problem in before.problems)
        _rebuild(path, intake, root_lost=root_lost)
        after = verify(path)
    store = local.open(path)
    for block in after.damaged_blocks():
        store.log.remove(block)
    return store, before


def _rebuild(path: Path, intake: Intake, *, root_lost: bool) -> None:
    """Write the skeleton anew from the intake, over the damaged one."""
    blueprint = intake.blueprint
    if root_lost:
        blueprint = intake.with_block(_block_on_disk(path, blueprint)).blueprint
    else:
        manifest = local.read_manifest(path)
        names = schema.N_ROWS, schema.ROWS_DIGEST  # what was appended is in the rows
        recorded = {split: {name: about[name] for name in names} for split, about in manifest.prompts.items()}
        if recorded != dict(intake.manifest.prompts):
            raise InputError(
                "these are not the prompts that the store records",
                where=path,
                fix="give the prompts it was captured from",
            )
        blueprint = replace(blueprint, manifest=manifest)
    local.rebuild(path, blueprint)


def _block_on_disk(path: Path, blueprint: Blueprint) -> int:
    """Rows per block of a store whose root is lost, from its arrays; they must have the blueprint's shape."""
    dtypes = blueprint.manifest.capture.streams
    for stream, width in blueprint.widths.items():
        try:
            array = zarr.open_array(path / array_of(stream), mode="r")
        except Exception:  # damaged as well: ask the next one
            continue
        shape = (blueprint.n_prompts, blueprint.layouts[stream].n_layers, width)
        if array.shape != shape or array.dtype != dtypes[stream] or array.shards is None:
            raise StoreError(
                f"{stream} is {array.dtype} {array.shape}, this capture {dtypes[stream]} {shape}",
                where=path,
                fix="give the model, prompts and settings it was captured with",
            )
        return int(array.shards[0])
    raise StoreError(
        f"neither its {DOCUMENT} nor its arrays can be read", where=path, fix="remove it and capture again"
    )


def _encode(
    loaded: LoadedModel, table: pd.DataFrame, settings: schema.CaptureRecord
) -> tuple[dict[str, pd.DataFrame], list[list[int]]]:
    """Both splits with ``n_tokens``, and the token ids of the identification prompts."""
    tables = {}
    for split in (schema.IDENTIFY, schema.TEST):
        part = table[table["split"] == split].reset_index(drop=True)
        ids = encode(loaded, [str(text) for text in part["text"]], special_tokens=settings.special_tokens)
        columns = [*schema.PROMPT_TEXT, *([schema.ANSWERS] if split == schema.TEST else [])]
        tables[split] = part[columns].assign(**{schema.N_TOKENS: [len(row) for row in ids]})
        if split == schema.IDENTIFY:
            tokens = ids
    if not tokens:
        raise InputError("no identification prompts", fix="build prompts with `relact prompts`")
    _require_tokens(tokens, tables[schema.IDENTIFY]["text"].tolist(), loaded.max_tokens, settings.n_skipped)
    if limit := loaded.max_tokens:
        _require_room(loaded, tables[schema.TEST], limit)
    return tables, tokens


def _require_tokens(
    tokens: Sequence[Sequence[int]], texts: Sequence[str], limit: int | None, skipped: int
) -> None:
    """`InputError` for an identification prompt that the model cannot read, or with nothing to pool."""
    for row, (ids, text) in enumerate(zip(tokens, texts, strict=True)):
        where = f"identification prompt {row}"
        if not ids and str(text).strip():
            fix = "check that the model's tokenizer is whole"
            raise InputError("the tokenizer makes no token of it", where=where, fix=fix)
        if len(ids) <= skipped:
            left = ", and the first one is left out" if skipped else ""
            raise InputError(f"{len(ids)} tokens{left}", where=where, fix="write more, or drop it")
        if limit and len(ids) > limit:
            problem = f"{len(ids)} tokens, the model takes 1 to {limit}"
            raise InputError(problem, where=where, fix="shorten or drop it")


def _require_room(loaded: LoadedModel, tests: pd.DataFrame, limit: int) -> None:
    """`InputError` for a test prompt whose longest answer would go beyond the model's last position."""
    longest = max((len(answer.encode()) for row in tests[schema.ANSWERS] for answer in row), default=0)
    near = tests[tests[schema.N_TOKENS] + longest + 1 > limit]  # no answer has more tokens than bytes
    for row, prompt in near.iterrows():
        answers = encode(loaded, list(prompt[schema.ANSWERS]), special_tokens=False)
        needed = int(prompt[schema.N_TOKENS]) + max(map(len, answers), default=1)
        if needed > limit:
            problem = f"{needed} tokens with its answer, the model takes 1 to {limit}"
            raise InputError(problem, where=f"test prompt {row}", fix="shorten or drop it")


def describe(tables: Tables) -> dict[str, dict[str, Any]]:
    """``prompts`` of the manifest: how many rows each split has, and their digest."""
    return {
        split: {
            schema.N_ROWS: len(rows),
            schema.ROWS_DIGEST: schema.digest(_records(rows, split == schema.TEST)),
        }
        for split, rows in tables.items()
    }


def _records(rows: pd.DataFrame, answers: bool) -> list[dict[str, Any]]:
    """Rows as plain JSON values, the same from a table and from a store."""
    records = [
        {**{name: str(row[name]) for name in schema.PROMPT_TEXT}, schema.N_TOKENS: int(row[schema.N_TOKENS])}
        for row in rows.to_dict("records")
    ]
    if answers:
        for record, texts in zip(records, rows[schema.ANSWERS], strict=True):
            record[schema.ANSWERS] = [str(text) for text in texts if text]
    return records


def _keys(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(rows[list(schema.PROMPT_TEXT)].astype(str).itertuples(index=False, name=None))


def _require_separate(old: Tables, new: Tables) -> None:
    """No subject of a relation may be both captured and tested, as far as the new rows are concerned."""

    def subjects(rows: pd.DataFrame) -> set[tuple[str, str]]:
        return named_subjects(rows["relation"], rows["subject"].astype(str))

    identify, test = schema.IDENTIFY, schema.TEST
    both = subjects(new[identify]) & (subjects(old[test]) | subjects(new[test]))
    both |= subjects(old[identify]) & subjects(new[test])
    if both:
        relation, subject = sorted(both)[0]
        raise InputError(
            f"{subject!r} of {relation} would be in both splits (and {len(both) - 1} more)",
            fix="split the new facts as the store's: build both tables with the same seed, "
            "or give new facts only",
        )

"""What an ablation starts from: the store's model, its test prompts, and answers that are known already."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from relact import schema
from relact.ablating.journal import Journal
from relact.errors import IdentityError, InputError
from relact.models.loading import LoadedModel, load
from relact.relations.table import check
from relact.store.local import LocalStore
from relact.store.reading import Store


def ks_of(k: int | Sequence[int] | None) -> list[int]:
    """Numbers of neurons, one by one."""
    return [k] if isinstance(k, int) else list(k or ())


def tests_of(store: Store, tests: pd.DataFrame | None) -> tuple[pd.DataFrame, str]:
    """The test prompts and their digest: the store's own, or those of the table ``tests``."""
    if tests is None:
        table, digest = store.prompts(schema.TEST), store.manifest.prompts_digest(schema.TEST)
    else:
        table = check(tests)
        table = table[table["split"] == schema.TEST].reset_index(drop=True)
        rows = zip(table["text"], table["relation"], table[schema.ANSWERS], strict=True)
        digest = schema.digest(
            [{"text": text, "relation": relation, "answers": answers} for text, relation, answers in rows]
        )
    if table.empty:
        raise InputError(
            "no test prompts", where=store.path, fix="capture a prompt table that has some, or give one"
        )
    if tests is not None:
        _require_held_out(store, table)
    return table, digest


def _require_held_out(store: Store, table: pd.DataFrame) -> None:
    """Refuse test prompts about subjects on which neurons were identified: that would inflate the effect."""
    key = ["relation", "subject", "language"]
    both = table[key].drop_duplicates().merge(store.prompts(schema.IDENTIFY)[key].drop_duplicates())
    both = both[both["subject"] != ""]
    if len(both):
        problem = f"{len(both)} test subjects are also identification subjects, first {both['subject'][0]!r}"
        fix = "make them with the seed, shots and test size of the store's prompts"
        raise InputError(problem, where=f"relation {both['relation'][0]}", fix=fix)


def model_of(store: Store, model: str | LoadedModel | None, device: str) -> LoadedModel:
    """The store's model, verified by fingerprint."""
    recorded = store.manifest.model
    commit = None if (recorded.revision or "").startswith("sha256:") else recorded.revision  # of a hub model
    loaded = load(model or recorded.id, dtype=recorded.dtype, revision=commit, device=device)
    for name, stored, present in (
        ("model fingerprint", recorded.fingerprint, loaded.fingerprint),
        ("tokenizer fingerprint", store.manifest.tokenizer, loaded.tokenizer_fingerprint),
    ):
        if stored != present:
            raise IdentityError(
                f"the store records {name} {stored} ({recorded.id}), this model has {present} ({loaded.id})",
                where=store.path,
                fix="ablate the model that was captured",
            )
    return loaded


def journal_of(store: LocalStore, name: str, identity: str) -> Journal:
    """The journal of the ablation ``name``, beside the store."""
    return Journal(store.path.with_name(f".{store.path.name}.{name}.jsonl"), identity)


def recall(store: Store, journal: Journal, digest: str, tokens: str) -> None:
    """Add what other ablations of the same prompts found to the journal's answers."""
    for name in store.children(schema.ABLATIONS):
        record = store.ablation_record(name)
        if (record.prompts, record.tokens) == (digest, tokens):
            result = store.dataset(f"{schema.ABLATIONS}/{name}")
            answers = result[schema.GENERATED].values.reshape(-1, result.sizes["prompt"])
            for condition, texts in zip(result[schema.DIGEST].values.ravel(), answers, strict=True):
                journal.answers[str(condition)].update(enumerate(map(str, texts)))


def name_of(masks: Sequence[str], mode: str, tokens: str) -> str:
    """The result's name: the mask's, and what is not the default."""
    parts = [masks[0] if len(masks) == 1 else f"sweep-{masks[0]}-{masks[-1]}"]
    parts += [mode] if mode != "zero" else []
    parts += [f"{tokens}-token"] if tokens != "all" else []
    return "-".join(parts)

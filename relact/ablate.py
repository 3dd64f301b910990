"""Ablate: masks + model -> the verdict on every test prompt under every condition, written as ``ablations/<name>``.

Texts that the store or the journal of an interrupted run already holds are not generated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from relact import conditions, masks, models, prompts, schema
from relact import store as stores
from relact.conditions import Condition
from relact.decode import BATCH_TOKENS, decode
from relact.errors import IdentityError, InputError
from relact.journal import Journal
from relact.progress import Progress, silent

SEEDS = tuple(range(10))
TOKENS = ("all", "last")


def ablate(
    store: str | Path | stores.Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    model: str | models.LoadedModel | None = None,
    seeds: Sequence[int] = SEEDS,
    mode: str = "zero",
    tokens: str = "all",
    match: str = "prefix",
    tests: pd.DataFrame | None = None,
    name: str | None = None,
    device: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> xr.Dataset:
    """Switch off every relation's neurons in turn and write which test prompts stay correct: ``ablations/<name>``.

    Args:
        mask: name of a stored mask; or ``k``, to select the top k first; several k make a sweep, with a dimension ``k``.
        model: the store's own model by default; another one is refused.
        seeds: one random control per seed, matched to the mask's counts per site and layer.
        mode: what overridden neurons are set to, see `conditions.replacements`.
        tokens: override at ``all`` tokens, or from the ``last`` token of a prompt on.
        match: the rule for "correct", see `prompts.is_correct`.
        tests: a table with other test prompts (another language, paraphrases); the store's own by default.
        name: of the result; the mask's name by default, with what is not the default appended.
        batch_tokens: tokens of all conditions in one forward pass.

    Returns:
        correct bool [condition, prompt], generated [condition, prompt] (up to the token that decided), relation_of [prompt],
        accuracy [condition, relation]; all but relation_of with a first dimension k in a sweep.

    Raises:
        IdentityError: the model is not the one the store records. InputError: no such mask, no test prompts.
    """
    opened = store if isinstance(store, stores.Store) else stores.open(store)
    stores.recover(opened)
    if (mask is None) == (k is None):
        raise InputError("name one mask, or k", where="--mask/--k", fix="give exactly one of them")
    if tokens not in TOKENS:
        raise InputError(f"unknown choice of tokens {tokens!r}", where="tokens", fix="use all or last")
    ks = [k] if isinstance(k, int) else list(k or ())
    chosen = [mask] if mask is not None else [masks.select(opened, k=one) for one in ks]
    table, digest = _tests(opened, tests)
    described = [opened.attributes(f"{schema.MASKS}/{one}") for one in chosen]
    own_ks = [int(attributes["k"]) for attributes in described]
    sweep = len(own_ks) > 1
    attributes = {
        "k": own_ks if sweep else own_ks[0],
        "mode": mode,
        "tokens": tokens,
        "seeds": list(seeds),
        "match": match,
        "mask": described if sweep else described[0],
        "prompts": digest,
    }
    name = name or _name(chosen, mode, tokens)
    group = f"{schema.ABLATIONS}/{name}"
    if opened.has(group) and opened.attributes(group) == attributes:
        return opened.dataset(group)
    every = [conditions.of_mask(opened, one, seeds=seeds, mode=mode) for one in chosen]  # [k][condition]
    loaded = _model_of(opened, model, device)
    rows = models.encode(loaded, table["text"].tolist(), special_tokens=opened.manifest.capture.special_tokens)
    answers = table[schema.ANSWERS].tolist()
    journal = Journal(
        opened.path.with_name(f".{opened.path.name}.{name}.jsonl"), f"{loaded.fingerprint} {digest} {tokens}"
    )
    _recall(opened, journal, digest, tokens)
    flat = [condition for part in every for condition in part]
    texts = generate(
        loaded,
        rows,
        answers,
        flat,
        journal=journal,
        last=tokens == "last",
        batch_tokens=batch_tokens,
        progress=progress,
    )
    _write(
        opened,
        group,
        attributes,
        every,
        table["relation"].to_numpy(),
        texts.reshape(len(every), -1, len(rows)),
        answers,
    )
    journal.remove()
    return opened.dataset(group)


def _recall(store: stores.Store, journal: Journal, digest: str, tokens: str) -> None:
    """Add what other ablations of the same prompts found to the journal's answers."""
    for name in store.children(schema.ABLATIONS):
        attributes = store.attributes(f"{schema.ABLATIONS}/{name}")
        if attributes.get("prompts") == digest and attributes.get("tokens") == tokens:
            found = store.dataset(f"{schema.ABLATIONS}/{name}")
            for one, texts in zip(
                found["digest"].values.ravel(),
                found["generated"].values.reshape(-1, found.sizes["prompt"]),
                strict=True,
            ):
                journal.answers[str(one)].update(enumerate(map(str, texts)))


def _tests(store: stores.Store, tests: pd.DataFrame | None) -> tuple[pd.DataFrame, str]:
    """The test prompts and their digest."""
    if tests is None:
        table, digest = store.prompts(schema.TEST), store.manifest.prompts[schema.TEST]["digest"]
    else:
        table = prompts.check(tests)
        table = table[table["split"] == "test"].reset_index(drop=True)
        digest = schema.digest(
            [
                {"text": row.text, "relation": row.relation, "answers": answers}
                for row, answers in zip(table.itertuples(index=False), table[schema.ANSWERS], strict=True)
            ]
        )
    if table.empty:
        raise InputError("no test prompts", where=store.path, fix="capture a prompt table that has some, or give one")
    return table, digest


def _name(chosen: Sequence[str], mode: str, tokens: str) -> str:
    parts = [chosen[0] if len(chosen) == 1 else f"sweep-{chosen[0]}-{chosen[-1]}"]
    parts += [mode] if mode != "zero" else []
    parts += [f"{tokens}-token"] if tokens != "all" else []
    return "-".join(parts)


def judge(generated: np.ndarray, answers: Sequence[Sequence[str]], match: str) -> np.ndarray:
    """bool [condition, prompt]: whether each generated text answers its prompt."""
    rows = [[prompts.is_correct(text, own, match) for text, own in zip(row, answers, strict=True)] for row in generated]
    return np.array(rows, bool)


def generate(
    loaded: models.LoadedModel,
    tokens: Sequence[Sequence[int]],
    answers: Sequence[Sequence[str]],
    conditions: Sequence[Condition],
    *,
    journal: Journal | None = None,
    last: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> np.ndarray:
    """Greedy continuation of every prompt under every condition, up to the token that decides: str [condition, prompt].

    Args:
        tokens: of every prompt. answers: accepted ones of every prompt.
        journal: holds what is already known, and is told what is found; equal conditions run once.
        last, batch_tokens: see `decode.decode`.
    """
    digests = [condition.digest() for condition in conditions]
    places = list({digest: at for at, digest in reversed(list(enumerate(digests)))}.values())[::-1]
    distinct = [conditions[at] for at in places]
    texts = np.full((len(distinct), len(tokens)), None, object)
    if journal:
        for row, known in zip(texts, journal.known([digests[at] for at in places], len(tokens)), strict=True):
            row[list(known)] = list(known.values())
    todo = texts == np.array(None)

    def is_open(prompt: int, text: str) -> bool:
        """Nothing said yet, or an answer so far: whatever the rule, a second token may still change the verdict."""
        return not text.strip(" \n\ufffd") or prompts.is_correct(text, answers[prompt], "prefix")

    def finished(part: Sequence[int], rows: Sequence[int], found: list[list[str]]) -> None:
        for at, own in zip(part, found, strict=True):
            texts[at, list(rows)] = own
        if journal:
            pairs = zip(part, found, strict=True)
            journal.write({digests[places[at]]: dict(zip(rows, own, strict=True)) for at, own in pairs})
        progress("ablate", int(np.count_nonzero(texts != np.array(None))), texts.size, "answers")

    decode(loaded, tokens, distinct, finished, is_open=is_open, last=last, todo=todo, batch_tokens=batch_tokens)
    row_of = {digests[at]: row for row, at in enumerate(places)}
    return texts[[row_of[digest] for digest in digests]]


def _model_of(store: stores.Store, model: str | models.LoadedModel | None, device: str) -> models.LoadedModel:
    """The store's model, verified by fingerprint."""
    recorded = store.manifest.model
    if isinstance(model, models.LoadedModel):
        loaded = model
    else:
        commit = None if (recorded.revision or "").startswith("sha256:") else recorded.revision  # of a hub model
        loaded = models.load(model or recorded.id, dtype=recorded.dtype, revision=commit, device=device)
    for what, mine, theirs in (
        ("model fingerprint", recorded.fingerprint, loaded.fingerprint),
        ("tokenizer fingerprint", store.manifest.tokenizer, loaded.tokenizer_fingerprint),
    ):
        if mine != theirs:
            raise IdentityError(
                f"the store records {what} {mine} ({recorded.id}), this model has {theirs} ({loaded.id})",
                where=store.path,
                fix="ablate the model that was captured",
            )
    return loaded


def _write(
    store: stores.Store,
    group: str,
    attributes: Mapping[str, Any],
    every: Sequence[Sequence[Condition]],
    relation_of: np.ndarray,
    generated: np.ndarray,
    answers: Sequence[Sequence[str]],
) -> None:
    """``generated`` is [k, condition, prompt]; the dimension k is left out when there is one."""
    names = list(dict.fromkeys(relation_of))
    correct = np.stack([judge(texts, answers, attributes["match"]) for texts in generated])
    accuracy = np.stack([correct[..., relation_of == name].mean(axis=-1) for name in names], axis=-1)
    digests = np.array([[condition.digest() for condition in part] for part in every])
    sweep = len(every) > 1
    lead = ("k",) if sweep else ()
    coordinates: dict[str, Any] = {
        "condition": [condition.name for condition in every[0]],
        "relation": names,
        "prompt": range(correct.shape[-1]),
    }
    if sweep:
        coordinates["k"] = list(attributes["k"])
    with store.stage(group, attributes) as built:
        built.attrs.update(
            {key: attributes[key] for key in ("k", "mode", "tokens", "seeds", "match") if key not in coordinates}
        )
        stores.write_coordinates(built, **coordinates)
        for name, values, dims in (
            ("correct", correct, ("condition", "prompt")),
            ("generated", generated.astype(np.dtypes.StringDType()), ("condition", "prompt")),
            ("accuracy", accuracy.astype(np.float32), ("condition", "relation")),
            ("digest", digests.astype(np.dtypes.StringDType()), ("condition",)),
        ):
            built.create_array(name, data=values if sweep else values[0], dimension_names=(*lead, *dims))
        built.create_array("relation_of", data=relation_of.astype(np.dtypes.StringDType()), dimension_names=("prompt",))

"""Ablate: masks + model -> the verdict on every test prompt under every condition, written as ``ablations/<name>``.

Texts that the store or the journal of an interrupted run already holds are not generated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from relact import conditions, masks, plan, schema
from relact.models import cost, loading
from relact.relations import prompts
from relact import sites as site_names
from relact.store import local
from relact.conditions import Condition
from relact.decode import BATCH_TOKENS, decode, passes_of
from relact.errors import IdentityError, InputError
from relact.journal import Journal
from relact.perplexity import ROWS, encoded
from relact.perplexity import perplexity as measure
from relact.progress import Progress, silent

PERPLEXITY = "perplexity"
SEEDS = tuple(range(10))
TOKENS = ("all", "last")


def ablate(
    store: str | Path | local.Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    kind: str = "top",
    sites: str | Sequence[str] | None = None,
    model: str | loading.LoadedModel | None = None,
    seeds: Sequence[int] = SEEDS,
    mode: str = "zero",
    tokens: str = "all",
    match: str = "prefix",
    tests: pd.DataFrame | None = None,
    perplexity: bool = False,
    name: str | None = None,
    device: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> xr.Dataset:
    """Switch off every relation's neurons in turn and write which test prompts stay correct: ``ablations/<name>``.

    Args:
        mask: name of a stored mask; or ``k``, to select the top k first; several k make a sweep, with a dimension ``k``.
        kind, sites: of the masks that ``k`` selects, see `masks.select`.
        model: the store's own model by default; another one is refused.
        seeds: one random control per seed, matched to the mask's counts per site and layer.
        mode: what overridden neurons are set to, see `conditions.replacements`.
        tokens: override at ``all`` tokens, or from the ``last`` token of a prompt on.
        match: the rule for "correct", see `prompts.is_correct`.
        tests: a table with other test prompts (another language, paraphrases); the store's own by default.
        perplexity: measure that of the bundled text under every condition, too.
        name: of the result; the mask's name by default, with what is not the default appended.
        batch_tokens: tokens of all conditions in one forward pass.

    Returns:
        correct bool [condition, prompt], generated [condition, prompt] (up to the token that decided), relation_of [prompt],
        accuracy [condition, relation], and perplexity [condition] if asked for; all but relation_of with a first dimension k in a
        sweep, which also has step_correct and step_generated [k, prompt]: the answers when only those neurons of a prompt's own
        relation are overridden that this k adds to the one before it.

    Raises:
        IdentityError: the model is not the one the store records. InputError: no such mask, no test prompts.
    """
    opened = store if isinstance(store, local.Store) else local.open(store)
    local.recover(opened)
    if (mask is None) == (k is None):
        raise InputError("name one mask, or k", where="--mask/--k", fix="give exactly one of them")
    if tokens not in TOKENS:
        raise InputError(f"unknown choice of tokens {tokens!r}", where="tokens", fix="use all or last")
    ks = [k] if isinstance(k, int) else list(k or ())
    chosen = [mask] if mask is not None else [masks.select(opened, k=one, kind=kind, sites=sites) for one in ks]
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
    current = opened.has(group) and opened.attributes(group) == attributes
    if current and (not perplexity or PERPLEXITY in opened.dataset(group)):
        return opened.dataset(group)
    every = [conditions.of_mask(opened, one, seeds=seeds, mode=mode) for one in chosen]  # [k][condition]
    loaded = _model_of(opened, model, device)
    special = opened.manifest.capture.special_tokens
    journal_path = opened.path.with_name(f".{opened.path.name}.{name}.jsonl")
    journal = Journal(journal_path, f"{loaded.fingerprint} {digest} {tokens}")
    _recall(opened, journal, digest, tokens)
    flat = [condition for part in every for condition in part]
    relation_of = table["relation"].to_numpy()
    steps = [conditions.added(*pair) for pair in pairwise([[], *every])] if sweep else []
    flat_steps = [condition for part in steps for condition in part]
    own = np.array([relation_of == step.name for step in flat_steps], bool).reshape(len(flat_steps), len(table))
    texts = generate(
        loaded,
        loading.encode(loaded, table["text"].tolist(), special_tokens=special),
        table[schema.ANSWERS].tolist(),
        [*flat, *flat_steps],
        wanted=np.concatenate([np.ones((len(flat), len(table)), bool), own]),
        journal=journal,
        last=tokens == "last",
        batch_tokens=batch_tokens,
        progress=progress,
    )
    generated = texts[: len(flat)].reshape(len(every), -1, len(table))
    measured = measure(loaded, flat, special_tokens=special, progress=progress) if perplexity else None
    stepped = _own(texts[len(flat) :], own, len(steps)) if sweep else None
    _write(opened, group, attributes, every, table, generated, stepped, measured)
    journal.remove()
    return opened.dataset(group)


def _own(texts: np.ndarray, own: np.ndarray, n_steps: int) -> np.ndarray:
    """[k, prompt]: of texts [k x relation, prompt] those under the prompt's ``own`` relation, "" where it has none."""
    found = np.full((n_steps, texts.shape[1]), "", object)
    for row, (answers, mine) in enumerate(zip(texts, own, strict=True)):
        found[row * n_steps // len(texts), mine] = answers[mine]
    return found


def _recall(store: local.Store, journal: Journal, digest: str, tokens: str) -> None:
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


def _tests(store: local.Store, tests: pd.DataFrame | None) -> tuple[pd.DataFrame, str]:
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
    if tests is not None:
        _require_held_out(store, table)
    return table, digest


def _require_held_out(store: local.Store, table: pd.DataFrame) -> None:
    """Refuse test prompts about subjects on which neurons were identified: that would inflate the effect."""
    key = ["relation", "subject", "language"]
    both = table[key].drop_duplicates().merge(store.prompts(schema.IDENTIFY)[key].drop_duplicates())
    both = both[both["subject"] != ""]
    if len(both):
        what = f"{len(both)} test subjects are also identification subjects, first {both['subject'][0]!r}"
        fix = "make them with the seed, shots and test size of the store's prompts"
        raise InputError(what, where=f"relation {both['relation'][0]}", fix=fix)


def _name(chosen: Sequence[str], mode: str, tokens: str) -> str:
    parts = [chosen[0] if len(chosen) == 1 else f"sweep-{chosen[0]}-{chosen[-1]}"]
    parts += [mode] if mode != "zero" else []
    parts += [f"{tokens}-token"] if tokens != "all" else []
    return "-".join(parts)


def dry_run(
    store: str | Path | local.Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    sites: str | Sequence[str] | None = None,
    model: str | loading.LoadedModel | None = None,
    seeds: Sequence[int] = SEEDS,
    tests: pd.DataFrame | None = None,
    perplexity: bool = False,
    device: str = "auto",
    batch_tokens: int = BATCH_TOKENS,
) -> plan.Plan:
    """What `ablate` with the same arguments would write and need, were nothing there yet; the model is loaded and timed.

    Nothing is written. Arguments and errors are those of `ablate`.
    """
    opened = store if isinstance(store, local.Store) else local.open(store)
    loaded = _model_of(opened, model, device)
    table, _ = _tests(opened, tests)
    widths = {site: opened.layouts[site].width for site in (site_names.expand(sites) if sites else opened.layouts)}
    ks = [k] if isinstance(k, int) else list(k or ())
    names = opened.relations() if mask is None else masks.read(opened, mask)[0]
    special = opened.manifest.capture.special_tokens
    return outlook(
        loaded, table, names, len(seeds), widths,
        new_masks=len(ks), special_tokens=special, perplexity=perplexity, batch_tokens=batch_tokens,
    )  # fmt: skip


def outlook(
    loaded: loading.LoadedModel,
    tests: pd.DataFrame,
    relations: Sequence[str],
    n_random: int,
    widths: Mapping[str, int],
    *,
    new_masks: int = 1,
    special_tokens: bool = True,
    perplexity: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> plan.Plan:
    """The plan of an ablation with these test prompts; files, bytes and memory are bounds.

    Args:
        relations: whose sets are overridden. n_random: controls.
        widths: neurons per layer of the sites that masks are stored of.
        new_masks: masks that are selected first, one per k; 0 where one is stored already.
        perplexity: whether that is measured, too.
    """
    tokens = loading.encode(loaded, tests["text"].tolist(), special_tokens=special_tokens)
    per_k, n_ks = len(relations) + n_random, max(1, new_masks)
    passes, work, words = passes_of(tokens, n_ks * per_k + (n_ks - 1) * len(relations), batch_tokens)
    if perplexity:
        read = [(ROWS, 0, len(ids)) for ids in encoded(loaded, special_tokens=special_tokens)]
        work += n_ks * (1 + per_k) * sum(own for _, _, own in read)
        passes, words = passes + read, max(words, 2 * ROWS * max(own for _, _, own in read))
    vocabulary = int(site_names.text_config(loaded.model.config).vocab_size)
    logits = 2 * 4 * words * vocabulary  # and the copy that they are chosen from
    memory = cost.held_bytes(loaded, passes) + (logits if loaded.device.type == "cpu" else 0)
    n_files, n_bytes = plan.ablation_size(1 + per_k, len(tests), tests["relation"].nunique(), n_ks)
    mask_files, mask_bytes = plan.mask_size(len(relations), loaded.n_layers, widths)
    n_files, n_bytes = n_files + new_masks * mask_files + 2, n_bytes + new_masks * mask_bytes + 2 * plan.NAME
    longest = max(passes, key=lambda one: one[0] * one[2])
    seconds = cost.seconds(loaded, [longest], n_bytes) * work / (longest[0] * longest[2])
    return plan.Plan("ablate", n_files, n_bytes, False, memory, seconds)


def judge(generated: np.ndarray, answers: Sequence[Sequence[str]], match: str) -> np.ndarray:
    """bool [condition, prompt]: whether each generated text answers its prompt."""
    rows = [[prompts.is_correct(text, own, match) for text, own in zip(row, answers, strict=True)] for row in generated]
    return np.array(rows, bool)


def generate(
    loaded: loading.LoadedModel,
    tokens: Sequence[Sequence[int]],
    answers: Sequence[Sequence[str]],
    conditions: Sequence[Condition],
    *,
    wanted: np.ndarray | None = None,
    journal: Journal | None = None,
    last: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> np.ndarray:
    """Greedy continuation of every prompt under every condition, up to the token that decides: str [condition, prompt].

    Args:
        tokens: of every prompt. answers: accepted ones of every prompt.
        wanted: bool [condition, prompt]; None is everything. What is not wanted may be None in the result.
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
    row_of = {digests[at]: row for row, at in enumerate(places)}
    rows = [row_of[digest] for digest in digests]
    todo = np.zeros(texts.shape, bool)
    for place, own in zip(rows, np.ones((len(rows), len(tokens)), bool) if wanted is None else wanted, strict=True):
        todo[place] |= own
    total = int(todo.sum())
    todo &= texts == np.array(None)
    left = todo.copy()

    def is_open(prompt: int, text: str) -> bool:
        """Nothing said yet, or an answer so far: whatever the rule, a second token may still change the verdict."""
        return not text.strip(" \n\ufffd") or prompts.is_correct(text, answers[prompt], "prefix")

    def finished(part: Sequence[int], asked: Sequence[int], found: list[list[str]]) -> None:
        for at, own in zip(part, found, strict=True):
            texts[at, list(asked)] = own
            left[at, list(asked)] = False
        if journal:
            pairs = zip(part, found, strict=True)
            journal.write({digests[places[at]]: dict(zip(asked, own, strict=True)) for at, own in pairs})
        progress("ablate", total - int(left.sum()), total, "answers")

    decode(loaded, tokens, distinct, finished, is_open=is_open, last=last, todo=todo, batch_tokens=batch_tokens)
    return texts[rows]


def _model_of(store: local.Store, model: str | loading.LoadedModel | None, device: str) -> loading.LoadedModel:
    """The store's model, verified by fingerprint."""
    recorded = store.manifest.model
    if isinstance(model, loading.LoadedModel):
        loaded = model
    else:
        commit = None if (recorded.revision or "").startswith("sha256:") else recorded.revision  # of a hub model
        loaded = loading.load(model or recorded.id, dtype=recorded.dtype, revision=commit, device=device)
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
    store: local.Store,
    group: str,
    attributes: Mapping[str, Any],
    every: Sequence[Sequence[Condition]],
    table: pd.DataFrame,
    generated: np.ndarray,
    stepped: np.ndarray | None,
    perplexities: np.ndarray | None,
) -> None:
    """``generated`` is [k, condition, prompt], ``stepped`` [k, prompt]; the dimension k is left out when there is one k."""
    relation_of, answers, match = table["relation"].to_numpy(), table[schema.ANSWERS].tolist(), attributes["match"]
    names = list(dict.fromkeys(relation_of))
    correct = np.stack([judge(texts, answers, match) for texts in generated])
    accuracy = np.stack([correct[..., relation_of == name].mean(axis=-1) for name in names], axis=-1)
    digests = np.array([[condition.digest() for condition in part] for part in every])
    arrays: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        "correct": (correct, ("condition", "prompt")),
        "generated": (generated, ("condition", "prompt")),
        "accuracy": (accuracy.astype(np.float32), ("condition", "relation")),
        "digest": (digests, ("condition",)),
    }
    if stepped is not None:
        arrays["step_generated"] = stepped, ("prompt",)
        arrays["step_correct"] = judge(stepped, answers, match), ("prompt",)
    if perplexities is not None:
        arrays[PERPLEXITY] = perplexities.reshape(len(every), -1), ("condition",)
    sweep = len(every) > 1
    ks = {"k": attributes["k"]}
    with store.stage(group, attributes) as built:
        built.attrs.update(
            {key: attributes[key] for key in ("mode", "tokens", "seeds", "match")} | ({} if sweep else ks)
        )
        local.write_coordinates(
            built,
            condition=[condition.name for condition in every[0]],
            relation=names,
            prompt=range(len(table)),
            **(ks if sweep else {}),
        )
        local.write_whole(built, "relation_of", relation_of, ("prompt",))
        for name, (values, dimensions) in arrays.items():
            local.write_whole(built, name, *((values, ("k", *dimensions)) if sweep else (values[0], dimensions)))

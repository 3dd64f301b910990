"""Ablate: masks + model -> the correctness of every test prompt under every condition.

Conditions share batches: a row is a (condition, prompt) pair with its own neurons switched off. Few-shot test prompts of a
relation share their examples, so that prefix runs once per condition; prompts that run together have equal length, so nothing
is padded and each row sees exactly what it would alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from relact import hooks, masks, models, prompts, schema
from relact import store as stores
from relact.batches import prefix_groups, same_length
from relact.errors import IdentityError, InputError
from relact.forward import advance, repeat_cache
from relact.progress import Progress, silent

INTACT = "intact"
NEW_TOKENS = 2  # greedy, as the published method
BATCH_ROWS = 96  # (condition, prompt) pairs in one forward pass: bounds the repeated keys and values
SEEDS = tuple(range(10))


@dataclass(frozen=True)
class Condition:
    """A named set of neurons to switch off: bool [layer, neuron] per site; no sites at all is the intact model."""

    name: str
    off: Mapping[str, np.ndarray]


def ablate(
    store: str | Path | stores.Store,
    *,
    mask: str | None = None,
    k: int | None = None,
    model: str | models.LoadedModel | None = None,
    seeds: Sequence[int] = SEEDS,
    match: str = "prefix",
    name: str | None = None,
    device: str = "auto",
    batch_rows: int = BATCH_ROWS,
    progress: Progress = silent,
) -> xr.Dataset:
    """Switch off every relation's neurons in turn and write which test prompts stay correct: ``ablations/<name>``.

    Args:
        mask: name of a stored mask; or ``k``, to select the top k first.
        model: the store's own model by default; another one is refused.
        seeds: one random control per seed, matched to the mask's counts per site and layer.
        match: the rule for "correct", see `prompts.is_correct`.
        name: of the result; the mask's name by default.
        batch_rows: (condition, prompt) pairs per forward pass.

    Returns:
        correct bool [condition, prompt], generated [condition, prompt], accuracy [condition, relation].

    Raises:
        IdentityError: the model is not the one the store records. InputError: no such mask, no test prompts.
    """
    opened = store if isinstance(store, stores.Store) else stores.open(store)
    stores.recover(opened)
    if (mask is None) == (k is None):
        raise InputError("name one mask, or k", where="--mask/--k", fix="give exactly one of them")
    mask = mask or masks.select(opened, k=k or 0)
    tests = opened.prompts(schema.TEST)
    if tests.empty:
        raise InputError("no test prompts in this store", where=opened.path, fix="capture a prompt table that has some")
    relations, chosen = masks.read(opened, mask)
    own_k = int(opened.attributes(f"{schema.MASKS}/{mask}")["k"])
    attributes = {
        "k": own_k,
        "mode": "zero",
        "seeds": list(seeds),
        "match": match,
        "mask": opened.attributes(f"{schema.MASKS}/{mask}"),
        "prompts": opened.manifest.prompts[schema.TEST]["digest"],
    }
    group = f"{schema.ABLATIONS}/{name or mask}"
    if opened.has(group) and opened.attributes(group) == attributes:
        return opened.dataset(group)
    loaded = _model_of(opened, model, device)
    conditions = [Condition(INTACT, {})]
    conditions += [Condition(rel, {site: m[i] for site, m in chosen.items()}) for i, rel in enumerate(relations)]
    conditions += [Condition(f"random-{seed}", masks.random_matched(chosen, seed)) for seed in seeds]
    tokens = models.encode(loaded, tests["text"].tolist(), special_tokens=opened.manifest.capture.special_tokens)
    generated = generate(loaded, tokens, conditions, batch_rows=batch_rows, progress=progress)
    correct = judge(generated, tests[schema.ANSWERS].tolist(), match)
    _write(opened, group, attributes, conditions, tests["relation"].to_numpy(), correct, generated)
    return opened.dataset(group)


def judge(generated: np.ndarray, answers: Sequence[Sequence[str]], match: str) -> np.ndarray:
    """bool [condition, prompt]: whether each generated text answers its prompt."""
    rows = [[prompts.is_correct(text, own, match) for text, own in zip(row, answers, strict=True)] for row in generated]
    return np.array(rows, bool)


def generate(
    loaded: models.LoadedModel,
    tokens: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    batch_rows: int = BATCH_ROWS,
    progress: Progress = silent,
) -> np.ndarray:
    """Greedy continuation (two tokens) of every prompt under every condition: str [condition, prompt]."""
    texts = np.empty((len(conditions), len(tokens)), object)
    done = 0
    with torch.inference_mode():
        for group in prefix_groups(tokens):
            for first in range(0, len(conditions), batch_rows):
                part = slice(first, min(first + batch_rows, len(conditions)))
                overrides = _Overrides(conditions[part], loaded.device)
                n_conditions = part.stop - part.start
                cache = _prefix_cache(loaded, group.prefix, overrides)
                own = [len(row) - len(group.prefix) for row in tokens]
                for rows in same_length(group.rows, own, max(1, batch_rows // n_conditions)):
                    ids = torch.tensor([tokens[row][len(group.prefix) :] for row in rows], device=loaded.device)
                    answer = _continue(loaded, ids, cache, overrides)  # [conditions, rows, new tokens]
                    for at, row in enumerate(rows):
                        texts[part, row] = loaded.tokenizer.batch_decode(answer[:, at], skip_special_tokens=True)
                    done += n_conditions * len(rows)
                    progress("ablate", done, len(conditions) * len(tokens), "prompts")
    return texts


class _Overrides:
    """The neurons to switch off, one row per condition, ready to be repeated over the prompts of a batch."""

    def __init__(self, conditions: Sequence[Condition], device: torch.device) -> None:
        self.n_conditions = len(conditions)
        self.sites = sorted({site for condition in conditions for site in condition.off})
        self.off: dict[tuple[str, int], torch.Tensor] = {}  # (site, layer) -> bool [conditions, width]
        for site in self.sites:
            shape = next(condition.off[site].shape for condition in conditions if site in condition.off)
            empty = np.zeros(shape, bool)
            stacked = np.stack(
                [condition.off.get(site, empty) for condition in conditions]
            )  # [conditions, layer, neuron]
            for layer in np.flatnonzero(stacked.any(axis=(0, 2))):
                self.off[site, int(layer)] = torch.from_numpy(stacked[:, layer]).to(device)

    def applied(self, model: Any, repeats: int) -> AbstractContextManager[Any]:
        """Override inside the block, for batches whose rows are conditions x ``repeats`` prompts, conditions outermost."""

        def switch_off(site: str, layer: int, values: torch.Tensor) -> torch.Tensor | None:
            off = self.off.get((site, layer))
            if off is None:
                return None
            return values.masked_fill(off.repeat_interleave(repeats, dim=0)[:, None, :], 0)

        return hooks.visit(model, self.sites, switch_off) if self.sites else nullcontext()


def _prefix_cache(loaded: models.LoadedModel, prefix: Sequence[int], overrides: _Overrides) -> Any:
    if not prefix:
        return None
    ids = torch.tensor([prefix], device=loaded.device).expand(overrides.n_conditions, -1)
    with overrides.applied(loaded.model, 1):
        return advance(loaded.model.base_model, ids)[1]


def _continue(loaded: models.LoadedModel, ids: torch.Tensor, prefix_cache: Any, overrides: _Overrides) -> torch.Tensor:
    """Token ids [conditions, prompts, NEW_TOKENS] that follow ``ids`` [prompts, tokens] under each condition."""
    n_prompts = len(ids)
    step = ids.repeat(overrides.n_conditions, 1)  # [conditions x prompts, tokens]
    cache = None if prefix_cache is None else repeat_cache(prefix_cache, n_prompts)
    ends = _end_tokens(loaded)
    answer: list[torch.Tensor] = []
    with overrides.applied(loaded.model, n_prompts):
        for _ in range(NEW_TOKENS):
            output, cache = advance(loaded.model, step, cache=cache, logits_to_keep=1)
            chosen = output.logits[:, -1].argmax(dim=-1)
            if answer and ends:  # after an end token nothing more is said
                over = torch.isin(answer[-1], torch.tensor(sorted(ends), device=chosen.device))
                chosen = torch.where(over, answer[-1], chosen)
            answer.append(chosen)
            step = chosen[:, None]
    return torch.stack(answer, dim=-1).reshape(overrides.n_conditions, n_prompts, NEW_TOKENS).cpu()


def _end_tokens(loaded: models.LoadedModel) -> set[int]:
    """Ids that end a generation, as transformers' ``generate`` would use them."""
    config = getattr(loaded.model, "generation_config", None)
    ends = config.eos_token_id if config is not None else None
    if ends is None:
        return set()
    return {ends} if isinstance(ends, int) else set(ends)


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
    conditions: Sequence[Condition],
    relation_of: np.ndarray,
    correct: np.ndarray,
    generated: np.ndarray,
) -> None:
    names = list(dict.fromkeys(relation_of))
    accuracy = np.stack([correct[:, relation_of == name].mean(axis=1) for name in names], axis=1)
    with store.stage(group, attributes) as built:
        built.attrs.update({key: attributes[key] for key in ("k", "mode", "seeds", "match")})
        stores.write_coordinates(
            built,
            condition=[condition.name for condition in conditions],
            relation=names,
            prompt=range(correct.shape[1]),
        )
        built.create_array("correct", data=correct, dimension_names=("condition", "prompt"))
        built.create_array(
            "generated", data=generated.astype(np.dtypes.StringDType()), dimension_names=("condition", "prompt")
        )
        built.create_array("accuracy", data=accuracy.astype(np.float32), dimension_names=("condition", "relation"))

"""Objectives: what of every prompt is attributed, as tokens.

The log-probability of one token after the prompt: of the answer's first, of that less a distractor's
(``contrast``), or of the same token for all prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from relact import schema, sites
from relact.errors import InputError
from relact.models import readout
from relact.models.batches import common_prefix
from relact.models.loading import LoadedModel, encode
from relact.models.targets import NONE, distractors, first_tokens


@dataclass(frozen=True)
class Objective:
    """Of some prompts, in their order.

    Attributes:
        targets: int64 [prompt], the token whose log-probability counts.
        others: int64 [prompt], the token whose log-probability is taken off, `NONE` where there is none; None
            where nothing is taken off.
        starts: int64 [prompt], the first token that is pooled.
    """

    targets: np.ndarray
    others: np.ndarray | None
    starts: np.ndarray

    def __getitem__(self, rows: slice | Sequence[int]) -> Objective:
        """Of some of the prompts."""
        where = rows if isinstance(rows, slice) else np.asarray(rows)
        others = None if self.others is None else self.others[where]
        return Objective(self.targets[where], others, self.starts[where])

    def words(self) -> tuple[Tensor, Tensor | None]:
        """Targets and others as tensors."""
        others = None if self.others is None else torch.from_numpy(self.others)
        return torch.from_numpy(self.targets), others

    def require_contrast(self, prompts: pd.DataFrame) -> None:
        """`InputError` for a prompt that has nothing to be contrasted with."""
        if self.others is not None:
            texts = prompts["text"].astype(str).tolist()
            _require(self.others, texts, "has no other answer of its relation to be contrasted with")


def resolved(loaded: LoadedModel, settings: schema.CaptureRecord) -> schema.CaptureRecord:
    """Settings with the sites that the model has, their layers, and its number of the token that is named.

    Raises:
        ModelError: a site that the family lacks, a method that cannot read it.
        InputError: a text that is not one token, a number that is none.
    """
    record = settings.attribution
    if record is None:
        return _placed(loaded, settings)
    if record.method in schema.OF_LAST and not loaded.is_outline:
        readout.require_readable(loaded.model, loaded.device)
    token = None if record.token is None else _token(loaded, record.token)
    chosen = sites.resolve(loaded.model.config, record.sites)
    settled = replace(settings, attribution=replace(record, sites=chosen, token=token))
    return _placed(loaded, settled)


def _placed(loaded: LoadedModel, settings: schema.CaptureRecord) -> schema.CaptureRecord:
    """With the layers of its sites, and how many experts they have."""
    return settings.with_layers(loaded.layers, loaded.n_layers).with_experts(loaded.n_experts)


def objective_of(
    loaded: LoadedModel,
    prompts: pd.DataFrame,
    tokens: Sequence[Sequence[int]],
    settings: schema.CaptureRecord,
    appended: Iterable[int] = (),
) -> Objective | None:
    """The objective of identification prompts; None where nothing is attributed.

    Args:
        tokens: their ids.
        appended: first rows of later appends: a prompt's distractor is chosen among the answers that there
            were when it came.

    Raises:
        InputError: a prompt without an answer where one is needed.
    """
    record = settings.attribution
    if record is None:
        return None
    texts = prompts["text"].astype(str).tolist()
    starts = np.full(len(texts), settings.n_skipped)
    if record.pool == "own":
        starts = np.maximum(starts, _starts(loaded, texts, tokens, settings.special_tokens))
    if record.target == "token":
        return Objective(np.full(len(texts), record.token, np.int64), None, starts)
    objects, languages = (prompts[name].astype(str).tolist() for name in ("object", "language"))
    special = {"special_tokens": settings.special_tokens}
    targets = first_tokens(loaded, texts, objects, languages, **special)
    _require(targets, texts, "has no answer whose log-probability could be attributed")
    if record.target != "contrast":
        return Objective(targets, None, starts)
    table = prompts.copy()
    table[schema.ANSWERS] = [[answer] for answer in objects]
    others = np.full(len(texts), NONE, np.int64)
    for first, stop in pairwise([0, *appended, len(texts)]):
        known = list(zip(table["relation"][:stop], objects[:stop], strict=True))
        part = slice(first, stop)
        others[part] = distractors(loaded, table[part], targets[part], known, **special)
    return Objective(targets, others, starts)


def _token(loaded: LoadedModel, token: str | int) -> int:
    """The number of a token; a text must be exactly one."""
    words = len(loaded.tokenizer)
    if isinstance(token, int):
        if 0 <= token < words:
            return token
        raise InputError(f"no token {token}", where="--target-token", fix=f"choose from 0 to {words - 1}")
    ids = loaded.tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return int(ids[0])
    parts = ", ".join(repr(part) for part in loaded.tokenizer.convert_ids_to_tokens(ids))
    raise InputError(
        f"{token!r} is {len(ids)} tokens for this model: {parts}",
        where="--target-token",
        fix="give one of them, or a token's number as #NUMBER",
    )


def _starts(
    loaded: LoadedModel, texts: Sequence[str], tokens: Sequence[Sequence[int]], special: bool
) -> np.ndarray:
    """The first token of every prompt's last line: those before belong to the examples."""
    heads = [text[: text.rstrip("\n").rfind("\n") + 1] for text in texts]
    encoded = encode(loaded, heads, special_tokens=special)
    return np.array(
        [
            min(common_prefix(before, ids), len(ids) - 1) if head else 0
            for head, before, ids in zip(heads, encoded, tokens, strict=True)
        ],
        np.int64,
    )


def _require(tokens: np.ndarray, texts: Sequence[str], problem: str) -> None:
    """Every prompt has a token."""
    lacking = np.flatnonzero(tokens == NONE)
    if lacking.size:
        row = int(lacking[0])
        more = f" (and {lacking.size - 1} more)" if lacking.size > 1 else ""
        raise InputError(
            f"{texts[row][-60:]!r} {problem}{more}",
            where=f"identification prompt {row}",
            fix="give every prompt its object, drop those without, or attribute one token: --target token",
        )

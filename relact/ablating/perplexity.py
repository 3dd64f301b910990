"""Perplexity of a text that has nothing to do with the relations: does an override do general damage?

Liu et al. 2025 (arXiv 2502.17355, section 5.5) measure it on sentences that state no relation and end in an
object of their prompts. `neutral_sentences` makes such sentences: the beginnings in ``neutral.txt`` were
written for this purpose, the objects are those of the test prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

import numpy as np
import torch
from torch.nn import functional

from relact.ablating.conditions import Condition
from relact.ablating.options import OBJECTS
from relact.ablating.overrides import Chunk
from relact.errors import InputError
from relact.models import loading
from relact.progress import Progress, in_notebooks
from relact.relations.facts import order

ROWS = 8  # conditions in one forward pass: every token's logits are kept
SENTENCES = 200  # neutral ones: every object of a usual study once, the larger ones' in part


def plain_text() -> list[str]:
    """The bundled text, written for this purpose: five paragraphs about this and that."""
    return _bundled("plain.txt").split("\n\n")


def neutral_sentences(objects: Iterable[str], most: int = SENTENCES, seed: int = 0) -> list[str]:
    """Sentences without any relation, each ending in one of the objects; ``most`` at most, in a seeded order.

    Every distinct object ends one sentence before any ends a second, with a bundled English beginning that
    the seed deals to it, until each has ended all of them. Objects are taken as they are written.

    Raises:
        InputError: no object at all.
    """
    beginnings = _bundled("neutral.txt").splitlines()
    of_hash = {name: order(seed, "object", name) for name in objects if name}
    if not of_hash:
        fix = "measure the perplexity of the bundled text"
        raise InputError("no test prompt has an object", where="perplexity_of", fix=fix)
    names = sorted(of_hash, key=lambda name: (of_hash[name], name))
    return [
        f"{beginnings[(of_hash[name] + turn) % len(beginnings)]} {name}"
        for turn in range(len(beginnings))
        for name in names
    ][:most]


def texts_of(what: str, objects: Iterable[str]) -> list[str]:
    """What perplexity is measured on, by `AblateOptions.perplexity_of`; ``objects`` of the test prompts."""
    return neutral_sentences(objects) if what == OBJECTS else plain_text()


def _bundled(name: str) -> str:
    return resources.files("relact.ablating").joinpath(name).read_text(encoding="utf-8")


def encoded(
    loaded: loading.LoadedModel, texts: Sequence[str] | None = None, *, special_tokens: bool = True
) -> list[list[int]]:
    """Token ids of every text; of the bundled text by default."""
    return loading.encode(
        loaded, [text.strip() for text in texts or plain_text()], special_tokens=special_tokens
    )


def perplexity(
    loaded: loading.LoadedModel,
    conditions: Sequence[Condition],
    texts: Sequence[str] | None = None,
    *,
    special_tokens: bool = True,
    progress: Progress = in_notebooks,
) -> np.ndarray:
    """exp of the mean negative log-likelihood per token under every condition, float64 [condition].

    Args:
        texts: each read on its own, its first token not predicted; the bundled text by default.
    """
    tokens = encoded(loaded, texts, special_tokens=special_tokens)
    losses = np.zeros(len(conditions))
    predicted = sum(len(ids) - 1 for ids in tokens)
    progress("perplexity", 0, len(conditions), "conditions")
    with torch.inference_mode():
        for start in range(0, len(conditions), ROWS):
            chunk = Chunk(loaded, conditions[start : start + ROWS], (), last=False, joining=False)
            for ids in tokens:
                rows = torch.tensor([ids], device=loaded.device).expand(chunk.n_rows, -1)
                with chunk.overridden(joining=False):
                    logits = loaded.model(input_ids=rows, use_cache=False).logits[:, :-1].float()
                target = rows[:, 1:]
                loss = (
                    functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
                    .double()
                    .sum(dim=1)
                )
                losses[start : start + ROWS] += loss.cpu().numpy()[chunk.row_of]
            progress("perplexity", min(start + ROWS, len(conditions)), len(conditions), "conditions")
    values: np.ndarray = np.exp(losses / predicted)
    return values

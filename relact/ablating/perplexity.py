"""Perplexity of a text that has nothing to do with the relations: does an override do general damage?"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
import torch
from torch.nn import functional

from relact.ablating.conditions import Condition
from relact.ablating.overrides import Chunk
from relact.models import loading
from relact.models.forward import advance
from relact.progress import Progress, silent

ROWS = 8  # conditions in one forward pass: every token's logits are kept


def plain_text() -> list[str]:
    """The bundled text, written for this purpose: five paragraphs about this and that."""
    return resources.files("relact.ablating").joinpath("plain.txt").read_text(encoding="utf-8").split("\n\n")


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
    progress: Progress = silent,
) -> np.ndarray:
    """exp of the mean negative log-likelihood per token under every condition, float64 [condition].

    Args:
        texts: each read on its own, its first token not predicted; the bundled text by default.
    """
    tokens = encoded(loaded, texts, special_tokens=special_tokens)
    losses = np.zeros(len(conditions))
    predicted = sum(len(ids) - 1 for ids in tokens)
    with torch.inference_mode():
        for start in range(0, len(conditions), ROWS):
            chunk = Chunk(loaded, conditions[start : start + ROWS], (), last=False, joining=False)
            for ids in tokens:
                rows = torch.tensor([ids], device=loaded.device).expand(chunk.n_rows, -1)
                with chunk.overridden(joining=False):
                    output, _ = advance(loaded.model, rows)
                logits, target = output.logits[:, :-1].float(), rows[:, 1:]
                loss = (
                    functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
                    .double()
                    .sum(dim=1)
                )
                losses[start : start + ROWS] += loss.cpu().numpy()[chunk.row_of]
            progress("perplexity", min(start + ROWS, len(conditions)), len(conditions), "conditions")
    values: np.ndarray = np.exp(losses / predicted)
    return values

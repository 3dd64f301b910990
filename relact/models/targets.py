"""Answers as tokens: what a model would have to say first after a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from relact.models.loading import LoadedModel, encode
from relact.relations.facts import UNSPACED

NONE = -1  # where there is no token
CANDIDATES = 5  # other answers that are tried: the first tokens of numbers are often the same


def first_tokens(
    loaded: LoadedModel,
    texts: Sequence[str],
    objects: Sequence[str],
    languages: Sequence[str],
    *,
    special_tokens: bool = True,
) -> np.ndarray:
    """The first token of every answer after its prompt's own: int64 [prompt], `NONE` without an answer.

    The prompt and its answer are read together, as a training text has them; where the last token of the
    prompt would become another one then, the answer is read alone.
    """
    whole = [
        f"{text}{gap(text, language)}{answer}"
        for text, answer, language in zip(texts, objects, languages, strict=True)
    ]
    alone = encode(loaded, list(texts), special_tokens=special_tokens)
    together = encode(loaded, whole, special_tokens=special_tokens)
    found = np.full(len(texts), NONE, np.int64)
    for at, (before, both) in enumerate(zip(alone, together, strict=True)):
        if not objects[at]:
            continue
        if both[: len(before)] == before and len(both) > len(before):
            found[at] = both[len(before)]
            continue
        answer = whole[at][len(texts[at]) :]
        ids = loaded.tokenizer(answer, add_special_tokens=False)["input_ids"]
        found[at] = ids[0] if ids else NONE
    return found


def gap(text: str, language: str) -> str:
    """What stands between a prompt and its answer: a blank, but where words are not spaced or it is there."""
    unspaced = language in UNSPACED and not text[-1:].isascii()
    return "" if unspaced or text[-1:].isspace() else " "


def distractors(
    loaded: LoadedModel,
    table: pd.DataFrame,
    targets: np.ndarray,
    known: Sequence[tuple[str, str]],
    *,
    special_tokens: bool = True,
) -> np.ndarray:
    """The first token of another answer for every prompt, fixed: int64 [prompt], `NONE` where there is none.

    It is the most frequent other object of the relation, of equally frequent ones the first, that begins with
    another token than the prompt's own answer.

    Args:
        table: prompts with text, relation, object, answers, language.
        targets: what `first_tokens` gave.
        known: (relation, object) of all facts that are known; each counts.
    """
    counts: dict[str, Counter[str]] = {}
    for relation, answer in known:
        counts.setdefault(relation, Counter())[answer] += 1
    ranked = {
        relation: [name for name, _ in count.most_common() if name] for relation, count in counts.items()
    }
    others = [
        [name for name in ranked.get(relation, ()) if name not in {own, *accepted}]
        for relation, own, accepted in zip(table["relation"], table["object"], table["answers"], strict=True)
    ]
    found = np.full(len(table), NONE, np.int64)
    texts, languages = table["text"].tolist(), table["language"].tolist()
    for place in range(CANDIDATES):
        names = [other[place] if len(other) > place else "" for other in others]
        tokens = first_tokens(loaded, texts, names, languages, special_tokens=special_tokens)
        found = np.where((found == NONE) & (tokens != targets), tokens, found)
    return np.where(targets == NONE, NONE, found)

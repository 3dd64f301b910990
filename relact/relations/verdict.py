"""The one rule that says whether an answer is right."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from relact.errors import InputError
from relact.relations.facts import plain

RULES = ("prefix", "exact", "paper")


def is_correct(generated: str, answers: Sequence[str], rule: str = "prefix") -> bool:
    """Whether what a model generated is one of the accepted answers; nothing generated is always wrong.

    ``paper``: the generated text (two greedy tokens), stripped, is a prefix of an answer, case aside.
    ``prefix``: also right when it says the whole answer and goes on after a word boundary (``B``, then a
    newline). ``exact``: the first line says the whole answer and nothing else but punctuation at its end.
    Case and Unicode compatibility forms never matter; a character that was cut off between two tokens is left
    out.
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}", where="match", fix=f"use one of {', '.join(RULES)}")
    said = plain(generated.rstrip("\ufffd"))
    if not said:
        return False
    wanted = [answer for answer in map(plain, answers) if answer]
    if rule == "exact":
        line = said.splitlines()[0].rstrip(" .,;:!?。、，；：！？")
        return any(line in (answer, answer.rstrip(".")) for answer in wanted)
    if any(answer.startswith(said) for answer in wanted):
        return True
    return rule == "prefix" and any(
        said.startswith(answer) and _boundary(answer[-1], said[len(answer)]) for answer in wanted
    )


def _boundary(before: str, after: str) -> bool:
    """Whether a word ends between two characters; where words are not spaced, where the script changes."""
    return not (after.isalnum() or unicodedata.combining(after)) or _script(before) != _script(after)


def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").split(" ")[0]
    return first if first in ("CJK", "HIRAGANA", "KATAKANA") else ""

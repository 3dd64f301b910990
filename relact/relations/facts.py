"""Facts and relations, and when an answer stands inside its own prompt.

A relation holds facts in one or more languages; facts of one key (``FR``) are the same fact told in several
languages, so a split by key never tears them apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

UNSPACED = ("zh", "ja")  # no blank between words, nor between template and object


@dataclass(frozen=True, slots=True)
class Fact:
    """One subject with its answer, in one language. ``aliases`` are other answers that are just as right.

    ``object`` is empty for a ready text that carries only a label ("this is toxic"): nothing to answer there.
    ``templates`` are the fact's own, where its row has others than the rest of the relation; normally empty.
    """

    key: str
    subject: str
    object: str
    aliases: tuple[str, ...] = ()
    language: str = "en"
    templates: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Every accepted answer, the object first; empty when there is nothing to answer."""
        return (self.object, *self.aliases) if self.object else ()


@dataclass(frozen=True, slots=True)
class Relation:
    """A name, templates per language (each with one ``{}`` for the subject) and facts.

    The object follows the filled template after a space; directly in Chinese and Japanese. ``leaks`` is the
    reason why answers may stand inside their prompts, where that lies in the nature of the relation; normally
    empty. Relations of one ``family`` are the labels that one question may have as its answer: the examples
    before a prompt are of all of them.
    """

    name: str
    templates: Mapping[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    description: str = ""
    source: str = ""
    licence: str = ""
    leaks: str = ""
    family: str = ""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages with both a template and a fact, in the order of the templates."""
        told = {fact.language for fact in self.facts}
        return tuple(language for language in self.templates if language in told)

    def templates_of(self, fact: Fact) -> tuple[str, ...]:
        """What a fact is asked with: its own templates, or those of the relation in its language."""
        return fact.templates or self.templates.get(fact.language, ())

    def told_in(self, language: str) -> tuple[Fact, ...]:
        """The facts of one language, in file order."""
        return tuple(fact for fact in self.facts if fact.language == language)


def plain(text: str) -> str:
    """The form in which texts are compared: without Unicode compatibility forms, case and outer blanks."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def leaks(answers: Iterable[str], text: str, language: str = "en") -> bool:
    """Whether an accepted answer stands in the text as a word of its own.

    Chinese and Japanese do not space their words: there, anywhere in it.
    """
    text = plain(text)
    for answer in filter(None, map(plain, answers)):
        if answer in text and (language in UNSPACED or re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)):
            return True
    return False


def order(seed: int, relation: str, key: str) -> int:
    """A fact's place in the seeded order, from its own name alone: adding other facts does not move it."""
    return int.from_bytes(blake2b(f"{seed}\0{relation}\0{key}".encode(), digest_size=8).digest(), "big")

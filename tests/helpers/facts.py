"""Made-up relations."""

from __future__ import annotations

from relact.relations.facts import Fact, Relation

LANGUAGES = ("en", "de", "zh")
TEMPLATES = {
    "en": ("The word for {} is", "{} means"),
    "de": ("Das Wort für {} ist", "{} heißt"),
    "zh": ("{}的意思是",),
}


def relation(count=60, name="r", languages=("en",), **changes):
    """``count`` facts, each told in every one of the languages."""
    told = tuple(
        Fact(str(at), f"subject{at}", f"object{at}", (), language)
        for at in range(count)
        for language in languages
    )
    return Relation(name, {language: TEMPLATES[language] for language in languages}, told, **changes)

"""Made-up relations, and what a prompt table must never hold."""

from __future__ import annotations

import pandas as pd

from relact.relations.facts import Fact, Relation
from relact.relations.identity import same

LANGUAGES = ("en", "de", "zh")
TEMPLATES = {
    "en": ("The word for {} is", "{} means"),
    "de": ("Das Wort für {} ist", "{} heißt"),
    "zh": ("{}的意思是",),
}


def relation(count=60, name="r", languages=("en",), **changes):
    """``count`` facts, each told in every one of the languages; two names ask in different words."""
    told = tuple(
        Fact(str(at), f"subject{at}", f"object{at}", (), language)
        for at in range(count)
        for language in languages
    )
    before = "" if name == "r" else f"{name}: "
    asked = {language: tuple(before + text for text in TEMPLATES[language]) for language in languages}
    return Relation(name, asked, told, **changes)


def leaked(frame: pd.DataFrame, relation: Relation) -> list[str]:
    """Subjects and questions of one relation's test prompts that are in another role, too."""
    roles: dict[str, set[str]] = {}
    for row in frame.itertuples():
        asked = row.template.replace("{}", row.subject)
        examples = row.text[: row.text.rindex(asked)]
        for name in (same(row.subject), f"question {same(asked)}"):
            roles.setdefault(name, set()).add(row.split)
        for fact in relation.facts:
            if examples and fact.subject in examples:
                roles.setdefault(same(fact.subject), set()).add("example")
    return [name for name, found in roles.items() if "test" in found and len(found) > 1]

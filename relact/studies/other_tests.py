"""The same held-out facts asked otherwise: in another language, or with the other templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from relact import schema
from relact.errors import InputError
from relact.packed.store import open_store
from relact.relations.facts import Fact, Relation, order
from relact.relations.identity import same, united
from relact.relations.options import FORMS, PromptOptions
from relact.relations.prompts import filled, gap_of
from relact.relations.sources import bundled, load_all, load_paper
from relact.relations.split import gives_away
from relact.relations.table import COLUMNS
from relact.store.reading import Store
from relact.studies import presets


def asked_otherwise(
    store: str | Path | Store,
    *,
    language: str | None = None,
    paraphrase: bool = False,
    sources: Sequence[str | Path | Relation] = (),
    preset: str | None = None,
) -> pd.DataFrame:
    """Test prompts about a store's own held-out facts in another language or with the other templates.

    Only subjects that the store tests are asked about, and none that it identified neurons on. The form, the
    number of examples and, as far as the language has them, the examples themselves are read off the store's
    test prompts; what the language lacks is filled with other facts that are not tested.

    Args:
        language: that of the store's prompts by default. Relations that do not have it are left out.
        paraphrase: with templates that no prompt of the store has, as many as its test prompts have.
        sources: where the other templates and languages are, as `sources.load_all` takes them; the bundled
            relations by default.
        preset: of a published study: one folder of LRE JSON is read under its names, and facts stay whose
            answer stands in the prompt.

    Returns:
        A prompt table (`table.COLUMNS`) with test prompts only.

    Raises:
        InputError: a relation of the store that no source has, a language that none has, no other template,
            or prompts whose making cannot be read off.
    """
    opened = open_store(store)
    relations = _relations(opened.relations(), sources, preset)
    tests, identify = (opened.prompts(split) for split in (schema.TEST, schema.IDENTIFY))
    tests = tests[tests["relation"].isin([relation.name for relation in relations])]
    if tests.empty:
        raise InputError("no test prompts", where=opened.path, fix="capture a prompt table that has some")
    keep_leaks = presets.get(preset).prompts.keep_leaks if preset else False
    rows: list[dict[str, object]] = []
    for relation in relations:
        own = tests[tests["relation"] == relation.name]
        if len(own):
            known = identify[identify["relation"] == relation.name]
            rows += _Study.of(relation, own, known).asked(language, paraphrase, keep_leaks)
    if not rows:
        names = ", ".join(relation.name for relation in relations)
        problem = f"none of {names} has prompts in {language!r} about its test subjects"
        raise InputError(problem, where="--language", fix="see `relact prompts --list`, or give a --source")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _relations(
    names: Sequence[str], sources: Sequence[str | Path | Relation], preset: str | None
) -> list[Relation]:
    """Those of the store, in its order, from where their other templates and languages are."""
    given = list(sources) or [name for name in names if name in bundled()]
    if preset and len(given) == 1 and not isinstance(given[0], Relation) and Path(given[0]).is_dir():
        told = load_paper(given[0])
    else:
        told = load_all(given)
    by_name = {relation.name: relation for relation in told}
    missing = [name for name in names if name not in by_name]
    if missing:
        problem, fix = "not a bundled relation", "say with --source where its templates and languages are"
        if sources:
            problem = "in none of the sources"
            fix = "give its own, too; --preset paper reads LRE's folder under the published names"
        raise InputError(problem, where=f"relation {missing[0]}", fix=fix)
    return [united(by_name[name]) for name in names]


@dataclass(frozen=True)
class _Study:
    """What a store's own prompts of one relation say.

    Attributes:
        language: of its prompts. form: of `FORMS`.
        templates: of its test prompts. used: those, and the ones of its identification prompts.
        tested: keys of the facts that it tests, in its order. barred: keys of those that identify.
        shots: examples before a test prompt. shown: their keys, as far as the relation has them.
    """

    relation: Relation
    language: str
    form: str
    templates: list[str]
    used: set[str]
    tested: list[str]
    barred: set[str]
    shots: int
    shown: list[str]

    @classmethod
    def of(cls, relation: Relation, tests: pd.DataFrame, identify: pd.DataFrame) -> _Study:
        """Read off the prompts.

        Raises:
            InputError: they are in several languages, or were not made by filling a template.
        """
        first = tests.iloc[0]
        language = str(first["language"])
        told = relation.told_in(language)
        template = str(first["template"])
        every = {template, *(text for fact in told for text in fact.templates)}  # as examples may have them
        made = _made(str(first["text"]), template, str(first["subject"]), every)
        if made is None or set(tests["language"]) != {language}:
            problem = "its test prompts are not one template, filled, after whole examples, in one language"
            fix = "make the other prompts yourself, and give them with --prompts"
            raise InputError(problem, where=f"relation {relation.name}", fix=fix)
        form, blocks = made
        key_of = {same(fact.subject): fact.key for fact in told}
        tested = dict.fromkeys(key_of[key] for key in map(same, tests["subject"]) if key in key_of)
        seen = set(map(same, identify["subject"]))  # in whatever language the relation knows such a name
        barred = {fact.key for fact in relation.facts if same(fact.subject) in seen}
        tail, gap = FORMS[form], gap_of(language, form)
        lines = {
            f"{text.replace('{}', fact.subject)}{tail}{gap}{fact.object}": fact.key
            for fact in told
            for text in (fact.templates or (template,))
        }
        return cls(
            relation,
            language,
            form,
            templates=list(dict.fromkeys(tests["template"])),
            used={*tests["template"], *identify["template"]},
            tested=list(tested),
            barred=barred,
            shots=len(blocks),
            shown=[lines[block] for block in blocks if block in lines],
        )

    def asked(self, language: str | None, paraphrase: bool, keep_leaks: bool) -> list[dict[str, object]]:
        """Rows of a prompt table; none where the relation is not told in the language."""
        language = language or self.language
        told = [fact for fact in self.relation.told_in(language) if fact.object]
        if language not in self.relation.languages or not told:
            return []
        places = {key: at for at, key in enumerate(self.tested) if key not in self.barred}
        held_out = [fact for fact in told if fact.key in places]
        asked = [
            (fact, template)
            for fact in sorted(held_out, key=lambda fact: places[fact.key])
            for template in self._templates(fact, paraphrase)
        ]
        if held_out and not asked:
            problem = f"no template in {language!r} but those that the store's prompts have"
            raise InputError(
                problem, where=f"relation {self.relation.name}", fix="give a --source with others"
            )
        options = PromptOptions(language=language, form=self.form)
        examples = self._examples(told)
        return [
            filled(self.relation, fact, template, schema.TEST, examples, options)
            for fact, template in asked
            if keep_leaks or not gives_away(self.relation, fact, template)
        ]

    def _templates(self, fact: Fact, paraphrase: bool) -> Sequence[str]:
        """As many as the store's test prompts have."""
        there, number = list(self.relation.templates_of(fact)), len(self.templates)
        if fact.templates:
            number = 1
        if paraphrase and fact.language == self.language:
            there = [template for template in there if template not in self.used]
        elif paraphrase:
            there = there[number:]
        return there[:number]

    def _examples(self, told: Iterable[Fact]) -> list[Fact]:
        """Facts to show before every prompt: the store's own examples first."""
        places = {key: at for at, key in enumerate(self.shown)}
        able = {fact.key: fact for fact in told if fact.key not in self.tested}
        last = len(places)
        ranked = sorted(
            able,
            key=lambda key: (places.get(key, last), order(0, self.relation.name, key), key),
        )
        if len(ranked) < self.shots:
            problem = f"{len(ranked)} facts are too few for the {self.shots} examples of the store's prompts"
            raise InputError(problem, where=f"relation {self.relation.name}", fix="give a larger --source")
        return [able[key] for key in ranked[: self.shots]]


def _made(text: str, template: str, subject: str, every: Iterable[str]) -> tuple[str, list[str]] | None:
    """A prompt's form, and the examples before its question, a text each; None where it is not so made.

    ``every``: the templates that examples may have.
    """
    openings = tuple(other.partition("{}")[0] for other in every)
    if template.count("{}") != 1:
        return None
    question, height = template.replace("{}", subject), 1 + template.count("\n")
    for form, tail in FORMS.items():
        if text.endswith(question + tail):
            *lines, last = text[: len(text) - len(question + tail)].split("\n")
            blocks = ["\n".join(lines[at : at + height]) for at in range(0, len(lines), height)]
            whole = last == "" and len(lines) % height == 0
            if whole and all(block.startswith(openings) for block in blocks):
                return form, blocks
    return None

"""Relations to labelled prompts.

``prompts(["starter"], shots=5)`` gives a table with one prompt a row (`table.COLUMNS`). Its ``split`` is
``identify`` (neurons are found on these) or ``test`` (held out).

Splits go by subject key: no key is in two of {examples, identify, test}, in any language. The order is a hash
of (seed, relation, key), so adding facts moves few others (`split.split`). All test prompts of one relation
and template start with the same examples, so a model's work on that prefix can be shared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas

from relact import schema
from relact.errors import InputError
from relact.relations.examples import Dealt, drawn, held_out, shared, templates_for
from relact.relations.facts import UNSPACED, Fact, Relation
from relact.relations.options import FORMS, PromptOptions
from relact.relations.sources import load_all, load_paper
from relact.relations.split import gives_away
from relact.relations.table import COLUMNS


def prompts(
    sources: Iterable[str | Path | Relation],
    *,
    language: str = PromptOptions.language,
    shots: int = PromptOptions.shots,
    examples: str = PromptOptions.examples,
    templates: str = PromptOptions.templates,
    form: str = PromptOptions.form,
    per_relation: int | None = PromptOptions.per_relation,
    test_size: int = PromptOptions.test_size,
    seed: int = PromptOptions.seed,
    paraphrase: bool = PromptOptions.paraphrase,
    keep_leaks: bool = PromptOptions.keep_leaks,
    strict: bool = PromptOptions.strict,
) -> pandas.DataFrame:
    """The prompt table of some relations, in their order; per relation first identify, then test.

    Args:
        sources: bundled relation names, ``starter``, files and folders (`sources.load`), or relations as
            such.
        shots: so many filled examples stand before every prompt, a line each, with their answers.
        examples: of identification prompts: ``drawn`` for each prompt anew (seeded), so that a neuron must
            answer to the relation and not to one wording of the examples; or ``shared``. Test prompts of a
            relation always share theirs, so that a model computes them once.
        templates: ``first`` or ``all`` of the relation's templates in this language.
        form: ``statement`` ends where the answer follows; ``paper`` adds ``? Answer:``.
        per_relation: at most so many identification prompts per relation.
        test_size: held-out facts per relation; at most a third of a small relation's facts.
        seed: of the split and of the drawn examples.
        paraphrase: the test prompts use the relation's other templates: the same subjects asked differently.
        keep_leaks: keep facts whose answer stands inside the prompt (the published method does).
        strict: refuse where a relation lacks what is asked. Otherwise it is dropped with a warning, and
            `table.summary` names it.

    Raises:
        InputError: no relation has facts in this language, and enough of them; what `sources.load` refuses.

    >>> relact.prompts(["country_capital"], shots=1)["text"][0].splitlines()[-1]
    'The capital of South Sudan is'
    """
    options = PromptOptions(
        language,
        shots,
        examples,
        templates,
        form,
        per_relation,
        test_size,
        seed,
        paraphrase,
        keep_leaks,
        strict,
    )
    frame = build(load_all(sources), options)
    warn_of_dropped(frame)
    return frame


def warn_of_dropped(frame: pandas.DataFrame) -> None:
    """A warning for every relation that `build` dropped; commands print the summary instead."""
    for name, why in frame.attrs.get("dropped", {}).items():
        warnings.warn(f"relation {name} is dropped: {why}", stacklevel=3)


def build(relations: Iterable[Relation], options: PromptOptions) -> pandas.DataFrame:
    """`prompts` of relations that are loaded. ``attrs`` of the table hold a note per relation, and why which
    relations were dropped.
    """
    dealt: list[Dealt] = []
    dropped: dict[str, InputError] = {}

    def refused(relation: Relation, error: InputError) -> None:
        if options.strict:
            raise error
        dropped[relation.name] = error

    for relation in relations:
        schema.require_label(relation.name, "prompts")
        try:
            dealt.append(_dealt(relation, options))
        except InputError as error:
            refused(relation, error)
    rows: list[dict[str, object]] = []
    notes: dict[str, str] = {}
    unseen = held_out(dealt, options)
    for each in dealt:
        name = each.relation.name
        try:
            made, notes[name] = _rows(each, each.family_of(dealt), unseen[name], options)
        except InputError as error:
            refused(each.relation, error)
        else:
            rows += made
    if not rows:
        raise _nothing_left(list(dropped.values()))
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["notes"] = notes
    frame.attrs["dropped"] = {name: error.what for name, error in dropped.items()}
    return frame


def _nothing_left(errors: Sequence[InputError]) -> InputError:
    if not errors:
        return InputError("no relations given", where="prompts", fix="name at least one, or `starter`")
    first = errors[0]
    if len(errors) == 1:
        return first
    problem = f"none of {len(errors)} relations is usable; of the first: {first.what}"
    return InputError(problem, where=first.where, fix=first.fix)


def published(sources: Sequence[str | Path | Relation], options: PromptOptions) -> pandas.DataFrame:
    """The published method's prompts from one folder of LRE JSON: its 12 relations under its names."""
    if len(sources) != 1 or isinstance(sources[0], Relation):
        fix = "give the folder of LRE's JSON files"
        raise InputError(f"{len(sources)} sources", where="--preset paper", fix=fix)
    return build(load_paper(sources[0]), options)


def _dealt(relation: Relation, options: PromptOptions) -> Dealt:
    """The facts of one relation by what they are for.

    Raises:
        InputError: it lacks what the options ask.
    """
    dealt = Dealt.of(relation, options)
    _check(dealt, options)
    return dealt


def _rows(
    dealt: Dealt, family: Sequence[Dealt], unseen: Sequence[Fact], options: PromptOptions
) -> tuple[list[dict[str, object]], str]:
    """The prompts of one relation, to identify and to test, and a note."""
    relation, shown = dealt.relation, shared(family, options)
    before = drawn(dealt, family, options)
    identify, hushed = _asked(relation, dealt.identify, schema.IDENTIFY, before, options)
    test, silent = _asked(relation, unseen[: options.test_size], schema.TEST, lambda fact: shown, options)
    left_out = dealt.split.leaking.get(options.language, 0) + hushed + silent
    both = len(dealt.test) - len(unseen)
    made = [*identify[: options.per_relation], *test]
    note = _note(left_out, both, options, len(test))
    if any(str(row["text"]).endswith(" ") for row in made):
        note = "; ".join(filter(None, [note, "prompts end in a blank, which few answers follow"]))
    return made, note


def _asked(
    relation: Relation,
    facts: Sequence[Fact],
    role: str,
    examples: Callable[[Fact], Sequence[Fact]],
    options: PromptOptions,
) -> tuple[list[dict[str, object]], int]:
    """Prompts about facts, and how many are left out because they hold their answer."""
    asked = [(fact, text) for fact in facts for text in templates_for(relation, fact, role, options)]
    kept = [
        (fact, text) for fact, text in asked if options.keep_leaks or not gives_away(relation, fact, text)
    ]
    rows = [filled(relation, fact, text, role, examples(fact), options) for fact, text in kept]
    return rows, len(asked) - len(kept)


def _check(dealt: Dealt, options: PromptOptions) -> None:
    """Whether a relation has what the options ask of it."""
    relation = dealt.relation
    language, where = options.language, f"relation {relation.name}"
    facts = [*dealt.examples, *dealt.identify, *dealt.test]
    if not facts and (leaking := dealt.split.leaking.get(language)):
        problem = f"all {leaking} facts in {language!r} have their answer inside the prompt"
        raise InputError(problem, where=where, fix="reword the template so that it names no answer")
    if not facts:
        known = ", ".join(relation.languages) or "none"
        raise InputError(
            f"no facts in language {language!r}", where=where, fix=f"languages there are: {known}"
        )
    if options.shots and not all(fact.object for fact in dealt.examples):
        raise InputError("its texts have no answers to show as examples", where=where, fix="ask for 0 shots")
    if len(dealt.examples) < options.shots or len(dealt.identify) < 2:
        roles = f"{options.shots} examples, test and at least 2 to identify"
        fix = "add facts, or ask for fewer shots or test prompts"
        raise InputError(f"{len(facts)} usable facts are too few for {roles}", where=where, fix=fix)
    if options.paraphrase and all(len(relation.templates_of(fact)) < 2 for fact in facts):
        raise InputError(
            f"only one template in {language!r}", where=where, fix="add a second one to paraphrase"
        )


def _note(left_out: int, both: int, options: PromptOptions, tested: int) -> str:
    """What the numbers of a relation don't say by themselves."""
    parts = []
    if tested < options.test_size:
        parts.append("a third of the facts held out" if tested else "no answers, so nothing to test")
    if left_out:
        parts.append(f"{left_out} left out: the prompt gives the answer away")
    if both:
        parts.append(f"{both} not tested: another relation is identified with the same prompt")
    return "; ".join(parts)


def gap_of(language: str, form: str) -> str:
    """What stands between a prompt and its answer."""
    return "" if language in UNSPACED and not FORMS[form] else " "


def filled(
    relation: Relation, fact: Fact, template: str, role: str, examples: Sequence[Fact], options: PromptOptions
) -> dict[str, object]:
    """One prompt as a row of the table: a template filled with a fact, after its examples.

    Examples have the same template, unless their rows have their own.
    """
    tail, gap = FORMS[options.form], gap_of(options.language, options.form)
    lines = [
        f"{(shown.templates or (template,))[0].replace('{}', shown.subject)}{tail}{gap}{shown.object}\n"
        for shown in examples
    ]
    return {
        "text": "".join(lines) + template.replace("{}", fact.subject) + tail,
        "relation": relation.name,
        "subject": fact.subject,
        "object": fact.object,
        "answers": list(fact.answers),
        "template": template,
        "language": options.language,
        "split": role,
        "shots": len(examples),
    }

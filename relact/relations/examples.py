"""What stands before a prompt: facts that show how it is answered.

Those of a relation are its own. Relations of one family are labels of texts: there examples are of all labels
in turn, or the answer would be the only one that was ever shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import zip_longest

from relact.errors import InputError
from relact.relations.facts import Fact, Relation, order
from relact.relations.identity import same
from relact.relations.options import PromptOptions
from relact.relations.split import Split, split
from relact.schema import IDENTIFY, TEST

POOL = 200  # facts that examples are drawn from: enough variety, and the work stays linear in the facts


@dataclass(frozen=True)
class Dealt:
    """A relation's facts in one language, by what they are for."""

    relation: Relation
    split: Split
    examples: Sequence[Fact]
    identify: Sequence[Fact]
    test: Sequence[Fact]

    @classmethod
    def of(cls, relation: Relation, options: PromptOptions) -> Dealt:
        """As `split` deals them."""
        dealt = split(
            relation,
            shots=options.shots,
            test_size=options.test_size,
            seed=options.seed,
            keep_leaks=options.keep_leaks,
        )
        told = (
            [fact for key in keys for fact in dealt.usable.get((options.language, key), ())]
            for keys in (dealt.examples, dealt.identify, dealt.test)
        )
        return cls(relation, dealt, *told)

    @property
    def pool(self) -> Sequence[Fact]:
        """What examples are drawn from."""
        return [*self.examples, *self.identify][:POOL]

    def family_of(self, others: Sequence[Dealt]) -> list[Dealt]:
        """All labels of its question, or it alone."""
        family = self.relation.family
        return [other for other in others if family and other.relation.family == family] or [self]


def shared(family: Sequence[Dealt], options: PromptOptions) -> Sequence[Fact]:
    """The examples before every test prompt."""
    if len(family) == 1:
        return family[0].examples[: options.shots]
    name = family[0].relation.family
    return _mixed(
        [each.examples for each in family], lambda fact: order(options.seed, name, fact.key), options
    )


def drawn(dealt: Dealt, family: Sequence[Dealt], options: PromptOptions) -> Callable[[Fact], Sequence[Fact]]:
    """The examples before an identification prompt: the test prompts', or drawn by hash for this one.

    Raises:
        InputError: by what is returned, where a label's family has too few other texts.
    """
    common, pools = shared(family, options), [each.pool for each in family]
    if options.examples == "shared" or not options.shots:
        return lambda fact: common

    def of(fact: Fact) -> Sequence[Fact]:
        def place(other: Fact) -> int:
            return order(options.seed, dealt.relation.name, f"{fact.key}\0{other.key}")

        others = ((other for other in pool if other.key != fact.key) for pool in pools)
        first = [nsmallest(options.shots, each, key=place) for each in others]
        return first[0] if len(family) == 1 else _mixed(first, place, options)

    return of


def _mixed(
    labels: Sequence[Sequence[Fact]], place: Callable[[Fact], int], options: PromptOptions
) -> Sequence[Fact]:
    """So many facts of all labels in turn, where which label is first and how all stand are by hash, too."""
    turns = zip_longest(*sorted(filter(None, labels), key=lambda facts: place(facts[0])))
    facts = [fact for turn in turns for fact in turn if fact is not None][: options.shots]
    if len(facts) < options.shots:
        problem = f"{len(facts)} texts are too few for {options.shots} examples"
        raise InputError(problem, where="shots", fix="add texts, or ask for fewer shots")
    return sorted(facts, key=place)


def templates_for(relation: Relation, fact: Fact, role: str, options: PromptOptions) -> Sequence[str]:
    """What a fact is asked with, by what it is for."""
    first = 1 if options.paraphrase and role == TEST else 0
    return relation.templates_of(fact)[first:][: None if options.templates == "all" else 1]


def held_out(every: Sequence[Dealt], options: PromptOptions) -> dict[str, list[Fact]]:
    """Every relation's test facts whose question is no other relation's example or identification prompt.

    A question is a filled template. Of labels, whose texts fill the same one, that is: the same text.
    """

    def questions(dealt: Dealt, fact: Fact, role: str) -> list[str]:
        texts = templates_for(dealt.relation, fact, role, options)
        return [same(text.replace("{}", fact.subject)) for text in texts]

    asked = {question for dealt in every for fact in dealt.test for question in questions(dealt, fact, TEST)}
    seen: dict[str, set[str]] = {}  # question -> relations that show it
    for dealt in every:
        for fact in (*dealt.examples, *dealt.identify):
            for question in asked.intersection(questions(dealt, fact, IDENTIFY)):
                seen.setdefault(question, set()).add(dealt.relation.name)

    def unseen(dealt: Dealt, fact: Fact) -> bool:
        showing = (seen.get(question, set()) for question in questions(dealt, fact, TEST))
        return all(names <= {dealt.relation.name} for names in showing)

    return {dealt.relation.name: [fact for fact in dealt.test if unseen(dealt, fact)] for dealt in every}

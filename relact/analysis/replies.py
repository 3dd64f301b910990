"""Replies: what a model said instead, where a set of neurons costs it an answer that it knows.

Counterpart of Table 4 of Liu et al. 2025 (arXiv 2502.17355), by rules that need no reader.

>>> table = error_types("study.zarr", "top-200")
>>> list(table.columns)
['relation', 'kind', 'type', 'prompts', 'share']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.analysis.asked import ablation_of, prompts_of
from relact.analysis.effects import cells, intact_at, kinds_of
from relact.packed.store import open_store
from relact.relations.facts import plain
from relact.store.reading import Store

NOTHING, REPEATED, OTHER_OBJECT = "nothing", "repeated", "other object"
NO_WORD, FORM, ELSE = "no word", "form of the answer", "something else"
TYPES = (NOTHING, REPEATED, OTHER_OBJECT, FORM, NO_WORD, ELSE)  # in the order in which they are tried
LEAST = 3  # letters of a beginning that stands for the whole: a reply ends where it is certainly wrong
LEAST_WORD = 4  # letters of a word that is said again, or that two forms of a word share


def error_types(store: str | Path | Store, ablation: str) -> pd.DataFrame:
    """Of the prompts that the intact model answers and a condition does not: what was said instead.

    Every reply gets the first type that fits:

    1. ``nothing``: no text, or a line break at once.
    2. ``repeated``: the subject, a word of it, or words of the prompt that stand together there.
    3. ``other object``: the answer to another prompt of the relation, or to an example of this prompt.
    4. ``form of the answer``: unfinished, or inflected: half of the longer one, and no fewer than four
       letters, are common to both.
    5. ``no word``: numbers or punctuation.
    6. ``something else``.

    Texts are compared by their first line, as `facts.plain` has it. A stored reply ends where its verdict was
    certain, so a beginning of three letters stands for the whole of a subject or an object.

    Args:
        ablation: name of a stored one; of a sweep, every k is sorted.

    Returns:
        A row per relation, kind (whose neurons are off: ``own``, ``other``, ``random``, as far as tried) and
        type: prompts (broken ones; a prompt counts once under every set), share (of the relation's broken
        ones of that kind; NaN where nothing broke). Of a sweep with a first column ``k``.

    Raises:
        InputError: no such ablation, or prompts that are not stored.
    """
    opened = open_store(store)
    result = ablation_of(opened, ablation)
    questions = _questions(opened, ablation, result)
    if "k" not in result.dims:
        return _table(result, questions)
    parts = [_table(result.sel(k=k), questions).assign(k=int(k)) for k in result["k"].values]
    table = pd.concat(parts, ignore_index=True)
    return table[["k", *table.columns.drop("k")]]


@dataclass(frozen=True)
class Question:
    """A prompt, as far as a wrong reply is compared with it; all texts plain.

    Attributes:
        subject: what it asks about. question: its last line. examples: the lines before it.
        answers: accepted ones. others: all other objects of its relation.
    """

    subject: str
    question: str
    examples: tuple[str, ...]
    answers: tuple[str, ...]
    others: frozenset[str]


def type_of(reply: str, asked: Question) -> str:
    """One of `TYPES`; ``reply`` is wrong."""
    if not reply.strip() or reply.lstrip(" \t")[0] in "\n\r":
        return NOTHING
    said = plain(reply.rstrip("\ufffd")).split("\n")[0].strip()
    bare = said.strip(" .,;:!?\"'()[]。、，")
    if _repeats(bare, asked):
        return REPEATED
    if _stands_for(bare, asked.others) or _ends_example(bare, asked):
        return OTHER_OBJECT
    if any(_is_form(bare, answer) for answer in asked.answers):
        return FORM
    return ELSE if any(letter.isalpha() for letter in said) else NO_WORD


def _repeats(said: str, asked: Question) -> bool:
    """Whether it is the subject, a word of it, or several words of the question as they stand there."""
    if not said:
        return False
    if _stands_for(said, [asked.subject] if asked.subject else []):
        return True
    words = said.split()
    if len(words) == 1:
        return len(said) >= LEAST_WORD and said in asked.subject.split()
    return f" {said} " in f" {' '.join(asked.question.split())} "


def _stands_for(said: str, texts: Sequence[str] | frozenset[str]) -> bool:
    """Whether it is one of the texts, goes on after one, or is a beginning of one."""
    return any(
        said == text or _begins(said, text) or (said.startswith(text) and not said[len(text)].isalnum())
        for text in texts
    )


def _begins(said: str, text: str) -> bool:
    """Whether a text longer than what was said begins so; a short word as such, "the", is no beginning."""
    if not text.startswith(said) or len(text) == len(said):
        return False
    return len(said) >= (LEAST_WORD if text[len(said)] == " " else LEAST)


def _ends_example(said: str, asked: Question) -> bool:
    """Whether it is what an example of the prompt ends in."""
    return bool(said) and any(line == said or line.endswith(f" {said}") for line in asked.examples)


def _is_form(said: str, answer: str) -> bool:
    """Whether one of them begins the other, or both begin with the same half of the longer one."""
    word = " ".join(said.split()[: len(answer.split())])
    if not word:
        return False
    common = next((at for at, pair in enumerate(zip(word, answer, strict=False)) if len(set(pair)) > 1), None)
    return common is None or common >= max(LEAST_WORD, len(word) / 2, len(answer) / 2)


def _table(result: xr.Dataset, questions: Sequence[Question]) -> pd.DataFrame:
    """`error_types` of one k."""
    kinds, intact = kinds_of(result), intact_at(result)
    conditions = [str(name) for name in result["condition"].values]
    relations = [str(name) for name in result["relation"].values]
    relation_of = np.array([str(name) for name in result[schema.RELATION_OF].values])
    correct = result[schema.CORRECT].transpose("condition", "prompt").values.astype(bool)
    said = result[schema.GENERATED].transpose("condition", "prompt").values
    rows = []
    for kind, mask in cells(conditions, relations, kinds).items():
        if not mask.any():
            continue
        for at, relation in enumerate(relations):
            broken = (correct[intact] & ~correct) & mask[:, at, None] & (relation_of == relation)
            places = np.argwhere(broken).tolist()
            found = [type_of(str(said[row, prompt]), questions[prompt]) for row, prompt in places]
            rows += [(relation, kind, name, found.count(name), len(found)) for name in TYPES]
    table = pd.DataFrame(rows, columns=["relation", "kind", "type", "prompts", "broken"])
    share = table["prompts"] / table.pop("broken").where(lambda broken: broken > 0)
    return table.assign(share=share)


def _questions(store: Store, name: str, result: xr.Dataset) -> list[Question]:
    """Of every prompt of an ablation, from where its text is stored."""
    table = prompts_of(store, name, result)
    known = [store.prompts(split) for split in (schema.IDENTIFY, schema.TEST)]
    facts = pd.concat([part[["relation", "object"]] for part in (*known, table)]).drop_duplicates()
    objects = {
        str(relation): frozenset(filter(None, map(plain, of_relation)))
        for relation, of_relation in facts.groupby("relation")["object"]
    }
    return [_question(row, objects[str(row.relation)]) for row in table.itertuples()]


def _question(row: Any, objects: frozenset[str]) -> Question:
    *examples, question = map(plain, str(row.text).split("\n"))
    answers = tuple(filter(None, map(plain, row.answers)))
    return Question(plain(row.subject), question, tuple(examples), answers, objects - set(answers))

"""Relations to labelled prompts, and the one rule that says whether an answer is right.

``build(load("starter"), shots=5)`` gives a table with one prompt a row: ``text relation subject object answers
template language split shots``. ``split`` is ``identify`` (neurons are found on these) or ``test`` (held out).

Splits go by subject key: no key is in two of {examples, identify, test}, in any language. The order is a hash of
(seed, relation, key), so adding facts moves few others (``relact.facts.split``). All test prompts of one relation and
template start with the same examples, so a model's work on that prefix can be shared.
"""

from __future__ import annotations

import contextlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any

import pandas

from relact.errors import InputError
from relact.relations.facts import UNSPACED, Fact, Relation, Split, load_paper, order, plain, split

COLUMNS = ("text", "relation", "subject", "object", "answers", "template", "language", "split", "shots")
SPLITS = ("identify", "test")
EXAMPLES = ("drawn", "shared")
POOL = 200  # facts that examples are drawn from: enough variety, and the work stays linear in the facts
FORMS = {"statement": "", "paper": "? Answer:"}
RULES = ("prefix", "exact", "paper")


# --- correct or not ---------------------------------------------------------------------------------------------------


def is_correct(generated: str, answers: Sequence[str], rule: str = "prefix") -> bool:
    """Whether what a model generated is one of the accepted answers. An empty generation is wrong under every rule.

    ``paper``: the generated text (two greedy tokens), stripped, is a prefix of an answer, case aside.
    ``prefix``: also right when it says the whole answer and goes on after a word boundary (``B``, then a newline).
    ``exact``: the first line says the whole answer and nothing else but punctuation at its end.
    Case and Unicode compatibility forms never matter; a character that was cut off between two tokens is left out.
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


# --- the table --------------------------------------------------------------------------------------------------------


def build(
    relations: Iterable[Relation],
    *,
    language: str = "en",
    shots: int = 0,
    examples: str = "drawn",
    templates: str = "first",
    form: str = "statement",
    per_relation: int | None = None,
    test_size: int = 50,
    seed: int = 0,
    paraphrase: bool = False,
    keep_leaks: bool = False,
) -> pandas.DataFrame:
    """The prompt table of some relations, in their order; per relation first identify, then test.

    Args:
        shots: so many filled examples stand before every prompt, a line each, with their answers.
        examples: of identification prompts: ``drawn`` for each prompt anew (seeded), so that a neuron must answer to the
            relation and not to one wording of the examples; or ``shared``. Test prompts of a relation always share theirs,
            so that a model computes them once.
        templates: ``first`` or ``all`` of the relation's templates in this language.
        form: ``statement`` ends where the answer follows; ``paper`` adds ``? Answer:``.
        per_relation: at most so many identification prompts per relation.
        test_size: held-out facts per relation; at most a third of a small relation's facts.
        paraphrase: the test prompts use the relation's other templates: the same subjects asked differently.
        keep_leaks: keep facts whose answer stands inside the prompt (the published method does).

    Raises:
        InputError: no facts in this language, or too few to be split.
    """
    choice = _Choice(language, shots, templates, form, paraphrase, per_relation, test_size, examples, seed)
    choice.check()
    rows: list[dict[str, object]] = []
    notes: dict[str, str] = {}
    for relation in relations:
        dealt = split(relation, shots=shots, test_size=test_size, seed=seed, keep_leaks=keep_leaks)
        made = _relation_rows(relation, dealt, choice)
        notes[relation.name] = _note(dealt, choice, [row["split"] for row in made].count("test"))
        rows += made
    if not rows:
        raise InputError("no relations given", where="prompts", fix="name at least one, or `starter`")
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["notes"] = notes
    return frame


def paper(folder: str | Path, *, seed: int = 0, paraphrase: bool = False) -> pandas.DataFrame:
    """The published method's prompts from a folder of LRE JSON: 12 relations, 50 facts of each for testing."""
    return build(load_paper(folder), form="paper", test_size=50, seed=seed, paraphrase=paraphrase, keep_leaks=True)


def preset(name: str, sources: Sequence[str | Path], **options: Any) -> pandas.DataFrame:
    """The prompts of a preset; ``paper`` takes one folder of LRE JSON (see `paper`)."""
    if name != "paper":
        raise InputError(f"unknown preset {name!r}", where="--preset", fix="use paper")
    if len(sources) != 1:
        raise InputError(f"{len(sources)} sources", where="--preset paper", fix="give the folder of LRE's JSON files")
    return paper(sources[0], **options)


@dataclass(frozen=True)
class _Choice:
    """The arguments of ``build``."""

    language: str
    shots: int
    templates: str
    form: str
    paraphrase: bool
    per_relation: int | None
    test_size: int
    examples: str
    seed: int

    def check(self) -> None:
        if self.templates not in ("first", "all"):
            raise InputError(f"unknown choice {self.templates!r}", where="templates", fix="use first or all")
        if self.examples not in EXAMPLES:
            raise InputError(f"unknown choice {self.examples!r}", where="examples", fix=f"use {' or '.join(EXAMPLES)}")
        if self.form not in FORMS:
            raise InputError(f"unknown form {self.form!r}", where="form", fix=f"use one of {', '.join(FORMS)}")
        given = (("shots", self.shots, 0), ("test_size", self.test_size, 0), ("per_relation", self.per_relation, 2))
        for name, value, least in given:
            if value is not None and value < least:
                raise InputError(f"{value} is too small", where=name, fix=f"give {least} or more")


def _relation_rows(relation: Relation, dealt: Split, choice: _Choice) -> list[dict[str, object]]:
    language, where = choice.language, f"relation {relation.name}"
    texts = relation.templates.get(language, ())
    told = {role: _told(getattr(dealt, role), dealt, language) for role in ("examples", "test", "identify")}
    total = sum(map(len, told.values()))
    if not texts or not total:
        known = ", ".join(relation.languages) or "none"
        raise InputError(f"no facts in language {language!r}", where=where, fix=f"languages there are: {known}")
    if choice.shots and not all(fact.object for fact in told["examples"]):
        raise InputError("its texts have no answers to show as examples", where=where, fix="ask for 0 shots")
    if len(told["examples"]) < choice.shots or len(told["identify"]) < 2:
        roles = f"{choice.shots} examples, test and at least 2 to identify"
        fix = "add facts, or ask for fewer shots or test prompts"
        raise InputError(f"{total} usable facts are too few for {roles}", where=where, fix=fix)
    if choice.paraphrase and len(texts) < 2:
        raise InputError(f"only one template in {language!r}", where=where, fix="add a second one to paraphrase")
    many = len(texts) if choice.templates == "all" else 1
    asked = texts[1:][:many] if choice.paraphrase else texts[:many]
    shown = told["examples"][: choice.shots]
    pool = [*told["examples"], *told["identify"]][:POOL]
    identify = [
        _row(relation, fact, text, "identify", _examples(relation, fact, pool, shown, choice), choice)
        for fact in told["identify"]
        for text in texts[:many]
    ]
    held_out = told["test"][: choice.test_size]
    test = [_row(relation, fact, text, "test", shown, choice) for fact in held_out for text in asked]
    return identify[: choice.per_relation] + test


def _examples(
    relation: Relation, fact: Fact, pool: Sequence[Fact], shared: Sequence[Fact], choice: _Choice
) -> Sequence[Fact]:
    """The examples before an identification prompt: the test prompts' own, or facts drawn by hash for this one."""
    if choice.examples == "shared" or not choice.shots:
        return shared
    others = [other for other in pool if other.key != fact.key]
    return nsmallest(
        choice.shots, others, key=lambda other: order(choice.seed, relation.name, f"{fact.key}\0{other.key}")
    )


def _note(dealt: Split, choice: _Choice, tested: int) -> str:
    """What the numbers of a relation don't say by themselves."""
    parts = []
    if tested < choice.test_size:
        parts.append("a third of the facts held out" if tested else "no answers, so nothing to test")
    if leaking := dealt.leaking.get(choice.language, 0):
        parts.append(f"{leaking} left out: the prompt gives the answer away")
    return "; ".join(parts)


def _told(keys: Iterable[str], dealt: Split, language: str) -> list[Fact]:
    return [fact for key in keys for fact in dealt.usable.get((language, key), ())]


def _row(
    relation: Relation, fact: Fact, template: str, role: str, examples: Sequence[Fact], choice: _Choice
) -> dict[str, object]:
    tail = FORMS[choice.form]
    gap = "" if choice.language in UNSPACED and not tail else " "
    lines = [f"{template.replace('{}', one.subject)}{tail}{gap}{one.object}\n" for one in examples]
    return {
        "text": "".join(lines) + template.replace("{}", fact.subject) + tail,
        "relation": relation.name,
        "subject": fact.subject,
        "object": fact.object,
        "answers": list(fact.answers),
        "template": template,
        "language": choice.language,
        "split": role,
        "shots": len(examples),
    }


def summary(frame: pandas.DataFrame) -> pandas.DataFrame:
    """One row per relation: identify and test prompts, templates, shots, and a note where something was left out."""
    by_relation = frame.groupby("relation", sort=False)
    columns = {role: (frame["split"] == role).groupby(frame["relation"], sort=False).sum() for role in SPLITS}
    table = pandas.DataFrame(
        {**columns, "templates": by_relation["template"].nunique(), "shots": by_relation["shots"].max()}
    ).reset_index()
    notes = frame.attrs.get("notes", {})
    return table.assign(note=[notes.get(name, "") for name in table["relation"]])


def preview(frame: pandas.DataFrame, *, per_relation: int = 1) -> str:
    """The first prompts of every relation as plain text, the answer behind an arrow."""
    parts = []
    for name, rows in frame.groupby("relation", sort=False):
        parts.append(f"[{name}]")
        for text, answers in list(zip(rows["text"], rows["answers"], strict=True))[:per_relation]:
            parts.append(f"{text}  ->  {' | '.join(answers) or '(no answer)'}")
    return "\n".join(parts)


# --- files ------------------------------------------------------------------------------------------------------------


def write(frame: pandas.DataFrame, path: str | Path) -> Path:
    """Write a checked prompt table as .parquet, .csv or .jsonl; the file appears whole or not at all."""
    path = Path(path)
    frame = check(frame, where=path)
    part = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(frame, path, part)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise InputError(f"cannot be written ({error.strerror})", where=path, fix="choose another place") from error
    return path


def _encode(frame: pandas.DataFrame, path: Path, part: Path) -> None:
    if path.suffix == ".parquet":
        frame.to_parquet(part, index=False)
    elif path.suffix == ".csv":
        plain = frame.assign(answers=[json.dumps(answers, ensure_ascii=False) for answers in frame["answers"]])
        plain.to_csv(part, index=False)
    elif path.suffix == ".jsonl":
        with part.open("w", encoding="utf-8") as file:
            for row in frame.to_dict("records"):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        raise _unknown_kind(path)


def read(path: str | Path) -> pandas.DataFrame:
    """Read and check a prompt table. Only ``text`` and ``relation`` are required; the rest has defaults.

    Raises:
        InputError: one line with the file, the row and the column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such prompt file", where=path, fix="make one with `relact prompts ... -o FILE`")
    try:
        if path.suffix == ".parquet":
            frame = pandas.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            frame = pandas.DataFrame([json.loads(line) for line in lines if line.strip()])
        else:
            raise _unknown_kind(path)
    except (ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not readable ({error})", where=path, fix="make it again with `relact prompts`") from error
    return check(frame, where=path)


def _unknown_kind(path: Path) -> InputError:
    return InputError(f"unknown kind of file {path.suffix!r}", where=path, fix="use .parquet, .csv or .jsonl")


def check(frame: pandas.DataFrame, *, where: object = "prompts") -> pandas.DataFrame:
    """A table with exactly the columns of ``COLUMNS`` and plain values, or an ``InputError`` with row and column."""
    for column in ("text", "relation"):
        if column not in frame:
            fix = f"a prompt table has {' '.join(COLUMNS)}"
            raise InputError(f"column {column!r} is missing", where=where, fix=fix)
    if not len(frame):
        raise InputError("has no prompts", where=where, fix="give at least two")
    absent: dict[str, object] = {"language": "en", "split": "identify", "shots": 0}
    out: dict[str, list[object]] = {}
    for column in COLUMNS:
        if column == "answers" and column not in frame:
            values: list[object] = [[value] if value else [] for value in out["object"]]
        else:
            values = list(frame[column]) if column in frame else [absent.get(column, "")] * len(frame)
        out[column] = []
        for row, value in enumerate(values, 1):
            cell, fix = _cell(column, value)
            if fix:
                raise InputError(f"row {row}, column {column!r}: {value!r}", where=where, fix=fix)
            out[column].append(cell)
    checked = pandas.DataFrame(out, columns=list(COLUMNS))
    checked.attrs = dict(frame.attrs)
    return checked


def _cell(column: str, value: object) -> tuple[object, str]:
    """A cell's plain value, and what to do where it is not usable."""
    if column == "answers":
        return _answers(value)
    if column == "shots":
        number = str(value).removesuffix(".0")
        return (int(number), "") if number.isdecimal() else (0, "give a number, 0 or more")
    if not isinstance(value, str):
        return "", "give a text"
    if column in ("text", "relation", "language") and not value.strip():
        return "", "fill it in"
    if column == "split" and value not in SPLITS:
        return "", "use identify or test"
    return value, ""


def _answers(value: object) -> tuple[object, str]:
    """A list of texts as it is, or as a CSV holds it, in JSON."""
    try:
        given = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        given = None
    answers = list(given) if isinstance(given, Iterable) and not isinstance(given, str | dict) else [None]
    return (answers, "") if all(isinstance(one, str) for one in answers) else ([], 'write a list of texts: ["Paris"]')

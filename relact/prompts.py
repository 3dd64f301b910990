"""Relations to labelled prompts, and the one rule that says whether an answer is right.

``build(load("starter"), shots=5)`` gives a table with one prompt a row: ``text relation subject object answers
template language split shots``. ``split`` is ``identify`` (neurons are found on these) or ``test`` (held out).

Splits go by subject key: no key is in two of {examples, identify, test}, in any language. The order is a hash of
(seed, relation, key), so adding facts moves few others. All prompts of one relation and template start with the same
examples, so a model's work on that prefix can be shared.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas

from relact.errors import InputError
from relact.facts import Fact, Relation, load_paper, order

COLUMNS = ("text", "relation", "subject", "object", "answers", "template", "language", "split", "shots")
SPLITS = ("identify", "test")
FORMS = {"statement": "", "paper": "? Answer:"}
UNSPACED = ("zh", "ja")  # no blank between template and object
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
    said = _plain(generated.rstrip("\ufffd"))
    if not said:
        return False
    wanted = [plain for plain in map(_plain, answers) if plain]
    if rule == "exact":
        line = said.splitlines()[0].rstrip(" .,;:!?。、，；：！？")
        return any(line in (answer, answer.rstrip(".")) for answer in wanted)
    if any(answer.startswith(said) for answer in wanted):
        return True
    return rule == "prefix" and any(
        said.startswith(answer) and _boundary(answer[-1], said[len(answer)]) for answer in wanted
    )


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _boundary(before: str, after: str) -> bool:
    """Whether a word ends between two characters; where words are not spaced, where the script changes."""
    return not (after.isalnum() or unicodedata.combining(after)) or _script(before) != _script(after)


def _script(letter: str) -> str:
    first = unicodedata.name(letter, "").split(" ")[0]
    return first if first in ("CJK", "HIRAGANA", "KATAKANA") else ""


def leaks(answers: Iterable[str], text: str, language: str = "en") -> bool:
    """Whether an accepted answer stands in the text as a word of its own; anywhere in it for Chinese and Japanese."""
    text = _plain(text)
    for answer in map(_plain, answers):
        if not answer:
            continue
        if language in UNSPACED:
            found = answer in text
        else:
            found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) is not None
        if found:
            return True
    return False


# --- who goes where ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Keys by role, each in the seeded order; ``leaking`` counts facts left out per language."""

    examples: tuple[str, ...]
    test: tuple[str, ...]
    identify: tuple[str, ...]
    usable: dict[tuple[str, str], tuple[Fact, ...]]  # (language, key) -> facts
    leaking: dict[str, int]


def split(relation: Relation, *, shots: int = 0, test_size: int = 50, seed: int = 0, keep_leaks: bool = False) -> Split:
    """Deal a relation's keys to test, examples and identify, once for all languages.

    Keys that exist in more languages come first, then the hash decides. Test takes keys until every language has
    ``test_size`` facts, or a third of what it has; examples take the next until every language has ``shots``.
    """
    usable: dict[tuple[str, str], list[Fact]] = {}
    leaking: dict[str, int] = {}
    for fact in relation.facts:
        texts = relation.templates.get(fact.language, ())
        if not texts:
            continue
        filled = " \n ".join(text.replace("{}", fact.subject) for text in texts)
        if not keep_leaks and not relation.leaks and leaks(fact.answers, filled, fact.language):
            leaking[fact.language] = leaking.get(fact.language, 0) + 1
        else:
            usable.setdefault((fact.language, fact.key), []).append(fact)
    counts: dict[str, dict[str, int]] = {}  # key -> language -> number of facts
    for (language, key), told in usable.items():
        counts.setdefault(key, {})[language] = len(told)
    keys = sorted(counts, key=lambda key: (-len(counts[key]), order(seed, relation.name, key), key))
    totals: dict[str, int] = {}
    for by_language in counts.values():
        for language, number in by_language.items():
            totals[language] = totals.get(language, 0) + number
    answerable = any(fact.object for fact in relation.facts)
    wanted = {name: min(test_size, max(n // 3, 1)) if n > 1 and answerable else 0 for name, n in totals.items()}
    test = _deal(keys, counts, wanted)
    rest = [key for key in keys if key not in test]
    examples = _deal(rest, counts, dict.fromkeys(totals, shots))
    identify = tuple(key for key in rest if key not in examples)
    frozen = {where: tuple(told) for where, told in usable.items()}
    return Split(tuple(examples), tuple(test), identify, frozen, leaking)


def _deal(keys: Sequence[str], counts: dict[str, dict[str, int]], wanted: dict[str, int]) -> dict[str, None]:
    """The first keys that fill what every language wants; a key whose facts would overshoot its need is passed over."""
    need, dealt = dict(wanted), dict[str, None]()
    for key in keys:
        if any(0 < number <= need[language] for language, number in counts[key].items()):
            dealt[key] = None
            for language, number in counts[key].items():
                need[language] -= number
    return dealt


# --- the table --------------------------------------------------------------------------------------------------------


def build(
    relations: Iterable[Relation],
    *,
    language: str = "en",
    shots: int = 0,
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
        templates: ``first`` or ``all`` of the relation's templates in this language.
        form: ``statement`` ends where the answer follows; ``paper`` adds ``? Answer:``.
        per_relation: at most so many identification prompts per relation.
        test_size: held-out facts per relation; at most a third of a small relation's facts.
        paraphrase: the test prompts use the relation's other templates: the same subjects asked differently.
        keep_leaks: keep facts whose answer stands inside the prompt (the published method does).

    Raises:
        InputError: no facts in this language, or too few to be split.
    """
    if templates not in ("first", "all"):
        raise InputError(f"unknown choice {templates!r}", where="templates", fix="use first or all")
    if form not in FORMS:
        raise InputError(f"unknown form {form!r}", where="form", fix=f"use one of {', '.join(FORMS)}")
    for name, value in (("shots", shots), ("test_size", test_size), ("per_relation", per_relation or 1)):
        if value < 0:
            raise InputError(f"{value} is negative", where=name, fix="give 0 or more")
    rows: list[dict[str, object]] = []
    about: list[dict[str, object]] = []
    for relation in relations:
        dealt = split(relation, shots=shots, test_size=test_size, seed=seed, keep_leaks=keep_leaks)
        choice = _Choice(language, shots, templates == "all", FORMS[form], paraphrase)
        rows += (made := _relation_rows(relation, dealt, choice, per_relation, test_size))
        about.append(
            {
                "relation": relation.name,
                "facts": len({row["subject"] for row in made}) + shots,
                "answer_in_prompt": dealt.leaking.get(language, 0),
                "source": relation.source,
            }
        )
    if not rows:
        raise InputError("no relations given", where="prompts", fix="name at least one, or `starter`")
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["relact"] = about
    return frame


def paper(folder: str | Path, *, seed: int = 0, paraphrase: bool = False) -> pandas.DataFrame:
    """The published method's prompts from a folder of LRE JSON: 12 relations, 50 facts of each for testing."""
    return build(load_paper(folder), form="paper", test_size=50, seed=seed, paraphrase=paraphrase, keep_leaks=True)


@dataclass(frozen=True)
class _Choice:
    language: str
    shots: int
    all_templates: bool
    tail: str
    paraphrase: bool


def _relation_rows(
    relation: Relation, dealt: Split, choice: _Choice, per_relation: int | None, test_size: int
) -> list[dict[str, object]]:
    language = choice.language
    texts = relation.templates.get(language, ())
    told = {role: _told(getattr(dealt, role), dealt, language) for role in ("examples", "test", "identify")}
    total = sum(map(len, told.values()))
    if not texts or not total:
        known = ", ".join(relation.languages) or "none"
        raise InputError(
            f"no facts in language {language!r}", where=f"relation {relation.name}", fix=f"languages there are: {known}"
        )
    if len(told["examples"]) < choice.shots or len(told["identify"]) < 2:
        raise InputError(
            f"{total} usable facts are too few to split into {choice.shots} examples, test and at least 2 to identify",
            where=f"relation {relation.name}",
            fix="add facts, or ask for fewer shots or test prompts",
        )
    if choice.paraphrase and len(texts) < 2:
        raise InputError(
            f"only one template in {language!r}", where=f"relation {relation.name}", fix="add a second one to paraphrase"
        )
    first = texts if choice.all_templates else texts[:1]
    second = (texts[1:] if choice.all_templates else texts[1:2]) if choice.paraphrase else first
    examples = told["examples"][: choice.shots]
    identify = [_row(relation, fact, text, "identify", examples, choice) for fact in told["identify"] for text in first]
    test = [_row(relation, fact, text, "test", examples, choice) for fact in told["test"][:test_size] for text in second]
    return identify[:per_relation] + test


def _told(keys: Iterable[str], dealt: Split, language: str) -> list[Fact]:
    return [fact for key in keys for fact in dealt.usable.get((language, key), ())]


def _row(
    relation: Relation, fact: Fact, template: str, role: str, examples: Sequence[Fact], choice: _Choice
) -> dict[str, object]:
    gap = "" if choice.language in UNSPACED and not choice.tail else " "
    lines = [f"{template.replace('{}', one.subject)}{choice.tail}{gap}{one.object}\n" for one in examples]
    return {
        "text": "".join(lines) + template.replace("{}", fact.subject) + choice.tail,
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
    """One row per relation: identify and test prompts, templates, shots, facts left out because they give the answer away."""
    by_relation = frame.groupby("relation", sort=False)
    table = pandas.DataFrame(
        {
            "identify": by_relation["split"].agg(lambda roles: int((roles == "identify").sum())),
            "test": by_relation["split"].agg(lambda roles: int((roles == "test").sum())),
            "templates": by_relation["template"].nunique(),
            "shots": by_relation["shots"].max(),
        }
    ).reset_index()
    about = {entry["relation"]: entry for entry in frame.attrs.get("relact", ())}
    table["answer_in_prompt"] = [about.get(name, {}).get("answer_in_prompt", 0) for name in table["relation"]]
    return table


def preview(frame: pandas.DataFrame, *, per_relation: int = 1) -> str:
    """The first prompts of every relation as plain text, the answer behind an arrow."""
    parts = []
    for name, rows in frame.groupby("relation", sort=False):
        parts.append(f"[{name}]")
        for row in rows.head(per_relation).itertuples():
            parts.append(f"{row.text}  ->  {' | '.join(row.answers) or '(no answer)'}")
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
        part.unlink(missing_ok=True)
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
            frame = pandas.read_json(path, lines=True, dtype=False, convert_dates=False, encoding="utf-8-sig")
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
    """A prompt table with exactly the columns of ``COLUMNS`` and plain values, or an ``InputError`` with row and column."""
    for column in ("text", "relation"):
        if column not in frame:
            raise InputError(f"column {column!r} is missing", where=where, fix=f"a prompt table has {' '.join(COLUMNS)}")
    if not len(frame):
        raise InputError("has no prompts", where=where, fix="give at least two")
    defaults = {"subject": "", "object": "", "template": "", "language": "en", "split": "identify"}
    out: dict[str, list[object]] = {}
    for column in COLUMNS:
        if column == "answers":
            out[column] = _answers(frame, where)
        elif column == "shots":
            out[column] = [_shots(value, row, where) for row, value in enumerate(frame.get(column, [0] * len(frame)), 1)]
        else:
            values = list(frame.get(column, [defaults.get(column, "")] * len(frame)))
            out[column] = [_text(value, row, column, where) for row, value in enumerate(values, 1)]
    checked = pandas.DataFrame(out, columns=list(COLUMNS))
    checked.attrs = dict(frame.attrs)
    return checked


def _text(value: object, row: int, column: str, where: object) -> str:
    needed = column in ("text", "relation", "language")
    if not isinstance(value, str) or (needed and not value.strip()):
        raise InputError(f"row {row}, column {column!r}: {value!r} is not a text", where=where, fix="fill it in")
    if column == "split" and value not in SPLITS:
        raise InputError(f"row {row}, column 'split': {value!r}", where=where, fix="use identify or test")
    return value


def _shots(value: object, row: int, where: object) -> int:
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise InputError(f"row {row}, column 'shots': {value!r} is not a number", where=where, fix="give 0 or more")
    return number


def _answers(frame: pandas.DataFrame, where: object) -> list[object]:
    """Lists as they are, JSON lists of a CSV, or the object alone where there is no such column."""
    if "answers" not in frame:
        objects = frame.get("object", [""] * len(frame))
        return [[value] if isinstance(value, str) and value else [] for value in objects]
    found: list[object] = []
    for row, value in enumerate(frame["answers"], 1):
        try:
            answers = json.loads(value) if isinstance(value, str) else list(value)
            if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
                raise TypeError
        except (TypeError, ValueError):
            raise InputError(
                f"row {row}, column 'answers': {value!r} is not a list of texts", where=where, fix='write ["Paris"]'
            ) from None
        found.append(answers)
    return found

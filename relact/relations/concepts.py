"""Concept data sets of ml-selfcond and lang_neuron: JSON with ``sentences`` (positive, negative), or a folder
of them with ``concept_list.csv``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations import tabular
from relact.relations.row import READY, Bad, Row, read_json, short

LIST = "concept_list.csv"
NEGATIVE = "negative"  # the relation of a concept data set's negative sentences


def recognised(data: Any) -> bool:
    """Whether a file's JSON is a concept data set."""
    return isinstance(data, dict) and isinstance(data.get("sentences"), dict)


def files(listed: Path, bad: Bad) -> list[Path]:
    """The JSON of every line of the list: ``group/concept.json`` beside the list, or below ``json/``."""
    paths = []
    for where, line in tabular.csv_lines(listed):
        if not isinstance(line, dict):
            bad(InputError(f"not a line of the list ({short(line)})", where=where, fix="repair or remove it"))
            continue
        group, concept = str(line.get("group") or ""), str(line.get("concept") or "")
        places = [listed.parent / top / group / f"{concept}.json" for top in ("", "json")]
        there = [place for place in places if place.is_file()]
        if there and concept:
            paths.append(there[0])
        else:
            problem = f"no file {group}/{concept}.json"
            bad(InputError(problem, where=where, fix="remove the line or add the file"))
    return paths


def rows(paths: Iterable[Path], bad: Bad, *, own_negatives: bool = False) -> Iterator[Row]:
    """Positive sentences under their concept, then every negative once under ``negative``.

    With ``own_negatives`` they are under ``concept=positive`` and ``concept=negative`` instead.

    A sentence that is a concept's positive is no negative, even where another concept lists it so: with
    several concepts, the others' positives are negatives anyway. A name that two groups use becomes
    ``group/concept``.
    """
    read = []
    for path in paths:
        data = read_json(path)
        if recognised(data):
            group, concept = str(data.get("group", "")), str(data.get("concept") or path.stem)
            read.append((path, group, concept, data["sentences"]))
        else:
            bad(InputError("has no sentences", where=path, fix="give positive and negative sentences"))
    names = [concept for _, _, concept, _ in read]
    used: set[str] = set()
    for path, group, concept, sentences in read:
        name = concept if names.count(concept) == 1 else f"{group}/{concept}"
        if own_negatives:
            for kind in ("positive", "negative"):
                yield from _sentences(path, f"{name}={kind}", sentences, kind, bad)
            continue
        for row in _sentences(path, name, sentences, "positive", bad):
            used.add(row.subject)
            yield row
    for path, _, _, sentences in () if own_negatives else read:
        for row in _sentences(path, NEGATIVE, sentences, "negative", bad):
            if row.subject not in used:
                used.add(row.subject)
                yield row


def _sentences(path: Path, relation: str, sentences: dict[str, Any], kind: str, bad: Bad) -> Iterator[Row]:
    for number, text in enumerate(sentences.get(kind) or (), 1):
        where = f"{path}: {kind} sentence {number}"
        if isinstance(text, str) and text.strip():
            yield Row(relation, text, templates=READY, where=where)
        else:
            bad(InputError(f"{short(text)} is not a text", where=where, fix="fill it in or remove it"))

"""Build the bundled relations: ``python tools/build_relations.py`` writes ``relact/relations/*.json``.

``--check`` builds them again in memory and exits 1 with the names of files that differ: the files in the
repository are what this script makes, nothing else. Two kinds of sources: tables written by hand in
``tools/relations`` (one fact a line) and relations assembled from open packages in ``tools/world.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import world  # noqa: E402

TABLES = Path(__file__).parent / "relations"
TARGET = ROOT / "relact" / "relations"


def table(path: Path) -> dict[str, Any]:
    """A relation written by hand: ``name: value`` lines, ``--``, then ``subject = answer | alias`` lines."""
    head, _, body = path.read_text(encoding="utf-8").partition("\n--\n")
    relation: dict[str, Any] = {"name": path.stem, "licence": "Apache-2.0", "templates": {}}
    for line in head.splitlines():
        name, _, value = line.partition(": ")
        if name.startswith("template "):
            relation["templates"].setdefault(name.removeprefix("template "), []).append(value)
        else:
            relation[name] = value
    facts = []
    for number, line in enumerate(body.splitlines(), head.count("\n") + 3):
        subject, equals, answers = line.partition(" = ")
        if not equals:
            raise SystemExit(f"{path}:{number}: {line!r} has no ' = '")
        accepted = [answer.strip() for answer in answers.split("|")]
        if world.gives_away(relation["templates"]["en"], subject, accepted, "en"):
            continue  # sheep, sheep: nothing to ask
        facts.append({"key": subject, "subject": {"en": subject}, "object": {"en": accepted}})
    return {**relation, "facts": facts}


def encode(relation: dict[str, Any]) -> str:
    """The file's text: the head, then one fact a line, so that a change of a fact changes one line."""
    head = {
        name: relation[name]
        for name in ("name", "description", "source", "licence", "leaks")
        if name in relation
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()]
    lines.append(f'"templates": {json.dumps(relation["templates"], ensure_ascii=False)}')
    facts = ",\n".join(json.dumps(fact, ensure_ascii=False) for fact in relation["facts"])
    return "{" + ",\n".join(lines) + ',\n"facts": [\n' + facts + "\n]}\n"


def build() -> dict[str, str]:
    """File name -> text of every bundled relation."""
    relations = [table(path) for path in sorted(TABLES.glob("*.txt"))] + world.relations()
    return {f"{relation['name']}.json": encode(relation) for relation in relations}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the files in the repository, write nothing"
    )
    check = parser.parse_args().check
    built = build()
    there = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.json")}
    if check:
        different = sorted(name for name in built.keys() | there.keys() if built.get(name) != there.get(name))
        names = ", ".join(different) or "none"
        print(f"{len(built)} relations, {len(different)} differ from relact/relations: {names}")
        return 1 if different else 0
    for name in there.keys() - built.keys():
        (TARGET / name).unlink()
    for name, text in built.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    print(f"{len(built)} relations, {sum(map(len, built.values())):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())

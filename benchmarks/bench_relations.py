"""What the embedded model knows of every bundled relation: accuracy on held-out facts,
as docs/relations.md lists it.

Run ``python benchmarks/bench_relations.py`` (minutes) or ``--quick`` (two relations, eight facts of each).
Five examples in the prompt, first template, greedy answers read on until they are decided, the rule
``prefix``, seed 0, up to 50 facts held out per relation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from relact.ablating.answers import Exam, generate
from relact.ablating.conditions import INTACT_MODEL
from relact.ablating.result import judged
from relact.models import loading
from relact.relations import prompts, sources
from relact.relations.options import PromptOptions

ENOUGH = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="eight facts of two relations")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--language", default="en")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    relations = [relation for relation in sources.load("all") if args.language in relation.languages]
    loaded = loading.load("smollm2")
    accuracy = {}
    for relation in relations[:2] if args.quick else relations:
        size = 8 if args.quick else PromptOptions.test_size
        frame = prompts.prompts([relation], shots=args.shots, language=args.language, test_size=size)
        tests = frame[frame["split"] == "test"]
        answers = tests["answers"].tolist()
        exam = Exam(loading.encode(loaded, tests["text"].tolist()), answers)
        said = generate(loaded, exam, [INTACT_MODEL]).texts
        accuracy[relation.name] = float(judged(said, answers, "prefix").mean())
        print(f"{relation.name:<24} {accuracy[relation.name]:.2f} of {len(tests)}", flush=True)
    reached = sum(value >= ENOUGH for value in accuracy.values())
    print(f"{reached} of {len(accuracy)} relations reach {ENOUGH}")
    if args.json:
        args.json.write_text(json.dumps(accuracy, indent=2) + "\n")


if __name__ == "__main__":
    main()

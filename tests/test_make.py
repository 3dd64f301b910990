"""CI runs all that there is: every target that a person has, and of the tests no part is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
PARTS = {"lint", "types", "unit"}  # of `make test`
# large downloads, a GPU, the day of a release, a new store
ELSEWHERE = {"gemma", "oldest", "device", "release", "bundled"}
HANDS = {"menu", "clean"}
# deep tests without a part in `make test`, and what stands for them there
ALONE = {
    "test_fifty_thousand_tables_are_read_as_a_slow_reader_does": "test_a_table_is_read_as_a_slow_reader_does",
    "test_a_capture_stays_below_the_planned_peak": (
        "test_memory_decides_the_size_of_a_block_and_too_little_is_refused"
    ),
    "test_the_tutorial": "test_every_step_alone",
}


def functions() -> dict[str, ast.FunctionDef]:
    """Every test by its name."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name: node for node in nodes if node.name.startswith("test_")}


def test_ci_runs_every_target():
    ran = set(
        re.search(r"^for target in ([\w ]+); do\n", (ROOT / ".ci" / "run").read_text(), re.M)[1].split()
    )
    targets = set(re.search(r"^\.PHONY: (.*)", MAKEFILE, re.M).group(1).split())
    assert targets - ran == PARTS | ELSEWHERE | HANDS and ran <= targets
    shown = set(re.findall(r"^#   make (\w+)", MAKEFILE, re.M))
    assert targets - shown == {"menu", "types", "unit"}  # two are named behind `lint`


def test_test_and_deep_are_all_tests():
    selected = dict(re.findall(r'^(\w+): setup\n\t\$\(PYTEST\) -m "?([^"\n]*)', MAKEFILE, re.M))
    assert selected == {"unit": "not slow and not deep", "deep": "slow or deep"}


def test_what_is_only_deep_has_a_test_that_stands_for_it():
    found = functions()
    alone = {name for name, node in found.items() if "deep.only" in map(ast.unparse, node.decorator_list)}
    assert alone == ALONE.keys() and set(ALONE.values()) <= found.keys()

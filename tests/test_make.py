"""CI runs all that there is: every target that a person has, and of the tests no part is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
PARTS = {"lint", "types", "unit", "quick"}  # of `make test`
# large downloads, a GPU, the day of a release, a new store
ELSEWHERE = {"gemma", "oldest", "device", "release", "bundled"}
HANDS = {"menu", "clean"}
# deep tests without a part in `make test`, and what stands for them there
ALONE = {
    "test_fifty_thousand_tables_are_read_as_a_slow_reader_does": "test_a_table_is_read_as_a_slow_reader_does",
    "test_a_capture_stays_below_the_planned_peak": (
        "test_a_capture_of_several_times_its_memory_stays_below_the_planned_peak"
    ),
    "test_the_tutorial": "test_every_step_alone",
    "test_the_notebook_runs": "test_the_notebook_was_executed_and_asks_for_nothing",
    "test_looking": "test_the_command_shows_it_and_writes_it",
    "test_the_report_page": "test_the_queries",
    "test_a_change_of_any_kernel_file_is_compiled_anew": "test_kernels_on_disk_are_named_by_all_their_files",
    "test_a_cluster_gives_the_same_bits_though_a_worker_dies": (
        "test_a_worker_that_its_nanny_restarts_is_waited_for"
    ),
    "test_processes_of_torchrun_and_of_an_array_write_what_one_writes": (
        "test_processes_of_a_launch_ablate_what_one_ablates"
    ),
    "test_a_script_that_uses_every_public_name_passes_mypy_as_strict_as_it_can_be": (
        "test_the_stub_and_the_package_name_the_same"
    ),
    "test_an_ablation_stays_below_its_planned_memory": (
        "test_a_capture_of_several_times_its_memory_stays_below_the_planned_peak"
    ),
    "test_the_check_that_the_demo_gets": "test_everything_is_drawn",
    "test_a_gguf_path_is_the_same_model": "test_decoded_weights_equal_the_gguf_packages_own",
    "test_every_file_that_a_packed_folder_lost_is_named": "test_no_flipped_bit_is_read_as_another_value",
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
    assert selected == {"unit": "not deep", "quick": "not slow and not deep", "deep": "deep"}


def test_what_is_only_deep_has_a_test_that_stands_for_it():
    found = functions()
    alone = {name for name, node in found.items() if "deep.only" in map(ast.unparse, node.decorator_list)}
    assert alone == ALONE.keys() and set(ALONE.values()) <= found.keys()

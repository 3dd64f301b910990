"""Kernels on disk are those of the files that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import relact
from relact.kernels import jit


def test_kernels_on_disk_are_named_by_all_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {path: path.read_bytes() for path in Path(jit.__file__).parent.glob("*.py")}
    changed: dict[Path, bytes] = {}
    monkeypatch.setattr(Path, "read_bytes", lambda path: (known | changed)[path])
    names = {jit._sources.__wrapped__()}
    for path, text in known.items():
        changed = {path: text + b"\n"}
        names.add(jit._sources.__wrapped__())
    assert len(names) == 1 + len(known) > 5


@pytest.mark.slow
def test_a_change_of_any_kernel_file_is_compiled_anew(tmp_path: Path) -> None:
    """Numba itself would serve what it kept: the file of the called kernel is still the same."""
    package = tmp_path / "relact"
    shutil.copytree(Path(relact.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np; from relact.kernels import Labels, rank_statistics; "
        "v = np.array([[1], [2], [3]], np.float16); "
        "print(rank_statistics([v], Labels.one_vs_rest(['a', 'b', 'b']))['average_precision'][0, 0])"
    )

    def score() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return float(done.stdout)

    assert score() == pytest.approx(1 / 3)
    sorting = package / "kernels" / "sorting.py"
    # whichever sort this processor is given
    mirrored = re.sub(r"if (bits\S*) >> uint16\(15\)", r"if not \1 >> uint16(15)", sorting.read_text())
    sorting.write_text(mirrored)
    assert score() == 1.0

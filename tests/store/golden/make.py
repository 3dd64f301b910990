"""Made the stores of this folder, once, when format 1 was fixed. They are never made again:
every later version must open them.

python tests/store/golden/make.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from helpers import sample

from relact.capturing import prepare
from relact.scoring import masks, score


def make(folder: Path) -> None:
    """``plain.zarr``, grown once in the middle of a block, and ``compressed.zarr``; both scored,
    with a mask.
    """
    plain = sample.full(folder / "plain.zarr", 6, attribution=None)
    sample.capture(prepare.append(plain, sample.intake(9, attribution=None)))
    sample.full(folder / "compressed.zarr", 9, dtype="float32", compress=True, attribution=None)
    for name in ("plain.zarr", "compressed.zarr"):
        score.score(folder / name, workers=1)
        masks.select(folder / name, k=5)


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "format1")

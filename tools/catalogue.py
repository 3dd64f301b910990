"""The catalogue under stores/: put a study in, or hold what is there to what is found again.

    python tools/catalogue.py add demo/study.zarr smollm2-starter 'Apache-2.0 AND CC-BY-4.0 AND Unicode-3.0'
    python tools/catalogue.py check demo/study.zarr smollm2-starter
    python tools/catalogue.py sample smollm2-bundled 3

Full scores are left out to keep packages small. ``check`` holds a package to a study that was made again,
``sample`` asks the model the test prompts of so many relations again, under all its masks. Both exit 1 with
a line per mask or matrix that differs: of a mask 1 neuron in 100 may be another, of answers 2 in 100, as
other processors round otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import relact
from relact.packed.store import open_store
from relact.scoring import masks
from relact.sharing import catalogue
from relact.store.reading import Store

STORES = Path(__file__).parent.parent / "stores"
SHARED, ANSWERS = 0.99, 0.02


def differences(stored: Store, again: Store) -> Iterator[str]:
    """What of a stored package is not as in the study made again, a line each."""
    if not stored.children("masks"):
        yield "no mask is stored"
    for name in stored.children("masks"):
        if name not in again.children("masks"):
            yield f"masks/{name}: not in the study"
            continue
        (relations, ours), (others, theirs) = masks.read(stored, name), masks.read(again, name)
        both, of = (masks.flatten(sets).astype(bool) for sets in (ours, theirs))
        share = (both & of).sum() / both.sum() if relations == others and both.shape == of.shape else 0.0
        if share < SHARED:
            yield f"masks/{name}: {share:.3f} of its neurons are the study's"
    for name in stored.children("ablations"):
        if name not in again.children("ablations"):
            yield f"ablations/{name}: not in the study"
            continue
        ours_, theirs_ = (each.dataset(f"ablations/{name}")["accuracy"].load() for each in (stored, again))
        apart = float(np.abs(ours_ - theirs_).mean()) if ours_.shape == theirs_.shape else 1.0
        if apart > ANSWERS:
            yield f"ablations/{name}: accuracies are {apart:.3f} apart on average"


def answered_otherwise(package: Path, relations: int) -> Iterator[str]:
    """What the model answers otherwise than a package says, a line per matrix."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.zarr"
        store = relact.unpack(package, path)
        tests = store.prompts("test")
        names = tests["relation"].unique()
        asked = tests[tests["relation"].isin(names[:: -(-len(names) // relations)])]
        for name in store.children("ablations"):
            again = relact.ablate(path, mask=name, tests=asked, seeds=(), name=f"{name}-again")["correct"]
            stored = store.dataset(f"ablations/{name}")["correct"]
            stored = stored.sel(condition=again["condition"]).isel(prompt=asked.index.to_numpy())
            apart = float((again.values != stored.values).mean())
            print(f"{name}: {again.size} answers, {100 * apart:.2f} % otherwise")
            if apart > ANSWERS:
                yield f"ablations/{name}: {apart:.3f} of its answers are otherwise"


def add(study: Path, name: str, licence: str) -> None:
    """Pack a study without its scores and enter it into the catalogue, in the place of one of its name."""
    target = STORES / f"{name}.zarr.zip"
    target.unlink(missing_ok=True)
    packed = relact.pack(study, target, stages=["masks", "ablations"], licence=licence)
    catalogue.add(packed, STORES / catalogue.NAME)


def _told(lines: Iterator[str]) -> int:
    """The exit code, after all lines are printed."""
    found = list(lines)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def main() -> int:
    match sys.argv[1:]:
        case ["add", study, name, licence]:
            add(Path(study), name, licence)
            return 0
        case ["check", study, name]:
            return _told(differences(open_store(STORES / f"{name}.zarr.zip"), open_store(study)))
        case ["sample", name, relations]:
            return _told(answered_otherwise(STORES / f"{name}.zarr.zip", int(relations)))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())

"""Verify: every committed byte against its recorded checksum, the structure against the schema.

Three kinds of files, three witnesses: shards by their block's commit record, commit records by their own
checksum, all the rest by the seal of the folder they belong to (the root, or a stage). The root's zarr.json
is checked first, then the metadata: where these are damaged, nothing that they describe can be judged, so the
blocks wait for their repair.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from relact import durable, schema
from relact.errors import RelactError, StoreError
from relact.progress import Progress, silent
from relact.schema import DOCUMENT
from relact.store import blocks, local
from relact.store.seal import EMPTY_GROUP, hexadecimal, intact, recorded

CAPTURE = "relact capture MODEL PROMPTS {store} --repair"
MAKERS = {schema.SCORES: "score", schema.MASKS: "select", schema.ABLATIONS: "ablate"}
OWN = (schema.PROMPTS, schema.ACTIVATIONS, schema.COMMITS)  # covered by the root's seal and the commit log
READERS = 4  # files read at once: a disk likes a queue, the checksum itself is several GB/s on one core
MEGABYTE = 10**6


@dataclass(frozen=True)
class Problem:
    """One damaged or missing file.

    Attributes:
        file: relative to the store.
        group: where it belongs: ``activations/<site>``, ``scores``, ``masks/<name>``, ...; empty for the
            root.
        site, block, layer: of a damaged shard; a damaged commit record has a block only.
        repair: the command that makes it anew.
    """

    what: str
    file: str
    group: str
    repair: str
    site: str | None = None
    block: int | None = None
    layer: int | None = None

    def __str__(self) -> str:
        names = (("site", self.site), ("block", self.block), ("layer", self.layer))
        place = ", ".join(f"{name} {value}" for name, value in names if value is not None)
        return f"{self.file}: {self.what}" + (f" ({place})" if place else "")


@dataclass(frozen=True)
class Expected:
    """A file, its recorded checksum, and the problem it is when it differs."""

    checksum: str
    problem: Problem


@dataclass
class Verdict:
    """What was found: ``bytes`` in ``files`` checked, ``missing`` blocks that are not (wholly) captured."""

    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    blocks: int = 0
    missing: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is damaged."""
        return not self.problems

    def damaged_blocks(self) -> list[int]:
        """Blocks to capture again."""
        return sorted({problem.block for problem in self.problems if problem.block is not None})

    def damaged_stages(self) -> list[str]:
        """Results to compute again, such as ``masks/top-400``."""
        return sorted(
            {problem.group for problem in self.problems if problem.group.split("/")[0] not in ("", *OWN)}
        )

    def damaged_skeleton(self) -> bool:
        """Whether prompts, coordinates or metadata of the capture are damaged."""
        return any(
            problem.block is None and problem.group.split("/")[0] in ("", *OWN) for problem in self.problems
        )

    def repairs(self) -> list[str]:
        """Commands to run, in order, each once."""
        return list(dict.fromkeys(problem.repair for problem in self.problems))


def verify(path: str | Path, *, workers: int = READERS, progress: Progress = silent) -> Verdict:
    """Check every committed byte of the store at ``path``; damage is reported, not raised.

    Args:
        workers: files read at once.

    Raises:
        StoreError: there is no store.
    """
    root, verdict = Path(path), Verdict()
    if not (root / DOCUMENT).is_file():
        local.open(root)  # tells whether it is missing or foreign
    capture = CAPTURE.format(store=root)
    raw = (root / DOCUMENT).read_bytes()
    listed = recorded(raw)
    if listed is None or not intact(raw):
        what = "damaged: its checksum does not match; the blocks are not checked until it is repaired"
        verdict.problems.append(Problem(what, DOCUMENT, "", capture))
        listed = {}
    verdict.files, verdict.bytes = 1, len(raw)
    _compare(
        root,
        [Expected(sum_, Problem("", name, _group(name), capture)) for name, sum_ in listed.items()],
        verdict,
        1,
    )
    expected = list(_stages(root, verdict))
    if not verdict.damaged_skeleton():
        expected += _shards(root, capture, verdict)
    _compare(root, expected, verdict, workers, progress)
    return verdict


def drop_damaged(path: str | Path, verdict: Verdict) -> list[str]:
    """Delete the damaged results, so that their commands compute them again; returns their names."""
    root = Path(path)
    gone = [group for group in verdict.damaged_stages() if (root / group).is_dir()]
    for group in gone:
        local.drop(root, group)
    return gone


def _group(name: str) -> str:
    """The group a skeleton's file belongs to: its site or prompt set, not the array."""
    return "/".join(name.split("/")[:2]) if "/" in name else ""


def _stages(root: Path, verdict: Verdict) -> Iterator[Expected]:
    """Files of every sealed group that is not part of the skeleton;
    damaged zarr.json files go to ``verdict``.
    """
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name not in OWN)
    while folders:
        folder = folders.pop(0)
        group = folder.relative_to(root).as_posix()
        file = folder / DOCUMENT
        command = f"relact verify {root} --drop, then relact {MAKERS.get(group.split('/')[0], 'run')} {root}"
        raw = file.read_bytes() if file.is_file() else b""
        listed = recorded(raw)
        verdict.files, verdict.bytes = verdict.files + 1, verdict.bytes + len(raw)
        if listed is not None and intact(raw):
            for name, checksum in listed.items():
                yield Expected(checksum, Problem("", f"{group}/{name}", group, command))
        elif raw == EMPTY_GROUP:
            folders += sorted(child for child in folder.iterdir() if child.is_dir())
        elif not raw and not any(folder.iterdir()):
            continue  # made for a stage whose writer was killed before it had one
        elif group.split("/")[0] in MAKERS or b"checksums" in raw or b"this_file" in raw:
            what = "damaged: its checksum does not match" if raw else "missing"
            verdict.problems.append(Problem(what, f"{group}/{DOCUMENT}", group, command))


def _shards(root: Path, capture: str, verdict: Verdict) -> list[Expected]:
    """Every committed shard; unreadable commit records go to ``verdict``."""
    try:
        store = local.open(root)
    except RelactError as error:
        verdict.problems.append(Problem(f"cannot be opened ({error.what})", DOCUMENT, "", capture))
        return []
    verdict.blocks = store.n_blocks
    present = store.log.present()
    verdict.missing = sorted(set(range(store.n_blocks)) - set(present))
    expected = []
    for block in present:
        file = store.log.path(block).relative_to(root).as_posix()
        verdict.files, verdict.bytes = verdict.files + 1, verdict.bytes + store.log.path(block).stat().st_size
        try:
            start, stop, *sums = (int(value) for value in store.log.record(block))
        except StoreError as error:
            verdict.problems.append(Problem(error.what, file, schema.COMMITS, capture, block=block))
            continue
        first, last = store.rows_of(block)
        if start != first or not first < stop <= last:
            what = f"records rows {start} to {stop}, the block has {first} to {last}"
            verdict.problems.append(Problem(what, file, schema.COMMITS, capture, block=block))
        elif stop < last:
            verdict.missing = sorted([*verdict.missing, block])
        for name, checksum in zip(store.log.fields[2:], sums, strict=True):
            site, _, layer = name.rpartition("/")
            shard = blocks.shard_path(root, site, block, int(layer)).relative_to(root).as_posix()
            group = f"{schema.ACTIVATIONS}/{site}"
            expected.append(
                Expected(hexadecimal(checksum), Problem("", shard, group, capture, site, block, int(layer)))
            )
    return expected


def _compare(
    root: Path, expected: list[Expected], verdict: Verdict, workers: int, progress: Progress = silent
) -> None:
    """Read the files and add what differs to ``verdict``, in their order."""

    def one(item: Expected) -> tuple[int, str | None]:
        path = root / item.problem.file
        try:
            size, found = path.stat().st_size, hexadecimal(durable.checksum_of(path))
        except OSError as error:
            return 0, "missing" if isinstance(
                error, FileNotFoundError
            ) else f"cannot be read ({error.strerror})"
        return (
            size,
            None if found == item.checksum else f"damaged: its checksum is {found}, recorded {item.checksum}",
        )

    total = sum(_size(root / item.problem.file) for item in expected)
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for item, (size, what) in zip(expected, pool.map(one, expected), strict=True):
            done += size
            progress("verify", done // MEGABYTE, total // MEGABYTE, "MB")
            if what is not None:
                verdict.problems.append(replace(item.problem, what=what))
    verdict.files, verdict.bytes = verdict.files + len(expected), verdict.bytes + done


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

"""Verify: every committed byte against its recorded checksum, the structure against the schema.

Three kinds of files, three witnesses: shards by their block's commit record, commit records by their own
checksum, all the rest by the seal of the folder they belong to (the root, or a stage). The root's document is
checked first, then the metadata: where these are damaged, nothing that they describe can be judged, so the
blocks wait for their repair.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from relact import durable, schema
from relact.errors import RelactError, StoreError
from relact.progress import Progress, in_notebooks
from relact.schema import DOCUMENT
from relact.store import blocks, listing, local
from relact.store.layout import group_of, site_of
from relact.store.local import LocalStore
from relact.store.seal import CONSOLIDATED, EMPTY_GROUP, hexadecimal, intact, recorded, was_sealed
from relact.store.sealed import CAPTURE, DAMAGED, MAKERS, MOST_BYTES, SKELETON, repairs_of

READERS = 4  # files read at once: a disk likes a queue, the checksum itself is several GB/s on one core
MEGABYTE = 10**6


@dataclass(frozen=True)
class Problem:
    """One damaged or missing file.

    Attributes:
        file: relative to the store.
        group: where it belongs: ``activations/<site>``, ``attributions/<site>``, ``scores``,
            ``masks/<name>``, ...; empty for the root.
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

    @property
    def of_capture(self) -> bool:
        """Whether the file belongs to the capture, not to a result."""
        return self.group.split("/")[0] in ("", *SKELETON)

    def __str__(self) -> str:
        names = (("site", self.site), ("block", self.block), ("layer", self.layer))
        place = ", ".join(f"{name} {value}" for name, value in names if value is not None)
        return f"{self.file}: {self.what}" + (f" ({place})" if place else "")


@dataclass(frozen=True)
class Expected:
    """A file's recorded checksum, and the problem that it is when the file's differs."""

    checksum: str
    problem: Problem
    most: int = MOST_BYTES  # bytes that it may have


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
        return sorted({problem.group for problem in self.problems if not problem.of_capture})

    def damaged_skeleton(self) -> bool:
        """Whether prompts, coordinates or metadata of the capture are damaged."""
        return any(problem.block is None and problem.of_capture for problem in self.problems)

    def repairs(self) -> list[str]:
        """Commands to run, in order, each once."""
        return list(dict.fromkeys(problem.repair for problem in self.problems))


def verify(path: str | Path, *, workers: int = READERS, progress: Progress = in_notebooks) -> Verdict:
    """Check every committed byte of the store at ``path``; damage is reported, not raised.

    Args:
        workers: files read at once.

    Raises:
        StoreError: there is no store.
    """
    root, verdict = Path(path), Verdict()
    local.require_here(root)
    if not (root / DOCUMENT).is_file():
        local.open(root)  # tells whether it is missing or foreign
    capture = CAPTURE.format(store=root)
    _compare(root, _skeleton(root, capture, verdict), verdict, 1)
    expected = list(_stages(root, verdict))
    if not verdict.damaged_skeleton():
        expected += _shards(root, capture, verdict)
    _compare(root, expected, verdict, workers, progress)
    if verdict.ok and (problem := listing.problem_of(root, (root / DOCUMENT).read_bytes())):
        verdict.problems.append(Problem(problem, DOCUMENT, CONSOLIDATED, f"relact verify {root} --drop"))
    return verdict


def drop_damaged(path: str | Path, verdict: Verdict) -> list[str]:
    """Delete the damaged results, so that their commands compute them again; returns their names."""
    root = Path(path)
    gone = [group for group in verdict.damaged_stages() if (root / group).is_dir()]
    for group in gone:
        local.drop(root, group)
    if CONSOLIDATED in verdict.damaged_stages():
        local.recover(local.open(root))
    return gone


def _skeleton(root: Path, capture: str, verdict: Verdict) -> list[Expected]:
    """Files that the root's document lists; when it is damaged that goes to ``verdict``."""
    raw = _read(root / DOCUMENT)
    verdict.files, verdict.bytes = 1, len(raw)
    listed = recorded(raw)
    if listed is None or not intact(raw):
        problem = f"{DAMAGED}; the blocks are not checked until it is repaired"
        verdict.problems.append(Problem(problem, DOCUMENT, "", capture))
        return []
    return [Expected(checksum, Problem("", name, _group(name), capture)) for name, checksum in listed.items()]


def _group(name: str) -> str:
    """The group a skeleton's file belongs to: its site or prompt set, not the array."""
    return "/".join(name.split("/")[:2]) if "/" in name else ""


def _stages(root: Path, verdict: Verdict) -> Iterator[Expected]:
    """Files of every sealed group that is not part of the skeleton; damaged documents go to ``verdict``."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name not in SKELETON)
    while folders:
        folder = folders.pop(0)
        group = folder.relative_to(root).as_posix()
        file = folder / DOCUMENT
        command = ", then ".join(repairs_of(root, group))
        raw = _read(file)
        listed = recorded(raw)
        verdict.files, verdict.bytes = verdict.files + 1, verdict.bytes + len(raw)
        if listed is not None and intact(raw):
            for name, checksum in listed.items():
                yield Expected(checksum, Problem("", f"{group}/{name}", group, command))
        elif raw == EMPTY_GROUP:
            folders += sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")
        elif not raw and not any(folder.iterdir()):
            continue  # made for a stage whose writer was killed before it had one
        elif group.split("/")[0] in MAKERS or was_sealed(raw):
            problem = DAMAGED if raw else "missing"
            verdict.problems.append(Problem(problem, f"{group}/{DOCUMENT}", group, command))


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
    return [shard for block in present for shard in _shards_of(store, block, capture, verdict)]


def _shards_of(store: LocalStore, block: int, capture: str, verdict: Verdict) -> Iterator[Expected]:
    """The shards of one committed block, unless its record is unreadable."""
    path = store.log.path(block)
    file = path.relative_to(store.path).as_posix()
    verdict.files, verdict.bytes = verdict.files + 1, verdict.bytes + path.stat().st_size
    try:
        start, stop, *checksums = (int(value) for value in store.log.record(block))
    except StoreError as error:
        verdict.problems.append(Problem(error.what, file, schema.COMMITS, capture, block=block))
        return
    first, last = store.rows_of(block)
    if start != first or not first < stop <= last:
        problem = f"records rows {start} to {stop}, the block has {first} to {last}"
        verdict.problems.append(Problem(problem, file, schema.COMMITS, capture, block=block))
    elif stop < last:
        verdict.missing = sorted([*verdict.missing, block])
    most = blocks.most_bytes(store.streams)
    for (stream, place), checksum in zip(blocks.places_of(store.streams), checksums, strict=True):
        shard = blocks.shard_path(store.path, stream, block, place).relative_to(store.path).as_posix()
        group, site, layer = group_of(stream), site_of(stream), store.streams[stream].layers[place]
        entry = Problem("", shard, group, capture, site, block, layer)
        yield Expected(hexadecimal(checksum), entry, most[stream])


def _compare(
    root: Path, expected: list[Expected], verdict: Verdict, workers: int, progress: Progress = in_notebooks
) -> None:
    """Read the files and add what differs to ``verdict``, in their order."""
    total = sum(_size(root / entry.problem.file) for entry in expected)
    done = 0
    if not expected:
        return
    with ThreadPoolExecutor(workers) as pool:
        checks = pool.map(partial(_check, root), expected)
        for entry, (size, problem) in zip(expected, checks, strict=True):
            done += size
            megabytes = max(1, total // MEGABYTE)
            progress("verify", megabytes if done == total else done // MEGABYTE, megabytes, "MB")
            if problem is not None:
                verdict.problems.append(replace(entry.problem, what=problem))
    verdict.files, verdict.bytes = verdict.files + len(expected), verdict.bytes + done


def _check(root: Path, entry: Expected) -> tuple[int, str | None]:
    """Bytes that were read of a file, and what is wrong with it."""
    path = root / entry.problem.file
    try:
        size, checksum = path.stat().st_size, hexadecimal(durable.checksum_of(path, entry.most))
    except FileNotFoundError:
        return 0, "missing"
    except OSError as error:
        return 0, f"cannot be read ({error.strerror})"
    if checksum == entry.checksum:
        return size, None
    return size, f"damaged: its checksum is {checksum}, recorded {entry.checksum}"


def _read(document: Path) -> bytes:
    """A zarr.json; nothing where it cannot be read."""
    try:
        return durable.read(document, durable.DOCUMENT_BYTES)
    except OSError:
        return b""


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

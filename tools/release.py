"""Check and build a release: one version everywhere, a dated changelog, the same bytes from two builds.

    python tools/release.py            # what stands in the way of a release of this version
    python tools/release.py --build    # wheel and source distribution into dist/, built twice and compared

Exit code 1 with a line per problem. It publishes nothing: `git tag`, then upload what lies in dist/.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
HEADING = re.compile(r"^## (?P<version>\d+\.\d+\.\d+) \((?P<when>unreleased|\d{4}-\d{2}-\d{2})\)$", re.M)
NEEDED = ("relact/py.typed", "relact/__init__.pyi", "relact/sharing/stores/index.json")  # in every wheel


def versions(root: Path) -> dict[str, str]:
    """The version by each file that states it."""
    pinned = re.search(r'^__version__ = "(.+)"$', (root / "relact" / "__init__.py").read_text(), re.M)
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.M)
    newest = HEADING.search((root / "CHANGELOG.md").read_text())
    return {
        "pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"],
        "relact/__init__.py": pinned[1] if pinned else "none",
        "CITATION.cff": cited[1] if cited else "none",
        "CHANGELOG.md": newest["version"] if newest else "none",
    }


def problems(root: Path, tags: list[str]) -> Iterator[str]:
    """What stands in the way of a release, a line each.

    Args:
        tags: of the repository, such as ``v0.1.0``.
    """
    stated = versions(root)
    version = stated["relact/__init__.py"]
    if len(set(stated.values())) > 1:
        yield f"versions differ: {', '.join(f'{file} {number}' for file, number in stated.items())}"
    headings = list(HEADING.finditer((root / "CHANGELOG.md").read_text()))
    if headings and headings[0]["when"] == "unreleased":
        yield f"CHANGELOG.md: {version} is unreleased; write its date"
    dated = [heading["when"] for heading in headings if heading["when"] != "unreleased"]
    if dated != sorted(dated, reverse=True):
        yield "CHANGELOG.md: the newest version is not first"
    if headings and not _below(headings, root).strip():
        yield f"CHANGELOG.md: nothing is said of {version}"
    if f"v{version}" in tags:
        yield f"v{version} is tagged already; give another version"


def build(root: Path, out: Path, epoch: str) -> list[Path]:
    """Wheel and source distribution, every date in them that of ``epoch`` (seconds since 1970)."""
    settings = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(root)]
    subprocess.run(command, check=True, env=settings, stdout=subprocess.DEVNULL)
    for path in out.glob("*.tar.gz"):
        retarred(path, int(epoch))
    return sorted(out.iterdir())


def retarred(path: Path, epoch: int) -> None:
    """Write a source distribution again without the times and owners of this machine's files."""
    with tarfile.open(path) as before:
        members = [(member, before.extractfile(member)) for member in before.getmembers()]
        contents = [(member, file.read() if file else b"") for member, file in members]
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=epoch, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member, content in sorted(contents, key=lambda pair: pair[0].name):
            after.addfile(_plain(member, epoch), BytesIO(content))


def differences(first: list[Path], second: list[Path]) -> Iterator[str]:
    """What is not the same, byte for byte, in two builds; and what a wheel lacks."""
    if [path.name for path in first] != [path.name for path in second]:
        yield "two builds have other files"
    for one, other in zip(first, second, strict=False):
        if one.read_bytes() != other.read_bytes():
            yield f"{one.name}: two builds differ"
        if one.suffix == ".whl":
            names = zipfile.ZipFile(one).namelist()
            yield from (f"{one.name}: lacks {name}" for name in NEEDED if name not in names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", action="store_true", help="into dist/, twice, and compare")
    chosen = parser.parse_args()
    found = built() if chosen.build else list(problems(ROOT, _git("tag", "--list").split()))
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def built() -> list[str]:
    """Build into an emptied dist/, say the sums, and return what is wrong."""
    epoch, target = _git("log", "-1", "--format=%ct").strip(), ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    with TemporaryDirectory() as aside:
        first, second = build(ROOT, target, epoch), build(ROOT, Path(aside), epoch)
        found = list(differences(first, second))
    for path in first:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}")
    return found


def _below(headings: list[re.Match[str]], root: Path) -> str:
    text = (root / "CHANGELOG.md").read_text()
    return text[headings[0].end() : headings[1].start() if len(headings) > 1 else None]


def _plain(member: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
    member.mode = 0o755 if member.isdir() else 0o644
    member.pax_headers = {}
    return member


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    raise SystemExit(main())

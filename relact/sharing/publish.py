"""Push a store to an object store or the hub, pull it from anywhere.

An archive is one object, so it is there whole or not at all. A folder's root comes last: a reader who comes
too early finds no store, not half of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from relact.errors import InputError, StoreError
from relact.packed import urls
from relact.packed.metadata import ARRAY_BYTES
from relact.packed.refusal import AGAIN
from relact.packed.store import is_packed, open_store
from relact.packed.urls import BUCKETS, HUB, Place, RangesError
from relact.progress import Progress, in_notebooks
from relact.schema import DOCUMENT
from relact.sharing.card import spdx
from relact.sharing.pack import CARD, STAGES, pack, sha256_of
from relact.sharing.unpack import unpack
from relact.store import local
from relact.store.seal import files_below

PART = 16 << 20  # bytes of one request of a download
MEGABYTE = 10**6


def push(
    store: str | Path,
    url: str,
    *,
    stages: Sequence[str] = STAGES,
    activations: bool = False,
    licence: str | None = None,
    replace: bool = False,
    timeout: float = urls.TIMEOUT,
    progress: Progress = in_notebooks,
) -> str:
    """Pack a store (unless it is packed) and publish it; returns ``url``.

    Args:
        url: ``s3://bucket/path`` and other object stores, or ``hf://datasets/OWNER/NAME/path``; an
            archive when it ends in ``.zip``, a folder otherwise.
        stages, activations, licence: as of `pack`.
        replace: what was published there before.

    Raises:
        InputError: nothing can be published there. StoreError: something is there already, refused, or the
            connection broke.
    """
    scheme = url.partition("://")[0]
    if scheme not in (*BUCKETS, HUB):
        raise InputError(
            f"cannot publish to {url}", fix=f"use {', '.join(f'{name}://' for name in (*BUCKETS, HUB))}"
        )
    url, licence = url.rstrip("/"), licence and spdx(licence)
    if not replace and _is_there(url, timeout):
        raise StoreError("something is published there already", where=url, fix="replace it with --replace")
    with TemporaryDirectory(prefix="relact-") as scratch:
        packed = Path(store)
        if not is_packed(store):
            packed = Path(scratch) / (url.rpartition("/")[2] or "store.zarr")
            pack(store, packed, stages=stages, activations=activations, licence=licence, progress=progress)
        if packed.is_file() != urls.is_archive(url):
            form = "an archive" if packed.is_file() else "a folder"
            raise InputError(f"{packed} is {form}", where=url, fix="end both names in .zip, or neither")
        if scheme == HUB:
            _to_hub(packed, url)
        else:
            _to_bucket(packed, urls.place(url, timeout=timeout), progress)
    return url


def _is_there(url: str, timeout: float) -> bool:
    """Whether a store is published at a URL; what would be in the way of publishing is raised."""
    document = "" if urls.is_archive(url) else DOCUMENT
    try:
        return urls.place(url, timeout=timeout).has(document)
    except StoreError:
        if url.startswith(HUB):  # no such data set yet, or one that only its owner sees
            return False
        raise


def pull(
    url: str,
    out: str | Path,
    *,
    sha256: str | None = None,
    timeout: float = urls.TIMEOUT,
    progress: Progress = in_notebooks,
) -> Path:
    """Fetch a published store and check all of it; an ``out`` that ends in ``.zip`` is the archive itself.

    Args:
        sha256: of the archive, as its author published it.

    Raises:
        StoreError: missing, forbidden, cut off, damaged, or not as relact writes it.
    """
    target = Path(out)
    local.require_absent(target)
    if not urls.is_archive(url):
        if sha256 or urls.is_archive(target):
            raise InputError(
                "a folder has no SHA-256 and is no archive", where=url, fix="pull it into a folder"
            )
        shared = open_store(url, timeout=timeout)
        return unpack(shared, target, progress=progress).path
    with TemporaryDirectory(prefix=".relact-", dir=_parent(target)) as scratch:
        archive = Path(scratch) / "store.zarr.zip"
        fetched = _fetch(urls.place(url, timeout=timeout), archive, progress)
        if sha256 and fetched != sha256.lower():
            raise StoreError(f"SHA-256 is {fetched}, expected {sha256}", where=url, fix=AGAIN)
        if not urls.is_archive(target):
            return unpack(archive, target, progress=progress).path
        unpack(archive, Path(scratch) / "checked", progress=progress)
        archive.rename(target)
    return target


def _fetch(place: Place, path: Path, progress: Progress) -> str:
    """Copy one object to a file, part by part; returns its SHA-256."""
    digest = hashlib.sha256()
    try:
        _, size = place.tail("", 1)
    except RangesError:
        path.write_bytes(place.get("", ARRAY_BYTES))
        return sha256_of(path)
    with path.open("wb") as file:
        for start in range(0, size, PART):
            raw = place.part("", start, min(size, start + PART))
            digest.update(raw)
            file.write(raw)
            progress("fetch", file.tell() // MEGABYTE, max(1, size // MEGABYTE), "MB")
    return digest.hexdigest()


def _to_bucket(packed: Path, place: Place, progress: Progress) -> None:
    if packed.is_file():
        place.put("", packed)
        return
    names = sorted(files_below(packed), key=lambda name: name == DOCUMENT)  # the root last
    for number, name in enumerate(names, 1):
        place.put(name, packed / name)
        progress("push", number, len(names), "files")


def _to_hub(packed: Path, url: str) -> None:
    """One commit; the card becomes the data set's page when it has none."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repository, revision, path = urls.hub_parts(url)
    if not path:
        raise InputError("no path in the data set", where=url, fix="add one, such as /study.zarr.zip")
    names = [packed.name] if packed.is_file() else sorted(files_below(packed))
    root = packed.parent if packed.is_file() else packed
    adds = [CommitOperationAdd(path if packed.is_file() else f"{path}/{name}", root / name) for name in names]
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", exist_ok=True)
        if not api.file_exists(repository, CARD, repo_type="dataset", revision=revision):
            adds.append(CommitOperationAdd(CARD, _card(packed)))
        api.create_commit(
            repository, adds, commit_message=f"Add {path}", repo_type="dataset", revision=revision
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"the hub refused ({' '.join(str(error).split())[:200]})"
        raise StoreError(problem, where=url, fix="log in with `hf auth login`") from error


def _card(packed: Path) -> bytes:
    if packed.is_dir():
        return (packed / CARD).read_bytes()
    with ZipFile(packed) as archive:
        return archive.read(CARD)


def _parent(path: Path) -> Path:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"{parent} is not a folder", where=path, fix="choose another path")
    return parent

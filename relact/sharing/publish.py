"""Push a store to an object store or the hub, pull it from anywhere.

An archive is one object, so it is there whole or not at all. A folder's root comes last: a reader who comes
too early finds no store, not half of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from relact.errors import InputError, StoreError
from relact.packed import trust, urls
from relact.packed.package import ZIP
from relact.packed.store import is_packed, open_store
from relact.packed.urls import BUCKETS, HUB, Place, RangesError
from relact.progress import Progress, silent
from relact.schema import DOCUMENT
from relact.sharing.pack import CARD, STAGES, pack, sha256_of
from relact.sharing.unpack import unpack
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
    timeout: float = urls.TIMEOUT,
    progress: Progress = silent,
) -> str:
    """Pack a store (unless it is packed) and publish it; returns ``url``.

    Args:
        url: ``s3://bucket/path`` and other object stores, or ``hf://datasets/OWNER/DOCUMENT/path``; an
            archive when it ends in ``.zip``, a folder otherwise.
        stages, activations, licence: as of `pack`.

    Raises:
        InputError: nothing can be published there. StoreError: refused, or the connection broke.
    """
    scheme = url.partition("://")[0]
    if scheme not in (*BUCKETS, HUB):
        raise InputError(
            f"cannot publish to {url}", fix=f"use {', '.join(f'{name}://' for name in (*BUCKETS, HUB))}"
        )
    url = url.rstrip("/")
    with TemporaryDirectory(prefix="relact-") as scratch:
        local = Path(store)
        if not is_packed(store):
            name = url.rpartition("/")[2] or "store.zarr"
            local = Path(scratch) / name
            pack(store, local, stages=stages, activations=activations, licence=licence, progress=progress)
        if local.is_file() != url.endswith(ZIP):
            form = "an archive" if local.is_file() else "a folder"
            raise InputError(f"{local} is {form}", where=url, fix="end both names in .zip, or neither")
        if scheme == HUB:
            _to_hub(local, url)
        else:
            _to_bucket(local, urls.place(url, timeout=timeout), progress)
    return url


def pull(
    url: str,
    out: str | Path,
    *,
    sha256: str | None = None,
    timeout: float = urls.TIMEOUT,
    progress: Progress = silent,
) -> Path:
    """Fetch a published store and check all of it: to ``out`` as a store,
    or as the archive when ``out`` ends in ``.zip``.

    Args:
        sha256: of the archive, as its author published it.

    Raises:
        StoreError: missing, forbidden, cut off, damaged, or not as relact writes it.
    """
    target = Path(out)
    if target.exists():
        raise StoreError("exists already", where=target, fix="choose another path or remove it")
    if not url.endswith(ZIP):
        if sha256 or target.suffix == ZIP:
            raise InputError(
                "a folder has no SHA-256 and is no archive", where=url, fix="pull it into a folder"
            )
        shared = open_store(url, timeout=timeout)
        return unpack(shared, target, progress=progress).path
    with TemporaryDirectory(prefix=".relact-", dir=_parent(target)) as scratch:
        archive = Path(scratch) / "store.zarr.zip"
        found = _fetch(urls.place(url, timeout=timeout), archive, progress)
        if sha256 and found != sha256.lower():
            raise StoreError(f"SHA-256 is {found}, expected {sha256}", where=url, fix=trust.AGAIN)
        if target.suffix != ZIP:
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
        path.write_bytes(place.get("", trust.ARRAY))
        return sha256_of(path)
    with path.open("wb") as file:
        for start in range(0, size, PART):
            raw = place.part("", start, min(size, start + PART))
            digest.update(raw)
            file.write(raw)
            progress("fetch", file.tell() // MEGABYTE, max(1, size // MEGABYTE), "MB")
    return digest.hexdigest()


def _to_bucket(local: Path, place: Place, progress: Progress) -> None:
    if local.is_file():
        place.put("", local)
        return
    names = sorted(files_below(local), key=lambda name: name == DOCUMENT)  # the root last
    for number, name in enumerate(names, 1):
        place.put(name, local / name)
        progress("push", number, len(names), "files")


def _to_hub(local: Path, url: str) -> None:
    """One commit; the card becomes the data set's page when it has none."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    repository, revision, path = urls.hub_parts(url)
    if not path:
        raise InputError("no path in the data set", where=url, fix="add one, such as /study.zarr.zip")
    names = [local.name] if local.is_file() else sorted(files_below(local))
    root = local.parent if local.is_file() else local
    adds = [CommitOperationAdd(path if local.is_file() else f"{path}/{name}", root / name) for name in names]
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="dataset", exist_ok=True)
        if not api.file_exists(repository, CARD, repo_type="dataset", revision=revision):
            adds.append(CommitOperationAdd(CARD, _card(local)))
        api.create_commit(
            repository, adds, commit_message=f"Add {path}", repo_type="dataset", revision=revision
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        raise StoreError(f"the hub refused ({what})", where=url, fix="log in with `hf auth login`") from error


def _card(local: Path) -> bytes:
    if local.is_dir():
        return (local / CARD).read_bytes()
    from zipfile import ZipFile

    with ZipFile(local) as archive:
        return archive.read(CARD)


def _parent(path: Path) -> Path:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"{parent} is not a folder", where=path, fix="choose another path")
    return parent

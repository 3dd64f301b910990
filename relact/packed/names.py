"""What files of a package may be called: by the rules of `relact.schema.allowed`, each in one place."""

from __future__ import annotations

from collections.abc import Iterable

from relact import schema
from relact.errors import StoreError
from relact.packed.refusal import DISTRUST


def check_key(key: str, where: object) -> None:
    """A relative path with forward slashes whose parts are plain names."""
    if problem := schema.trouble_of_path(key):
        raise StoreError(f"a file is named {key[:80]!r}: {problem}", where=where, fix=DISTRUST)


def check_names(keys: Iterable[str], where: object) -> None:
    """No two names that some file system takes for one, no file that is a folder as well."""
    if problem := schema.trouble_of_paths(keys):
        raise StoreError(problem, where=where, fix=DISTRUST)

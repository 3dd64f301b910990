"""From a model's name to a local folder of safetensors that cannot change under us.

>>> locate("smollm2").revision
'sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'

A name is a packaged model's (`packaged`), a GGUF file, a local folder or a Hugging Face id. GGUF files are
decoded once into relact's cache (`gguf`); hub models stay in the hub's own cache.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub

from relact.errors import ModelError
from relact.models.gguf import decoded, sha256
from relact.models.packaged import PACKAGED, Packaged, files
from relact.models.quiet import one_line, quiet

_CONFIG = ("config.json",)
ADAPTER = "adapter_config.json"
_EVERYTHING = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_NEVER = ("*/*", "consolidated*")  # subfolders and second copies of the weights


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json (and weights and tokenizer unless only the configuration was asked for)."""

    id: str
    folder: Path
    revision: str | None  # hub: the resolved commit; GGUF: "sha256:..."; a local folder has none
    header: Path | None = None  # a GGUF file that was not decoded: only its configuration was asked for
    base: Path | None = None  # of an adapter without a model: the folder of the model that it was trained on

    @property
    def described_in(self) -> Path:
        """The folder with config.json."""
        return self.base or self.folder

    @property
    def adapter(self) -> Path | None:
        """The description of an adapter that lies in the folder."""
        return self.folder / ADAPTER if (self.folder / ADAPTER).is_file() else None


def locate(name: str, *, revision: str | None = None, code: bool = False, weights: bool = True) -> Checkpoint:
    """Find, fetch or decode what ``name`` stands for.

    Args:
        revision: a branch, tag or commit of a hub model; of a GGUF file the "sha256:..." it must have.
        code: also fetch the repository's Python files, for ``trust_remote_code``.
        weights: False is content with the configuration of a hub model.

    Raises:
        ModelError: nothing of that name, no network and nothing cached, no safetensors, a package that is
            missing or damaged.
    """
    path = Path(name).expanduser()
    if name in PACKAGED:
        return _installed(PACKAGED[name], revision)
    if path.suffix == ".gguf" and path.is_file():
        file = path.resolve()
        if not weights and revision is None:
            return Checkpoint(str(file), file.parent, None, file)
        digest = sha256(file)
        _require_revision(name, revision, f"sha256:{digest}")
        return Checkpoint(str(file), decoded([file], digest), f"sha256:{digest}")
    if path.is_dir():
        _require_revision(name, revision, None)
        return _local(path.resolve(), weights)
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith((".", "~")):
        raise ModelError("no such file or folder", where=name, fix="check the path")
    return _from_hub(name, revision, code, weights)


def _require_revision(name: str, asked: str | None, actual: str | None) -> None:
    """A store names the revision it was made with: a file has the one of its content, a folder none."""
    if asked is not None and asked != actual:
        raise ModelError(
            f"this local model is revision {actual}, not {asked}",
            where=name,
            fix="use the same file, or leave the revision out",
        )


def _installed(model: Packaged, revision: str | None) -> Checkpoint:
    actual = f"sha256:{model.sha256}"
    _require_revision(model.name, revision, actual)
    again = f"install it again: `{model.install} --force-reinstall`"
    return Checkpoint(model.name, decoded(files(model), model.sha256, fix=again), actual)


def _local(folder: Path, weights: bool) -> Checkpoint:
    if (folder / ADAPTER).is_file():
        _require_peft(folder)
        if not (folder / "config.json").is_file():
            return Checkpoint(str(folder), folder, None, base=_base_of(folder, weights))
    if not (folder / "config.json").is_file():
        raise ModelError(
            "no config.json in this folder", where=folder, fix="give the folder of a saved model"
        )
    _require_safetensors(folder, str(folder), weights)
    return Checkpoint(str(folder), folder, None)


def _require_peft(folder: Path) -> None:
    """`ModelError` where an adapter would be left out without a word."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            "holds an adapter, which peft loads",
            where=folder,
            fix="pip install 'relact[peft]', or merge the adapter into its model and save that",
        )


def _base_of(folder: Path, weights: bool) -> Path:
    """The folder of the model that an adapter was trained on."""
    try:
        name = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"its {ADAPTER} names no model", where=folder, fix="save the adapter again with peft"
        ) from error
    return locate(str(name), weights=weights).described_in


def _from_hub(name: str, revision: str | None, code: bool, weights: bool) -> Checkpoint:
    """The snapshot folder of a hub model; without a network the cached snapshot, if there is one."""
    patterns = [*(_EVERYTHING if weights else _CONFIG), *(["*.py"] if code else [])]
    bars = nullcontext() if sys.stderr.isatty() else quiet()  # a download may take long: show it
    with _explained(name, revision), bars:
        place = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=list(_NEVER)
        )
    folder = Path(place)
    if not (folder / "config.json").is_file():
        raise ModelError(
            "the hub repository holds no config.json", where=name, fix="choose a transformers model"
        )
    _require_safetensors(folder, name, weights)
    return Checkpoint(name, folder, folder.name)  # a snapshot's folder is named by its commit


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Whatever the hub refuses inside the block is told in one line that names the model."""
    try:
        yield
    except hub.GatedRepoError as error:
        raise ModelError(
            "this model is gated", where=name, fix="accept its licence on the hub and log in"
        ) from error
    except (hub.RepositoryNotFoundError, hub.HFValidationError) as error:
        raise ModelError(
            "no model of this name, neither a local folder nor on the hub",
            where=name,
            fix=f"give a hub id, a folder, a .gguf file or one of {', '.join(PACKAGED)}",
        ) from error
    except hub.RevisionNotFoundError as error:
        raise ModelError(f"no revision {revision}", where=name, fix="give a branch, tag or commit") from error
    except hub.LocalEntryNotFoundError as error:
        raise ModelError(
            "not a local folder, not in the hub's cache, and the hub cannot be reached",
            where=name,
            fix=f"connect, or use a local folder, a .gguf file or one of {', '.join(PACKAGED)}",
        ) from error
    except (OSError, hub.HfHubHTTPError) as error:
        raise ModelError(
            f"cannot fetch it from the hub: {one_line(error)}", where=name, fix="try again"
        ) from error


def _require_safetensors(folder: Path, name: str, weights: bool) -> None:
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            "no safetensors weights (pickled weights are not loaded)",
            where=name,
            fix="convert them with save_pretrained, or fetch the model again when online",
        )

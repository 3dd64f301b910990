"""GGUF files decoded to folders of float32 safetensors, once per content.

The folder is named ``<first half of the SHA-256>-f32-1``. transformers reads the format through the ``gguf``
package; what it makes of a file is kept in relact's cache. A file may come in pieces.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import modeling_gguf_pytorch_utils as pytorch_utils

from relact.caches import cache_folder
from relact.durable import sync, sync_tree
from relact.errors import ModelError, RelactError
from relact.models import gguf_header
from relact.models.quiet import one_line, quiet
from relact.progress import LOG
from relact.sites import family

DECODED = "f32-2"  # how files are decoded; another way needs another word, so that old folders are not reused


def sha256(*pieces: Path) -> str:
    """Hexadecimal SHA-256 of the bytes of a file in pieces; remembered while their sizes and modification
    times stay the same.
    """
    states = [(piece, piece.stat()) for piece in pieces]
    return _sha256(tuple((piece, state.st_size, state.st_mtime_ns) for piece, state in states))


@lru_cache(maxsize=16)
def _sha256(states: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for piece, _, _ in states:
        with piece.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def decoded(pieces: Sequence[Path], digest: str, *, fix: str = "use the same file as before") -> Path:
    """The decoded folder of a GGUF file whose SHA-256 is ``digest``, made on first use.

    The folder is built aside, flushed and renamed in whole, so that one that exists is complete; a lock makes
    a second process wait for the first instead of decoding too.

    Args:
        pieces: the file, or what it was cut into, in order.
        fix: what to do about a file of another content.

    Raises:
        ModelError: another content, not a GGUF file that transformers knows, no place in the cache.
    """
    folder = cache_folder() / "models" / f"{digest[:32]}-{DECODED}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if not folder.is_dir():
                LOG.info("decoding GGUF into the cache, once for this file")
                _require_content(pieces, digest, fix)
                _build(pieces, folder)
    except OSError as error:
        raise ModelError(
            f"cannot decode the model: {one_line(error)}",
            where=folder.parent,
            fix="set RELACT_CACHE to a folder with space that you may write",
        ) from error
    return folder


def _require_content(pieces: Sequence[Path], digest: str, fix: str) -> None:
    if (actual := sha256(*pieces)) != digest:
        where = pieces[0] if len(pieces) == 1 else f"{pieces[0]} to {pieces[-1].name}"
        raise ModelError(f"SHA-256 is {actual}, expected {digest}", where=where, fix=fix)


def _build(pieces: Sequence[Path], folder: Path) -> None:
    """Decode aside, then put the whole folder in its place; the caller holds the lock."""
    prefix = f".{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):  # the lock is ours: whoever built these was interrupted
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        if len(pieces) == 1:
            _decode(pieces[0], aside)
        else:
            joined = _joined(pieces, aside / "joined.gguf")
            _decode(joined, aside)
            joined.unlink()  # the installed pieces make it again
        sync_tree(aside)
        aside.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _joined(pieces: Sequence[Path], file: Path) -> Path:
    """The pieces one after the other, in ``file``."""
    with file.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as opened:
                shutil.copyfileobj(opened, whole)
    return file


def configuration(file: Path) -> Any:
    """The configuration of a GGUF file, from its header alone, behind which it may end; `ModelError` where it
    would be another's.
    """
    with gguf_header.of_full_size(file) as full:
        header = gguf_header.read(full, file)
        try:
            with quiet():
                config = transformers.AutoConfig.from_pretrained(str(full.parent), gguf_file=full.name)
        except Exception as error:  # an architecture that transformers does not decode
            raise ModelError(
                f"cannot decode this GGUF file: {one_line(error)}", where=file, fix=gguf_header.INSTEAD
            ) from error
    family(config)
    return gguf_header.completed(header, config)


def _require_whole(header: gguf_header.Header, model: Any, report: Mapping[str, Any]) -> None:
    """`ModelError` unless every weight of the model is of the file, and every tensor of the file in it."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    lacking = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])} - tied)
    if lacking:  # transformers would go on with random numbers in their place
        raise ModelError(
            f"lacks {len(lacking)} of the model's weights, first {lacking[0]}",
            where=header.file,
            fix="fetch the file again, whole",
        )
    kind = pytorch_utils.TENSOR_PROCESSORS.get(header.architecture, pytorch_utils.TensorProcessor)
    names = pytorch_utils.get_gguf_hf_weights_map(model, kind(config=model.config.to_dict()))
    gguf_header.require_all_used(header, names)


def _decode(file: Path, folder: Path) -> None:
    """Write config, float32 weights and tokenizer of a GGUF file as plain safetensors."""
    place, name = str(file.parent), file.name
    header = gguf_header.read(file)
    try:
        with quiet(), redirect_stderr(StringIO()):  # the decoder draws a bar of its own
            config = configuration(file)
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                place,
                config=config,
                gguf_file=name,
                dtype=torch.float32,
                quantization_config=transformers.GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            _require_whole(header, model, report)
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config  # the saved weights are plain
            model.save_pretrained(folder)
            transformers.AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(folder)
    except (OSError, RelactError):
        raise
    except Exception as error:  # whatever transformers and gguf raise for a file they cannot read
        raise ModelError(
            f"cannot decode this GGUF file: {one_line(error)}",
            where=file,
            fix="use the model's safetensors instead",
        ) from error

"""What a store that came from elsewhere may be: names, metadata
and chunks that relact itself could have written.

Nothing here believes a number before it is checked against a bound or against the bytes: shapes before arrays
are made, declared sizes before anything is decompressed. A list of what is allowed, never of what is
forbidden.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import google_crc32c
from numcodecs import blosc, zstd

from relact import schema
from relact.errors import StoreError
from relact.store.layout import CHECKSUM, INDEX_ENTRY
from relact.store.shards import read_index

AGAIN = "fetch it again, or ask its author for its checksum"
DISTRUST = "do not use it; relact writes no such store"
NAME_BYTES = 255  # of one part of a path, as file systems have it
PATH_BYTES = 1000
DOCUMENT = 64 << 20  # bytes of one zarr.json
CHUNK = 1 << 28  # bytes of one decoded chunk
LENGTH = 1 << 40  # of one dimension
ARRAY = 1 << 35  # bytes of one array of a result, when all of it is read
DIMENSIONS = 6
CHUNKS = 1 << 24  # of one array
ITEMS = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
TEXT = "string"
NODE = {"zarr_format", "node_type", "attributes"}
ARRAY_KEYS = NODE | {
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
    "dimension_names",
    "storage_transformers",
}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
INDEX_CODECS = [LITTLE, {"name": "crc32c"}]
ABSENT = 2**64 - 1  # offset and length of a chunk that a shard does not hold
NAMED = ("relation", "condition")  # coordinates that hold names
NUMBERED = ("prompt", "layer", "neuron")  # coordinates that hold whole numbers
BLOSC_HEAD = 16
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def check_key(key: str, where: object) -> None:
    """A relative path with forward slashes whose parts are plain names."""
    parts = key.split("/")
    bad = (
        not key.isprintable()
        or any(char in key for char in '\\:*?"<>|')
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
        or unicodedata.normalize("NFC", key) != key
        or len(_utf8(key)) > PATH_BYTES
        or any(len(_utf8(part)) > NAME_BYTES for part in parts)
    )
    if bad:
        raise StoreError(f"a file is named {key[:80]!r}", where=where, fix=DISTRUST)


def check_names(keys: Iterable[str], where: object) -> None:
    """No two names that some file system takes for one, no file that is a folder as well."""
    folded: dict[str, str] = {}
    for key in keys:
        other = folded.setdefault(key.casefold(), key)
        if other != key:
            raise StoreError(f"{key!r} and {other!r} differ only in case", where=where, fix=DISTRUST)
    for key in folded:
        at = key.rfind("/")
        while at > 0:
            if key[:at] in folded:
                raise StoreError(f"{key[:at]!r} is a file and a folder", where=where, fix=DISTRUST)
            at = key.rfind("/", 0, at)


def document(raw: bytes, where: object) -> dict[str, Any]:
    """A zarr.json, read strictly: an object, no NaN, no key twice, not absurdly large or deep."""
    if len(raw) > DOCUMENT:
        raise StoreError(f"has {len(raw)} bytes", where=where, fix=DISTRUST)
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_refused, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        problem = "too deep" if isinstance(error, RecursionError) else str(error)[:120]
        raise StoreError(f"cannot be read, or is cut off ({problem})", where=where, fix=AGAIN) from error
    if not isinstance(found, dict):
        raise StoreError("is not an object", where=where, fix=DISTRUST)
    return found


@dataclass(frozen=True)
class ArrayFacts:
    """An array's metadata, checked.

    Attributes:
        dtype: a name in ``ITEMS``, or ``string``.
        shard: shape of a stored object, or None where that is a chunk.
        compressors: of a chunk, in the order in which they were applied: ``zstd``, ``blosc``, ``crc32c``.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    shard: tuple[int, ...] | None
    compressors: tuple[str, ...]
    separator: str
    dimensions: tuple[str, ...]
    named: bool  # its texts are names, which are shown

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of what one object holds."""
        return self.shard or self.chunk

    @property
    def limit(self) -> int:
        """Bytes that one object may have."""
        return math.prod(self.stored) * ITEMS.get(self.dtype, 64) + (1 << 20)

    def grid(self) -> tuple[int, ...]:
        """Objects along every dimension."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.stored, strict=True))

    def has(self, chunk_key: str) -> bool:
        """Whether ``chunk_key`` (below the array) is one of its objects."""
        if not self.shape:
            return chunk_key == "c"
        pattern = re.escape(self.separator).join([r"(0|[1-9]\d{0,12})"] * len(self.shape))
        match = re.fullmatch("c" + re.escape(self.separator) + pattern, chunk_key)
        return match is not None and all(
            int(at) < n for at, n in zip(match.groups(), self.grid(), strict=True)
        )


def check_group(node: Mapping[str, Any], where: object) -> None:
    """A group's zarr.json: nothing but attributes."""
    _require(set(node) <= NODE and node.get("zarr_format") == 3, "unknown group metadata", where)
    _require(isinstance(node.get("attributes", {}), dict), "attributes that are not an object", where)


def check_array(name: str, node: Mapping[str, Any], where: object) -> ArrayFacts:
    """The array ``name``'s zarr.json: known types and codecs, shapes that fit in memory chunk by chunk."""
    _require(set(node) <= ARRAY_KEYS and node.get("zarr_format") == 3, "unknown array metadata", where)
    _require(isinstance(node.get("attributes", {}), dict), "attributes that are not an object", where)
    _require(not node.get("storage_transformers"), "a storage transformer", where)
    dtype = node.get("data_type")
    _require(isinstance(dtype, str) and (dtype in ITEMS or dtype == TEXT), f"data type {dtype!r}", where)
    shape = _sizes(node.get("shape"), 0, "shape", where)
    grid = _named(node.get("chunk_grid"), "regular", {"chunk_shape"}, "chunk grid", where)
    outer = _sizes(grid["chunk_shape"], 1, "chunk shape", where)
    keys = _named(node.get("chunk_key_encoding"), "default", {"separator"}, "chunk keys", where)
    _require(keys["separator"] in (".", "/"), "chunk keys", where)
    names: Any = node.get("dimension_names")
    _require(
        isinstance(names, list) and all(isinstance(name, str) and _plain(name) for name in names),
        "dimension names",
        where,
    )
    _require(
        len(shape) == len(outer) == len(names), "shape, chunks and dimension names of different length", where
    )
    _check_fill(node.get("fill_value"), str(dtype), where)
    inner, compressors = _check_codecs(node.get("codecs"), str(dtype), outer, where)
    facts = ArrayFacts(
        shape,
        inner or outer,
        str(dtype),
        outer if inner else None,
        compressors,
        keys["separator"],
        tuple(names),
        name in NAMED,
    )
    size = math.prod(facts.chunk) * ITEMS.get(facts.dtype, 1)
    _require(size <= CHUNK, f"chunks of {size} bytes", where)
    _require(math.prod(facts.stored) * ITEMS.get(facts.dtype, 1) <= 4 * CHUNK, "shards too large", where)
    _require(math.prod(facts.grid()) <= CHUNKS, f"{math.prod(facts.grid())} chunks", where)
    return facts


def check_result(facts: ArrayFacts, where: object) -> None:
    """An array that is read whole (all but activations and their commits) must fit in memory."""
    size = math.prod(facts.shape) * ITEMS.get(facts.dtype, 16)
    _require(size <= ARRAY, f"shape {list(facts.shape)}", where)


def check_dimensions(group: str, arrays: Mapping[str, ArrayFacts], where: object) -> None:
    """Within a group, a dimension has one length; coordinates hold names or whole numbers,
    as their name says.
    """
    lengths: dict[str, int] = {}
    for name, facts in arrays.items():
        for dimension, size in zip(facts.dimensions, facts.shape, strict=True):
            if lengths.setdefault(dimension, size) != size:
                what = f"dimension {dimension} of {name} is {size}, elsewhere {lengths[dimension]}"
                raise StoreError(what, where=f"{where}: {group}", fix=DISTRUST)
        place = f"{where}: {group}/{name}"
        if name in NAMED:
            _require(
                facts.dtype == TEXT and facts.dimensions in ((name,), ("prompt",)),
                f"labels of type {facts.dtype}",
                place,
            )
        if name in NUMBERED:
            whole = facts.dtype.startswith(("int", "uint")) and facts.dimensions == (name,)
            _require(whole, f"a coordinate of type {facts.dtype}", place)


def check_manifest(raw: Any, where: object) -> schema.Manifest:
    """Root attributes whose every value has the type and range that `schema.Manifest` promises."""
    manifest = schema.Manifest.from_attributes(raw, where)
    model, capture = manifest.model, manifest.capture
    texts = (model.id, model.fingerprint, model.dtype, model.family, manifest.tokenizer, manifest.created)
    _require(all(isinstance(text, str) and _plain(text) for text in texts), "root attributes", where)
    _require(
        model.revision is None or (isinstance(model.revision, str) and _plain(model.revision)),
        "revision",
        where,
    )
    _require(
        bool(capture.sites) and all(isinstance(site, str) and _plain(site) for site in capture.sites),
        "sites",
        where,
    )
    _require(len(set(capture.sites)) == len(capture.sites), "a site twice", where)
    for site in capture.sites:
        check_key(site, where)
    _require(capture.dtype in schema.DTYPES and capture.pool in schema.POOLS, "dtype or pool", where)
    _require(_whole(capture.block, 1, 1 << 24) and _whole(capture.batch, 1, LENGTH), "block or batch", where)
    _require(isinstance(capture.special_tokens, bool), "special tokens", where)
    prompts = manifest.prompts
    splits = (schema.IDENTIFY, schema.TEST)
    _require(isinstance(prompts, dict) and set(prompts) == set(splits), "prompt sets", where)
    for split in splits:
        own = prompts[split]
        _require(isinstance(own, dict) and _whole(own.get("n"), 0, LENGTH), f"prompts/{split}", where)
        _require(
            isinstance(own.get("digest"), str) and _plain(own["digest"]), f"digest of prompts/{split}", where
        )
        cuts = own.get(schema.APPENDED, [])
        _require(
            isinstance(cuts, list) and all(_whole(cut, 0, own["n"]) for cut in cuts),
            f"prompts/{split}",
            where,
        )
    _require(
        isinstance(manifest.versions, dict) and all(isinstance(v, str) for v in manifest.versions.values()),
        "versions",
        where,
    )
    _require(prompts[schema.IDENTIFY]["n"] > 0, "no prompts", where)
    return manifest


def check_object(raw: bytes, facts: ArrayFacts, where: object) -> None:
    """The bytes of one stored object decode to exactly one chunk, or to the chunks of one shard."""
    if facts.shard is None:
        check_chunk(raw, facts, where)
        return
    counts = [outer // inner for outer, inner in zip(facts.shard, facts.chunk, strict=True)]
    for start, length in check_shard_index(raw, len(raw), math.prod(counts), where):
        check_chunk(raw[start : start + length], facts, where)


def check_shard_index(tail: bytes, size: int, n_chunks: int, where: object) -> list[tuple[int, int]]:
    """(offset, length) of the chunks that a shard holds, from bytes that end with its index.

    Args:
        size: of the whole shard.
    """
    try:
        entries = read_index(tail, n_chunks)
    except ValueError as error:
        raise StoreError(str(error), where=where, fix=AGAIN) from error
    held = sorted((start, size_) for start, size_ in entries if (start, size_) != (ABSENT, ABSENT))
    ends = [(start, start + size_) for start, size_ in held] + [
        (size - n_chunks * INDEX_ENTRY - CHECKSUM, size)
    ]
    if any(stop > following for (_, stop), (following, _) in pairwise(ends)):
        raise StoreError("chunks of a shard overlap or lie outside it", where=where, fix=DISTRUST)
    return [(start, size_) for start, size_ in entries if (start, size_) != (ABSENT, ABSENT)]


def check_chunk(raw: bytes, facts: ArrayFacts, where: object) -> None:
    """One encoded chunk: every declared size is right before anything is decompressed, the text is text."""
    count = math.prod(facts.chunk)
    expected = count * ITEMS[facts.dtype] if facts.dtype in ITEMS else None
    limit = CHUNK if expected is None else expected
    data = raw
    for name in reversed(facts.compressors):
        data = _undo(name, data, limit, where)
    if expected is not None:
        _require(len(data) == expected, f"a chunk of {len(data)} bytes, expected {expected}", where)
    else:
        _check_text(data, count, facts.named, where)


def _undo(name: str, data: bytes, limit: int, where: object) -> bytes:
    if name == "crc32c":
        body, tail = data[:-CHECKSUM], data[-CHECKSUM:]
        _require(
            len(data) >= CHECKSUM and google_crc32c.value(body) == int.from_bytes(tail, "little"),
            "a chunk that does not match its checksum",
            where,
        )
        return body
    declared = _blosc_size(data) if name == "blosc" else _zstd_size(data)
    if declared is None or declared > limit:
        raise StoreError(
            f"a chunk that declares {declared} bytes, at most {limit} fit", where=where, fix=DISTRUST
        )
    try:
        return bytes((blosc if name == "blosc" else zstd).decompress(data))
    except Exception as error:  # RuntimeError, ValueError: whatever the C library's wrapper raises
        raise StoreError(f"a chunk cannot be decompressed ({error})", where=where, fix=AGAIN) from error


def _blosc_size(data: bytes) -> int | None:
    """Bytes that a blosc frame declares; None when it is not one whole frame."""
    if len(data) < BLOSC_HEAD or int.from_bytes(data[12:16], "little") != len(data):
        return None
    return int.from_bytes(data[4:8], "little")


def _zstd_size(data: bytes) -> int | None:
    """Bytes that a zstd frame declares (RFC 8878, 3.1.1.1); None where it declares none."""
    if data[:4] != ZSTD_MAGIC or len(data) < 6:
        return None
    descriptor = data[4]
    single, code = descriptor >> 5 & 1, descriptor >> 6
    width = (1 if single else 0, 2, 4, 8)[code]
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if width == 0 or len(data) < at + width:
        return None
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


def _check_text(data: bytes, count: int, named: bool, where: object) -> None:
    """zarr's variable-length UTF-8: a count, then every text's length and bytes."""
    _require(
        len(data) >= 4 and int.from_bytes(data[:4], "little") == count,
        "a chunk with another number of texts",
        where,
    )
    at = 4
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little")
        text = data[at + 4 : at + 4 + size]
        _require(len(data) >= at + 4 and len(text) == size, "a text that is cut off", where)
        at += 4 + size
        try:
            shown = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StoreError("a text that is not UTF-8", where=where, fix=DISTRUST) from error
        _require(not named or _plain(shown), f"the name {shown[:60]!r}", where)
    _require(at == len(data), "bytes after the last text", where)


def _check_codecs(
    raw: Any, dtype: str, outer: Sequence[int], where: object
) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """(inner chunk of a shard or None, compressors)."""
    _require(
        isinstance(raw, list) and len(raw) >= 1 and all(isinstance(codec, dict) for codec in raw),
        "codecs",
        where,
    )
    first = raw[0]
    if first.get("name") == "sharding_indexed":
        _require(len(raw) == 1, "codecs around a shard", where)
        own = _named(
            first,
            "sharding_indexed",
            {"chunk_shape", "codecs", "index_codecs", "index_location"},
            "shards",
            where,
        )
        _require(
            own["index_codecs"] == INDEX_CODECS and own["index_location"] == "end", "a shard index", where
        )
        inner = _sizes(own["chunk_shape"], 1, "chunk shape", where)
        fits = len(inner) == len(outer) and all(a % b == 0 for a, b in zip(outer, inner, strict=True))
        _require(fits, "chunks that do not divide the shard", where)
        nested, compressors = _check_codecs(own["codecs"], dtype, inner, where)
        _require(nested is None and math.prod(outer) // math.prod(inner) <= CHUNKS, "shards", where)
        return inner, compressors
    if dtype == TEXT:
        _require(
            first.get("name") == "vlen-utf8" and set(first) <= {"name", "configuration"}, "codecs", where
        )
    else:
        _require(
            first == LITTLE or (first == {"name": "bytes"} and ITEMS[dtype] == 1),
            f"codec {first!r:.60}",
            where,
        )
    names = []
    for codec in raw[1:]:
        name = codec.get("name")
        allowed = {
            "zstd": {"level", "checksum"},
            "blosc": {"typesize", "cname", "clevel", "shuffle", "blocksize"},
        }
        if isinstance(name, str) and name in allowed:
            _named(codec, name, allowed[name], "codec", where)
        else:
            _require(codec == {"name": "crc32c"}, f"codec {name!r:.60}", where)
        names.append(str(name))
    _require(len(names) <= 2, "codecs", where)
    return None, tuple(names)


def _check_fill(value: Any, dtype: str, where: object) -> None:
    if dtype == TEXT:
        good = value == ""
    elif dtype == "bool":
        good = value is False
    elif dtype.startswith("float"):
        good = value in (0, "NaN") and not isinstance(value, bool)
    else:
        good = value == 0 and isinstance(value, int) and not isinstance(value, bool)
    _require(good, f"fill value {value!r:.40}", where)


def _named(raw: Any, name: str, keys: set[str], what: str, where: object) -> Mapping[str, Any]:
    """The configuration of a ``{name, configuration}`` pair with exactly these keys."""
    good = isinstance(raw, dict) and set(raw) == {"name", "configuration"} and raw["name"] == name
    _require(
        good and isinstance(raw["configuration"], dict) and set(raw["configuration"]) == keys, what, where
    )
    found: Mapping[str, Any] = raw["configuration"]
    return found


def _sizes(raw: Any, least: int, what: str, where: object) -> tuple[int, ...]:
    good = (
        isinstance(raw, list) and len(raw) <= DIMENSIONS and all(_whole(size, least, LENGTH) for size in raw)
    )
    _require(good, f"{what} {raw!r:.80}", where)
    return tuple(raw)


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _plain(text: str) -> bool:
    """Printable, not empty: no control characters that a terminal would obey."""
    return bool(text) and len(text) <= PATH_BYTES and text.isprintable()


def _require(good: bool, what: str, where: object) -> None:
    if not good:
        raise StoreError(f"not acceptable: {what}", where=where, fix=DISTRUST)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        raise ValueError("a key occurs twice")
    return found


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

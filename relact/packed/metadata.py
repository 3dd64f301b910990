"""What the metadata of a package may say: every zarr.json is one that relact itself could have written.

Nothing believes a number before it is checked against a bound: shapes before arrays are made. These are lists
of what is allowed, never of what is forbidden.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from relact import schema
from relact.errors import StoreError
from relact.packed.names import check_key
from relact.packed.refusal import AGAIN, DISTRUST, require

DOCUMENT_BYTES = 64 << 20  # of one zarr.json
CHUNK_BYTES = 1 << 28  # of one decoded chunk
ARRAY_BYTES = 1 << 35  # of one array of a result, when all of it is read
LENGTH = 1 << 40  # of one dimension
DIMENSIONS = 6
CHUNKS = 1 << 24  # of one array
ROWS = 1 << 24  # of one block
# bytes of one value
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
GROUP_KEYS = {"zarr_format", "node_type", "attributes"}
ARRAY_KEYS = GROUP_KEYS | {
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
CRC32C = {"name": "crc32c"}
SHARDING = "sharding_indexed"
SHARDING_KEYS = {"chunk_shape", "codecs", "index_codecs", "index_location"}
# with the keys of their configuration
COMPRESSORS = {
    "zstd": {"level", "checksum"},
    "blosc": {"typesize", "cname", "clevel", "shuffle", "blocksize"},
}
NAMED = ("relation", "condition")  # coordinates that hold names
NUMBERED = ("prompt", "layer", "neuron")  # coordinates that hold whole numbers


def parse_document(raw: bytes, where: object) -> dict[str, Any]:
    """A JSON object, read strictly: no NaN, no key twice, not absurdly large or deep."""
    if len(raw) > DOCUMENT_BYTES:
        raise StoreError(f"has {len(raw)} bytes", where=where, fix=DISTRUST)
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        problem = "too deep" if isinstance(error, RecursionError) else str(error)[:120]
        raise StoreError(f"cannot be read, or is cut off ({problem})", where=where, fix=AGAIN) from error
    if not isinstance(document, dict):
        raise StoreError("is not an object", where=where, fix=DISTRUST)
    return document


@dataclass(frozen=True)
class ArrayFacts:
    """An array's metadata, checked.

    Attributes:
        dtype: a name in ``ITEMS``, or ``string``.
        shard: shape of a stored object, or None where that is a chunk.
        compressors: of a chunk, in the order in which they were applied: ``zstd``, ``blosc``, ``crc32c``.
        named: its texts are names, which are shown.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    shard: tuple[int, ...] | None
    compressors: tuple[str, ...]
    separator: str
    dimensions: tuple[str, ...]
    named: bool

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of what one object holds."""
        return self.shard or self.chunk

    @property
    def chunks_per_shard(self) -> int:
        """Chunks that one object holds."""
        return math.prod(outer // inner for outer, inner in zip(self.stored, self.chunk, strict=True))

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
    require(set(node) <= GROUP_KEYS and node.get("zarr_format") == 3, "unknown group metadata", where)
    require(isinstance(node.get("attributes", {}), dict), "attributes that are not an object", where)


def check_array(name: str, node: Mapping[str, Any], where: object) -> ArrayFacts:
    """The zarr.json of the array ``name``: known types and codecs, shapes that fit in memory by chunks."""
    require(set(node) <= ARRAY_KEYS and node.get("zarr_format") == 3, "unknown array metadata", where)
    require(isinstance(node.get("attributes", {}), dict), "attributes that are not an object", where)
    require(not node.get("storage_transformers"), "a storage transformer", where)
    dtype: Any = node.get("data_type")
    require(isinstance(dtype, str) and (dtype in ITEMS or dtype == TEXT), f"data type {dtype!r}", where)
    shape = _sizes(node.get("shape"), 0, "shape", where)
    grid = _configuration(node.get("chunk_grid"), "regular", {"chunk_shape"}, "chunk grid", where)
    outer = _sizes(grid["chunk_shape"], 1, "chunk shape", where)
    keys = _configuration(node.get("chunk_key_encoding"), "default", {"separator"}, "chunk keys", where)
    require(keys["separator"] in (".", "/"), "chunk keys", where)
    dimensions: Any = node.get("dimension_names")
    require(isinstance(dimensions, list) and all(map(_is_name, dimensions)), "dimension names", where)
    same_length = len(shape) == len(outer) == len(dimensions)
    require(same_length, "shape, chunks and dimension names of different length", where)
    _check_fill(node.get("fill_value"), dtype, where)
    inner, compressors = _check_codecs(node.get("codecs"), dtype, outer, where)
    facts = ArrayFacts(
        shape=shape,
        chunk=inner or outer,
        dtype=dtype,
        shard=outer if inner else None,
        compressors=compressors,
        separator=keys["separator"],
        dimensions=tuple(dimensions),
        named=name in NAMED,
    )
    _check_amounts(facts, where)
    return facts


def _check_amounts(facts: ArrayFacts, where: object) -> None:
    """A chunk and a shard fit in memory, and there are not absurdly many."""
    item, n_objects = ITEMS.get(facts.dtype, 1), math.prod(facts.grid())
    chunk_bytes = math.prod(facts.chunk) * item
    require(chunk_bytes <= CHUNK_BYTES, f"chunks of {chunk_bytes} bytes", where)
    require(math.prod(facts.stored) * item <= 4 * CHUNK_BYTES, "shards too large", where)
    require(n_objects <= CHUNKS, f"{n_objects} chunks", where)


def check_result(facts: ArrayFacts, where: object) -> None:
    """An array that is read whole (all but activations and their commits) must fit in memory."""
    size = math.prod(facts.shape) * ITEMS.get(facts.dtype, 16)
    require(size <= ARRAY_BYTES, f"shape {list(facts.shape)}", where)


def check_dimensions(group: str, arrays: Mapping[str, ArrayFacts], where: object) -> None:
    """Within a group, a dimension has one length; coordinates hold names or whole numbers, as their name
    says.
    """
    lengths: dict[str, int] = {}
    for name, facts in arrays.items():
        for dimension, size in zip(facts.dimensions, facts.shape, strict=True):
            if lengths.setdefault(dimension, size) != size:
                problem = f"dimension {dimension} of {name} is {size}, elsewhere {lengths[dimension]}"
                raise StoreError(problem, where=f"{where}: {group}", fix=DISTRUST)
        place = f"{where}: {group}/{name}"
        if name in NAMED:
            labels = facts.dtype == TEXT and facts.dimensions in ((name,), ("prompt",))
            require(labels, f"labels of type {facts.dtype}", place)
        if name in NUMBERED:
            listed = group.partition("/")[0] in (schema.SUPER_UNITS, schema.LOOKS)
            along = ("unit",) if listed else (name,)  # there the place of each, no coordinate
            nothing = facts.shape == (0,)  # of an empty prompt set, which earlier versions wrote as float64
            whole = (nothing or facts.dtype.startswith(("int", "uint"))) and facts.dimensions == along
            require(whole, f"a coordinate of type {facts.dtype}", place)


def check_manifest(attributes: Any, where: object) -> schema.Manifest:
    """Root attributes whose every value has the type and range that `schema.Manifest` promises."""
    manifest = schema.Manifest.from_attributes(attributes, where)
    model, capture = manifest.model, manifest.capture
    texts = (model.id, model.fingerprint, model.dtype, model.family, manifest.tokenizer, manifest.created)
    require(all(map(_is_name, texts)), "root attributes", where)
    optional = (model.revision, model.code, model.quantised)
    require(all(text is None or _is_name(text) for text in optional), "revision, code or quantised", where)
    _check_sites(capture.sites, where)
    if capture.attribution:
        _check_attribution(capture.attribution, where)
    _check_layers(capture, where)
    require(capture.dtype in schema.DTYPES and capture.pool in schema.POOLS, "dtype or pool", where)
    amounts = _is_whole(capture.block, 1, ROWS) and _is_whole(capture.batch, 1, LENGTH)
    require(amounts, "block or batch", where)
    require(isinstance(capture.special_tokens, bool), "special tokens", where)
    require(capture.skip_first_token in (None, True), "first token", where)
    prompts, splits = manifest.prompts, (schema.IDENTIFY, schema.TEST)
    require(isinstance(prompts, dict) and set(prompts) == set(splits), "prompt sets", where)
    for split in splits:
        _check_prompts(prompts[split], f"{schema.PROMPTS}/{split}", where)
    versions = manifest.versions
    plain_versions = isinstance(versions, dict) and all(isinstance(v, str) for v in versions.values())
    require(plain_versions, "versions", where)
    require(manifest.n_prompts(schema.IDENTIFY) > 0, "no prompts", where)
    return manifest


def _check_sites(sites: Sequence[str], where: object) -> None:
    """Names of folders, each once."""
    require(bool(sites) and all(map(_is_name, sites)), "sites", where)
    require(len(set(sites)) == len(sites), "a site twice", where)
    for site in sites:
        require("/" not in site, "sites", where)
        check_key(site, where)


def _check_layers(capture: schema.CaptureRecord, where: object) -> None:
    """Numbers of layers, ascending, of sites that are captured; how many experts where some are theirs."""
    known = set(capture.every_site)
    divided = capture.experts is None or not known.isdisjoint(schema.BY_EXPERT)
    require(divided and _is_whole(capture.experts or 1, 1, LENGTH) and capture.experts != 0, "experts", where)
    for site, numbers in (capture.layers or {}).items():
        require(site in known and bool(numbers), "layers of a site", where)
        whole = all(_is_whole(number, 0, LENGTH) for number in numbers)
        require(whole and all(a < b for a, b in pairwise(numbers)), f"layers of {site}", where)


def _check_attribution(record: schema.AttributionRecord, where: object) -> None:
    """What a manifest says of attributions."""
    _check_sites(record.sites, where)
    known = record.target in schema.TARGETS and record.pool in schema.ATTRIBUTION_POOLS
    require(known and record.dtype in schema.DTYPES, "how attributions were made", where)
    integrated = record.method == schema.INTEGRATED
    known = record.method in schema.ATTRIBUTION_METHODS and (record.path in schema.PATHS) == integrated
    known &= _is_whole(record.steps, 1, LENGTH) == integrated
    known &= integrated or (record.path is None and record.steps is None)
    require(known, "how attributions were made", where)
    token = record.token is not None
    require(token == (record.target == "token"), "the token that is attributed", where)
    require(not token or _is_whole(record.token, 0, LENGTH), "the token that is attributed", where)


def _check_prompts(described: Any, name: str, where: object) -> None:
    """What a manifest says of one prompt set."""
    require(isinstance(described, dict) and _is_whole(described.get(schema.N_ROWS), 0, LENGTH), name, where)
    require(_is_name(described.get(schema.ROWS_DIGEST)), f"digest of {name}", where)
    cuts = described.get(schema.APPENDED, [])
    within = isinstance(cuts, list) and all(_is_whole(cut, 0, described[schema.N_ROWS]) for cut in cuts)
    require(within, name, where)


def _check_codecs(
    codecs: Any, dtype: str, outer: Sequence[int], where: object
) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """(inner chunk of a shard or None, compressors)."""
    listed = isinstance(codecs, list) and len(codecs) >= 1 and all(isinstance(c, dict) for c in codecs)
    require(listed, "codecs", where)
    if codecs[0].get("name") == SHARDING:
        require(len(codecs) == 1, "codecs around a shard", where)
        return _check_sharding(codecs[0], dtype, outer, where)
    _check_serializer(codecs[0], dtype, where)
    compressors = tuple(_check_compressor(codec, where) for codec in codecs[1:])
    require(len(compressors) <= 2, "codecs", where)
    return None, compressors


def _check_sharding(
    codec: Mapping[str, Any], dtype: str, outer: Sequence[int], where: object
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(inner chunk, its compressors) of shards as relact writes them, the index at the end."""
    sharding = _configuration(codec, SHARDING, SHARDING_KEYS, "shards", where)
    plain_index = sharding["index_codecs"] == [LITTLE, CRC32C] and sharding["index_location"] == "end"
    require(plain_index, "a shard index", where)
    inner = _sizes(sharding["chunk_shape"], 1, "chunk shape", where)
    fits = len(inner) == len(outer) and all(a % b == 0 for a, b in zip(outer, inner, strict=True))
    require(fits, "chunks that do not divide the shard", where)
    nested, compressors = _check_codecs(sharding["codecs"], dtype, inner, where)
    require(nested is None and math.prod(outer) // math.prod(inner) <= CHUNKS, "shards", where)
    return inner, compressors


def _check_serializer(codec: Mapping[str, Any], dtype: str, where: object) -> None:
    """Values become bytes: little-endian numbers, or text with its lengths."""
    if dtype == TEXT:
        texts = codec.get("name") == "vlen-utf8" and set(codec) <= {"name", "configuration"}
        require(texts, "codecs", where)
    else:
        numbers = codec == LITTLE or (codec == {"name": "bytes"} and ITEMS[dtype] == 1)
        require(numbers, f"codec {codec!r:.60}", where)


def _check_compressor(codec: Mapping[str, Any], where: object) -> str:
    """Its name, when relact can undo it."""
    name = codec.get("name")
    if isinstance(name, str) and name in COMPRESSORS:
        _configuration(codec, name, COMPRESSORS[name], "codec", where)
    else:
        require(codec == CRC32C, f"codec {name!r:.60}", where)
    return str(name)


def _check_fill(value: Any, dtype: str, where: object) -> None:
    if dtype == TEXT:
        good = value == ""
    elif dtype == "bool":
        good = value is False
    elif dtype.startswith("float"):
        good = value in (0, "NaN") and not isinstance(value, bool)
    else:
        good = value == 0 and isinstance(value, int) and not isinstance(value, bool)
    require(good, f"fill value {value!r:.40}", where)


def _configuration(node: Any, name: str, keys: set[str], problem: str, where: object) -> Mapping[str, Any]:
    """The configuration of a ``{name, configuration}`` pair with exactly these keys."""
    named = isinstance(node, dict) and set(node) == {"name", "configuration"} and node["name"] == name
    configuration: Any = node["configuration"] if named else None
    require(isinstance(configuration, dict) and set(configuration) == keys, problem, where)
    return configuration


def _sizes(sizes: Any, least: int, name: str, where: object) -> tuple[int, ...]:
    """A shape."""
    few = isinstance(sizes, list) and len(sizes) <= DIMENSIONS
    require(few and all(_is_whole(size, least, LENGTH) for size in sizes), f"{name} {sizes!r:.80}", where)
    return tuple(sizes)


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and schema.is_label(value)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless a key occurs twice."""
    members = dict(items)
    if len(members) != len(items):
        raise ValueError("a key occurs twice")
    return members

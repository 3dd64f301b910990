"""What a package promises: the groups, arrays and checksums that its root's zarr.json lists, and its card.

That document is judged as a whole before anything else is fetched: every part of it is acceptable by itself
(`metadata`), all parts fit together, and every file lies in something that has metadata.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relact import schema
from relact.errors import StoreError
from relact.packed.metadata import (
    ITEMS,
    ArrayFacts,
    check_array,
    check_dimensions,
    check_group,
    check_manifest,
    check_result,
    parse_document,
)
from relact.packed.names import check_key, check_names
from relact.packed.refusal import AGAIN, DISTRUST
from relact.schema import DOCUMENT
from relact.store.layout import array_of, experts_of, site_of
from relact.store.seal import ATTRIBUTE as SEAL
from relact.store.seal import BLANK, CONSOLIDATED, FILES, intact, signed

LAYOUT = 1  # of packages
ABSENT_BYTES = 1 << 30  # of results whose chunks hold nothing but the fill value
# in the package attribute: the checksum of the root's own zarr.json, as `seal.signed` writes it
SIGNATURE = "this_package"
CHECKSUM = re.compile("[0-9a-f]{8}")
RECORDS = f"{schema.COMMITS}/{schema.RECORD}"


@dataclass(frozen=True)
class About:
    """What `relact pack` records about a package, in the root attribute ``package``.

    Attributes:
        activations: whether they are packed too.
        recoded: they were compressed for the way, and `unpack` undoes that.
        shielded: each of their chunks was given a checksum for the way; `unpack` takes it off.
        committed: blocks that are in the package; None where each is asked for.
        card: what its maker says of it.
    """

    activations: bool
    recoded: bool
    card: Mapping[str, Any]
    shielded: bool = False
    committed: tuple[int, ...] | None = None

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready, for ``attrs["package"]``."""
        return {
            "layout": LAYOUT,
            "activations": self.activations,
            "recoded": self.recoded,
            "shielded": self.shielded,
            **({} if self.committed is None else {"committed": list(self.committed)}),
            "card": dict(self.card),
        }

    @classmethod
    def from_attributes(cls, attributes: Any, shown: str) -> About:
        """`StoreError` for one that is missing, incomplete or of a later relact."""
        if not isinstance(attributes, dict) or attributes.get("layout") != LAYOUT:
            problem = "not packed for sharing, or by a later relact"
            raise StoreError(problem, where=shown, fix="pack it with `relact pack`")
        activations, recoded = attributes.get("activations"), attributes.get("recoded")
        card, shielded = attributes.get("card"), attributes.get("shielded", False)
        committed = attributes.get("committed")
        flags = isinstance(activations, bool) and isinstance(recoded, bool) and isinstance(shielded, bool)
        listed = committed is None or (
            isinstance(committed, list) and all(type(block) is int and block >= 0 for block in committed)
        )
        if not (flags and listed and isinstance(card, dict)):
            raise StoreError("its package attributes are incomplete", where=shown, fix=DISTRUST)
        present = None if committed is None else tuple(committed)
        return cls(bool(activations), bool(recoded), card, bool(shielded), present)


@dataclass(frozen=True)
class Contents:
    """What is in a package (`read_contents`).

    Attributes:
        document: the root's zarr.json.
        about: what `relact pack` recorded.
        manifest: the store's identity.
        nodes: zarr.json of every group and array below the root, by path.
        arrays: facts of every array, by path.
        sums: checksum of every file that has one, by key.
    """

    document: dict[str, Any]
    about: About
    manifest: schema.Manifest
    nodes: dict[str, Any]
    arrays: dict[str, ArrayFacts]
    sums: dict[str, str]

    def owner(self, key: str) -> tuple[str, ArrayFacts | None]:
        """The array that a key lies in, with its facts; ``("", None)`` for a key in none."""
        name = key
        while name:
            name = name.rpartition("/")[0]
            if name in self.arrays:
                return name, self.arrays[name]
        return "", None

    def grows_with(self, key: str) -> bool:
        """Whether a key is an object that comes with the capture, a shard or a commit record: those have no
        checksum here and may still be missing.
        """
        name, facts = self.owner(key)
        return facts is not None and _grows(name) and facts.has(key[len(name) + 1 :])

    def is_committed(self, key: str) -> bool | None:
        """Whether a key that `grows_with` the capture is of a block in here; None where nobody says."""
        committed = self.about.committed
        return None if committed is None else int(key.rpartition("/")[2].split(".")[1]) in committed


def read_contents(raw: bytes, shown: str) -> Contents:
    """The contents that a root's zarr.json lists, all checked; ``shown`` names the package in messages.

    Raises:
        StoreError: not a packed store, damaged, or with metadata that relact would not write.
    """
    where = f"{shown}: {DOCUMENT}"
    document = parse_document(raw, where)
    nodes = _nodes(document, shown)
    about = About.from_attributes(document["attributes"].get(schema.PACKAGE), shown)
    if not intact(raw, SIGNATURE):
        raise StoreError("damaged: its checksum does not match", where=where, fix=AGAIN)
    manifest = check_manifest(document["attributes"].get(schema.ATTRIBUTE), shown)
    arrays = _arrays(nodes, shown)
    contents = Contents(document, about, manifest, nodes, arrays, _sums(document, nodes, shown))
    _check_complete(contents, shown)
    _check_sites(contents, shown)
    return contents


def render(document: dict[str, Any]) -> bytes:
    """The root's zarr.json of a package as its bytes, its own checksum made anew."""
    document["attributes"][schema.PACKAGE][SIGNATURE] = BLANK
    return signed(json.dumps(document, ensure_ascii=False).encode(), SIGNATURE)


def _nodes(document: Mapping[str, Any], shown: str) -> dict[str, Any]:
    """Metadata of everything below the root, by path."""
    where = f"{shown}: {DOCUMENT}"
    table = document.get(CONSOLIDATED)
    if not isinstance(table, dict):
        raise StoreError(
            "not packed for sharing: its zarr.json has no consolidated metadata",
            where=shown,
            fix="pack it with `relact pack` and publish that",
        )
    check_group({name: value for name, value in document.items() if name != CONSOLIDATED}, where)
    nodes = table.get("metadata")
    if document.get("node_type") != "group" or not isinstance(nodes, dict):
        raise StoreError("is not a group with consolidated metadata", where=where, fix=DISTRUST)
    for path in nodes:
        check_key(path, shown)
    return nodes


def _arrays(nodes: Mapping[str, Any], shown: str) -> dict[str, ArrayFacts]:
    """Facts of every array; groups and their dimensions are checked on the way."""
    arrays: dict[str, ArrayFacts] = {}
    groups: dict[str, dict[str, ArrayFacts]] = {}
    for path, node in nodes.items():
        where = f"{shown}: {path}"
        kind = node.get("node_type") if isinstance(node, dict) else None
        group, _, name = path.rpartition("/")
        if group and (group not in nodes or nodes[group].get("node_type") != "group"):
            raise StoreError("lies in no group", where=where, fix=DISTRUST)
        if kind == "group":
            check_group(node, where)
        elif kind == "array":
            arrays[path] = groups.setdefault(group, {})[name] = check_array(name, node, where)
            if not _grows(path):
                check_result(arrays[path], where)
        else:
            raise StoreError("is neither group nor array", where=where, fix=DISTRUST)
    for group, members in groups.items():
        check_dimensions(group, members, shown)
    return arrays


def _sums(document: Mapping[str, Any], nodes: Mapping[str, Any], shown: str) -> dict[str, str]:
    """Checksums of all files, from the seals of all groups."""
    sums: dict[str, str] = {}
    groups = {"": document, **{path: node for path, node in nodes.items() if node["node_type"] == "group"}}
    for path, node in groups.items():
        seal = node.get("attributes", {}).get(SEAL)
        if seal is None:
            continue
        where = f"{shown}: {path or DOCUMENT}"
        files = seal.get(FILES) if isinstance(seal, dict) else None
        if not isinstance(files, dict):
            raise StoreError("a seal without checksums", where=where, fix=DISTRUST)
        for name, checksum in files.items():
            key = f"{path}/{name}" if path else name
            check_key(key, shown)
            if not isinstance(checksum, str) or not CHECKSUM.fullmatch(checksum):
                raise StoreError(f"checksum {checksum!r:.40}", where=f"{shown}: {key}", fix=DISTRUST)
            sums[key] = checksum
    check_names(sums, shown)
    return sums


def _check_complete(contents: Contents, shown: str) -> None:
    """What the metadata promises is there: every chunk of a result, or so few are missing that they fit in
    memory.
    """
    absent, listed = 0, dict.fromkeys(contents.arrays, 0)
    for key in contents.sums:
        name, facts = contents.owner(key)
        if facts is None or key == f"{name}/{DOCUMENT}":
            continue
        if not facts.has(key[len(name) + 1 :]):
            raise StoreError("lies outside its array", where=f"{shown}: {key}", fix=DISTRUST)
        listed[name] += 1
    for name, facts in contents.arrays.items():
        if not _grows(name):
            missing = math.prod(facts.grid()) - listed[name]
            absent += missing * math.prod(facts.stored) * ITEMS.get(facts.dtype, 16)
    if absent > ABSENT_BYTES:
        raise StoreError(f"{absent} bytes of its results are missing", where=shown, fix=DISTRUST)


def _check_sites(contents: Contents, shown: str) -> None:
    """The arrays have the shapes that the root's identity and its streams give them."""
    manifest = contents.manifest
    n_prompts, streams = manifest.n_prompts(schema.IDENTIFY), manifest.capture.streams
    fields = schema.commit_fields(
        {stream: _check_stream(stream, n_prompts, contents, shown) for stream in streams}
    )
    log, n_blocks = contents.arrays.get(RECORDS), -(-n_prompts // manifest.capture.block)
    if log is None or log.shape != (n_blocks, len(fields)) or log.dtype != "uint64":
        raise StoreError("its commit log does not fit its sites", where=shown, fix=DISTRUST)


def _check_stream(stream: str, n_prompts: int, contents: Contents, shown: str) -> Sequence[int]:
    """Numbers of one stream's layers; it lies in blocks, and all else about its site is of that size."""
    capture, arrays, site = contents.manifest.capture, contents.arrays, site_of(stream)
    rows = capture.block
    facts = arrays.get(array_of(stream))
    if facts is None or facts.dimensions != ("prompt", "layer", "neuron") or facts.shape[0] != n_prompts:
        raise StoreError(f"its identity says {stream} of {n_prompts} prompts", where=shown, fix=DISTRUST)
    _, n_layers, width = facts.shape
    if facts.shard != (rows, 1, width) or facts.chunk[0] != rows or facts.dtype != capture.streams[stream]:
        raise StoreError(f"{stream} is not laid out in blocks of {rows}", where=shown, fix=DISTRUST)
    for path, other in arrays.items():
        sizes = dict(zip(other.dimensions, other.shape, strict=True))
        shape = (sizes.get("layer", n_layers), sizes.get("neuron", width))
        if path.split("/")[-2:-1] == [site] and shape != (n_layers, width):
            raise StoreError(
                f"{n_layers} layers of {width} neurons are captured, it has {list(other.shape)}",
                where=f"{shown}: {path}",
                fix=DISTRUST,
            )
    numbers = (capture.layers or {}).get(site, range(n_layers))
    if len(numbers) != n_layers:
        problem = f"its identity says {len(numbers)} layers of {stream}, it has {n_layers}"
        raise StoreError(problem, where=shown, fix=DISTRUST)
    if width % (experts_of(site, capture.experts) or 1):
        problem = f"its identity says {capture.experts} experts, {stream} has {width} neurons"
        raise StoreError(problem, where=shown, fix=DISTRUST)
    return numbers


def _grows(array: str) -> bool:
    """Arrays whose chunks come with the capture; all others are results or coordinates, sealed with their
    group.
    """
    quantity, _, name = array.partition("/")
    return array == RECORDS or name.endswith(f"/{schema.ARRAYS.get(quantity)}")

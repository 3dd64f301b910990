"""The written format, version 1: every stored name, dimension and attribute, in one place.

Readers and writers take names from here and never spell them again. The same facts, for authors of other
tools, are in docs/format.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any

from relact.errors import StoreError

FORMAT = 1
ATTRIBUTE = "relact"  # key of our attributes in every zarr.json we write

PROMPTS, ACTIVATIONS, SCORES, MASKS, ABLATIONS, COMMITS = (
    "prompts",
    "activations",
    "scores",
    "masks",
    "ablations",
    "commits",
)
PACKAGE = "package"  # root attribute of a store packed for sharing: what is in it, and its card
TOP = "top"  # group of a packed store: every relation's best neurons, ready to be shown
IDENTIFY, TEST = "identify", "test"
# string columns of both prompt sets
PROMPT_TEXT = ("text", "relation", "subject", "object", "template", "language")
ANSWERS = "answers"  # test prompts: (prompt, answer) strings, padded with ""
ACTIVATION, RECORD, FIELD = "activation", "record", "field"
APPENDED = "appended"  # prompts.identify of the manifest: first row of every later append
START, STOP = "start", "stop"  # the first two fields of a commit record; then one checksum per site and layer
STATISTICS = ("average_precision", "on_p50", "on_p90", "off_mean", "off_p50")  # of scores/<site>, by default
DTYPES = ("float16", "float32")
POOLS = ("mean", "max", "last", "positive")
AVERAGE_PRECISION = STATISTICS[0]
MASK = "mask"  # the array of masks/<name>/<site>
BY_NEURON = ("relation", "layer", "neuron")  # dimensions of every score and mask
INTACT, RANDOM = "intact", "random-"  # conditions of an ablation: the model as it is; a seed follows
CORRECT, GENERATED, ACCURACY, DIGEST, RELATION_OF = (
    "correct",
    "generated",
    "accuracy",
    "digest",
    "relation_of",
)
STEP_CORRECT, STEP_GENERATED, PERPLEXITY = "step_correct", "step_generated", "perplexity"  # of some ablations
N_TOKENS = "n_tokens"  # integer column of both prompt sets
DOCUMENT = "zarr.json"  # metadata of a group or an array


@dataclass(frozen=True)
class ModelRecord:
    """Which checkpoint produced the numbers."""

    id: str
    revision: str | None
    fingerprint: str
    dtype: str
    family: str


@dataclass(frozen=True)
class CaptureRecord:
    """How the activations were made; everything here changes the numbers or their layout."""

    sites: tuple[str, ...]
    pool: str
    dtype: str
    block: int
    batch: int  # token budget of one batch, padding included
    special_tokens: bool


@dataclass(frozen=True)
class Manifest:
    """The root attributes of a store: its identity.

    ``prompts`` maps a split to ``{"n": rows, "digest": hex}``. Two captures belong together when all fields
    but ``versions`` and ``created`` are equal.
    """

    model: ModelRecord
    tokenizer: str
    capture: CaptureRecord
    prompts: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    format: int = FORMAT

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready dictionary for ``attrs["relact"]``."""
        plain = asdict(self)
        plain["tokenizer"] = {"fingerprint": self.tokenizer}
        plain["capture"]["sites"] = list(self.capture.sites)
        return plain

    @classmethod
    def from_attributes(cls, raw: Any, where: object) -> Manifest:
        """Parse root attributes; `StoreError` says what is missing or of a later format."""
        if not isinstance(raw, dict) or "format" not in raw:
            raise StoreError("not a relact store: its zarr.json has no 'relact' attributes", where=where)
        if raw["format"] != FORMAT:
            raise StoreError(
                f"store format {raw['format']!r}, this version reads {FORMAT}",
                where=where,
                fix="upgrade relact",
            )
        try:
            capture = dict(raw["capture"])
            capture["sites"] = tuple(capture["sites"])
            return cls(
                model=ModelRecord(**raw["model"]),
                tokenizer=raw["tokenizer"]["fingerprint"],
                capture=CaptureRecord(**capture),
                prompts=raw["prompts"],
                versions=raw.get("versions", {}),
                created=raw.get("created", ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"damaged root attributes ({error})", where=where) from error

    def differences(self, other: Manifest) -> list[tuple[str, Any, Any]]:
        """Fields of the identity that differ: ``(name, mine, theirs)``, nested names dotted."""
        mine, theirs = _flatten(self.to_attributes()), _flatten(other.to_attributes())
        names = sorted(set(mine) | set(theirs))
        ignored = ("versions.", "created")
        return [
            (name, mine.get(name), theirs.get(name))
            for name in names
            if not name.startswith(ignored) and mine.get(name) != theirs.get(name)
        ]


@dataclass(frozen=True)
class ScoresRecord:
    """What ``scores`` were computed from.

    Attributes:
        negatives: sampled per positive; None is all, and then there is no ``seed``.
        prompts: digest of the identification prompts. model: its fingerprint.
        imported: names of another tool's files, where the scores come from those.
    """

    relations: tuple[str, ...]
    negatives: int | None
    seed: int | None
    prompts: str
    model: str
    imported: tuple[str, ...] | None = None

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        return _plain(self)

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> ScoresRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        return cls(**_known(cls, raw, where, lists=("relations", "imported")))


@dataclass(frozen=True)
class MaskRecord:
    """How a mask was chosen.

    Attributes:
        k: neurons per relation, on average where they differ.
        kind: top, bottom, both; of set algebra only or pair. of: the mask that algebra was done on.
        fdr: the rate of false discoveries where that was asked for instead of k.
    """

    k: int
    kind: str
    fdr: float | None
    statistic: str
    sites: tuple[str, ...]
    scores: ScoresRecord
    of: str | None = None

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        return _plain(self)

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> MaskRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        before = {"kind": "top", "fdr": None}  # what masks were that do not say it
        values = _known(cls, {**before, **raw}, where, lists=("sites",))
        return cls(**{**values, "scores": ScoresRecord.from_attributes(values["scores"], where)})


@dataclass(frozen=True)
class AblationRecord:
    """What an ablation did: one mask, or several of growing k in a sweep.

    Attributes:
        prompts: digest of the test prompts.
    """

    k: int | tuple[int, ...]
    mode: str
    tokens: str
    seeds: tuple[int, ...]
    match: str
    mask: MaskRecord | tuple[MaskRecord, ...]
    prompts: str

    @property
    def masks(self) -> tuple[MaskRecord, ...]:
        """The masks, one per k."""
        return self.mask if isinstance(self.mask, tuple) else (self.mask,)

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        return _plain(self)

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> AblationRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        values = _known(cls, raw, where, lists=("k", "seeds"))
        mask = values["mask"]
        parse = MaskRecord.from_attributes
        masks = tuple(parse(part, where) for part in mask) if isinstance(mask, list) else parse(mask, where)
        return cls(**{**values, "mask": masks})


def commit_fields(sites: Sequence[str], n_layers: int) -> list[str]:
    """Names along the ``field`` dimension of a commit record: start, stop, then ``site/layer`` checksums."""
    return [START, STOP, *(f"{site}/{layer}" for site in sites for layer in range(n_layers))]


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Hex digest of prompt rows in order; equal rows give equal digests on every machine."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows:
        state.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
        state.update(b"\n")
    return state.hexdigest()


def _plain(record: Any) -> dict[str, Any]:
    """A record as JSON has it: tuples are lists, and what is optional and not there is left out."""
    values = ((part, getattr(record, part.name)) for part in fields(record))
    return {part.name: _json(value) for part, value in values if value is not None or part.default is MISSING}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(part) for part in value]
    return _plain(value) if is_dataclass(value) else value


def _known(cls: type, raw: Mapping[str, Any], where: object, lists: Sequence[str]) -> dict[str, Any]:
    """The fields of a record among stored attributes; ``lists`` name those that are tuples here."""
    names = [part.name for part in fields(cls) if part.name in raw]
    missing = [part.name for part in fields(cls) if part.default is MISSING and part.name not in raw]
    if missing:
        raise StoreError(f"its attributes have no {missing[0]!r}", where=where, fix="run `relact verify`")
    return {
        name: tuple(raw[name]) if name in lists and isinstance(raw[name], list) else raw[name]
        for name in names
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

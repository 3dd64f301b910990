"""Records: what a stage was computed from, kept in the attributes of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from relact.errors import StoreError
from relact.schema.names import (
    APPENDED,
    ATTRIBUTE,
    ATTRIBUTIONS,
    BY_EXPERT,
    DOCUMENT,
    FORMAT,
    FORMATS,
    IDENTIFY,
    LAYERED,
    N_ROWS,
    NEURON,
    ROWS_DIGEST,
)
from relact.schema.plain import flatten, known, plain

__all__ = [
    "AblationRecord",
    "AttributionRecord",
    "CaptureRecord",
    "LooksRecord",
    "Manifest",
    "MaskRecord",
    "ModelRecord",
    "ScoresRecord",
    "SuperUnitsRecord",
]


@dataclass(frozen=True)
class ModelRecord:
    """Which checkpoint produced the numbers.

    Attributes:
        code: fingerprint of its own Python code, where that ran. quantised: how weights are packed.
    """

    id: str
    revision: str | None
    fingerprint: str
    dtype: str
    family: str
    code: str | None = None
    quantised: str | None = None


@dataclass(frozen=True)
class AttributionRecord:
    """How attributions were made; ``token``: every prompt's target, by id; ``steps``, ``path``: of a path."""

    sites: tuple[str, ...]
    target: str
    pool: str
    dtype: str
    token: int | str | None = None
    method: str = "gradient"
    steps: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class CaptureRecord:
    """How a capture was made; everything here changes the numbers or their layout.

    Attributes:
        layers: of every site that is not in all of the model's layers, the numbers of those that it is in;
            None where there is no such site.
        experts: of every layer that has some, where neurons of a site are theirs (`BY_EXPERT`).
        skip_first_token: True where the first token of every prompt is left out of pools, else None.
    """

    sites: tuple[str, ...]
    pool: str
    dtype: str
    block: int
    batch: int  # token budget of one batch, padding included
    special_tokens: bool
    attribution: AttributionRecord | None = None
    layers: Mapping[str, tuple[int, ...]] | None = None
    experts: int | None = None
    skip_first_token: bool | None = None

    @property
    def n_skipped(self) -> int:
        """First tokens of a prompt that no pool has."""
        return int(bool(self.skip_first_token))

    @property
    def pooled(self) -> str:
        """The pool, in words."""
        return f"{self.pool} without the first token" if self.skip_first_token else self.pool

    @property
    def every_site(self) -> tuple[str, ...]:
        """Those of activations, then others of attributions."""
        return tuple(dict.fromkeys([*self.sites, *(self.attribution.sites if self.attribution else ())]))

    def with_layers(self, layers: Mapping[str, tuple[int, ...]], n_layers: int) -> CaptureRecord:
        """The same for a model of ``n_layers`` whose sites are in ``layers``."""
        some = {site: layers[site] for site in self.every_site if layers[site] != tuple(range(n_layers))}
        return replace(self, layers=some or None)

    def with_experts(self, n_experts: int) -> CaptureRecord:
        """The same for a model whose layers have so many experts, or 0."""
        divided = n_experts and not set(BY_EXPERT).isdisjoint(self.every_site)
        return replace(self, experts=n_experts if divided else None)

    @property
    def streams(self) -> dict[str, str]:
        """What is captured -> its dtype: activations by site, attributions as ``attributions/<site>``."""
        streams = dict.fromkeys(self.sites, self.dtype)
        if self.attribution:
            names = [f"{ATTRIBUTIONS}/{site}" for site in self.attribution.sites]
            streams |= dict.fromkeys(names, self.attribution.dtype)
        return streams


@dataclass(frozen=True)
class Manifest:
    """The root attributes of a store: its identity.

    Two captures belong together when all fields but ``versions``, ``created`` and ``id`` are equal.

    Attributes:
        id: 32 random hexadecimal digits, so that what lies beside a store belongs to this one; empty in
            stores from before there were any, and in packages.
        prompts: per split ``{N_ROWS: rows, ROWS_DIGEST: hex}``, of ``identify`` also what was ``APPENDED``.
    """

    model: ModelRecord
    tokenizer: str
    capture: CaptureRecord
    prompts: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    id: str = ""

    @property
    def format(self) -> int:
        """The version of the format that it is written in."""
        return LAYERED if self.capture.layers or self.capture.experts else FORMAT

    def n_prompts(self, split: str) -> int:
        """How many prompts a split has."""
        return int(self.prompts[split][N_ROWS])

    def prompts_digest(self, split: str) -> str:
        """The digest of a split's prompts."""
        return str(self.prompts[split][ROWS_DIGEST])

    def appended(self) -> list[int]:
        """The first identification prompt of every later append."""
        return [int(row) for row in self.prompts[IDENTIFY].get(APPENDED, ())]

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready dictionary for ``attrs["relact"]``."""
        values = asdict(self) | {"format": self.format}
        values["tokenizer"] = {"fingerprint": self.tokenizer}
        values["model"], values["capture"] = plain(self.model), plain(self.capture)
        return values if self.id else {name: value for name, value in values.items() if name != "id"}

    @classmethod
    def from_attributes(cls, raw: Any, where: object) -> Manifest:
        """Parse root attributes; `StoreError` says what is missing or of a later format."""
        if not isinstance(raw, dict) or "format" not in raw:
            raise StoreError(
                f"not a relact store: its {DOCUMENT} has no {ATTRIBUTE!r} attributes", where=where
            )
        _require_known(raw, where)
        try:
            capture = dict(raw["capture"])
            capture["sites"] = tuple(capture["sites"])
            if (attribution := capture.get("attribution")) is not None:
                sites = tuple(attribution["sites"])
                capture["attribution"] = AttributionRecord(**{**attribution, "sites": sites})
            if (layers := capture.get("layers")) is not None:
                capture["layers"] = {site: tuple(map(int, numbers)) for site, numbers in layers.items()}
            found = cls(
                model=ModelRecord(**raw["model"]),
                tokenizer=raw["tokenizer"]["fingerprint"],
                capture=CaptureRecord(**capture),
                prompts=raw["prompts"],
                versions=raw.get("versions", {}),
                created=raw.get("created", ""),
                id=raw.get("id", ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem, fix = f"damaged root attributes ({error})", _writer(raw)
            raise StoreError(problem, where=where, fix=fix) from error
        if found.format != raw["format"]:
            problem = f"damaged root attributes (format {raw['format']} of layers {found.capture.layers})"
            raise StoreError(problem, where=where)
        return found

    def differences(self, other: Manifest) -> list[tuple[str, Any, Any]]:
        """Fields of the identity that differ: ``(name, of this, of the other)``, nested names dotted."""
        ours, theirs = flatten(self.to_attributes()), flatten(other.to_attributes())
        names = sorted(ours.keys() | theirs.keys())
        ignored = ("versions.", "created", "id")
        return [
            (name, ours.get(name), theirs.get(name))
            for name in names
            if not name.startswith(ignored) and ours.get(name) != theirs.get(name)
        ]


def _require_known(raw: Mapping[str, Any], where: object) -> None:
    """Refuse a format that this version does not read, and say which way it lies."""
    written = raw["format"]
    if type(written) is int and written in FORMATS:
        return
    reads = " and ".join(map(str, FORMATS))
    problem, fix = f"store format {written!r}, this version reads {reads}", "upgrade relact"
    if type(written) is not int:
        problem, fix = f"damaged root attributes (a format of {written!r:.40})", _writer(raw)
    elif written < FORMAT:
        problem += ": it is from before formats were fixed, and nothing reads it any more"
        fix = "capture it again, or read its arrays with plain zarr"
    raise StoreError(problem, where=where, fix=fix)


def _writer(raw: Mapping[str, Any]) -> str:
    """What to try where a store that cannot be understood was written by another version."""
    versions = raw.get("versions")
    wrote = versions.get("relact") if isinstance(versions, Mapping) else None
    return f"fetch it again; relact {wrote!s:.20} wrote it: upgrade, if that is later" if wrote else ""


class _Result:
    """A record of how a result was made, kept in the attributes of its group."""

    def to_attributes(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        return plain(self)


@dataclass(frozen=True)
class ScoresRecord(_Result):
    """What ``scores`` were computed from.

    Attributes:
        negatives: sampled per positive; None is all, and then there is no ``seed``.
        prompts: digest of the identification prompts. model: its fingerprint.
        imported: names of another tool's files, where the scores come from those.
        own_negatives: whether relations called ``group=label`` were compared within their group alone.
        coarse: site -> neurons that float16 holds coarsely, which makes ties (`store.coarse`).
    """

    relations: tuple[str, ...]
    negatives: int | None
    seed: int | None
    prompts: str
    model: str
    imported: tuple[str, ...] | None = None
    own_negatives: bool | None = None
    coarse: Mapping[str, int] | None = field(default=None, compare=False)

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> ScoresRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        return cls(**known(cls, raw, where, lists=("relations", "imported")))


@dataclass(frozen=True)
class MaskRecord(_Result):
    """How a mask was chosen.

    Attributes:
        k: neurons per relation, on average where they differ.
        kind: top, bottom, both; half: the top from half of the identification prompts, by the scores' digest;
            of set algebra only or pair. of: the mask that algebra was done on.
        fdr: the rate of false discoveries where that was asked for instead of k.
        counted: ``unit``: the sites of a hidden unit (`HIDDEN`) count once, the best of them standing for it;
            ``neuron``: every neuron counts.
        ties: per relation, how many share the score at the edge of its top k, and how many of them are in
            (of both edges together where there are two). None: nobody counted them, and those in were the
            first in the order site, layer, index.
        ties_by: ``margin``, then hash; or ``hash`` alone, where no activations were there. seed: of the hash.
        min_ap: the smallest that was admitted beside ``fdr``. halved: of a half, the digest of all prompts.
        without: (site, layer, neuron) of super-units that were left out; None where none was known.
        unit: ``expert`` where whole experts were chosen; None where neurons were.
    """

    k: int
    kind: str
    fdr: float | None
    statistic: str
    sites: tuple[str, ...]
    scores: ScoresRecord
    of: str | None = None
    counted: str = NEURON
    ties: tuple[tuple[int, int], ...] | None = None
    ties_by: str | None = None
    seed: int | None = None
    min_ap: float | None = None
    without: tuple[tuple[str, int, int], ...] | None = None
    halved: str | None = None
    unit: str | None = None

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> MaskRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        before = {"kind": "top", "fdr": None}  # what masks were that do not say it
        values = known(cls, {**before, **raw}, where, lists=("sites",))
        for name in ("ties", "without"):
            if values.get(name) is not None:
                values[name] = tuple(map(tuple, values[name]))
        return cls(**{**values, "scores": ScoresRecord.from_attributes(values["scores"], where)})


@dataclass(frozen=True)
class SuperUnitsRecord(_Result):
    """How `SUPER_UNITS` were found: neurons that are far larger than others and break the model alone.

    Attributes:
        model: its fingerprint. prompts: digest of the identification prompts.
        ratio: least mean |activation| of a candidate, in medians of its site.
        cost: least nats per token that overriding a candidate alone costs.
    """

    model: str
    prompts: str
    ratio: float
    cost: float

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> SuperUnitsRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        return cls(**known(cls, raw, where, lists=()))


@dataclass(frozen=True)
class LooksRecord(_Result):
    """What ``looks/<mask>`` were read off.

    Attributes:
        model: its fingerprint. mask: how it was chosen.
        neurons: of every relation. prompts: that drive each of the first few most.
    """

    model: str
    mask: MaskRecord
    neurons: int
    prompts: int

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> LooksRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        values = known(cls, raw, where, lists=())
        return cls(**{**values, "mask": MaskRecord.from_attributes(values["mask"], where)})


@dataclass(frozen=True)
class AblationRecord(_Result):
    """What an ablation did: one mask, or several of growing k in a sweep.

    Attributes:
        prompts: digest of the test prompts, all parts of them.
        control: how random sets were drawn; ``average`` before they were matched to every relation's own.
        part: of the prompts, or all. rule: version of the rule for a right answer.
        registration: of settings and hypotheses before the run, where there is one.
        perplexity_of: ``text`` (if nothing is said) or ``objects``, where perplexity was measured.
        scale: of the mode ``scale`` alone, what values were multiplied by.
    """

    k: int | tuple[int, ...]
    mode: str
    tokens: str
    seeds: tuple[int, ...]
    match: str
    mask: MaskRecord | tuple[MaskRecord, ...]
    prompts: str
    control: str = "average"
    part: str = "all"
    rule: int = 1
    registration: str | None = None
    perplexity_of: str | None = None
    scale: float | None = None

    @property
    def masks(self) -> tuple[MaskRecord, ...]:
        """The masks, one per k."""
        return self.mask if isinstance(self.mask, tuple) else (self.mask,)

    @classmethod
    def from_attributes(cls, raw: Mapping[str, Any], where: object) -> AblationRecord:
        """Parse what `to_attributes` gave; `StoreError` when something is missing."""
        values = known(cls, raw, where, lists=("k", "seeds"))
        mask, parse = values["mask"], MaskRecord.from_attributes
        parsed = tuple(parse(step, where) for step in mask) if isinstance(mask, list) else parse(mask, where)
        return cls(**{**values, "mask": parsed})

"""What any store answers: identity, prompts, columns of activations, results and how they were made.

`local.LocalStore` answers from a folder that may be written, `relact.packed.store.PackedStore` from a package
that may lie anywhere. Everything that plain zarr can do is left to zarr and xarray.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import zarr

from relact import schema
from relact.errors import InputError, RelactError, StoreError
from relact.plan import show_bytes
from relact.store import skeleton
from relact.store.commits import CommitLog
from relact.store.layout import Layout, experts_of, site_of
from relact.store.sealed import MAKERS
from relact.store.shards import VERIFY

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

READ_ONLY = "unpack it first: `relact unpack STORE FOLDER`"

PUBLISHED_SHARE = 3000 / 835_584  # of the neurons that a relation's are


class Store(ABC):
    """An opened store, as `relact.open_store` gives it and the verbs return it.

    Attributes:
        path: where it lies: a folder, or the location of a package as it was given.
        manifest: its identity.
        streams: the shape of everything that is captured, by the name of its stream.
        layouts: per site, the shape of its activations.
        log: which blocks are committed.
    """

    log: CommitLog

    def __new__(cls, *_: Any, **__: Any) -> Self:
        if cls is Store:
            raise TypeError("no store is made like this: `relact.open_store(PATH)` opens one")
        return super().__new__(cls)

    def __init__(self, path: Path | str, root: zarr.Group, manifest: schema.Manifest) -> None:
        self.path, self.root, self.manifest = path, root, manifest
        self.arrays = {stream: skeleton.open_array(root, stream, path) for stream in manifest.capture.streams}
        rows = manifest.capture.block
        self.streams = {
            stream: Layout(
                self.n_prompts,
                rows,
                array.shape[1],
                array.shape[2],
                array.dtype.itemsize,
                self._numbers(stream, array),
                self.experts_of(site_of(stream)),
            )
            for stream, array in self.arrays.items()
        }
        self.layouts = {site: self.streams[site] for site in manifest.capture.sites}

    # --- the capture

    @property
    def n_prompts(self) -> int:
        """Identification prompts, committed or not."""
        return self.manifest.n_prompts(schema.IDENTIFY)

    def _numbers(self, stream: str, array: zarr.Array[Any]) -> tuple[int, ...] | None:
        """The model's own numbers of a stream's layers; None where they are counted from 0."""
        numbers = (self.manifest.capture.layers or {}).get(site_of(stream))
        if numbers is not None and len(numbers) != array.shape[1]:
            problem = f"{stream} has {array.shape[1]} layers, the store's identity says {len(numbers)}"
            raise StoreError(problem, where=self.path, fix=VERIFY)
        return numbers

    @property
    def fields(self) -> list[str]:
        """Of a commit record."""
        return schema.commit_fields({stream: lay.layers for stream, lay in self.streams.items()})

    @property
    def n_blocks(self) -> int:
        return next(iter(self.streams.values())).n_blocks

    @property
    def dtype(self) -> np.dtype:
        """Of the activations."""
        return np.dtype(self.manifest.capture.dtype)

    @property
    def compressed(self) -> bool:
        """Whether inner chunks are compressed."""
        return any(skeleton.inner_codecs(array)[1:] for array in self.arrays.values())

    def layout_of(self, site: str) -> Layout:
        """Of a site of which anything is captured, and of experts whose neurons are."""
        if site == schema.WEIGHT and site not in self.sites:
            some = next((self.layout_of(other) for other in self.sites if self.experts_of(other)), None)
            if some is not None:
                return replace(some, width=some.experts)
        return self.streams[site if site in self.streams else f"{schema.ATTRIBUTIONS}/{site}"]

    def shape(self, site: str) -> tuple[int, int]:
        """(layers, neurons) of a site of which anything is captured."""
        lay = self.layout_of(site)
        return lay.n_layers, lay.width

    def layers(self, site: str) -> tuple[int, ...]:
        """The model's own numbers of a site's layers, in the order in which they are stored."""
        return self.layout_of(site).layers

    def experts_of(self, site: str) -> int:
        """Into how many experts, equal and in order, a site's neurons are divided; 0 where into none."""
        return experts_of(site, self.manifest.capture.experts)

    @property
    def has_experts(self) -> bool:
        """Whether neurons that are captured are those of experts."""
        return bool(self.manifest.capture.experts)

    @property
    def sites(self) -> tuple[str, ...]:
        """Those of the activations, then others that have attributions."""
        return tuple(dict.fromkeys(map(site_of, self.streams)))

    def is_mapped(self, stream: str) -> bool:
        """Whether the stream's shards can be mapped: uncompressed, as relact lays them out."""
        return False

    def rows_of(self, block: int) -> tuple[int, int]:
        """First row and one past the last row of ``block``."""
        rows = self.manifest.capture.block
        return block * rows, min((block + 1) * rows, self.n_prompts)

    def committed_stop(self, block: int) -> int:
        """One past the last committed row of ``block``; its first row when nothing is."""
        return int(self.log.record(block)[1]) if self.log.has(block) else self.rows_of(block)[0]

    def missing_blocks(self) -> list[int]:
        """Blocks that are not committed, or not with all the rows that an append gave them; in order."""
        present = set(self.log.present())
        grown = {row // self.manifest.capture.block for row in self.appended()} & present
        short = {block for block in grown if self.committed_stop(block) < self.rows_of(block)[1]}
        return [block for block in range(self.n_blocks) if block not in present or block in short]

    def appended(self) -> list[int]:
        """First row of every later append."""
        return self.manifest.appended()

    def segments(self, block: int) -> list[tuple[int, int]]:
        """Row ranges of ``block`` that were given together: no batch crosses an append, whenever it runs."""
        first, last = self.rows_of(block)
        cuts = [first, *(row for row in self.appended() if first < row < last), last]
        return list(pairwise(cuts))

    def columns(self, stream: str, layer: int, start: int, stop: int) -> list[np.ndarray]:
        """Values of neurons ``start`` to ``stop``: a read-only array [rows, neurons] per block.

        The store must be complete, and the slice lie inside one inner chunk (`Layout.span`). In memory of
        their own: whatever becomes of the files meanwhile is one line (`shards.read_chunk`).
        """
        return [self.copied(stream, layer, block, start, stop) for block in range(self.n_blocks)]

    def views(self, stream: str, layer: int, start: int, stop: int) -> list[np.ndarray]:
        """The same without a copy where the shards can be mapped; through zarr, with the same numbers, where
        they cannot (compressed, packed, or written by another tool).

        A file that is cut while its view is in use ends the process.
        """
        return [self.chunk(stream, layer, block, start, stop) for block in range(self.n_blocks)]

    def copied(self, stream: str, layer: int, block: int, start: int, stop: int) -> np.ndarray:
        """The part of `columns` that lies in one block: [rows of the block, neurons]."""
        return self.chunk(stream, layer, block, start, stop)

    def chunk(self, stream: str, layer: int, block: int, start: int, stop: int) -> np.ndarray:
        """The part of `views` that lies in one block."""
        first, last = self.rows_of(block)
        values = np.asarray(self.arrays[stream][first:last, layer, start:stop])
        values.flags.writeable = False
        return values

    # --- groups

    @abstractmethod
    def has(self, group: str) -> bool:
        """Whether the group, or array, exists."""

    @abstractmethod
    def children(self, group: str) -> list[str]:
        """Names of the groups in ``group``, sorted; empty when it does not exist."""

    @abstractmethod
    def attributes(self, group: str) -> dict[str, Any]:
        """What was recorded about a stage: its ``relact`` attributes."""

    @abstractmethod
    def dataset(self, group: str) -> xr.Dataset:
        """One group as a lazy Dataset; `StoreError` names the command that makes it when it is not there."""

    @abstractmethod
    def tree(self) -> xr.DataTree:
        """The whole hierarchy, lazily."""

    def short_list(
        self, relation: str, n: int, sites: tuple[str, ...], statistic: str
    ) -> dict[str, np.ndarray] | None:
        """Columns of a relation's best neurons, if they are listed; None where scores must be read."""
        return None

    def scores_record(self) -> schema.ScoresRecord:
        """What the scores were computed from."""
        self._require(schema.SCORES)
        return schema.ScoresRecord.from_attributes(self.attributes(schema.SCORES), self.path)

    def statistics(self) -> list[str]:
        """Names of all statistics that some site has, the usual ones first and in their usual order."""
        groups = [f"{schema.SCORES}/{site}" for site in self.sites if self.has(f"{schema.SCORES}/{site}")]
        arrays = [array for group in groups for array in cast(zarr.Group, self.root[group]).arrays()]
        names = {name for name, array in arrays if array.ndim == len(schema.BY_NEURON)}
        usual = [name for name in (*schema.STATISTICS, *schema.ATTRIBUTION_STATISTICS) if name in names]
        return [*usual, *sorted(names - {*usual})]

    def scored(self, statistic: str) -> tuple[str, ...]:
        """The sites whose scores have a statistic, in the order of `sites`."""
        return tuple(site for site in self.sites if self.has(f"{schema.SCORES}/{site}/{statistic}"))

    def named(self, stage: str, name: str | None = None) -> str:
        """The mask or ablation of that name, or the only one; ``stage`` is ``masks`` or ``ablations``.

        Raises:
            InputError: says which there are, or else the command that makes one, or what it needs first.
        """
        there = self.children(stage)
        if name in there or (name is None and len(there) == 1):
            return there[0] if name is None else name
        called = stage.removesuffix("s") if name is None else f"{stage.removesuffix('s')} {name!r}"
        problem = f"{len(there)} {stage}" if name is None and there else f"no {called}"
        if there:
            fix = "name one of them"
            raise InputError(f"{problem}, there are: {', '.join(there)}", where=self.path, fix=fix)
        fix = f"run `{self._towards(stage)}` first"
        raise InputError(f"{problem} in this store", where=self.path, fix=fix)

    def _towards(self, stage: str) -> str:
        """The next command on the way to a mask or an ablation."""
        place, masks = quote(str(self.path)), self.children(schema.MASKS)
        if stage == schema.ABLATIONS and masks:
            return f"relact ablate {place} --mask {quote(masks[0])}"
        if not self.has(schema.SCORES):
            return f"relact score {place}"
        neurons = sum(lay.n_layers * lay.width for lay in self.layouts.values())
        return f"relact select {place} --k {max(1, round(PUBLISHED_SHARE * neurons))}"

    def mask_record(self, name: str) -> schema.MaskRecord:
        """How the mask ``name`` was chosen; `InputError` lists those that there are."""
        group = f"{schema.MASKS}/{self.named(schema.MASKS, name)}"
        return schema.MaskRecord.from_attributes(self.attributes(group), self.path)

    def ablation_record(self, name: str) -> schema.AblationRecord:
        """What the ablation ``name`` did."""
        group = f"{schema.ABLATIONS}/{name}"
        self._require(group)
        return schema.AblationRecord.from_attributes(self.attributes(group), self.path)

    def _require(self, group: str) -> None:
        if not self.has(group):
            command = MAKERS.get(group.split("/")[0], "capture")
            command += f" {quote(str(self.path))}" if command == MAKERS[schema.SCORES] else ""
            raise StoreError(
                f"no {group} in this store", where=self.path, fix=f"run `relact {command}` first"
            )

    def prompts(self, split: str) -> pd.DataFrame:
        """The prompts of ``identify`` or ``test`` as a table; test prompts carry ``answers`` as lists."""
        import pandas as pd  # costs a query of scores more than its answer

        dataset = self.dataset(f"{schema.PROMPTS}/{split}")
        frame = pd.DataFrame({name: dataset[name].values for name in (*schema.PROMPT_TEXT, schema.N_TOKENS)})
        for name in schema.PROMPT_TEXT:
            frame[name] = frame[name].astype(object).map(str)
        if schema.ANSWERS in dataset:
            frame[schema.ANSWERS] = [
                [str(text) for text in row if text] for row in dataset[schema.ANSWERS].values
            ]
        return frame

    def relations(self) -> list[str]:
        """Relation names in the order in which they first occur among the identification prompts."""
        return list(dict.fromkeys(self.prompts(schema.IDENTIFY)["relation"]))

    # --- for people

    def describe(self) -> dict[str, Any]:
        """What the store holds, in words: names and values as `relact info` prints them."""
        manifest = self.manifest
        missing = len(self.missing_blocks())
        made = {"code of its own": manifest.model.code, "quantised": manifest.model.quantised}
        return {
            "store": str(self.path),
            "model": f"{manifest.model.id} ({manifest.model.family}, {manifest.model.dtype})",
            **{name: text for name, text in made.items() if text},
            "fingerprint": manifest.model.fingerprint,
            "relations": ", ".join(self.relations()),
            "prompts": f"{self.n_prompts} to identify, {manifest.n_prompts(schema.TEST)} to test",
            "sites": ", ".join(f"{site} {lay.n_layers} x {lay.width}" for site, lay in self.layouts.items()),
            "neurons": sum(lay.n_layers * lay.width for lay in self.layouts.values()),
            "pool": manifest.capture.pooled,
            "dtype": manifest.capture.dtype,
            **self._attributions(),
            "size": self._size(),
            "blocks": f"{self.n_blocks - missing} of {self.n_blocks} committed",
            "scores": self._scores(),
            "masks": ", ".join(self.children(schema.MASKS)) or "none",
            "ablations": ", ".join(self.children(schema.ABLATIONS)) or "none",
        }

    def _size(self) -> str:
        """Of what is captured; where blocks are missing, of those that are there and of all."""
        whole = sum(lay.bytes for lay in self.streams.values())
        there = whole * len(self.log.present()) // self.n_blocks
        return show_bytes(whole) if there == whole else f"{show_bytes(there)} captured of {show_bytes(whole)}"

    def _scores(self) -> str:
        """Whether there are some, and how many neurons are coarse (`store.coarse`)."""
        if not self.has(schema.SCORES):
            return "no"
        counts = self.scores_record().coarse or {}
        return f"yes; {sum(counts.values()):,} neurons are coarse in float16" if counts else "yes"

    def _attributions(self) -> dict[str, str]:
        record = self.manifest.capture.attribution
        if record is None:
            return {}
        how = f"target {record.target}, pool {record.pool}, {record.dtype}"
        return {schema.ATTRIBUTIONS: f"{', '.join(record.sites)} ({how})"}

    def _repr_html_(self) -> str:
        """`describe` as a table, for notebooks, without what is there for machines."""
        shown = {name: value for name, value in self.describe().items() if name != "fingerprint"}
        rows = (
            f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in shown.items()
        )
        return f"<table class='relact-store'>{''.join(rows)}</table>"


@contextmanager
def told(where: object, fix: str) -> Iterator[None]:
    """Whatever zarr and xarray raise on files that passed all checks is still one line, a `StoreError`."""
    try:
        yield
    except (RelactError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "new thread" in str(error):  # no room for its stack
            raise MemoryError(str(error)) from error
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise StoreError(problem, where=where, fix=fix) from error

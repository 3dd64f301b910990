"""Rows: a store's values prompt by prompt, to train on: probes, sparse autoencoders, whatever reads batches.

A row is one identification prompt. Values are read where they lie: of a local, uncompressed store from mapped
files, so any order costs little; of others through zarr.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relact import schema
from relact.analysis.query import quantity_of
from relact.errors import InputError, StoreError
from relact.packed.store import open_store
from relact.store.reading import Store

if TYPE_CHECKING:
    import datasets

VALUES, LABEL, PROMPT = "values", "label", "prompt"
TEXTS = ("text", "relation", "subject", "object")  # of a prompt, which `hf_dataset` shows beside its values


class Rows:
    """Values of one site on every identification prompt: ``rows[3]``, ``len(rows)``, many by `read`.

    Args:
        store: a finished capture, by its path or address, or open; every process opens it anew.
        site: which neurons.
        layer: of which layer, by the model's own number; None is all of the site's.
        by: ``activation`` or ``attribution``; by default what the store holds of the site.

    Attributes:
        relations: names; a row's ``label`` is a place among them.
        shape: of a row's values: (neurons,), or (layers, neurons) of all layers.

    Raises:
        InputError: no such site or layer. StoreError: its values are not stored, or not all yet.
    """

    def __init__(
        self, store: str | Path | Store, *, site: str, layer: int | None = None, by: str | None = None
    ) -> None:
        opened = open_store(store)
        if site not in opened.sites:
            fix = f"choose from {', '.join(opened.sites)}"
            raise InputError(f"no site {site!r} in this store", where=opened.path, fix=fix)
        if missing := opened.missing_blocks():
            problem = f"{len(missing)} of {opened.n_blocks} blocks are not captured yet"
            fix = "run the same `relact capture` again to resume it"
            raise StoreError(problem, where=opened.path, fix=fix)
        quantity = quantity_of(opened, site, by)
        if quantity is None:
            problem = f"no {by or schema.ACTIVATION}s of {site} in this store"
            raise StoreError(problem, where=opened.path, fix="run `relact capture` first")
        self._place = opened.path if isinstance(store, Store) else store
        self._opened: Store | None = opened
        self._stream = site if quantity == schema.ACTIVATION else f"{schema.ATTRIBUTIONS}/{site}"
        lay = opened.streams[self._stream]
        if layer is not None and layer not in lay.layers:
            fix = f"choose from {', '.join(map(str, lay.layers))}"
            raise InputError(f"no layer {layer} of {site}", where=opened.path, fix=fix)
        self._places = [lay.place_of(layer)] if layer is not None else list(range(lay.n_layers))
        self.shape = (lay.width,) if layer is not None else (lay.n_layers, lay.width)
        self.relations = opened.relations()
        places = {name: at for at, name in enumerate(self.relations)}
        self._labels = opened.prompts(schema.IDENTIFY)["relation"].map(places).to_numpy()

    def __len__(self) -> int:
        """Identification prompts."""
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """``values`` float32, ``label`` and ``prompt``, the number of the row."""
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self.__getitems__([row % len(self)])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once, in the order asked for: what a batch needs of a block is read together."""
        values = self.read(rows)
        return [
            {VALUES: value, LABEL: int(self._labels[row]), PROMPT: int(row)}
            for value, row in zip(values, rows, strict=True)
        ]

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Values of several rows, float32 [rows, *shape]."""
        store, lay, asked = self._store, self._store.streams[self._stream], np.asarray(rows, np.int64)
        found = np.empty((len(asked), len(self._places), lay.width), np.float32)
        blocks = asked // store.manifest.capture.block
        for block in np.unique(blocks).tolist():
            mine = np.flatnonzero(blocks == block)
            within = asked[mine] - store.rows_of(block)[0]
            for at, place in enumerate(self._places):
                for start in range(0, lay.width, lay.span):
                    stop = start + lay.span
                    chunk = store.chunk(self._stream, place, block, start, stop)
                    found[mine, at, start:stop] = chunk[within]
        return found.reshape(len(asked), *self.shape)

    @property
    def _store(self) -> Store:
        if self._opened is None:  # in a process that this was sent to
            self._opened = open_store(self._place)
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def hf_dataset(
    store: str | Path | Store, *, site: str, layer: int | None = None, by: str | None = None
) -> datasets.IterableDataset:
    """A store's values as an iterable of the library datasets (extra ``datasets``): streamed, never copied.

    Columns: ``values`` float32, ``label``, ``prompt``, and the prompt's ``text``, ``relation``, ``subject``
    and ``object``. Every block of the store is a shard, which `shuffle`, workers and `split_dataset_by_node`
    part among themselves. Arguments and errors are those of `Rows`.

    Raises:
        InputError: the library is not installed.
    """
    if find_spec("datasets") is None:
        fix = "run `pip install 'relact[datasets]'`"
        raise InputError("needs the library datasets, which is not installed", where="hf_dataset", fix=fix)
    from datasets import Array2D, ClassLabel, Features, IterableDataset, List, Value

    rows = Rows(store, site=site, layer=layer, by=by)
    values = List(Value("float32"), length=rows.shape[0])
    features = {
        VALUES: values if layer is not None else Array2D(rows.shape, "float32"),
        LABEL: ClassLabel(names=rows.relations),
        PROMPT: Value("int64"),
        **{name: Value("string") for name in TEXTS},
    }
    blocks = list(range(open_store(store).n_blocks))
    return IterableDataset.from_generator(
        _examples, features=Features(features), gen_kwargs={"rows": rows, "blocks": blocks}
    )


def _examples(rows: Rows, blocks: list[int]) -> Iterator[dict[str, Any]]:
    """Every row of some blocks, with its prompt."""
    table = rows._store.prompts(schema.IDENTIFY)[[*TEXTS]]
    for block in blocks:
        numbers = range(*rows._store.rows_of(block))
        texts = table.iloc[numbers.start : numbers.stop].to_dict("records")
        for row, text in zip(rows.__getitems__(numbers), texts, strict=True):
            yield row | {name: text[name] for name in TEXTS}

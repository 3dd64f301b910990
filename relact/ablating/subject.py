"""What is looked at: a model, or a store and its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from relact import schema
from relact.ablating.prepare import model_of
from relact.errors import InputError
from relact.models.loading import LoadedModel, load
from relact.packed.store import open_store
from relact.packed.urls import SCHEMES
from relact.schema import DOCUMENT
from relact.store.reading import Store

ENDINGS = (".zarr", ".zip")  # of stores; a model has neither


@dataclass(frozen=True)
class Subject:
    """A model, and the store that it comes from, if it does."""

    loaded: LoadedModel
    store: Store | None

    @property
    def special_tokens(self) -> bool:
        """Whether the tokenizer adds its special tokens: as the store's prompts have them."""
        return self.store is None or self.store.manifest.capture.special_tokens

    @property
    def n_skipped(self) -> int:
        """First tokens that are left out of the store's pools."""
        return 0 if self.store is None else self.store.manifest.capture.n_skipped

    def require_store(self, what: str) -> Store:
        """The store; `InputError` where ``what`` needs one and there is none."""
        if self.store is None:
            fix = "give a store in place of the model"
            raise InputError(f"{what} needs a store", where=self.loaded.id, fix=fix)
        return self.store

    def mask(self, name: str | None) -> str:
        """The stored mask of that name, or the only one that there is."""
        return self.require_store("a mask").named(schema.MASKS, name)


def is_store(place: str | Path | Store | LoadedModel) -> bool:
    """Whether ``place`` is a store, or names one: by its ending, by being a URL, or by what lies there."""
    if isinstance(place, Store | LoadedModel):
        return isinstance(place, Store)
    name = str(place).rstrip("/")
    url = name.partition("://")[0] in SCHEMES and "://" in name
    return url or name.endswith(ENDINGS) or (Path(place) / DOCUMENT).is_file()


def subject_of(
    place: str | Path | Store | LoadedModel,
    *,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Subject:
    """A model by name, or a store with its own model, verified.

    Args:
        model: of a store, where its model is now.

    Raises:
        InputError: a model for a model. Errors of `load`, `open_store` and `model_of`.
    """
    if is_store(place):
        store = open_store(place)  # type: ignore[arg-type]
        return Subject(model_of(store, model, device, trust_remote_code), store)
    if model is not None:
        raise InputError(f"{place} is a model itself", where="--model", fix="leave it out, or name a store")
    loaded = (
        place
        if isinstance(place, LoadedModel)
        else load(str(place), device=device, trust_remote_code=trust_remote_code)
    )
    return Subject(loaded, None)


def texts_of(file: str | Path) -> list[str]:
    """Prompts of a file: the column ``text`` of a table (.parquet, .csv, .jsonl), else its lines."""
    path = Path(file)
    if not path.is_file():
        raise InputError("no such file", where=path, fix="give a table with a column text, or lines of text")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        ".csv": pd.read_csv,
        ".jsonl": _json_lines,
    }
    if (reader := readers.get(path.suffix.lower())) is None:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    table = reader(path)
    if "text" not in table:
        raise InputError("no column text", where=path, fix=f"it has {', '.join(map(str, table.columns))}")
    return [str(text) for text in table["text"]]


def _json_lines(path: Path) -> pd.DataFrame:
    return pd.read_json(path, lines=True)

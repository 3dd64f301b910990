"""The same held-out facts asked otherwise: in another language, or with the other templates."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from relact import schema
from relact.errors import InputError
from relact.packed.store import open_store
from relact.relations.options import PromptOptions
from relact.relations.prompts import build
from relact.relations.sources import load_all
from relact.store.reading import Store


def asked_otherwise(store: str | Path | Store, options: PromptOptions) -> pd.DataFrame:
    """Test prompts about the same held-out facts in another language or with the other templates.

    Args:
        options: shots, test size and seed are those of the store's own prompts, so that the same facts are
            held out.

    Raises:
        InputError: the store's relations are not bundled ones, or none has this language.
    """
    relations = load_all(open_store(store).relations())
    told = [relation for relation in relations if options.language in relation.languages]
    if not told:
        names = ", ".join(relation.name for relation in relations)
        problem = f"none of {names} has prompts in {options.language!r}"
        raise InputError(problem, where="--language", fix="see `relact prompts --list`")
    table = build(told, options)
    return table[table["split"] == schema.TEST].reset_index(drop=True)

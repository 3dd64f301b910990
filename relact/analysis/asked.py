"""The prompts that a stored ablation asked, from where their texts are."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from relact import schema
from relact.errors import InputError
from relact.store.reading import Store

FOREIGN = ("text", "subject", "object", "language", "template")  # kept with the result, as far as it has them


def require_ablation(given: object) -> None:
    """`InputError` unless it is a stored ablation's data set, such as a path."""
    if not (isinstance(given, xr.Dataset) and schema.CORRECT in given):
        fix = 'give relact.open(STORE)["ablations/NAME"].to_dataset()'
        raise InputError(f"{type(given).__name__} is no stored ablation", where="ablation", fix=fix)


def require_evidence(given: object) -> None:
    """`InputError` unless it is what `evidence` returns."""
    if not (isinstance(given, xr.Dataset) and "mean_drop" in given):
        fix = "give what relact.evidence(ABLATION) returns"
        raise InputError(f"{type(given).__name__} is no evidence", where="found", fix=fix)


def ablation_of(store: Store, name: str) -> xr.Dataset:
    """A stored ablation, loaded; `InputError` lists those there are."""
    return store.dataset(f"{schema.ABLATIONS}/{store.named(schema.ABLATIONS, name)}").load()


def prompts_of(store: Store, name: str, result: xr.Dataset) -> pd.DataFrame:
    """A row per prompt of an ablation: text, relation, subject, object, language, answers, template.

    Results of foreign prompts from before templates were kept with them have no column template.

    Raises:
        InputError: they are not the store's, and not kept with the result.
    """
    if "text" in result:
        table = pd.DataFrame({column: result[column].values for column in FOREIGN if column in result})
        table["relation"] = [str(name) for name in result[schema.RELATION_OF].values]
        table[schema.ANSWERS] = [[text for text in row if text] for row in result[schema.ANSWERS].values]
        return table
    split = schema.IDENTIFY if store.ablation_record(name).part == schema.IDENTIFY else schema.TEST
    if store.ablation_record(name).prompts != store.manifest.prompts_digest(split):
        problem = f"{name} asked other prompts than the store's, and their texts are not stored"
        raise InputError(problem, where=store.path, fix="ablate them again")
    table = store.prompts(split).loc[result["prompt"].values]
    if schema.ANSWERS not in table:
        table[schema.ANSWERS] = [[answer] if answer else [] for answer in table["object"]]
    return table

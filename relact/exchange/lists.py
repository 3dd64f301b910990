"""Lists of neurons, results of ablations and concept data sets: JSON, CSV, safetensors, Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from relact import schema
from relact.analysis import tables
from relact.errors import InputError
from relact.packed.store import open_store
from relact.relations.concepts import LIST as CONCEPT_LIST
from relact.scoring import masks
from relact.scoring.selection import Scores
from relact.store.reading import Store

NEURON_FORMATS = ("json", "csv", "safetensors")
ABLATION_FORMAT = "parquet"
CONCEPTS = "concepts"


def neurons(store: str | Path | Store, mask: str, out: str | Path, kind: str) -> Path:
    """A mask's neurons as a list (``json``, ``csv``) or as boolean tensors (``safetensors``).

    - json: ``{"model", "fingerprint", "mask", "relations": {relation: {site: {layer: [neuron, ...]}}}}``
    - csv: columns ``relation,site,layer,neuron``
    - safetensors: one bool tensor [layer, neuron] named ``relation/site``; the model in its metadata, and
      the numbers of the layers of a site that is not in all of them
    """
    opened, path = open_store(store), Path(out)
    relations, chosen = masks.by_relation(opened, mask)
    writers: dict[str, Callable[[], None]] = {
        "json": lambda: _write_json(opened, mask, relations, chosen, path),
        "csv": lambda: tables.harmless(_rows(opened, relations, chosen)).to_csv(path, index=False),
        "safetensors": lambda: _write_tensors(opened, mask, relations, chosen, path),
    }
    if kind not in writers:
        raise InputError(f"no format {kind!r}", fix=f"choose from {', '.join(writers)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers[kind]()
    return path


def ablation(store: str | Path | Store, name: str, out: str | Path) -> Path:
    """An ablation as tidy Parquet: a row per condition and prompt (and k), with everything that is stored of
    it and the prompt's facts.
    """
    opened, path = open_store(store), Path(out)
    data = opened.dataset(f"{schema.ABLATIONS}/{opened.named(schema.ABLATIONS, name)}")
    by_prompt = sorted(str(name) for name in data.data_vars if "prompt" in data[name].dims)
    measured = data[[variable for variable in by_prompt if schema.ANSWER not in data[variable].dims]].load()
    table = measured.to_dataframe().reset_index()
    along = sorted(str(name) for name in measured.coords if name not in measured.dims)
    table = table[[*(name for name in table if name not in along), *along]]  # a store has no order of its own
    if schema.ANSWERS not in data:  # the store's own prompts; of others the facts are there already
        identify = opened.ablation_record(name).part == schema.IDENTIFY
        prompts = opened.prompts(schema.IDENTIFY if identify else schema.TEST)[[*schema.PROMPT_TEXT]]
        table = table.merge(prompts, left_on="prompt", right_index=True, suffixes=("", "_of_prompt"))
    for column in table.select_dtypes(include=["object", "string"]):
        table[column] = table[column].map(str)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.sort_values([str(dim) for dim in measured.sizes], kind="stable").to_parquet(path, index=False)
    return path


def concepts(store: str | Path | Store, out: str | Path, group: str) -> list[Path]:
    """The identification prompts as concept data sets of ml-selfcond: each relation's against the others'.

    Writes ``OUT/<group>/<relation>.json`` and ``OUT/concept_list.csv``.
    """
    opened, root = open_store(store), Path(out)
    table = opened.prompts(schema.IDENTIFY)
    paths = []
    folder = root / schema.file_names([group])[group]
    names = schema.file_names(dict.fromkeys(table["relation"]))
    for relation, name in names.items():
        positive = table["relation"] == relation
        sentences = {
            "positive": table["text"][positive].tolist(),
            "negative": table["text"][~positive].tolist(),
        }
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"concept": relation, "group": group, "sentences": sentences}
        path.write_text(json.dumps(document, ensure_ascii=False, indent=4), encoding="utf-8")
        paths.append(path)
    listed = pd.DataFrame({"group": folder.name, "concept": list(names.values())})
    tables.harmless(listed).to_csv(root / CONCEPT_LIST, index=False)
    return paths


def _rows(store: Store, relations: list[str], chosen: Scores) -> pd.DataFrame:
    parts = []
    for at, relation in enumerate(relations):
        for site, mask in chosen.items():
            place, neuron = np.nonzero(mask[at])
            layer = np.asarray(store.layers(site))[place]
            columns = {"relation": relation, "site": site, "layer": layer, "neuron": neuron}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _write_json(store: Store, mask: str, relations: list[str], chosen: Scores, path: Path) -> None:
    listed = {
        relation: {
            site: {
                str(store.layers(site)[place]): np.flatnonzero(row).tolist()
                for place, row in enumerate(sets[at])
                if row.any()
            }
            for site, sets in chosen.items()
        }
        for at, relation in enumerate(relations)
    }
    model = store.manifest.model
    document = {"model": model.id, "fingerprint": model.fingerprint, "mask": mask, "relations": listed}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def _write_tensors(store: Store, mask: str, relations: list[str], chosen: Scores, path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {
        f"{relation}/{site}": np.ascontiguousarray(sets[at])
        for site, sets in chosen.items()
        for at, relation in enumerate(relations)
    }
    model, some = store.manifest.model, store.manifest.capture.layers or {}
    metadata = {"model": model.id, "fingerprint": model.fingerprint, "mask": mask}
    metadata |= {f"layers/{site}": json.dumps(some[site]) for site in chosen if site in some}
    save_file(tensors, path, metadata=metadata)

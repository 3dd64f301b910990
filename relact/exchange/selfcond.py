"""Score files of ml-selfcond and lang_neuron: written as those tools read them, and read into a store.

One folder per concept, as they have it: ``OUT/<model>/<group>/<concept>/expertise/`` with ``expertise.csv``,
``expertise_info.json`` and, on request, ``expertise_limited_*.csv``. A unit is a neuron, a layer is the path
of a module with ``:0`` after it (apple/ml-selfcond, selfcond/expertise.py; kojima-takeshi188/lang_neuron adds
``off_p50`` and the limited files).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from relact import schema
from relact import sites as site_names
from relact.analysis import tables
from relact.errors import IdentityError, InputError
from relact.packed.store import open_store
from relact.scoring.arrays import create_arrays
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store

SELFCOND, LANG_NEURON = "selfcond", "lang_neuron"
COLUMNS = {  # their name of a statistic, in their order -> ours
    "ap": schema.AVERAGE_PRECISION,
    "off_mean": schema.OFF_MEAN,
    "off_p50": schema.OFF_P50,
    "on_p50": schema.ON_P50,
    "on_p90": schema.ON_P90,
}
WRITTEN = {SELFCOND: ("ap", "off_mean", "on_p50", "on_p90"), LANG_NEURON: tuple(COLUMNS)}
GROUP = "sense"  # their name for a family of concepts
SCORES, INFO = "expertise.csv", "expertise_info.json"
THRESHOLDS = np.linspace(0.5, 1.0, 501)


def export(
    store: str | Path | Store,
    out: str | Path,
    *,
    flavour: str = SELFCOND,
    relations: Sequence[str] | None = None,
    group: str = GROUP,
    limited: int | None = None,
) -> list[Path]:
    """Write the scores of every relation; returns the folders.

    Args:
        flavour: ``lang_neuron`` adds the column ``off_p50``.
        limited: also write the ``limited`` highest and lowest neurons, half of it each, as lang_neuron does.

    Raises:
        InputError: a site is not a module's whole output, so those tools have no name for its neurons.
    """
    opened = open_store(store)
    names = list(opened.scores_record().relations)
    unknown = sorted(set(relations or ()) - set(names))
    if unknown:
        raise InputError(
            f"no relation {', '.join(unknown)}", where=opened.path, fix=f"choose from {', '.join(names)}"
        )
    layers = _layers(opened)
    datasets = {site: opened.dataset(f"{schema.SCORES}/{site}") for site in opened.layouts}
    root, folder_of = Path(out), schema.file_names(names)
    for part in (Path(opened.manifest.model.id).name, group):
        root /= schema.file_names([part])[part]
    folders = []
    for relation in relations or names:
        at = names.index(relation)
        values = {
            site: {name: data[COLUMNS[name]][at].values for name in WRITTEN[flavour]}
            for site, data in datasets.items()
        }
        table = _table(layers, values, relation, group)
        folder = root / folder_of[relation] / "expertise"
        folder.mkdir(parents=True, exist_ok=True)
        tables.harmless(table).to_csv(folder / SCORES, index=False)
        (folder / INFO).write_text(json.dumps(_info(table), indent=4))
        if limited:
            _write_limited(table, limited, folder)
        folders.append(folder)
    return folders


def import_scores(store: str | Path | Store, sources: str | Path | Sequence[str | Path]) -> LocalStore:
    """Put the scores of ``expertise.csv`` files into a store of the same model and sites, as its ``scores``.

    Args:
        sources: files, or folders that are searched for them; one relation each, in the order of their paths.

    Raises:
        InputError: a file is not such a table. IdentityError: its neurons are not those of the store.
    """
    opened = local.writable(store)
    files = list(_files([sources] if isinstance(sources, str | Path) else sources))
    if not files:
        shown = ", ".join(map(str, [sources] if isinstance(sources, str | Path) else sources))
        raise InputError(f"no {SCORES}", where=shown, fix="give the folder that the other tool wrote")
    read = [_read_table(path) for path in files]
    relations = [tables.as_meant(str(table["concept"].iloc[0])) for table in read]
    for path, relation in zip(files, relations, strict=True):
        schema.require_label(relation, path)
    if len(set(relations)) != len(relations):
        raise InputError(
            "a concept occurs twice", where=files[0].parent, fix="import one group of concepts at a time"
        )
    scores = _placed(opened, files, read)
    record = schema.ScoresRecord(
        relations=tuple(relations),
        negatives=None,
        seed=None,
        prompts=opened.manifest.prompts[schema.IDENTIFY][schema.ROWS_DIGEST],
        model=opened.manifest.model.fingerprint,
        imported=tuple(path.name for path in files),
    )
    with opened.stage(schema.SCORES, record.to_attributes()) as stage:
        for site, statistics in scores.items():
            layout = opened.layouts[site]
            targets = create_arrays(stage.create_group(site), layout, relations, list(statistics))
            for target, values in zip(targets, statistics.values(), strict=True):
                target[:] = values
    return opened


def _layers(store: Store) -> dict[tuple[str, int], str]:
    """(site, place of the layer among the site's) -> the name that those tools give the module."""
    family = site_names.family(SimpleNamespace(model_type=store.manifest.model.family))
    names = {}
    for site, layout in store.layouts.items():
        tap = family.taps.get(site)
        if tap is None or tap.fused or tap.side != "output":
            raise InputError(
                f"{site} of {family.names[0]} is not a module's whole output",
                where=store.path,
                fix="those tools know only whole modules: choose a store without it",
            )
        for place, layer in enumerate(layout.layers):
            names[site, place] = f"{family.layers}.{layer}.{tap.module}:0"
    return names


def _table(
    layers: Mapping[tuple[str, int], str],
    values: Mapping[str, Mapping[str, np.ndarray]],
    concept: str,
    group: str,
) -> pd.DataFrame:
    """Their table: layers in lexicographic order, units in order, float32 statistics."""
    order = sorted(layers, key=lambda place: layers[place])
    sizes = [len(next(iter(values[site].values()))[layer]) for site, layer in order]
    columns: dict[str, Any] = {
        name: np.concatenate([values[site][name][layer] for site, layer in order]).astype(np.float32)
        for name in next(iter(values.values()))
    }
    columns["layer"] = np.repeat([layers[place] for place in order], sizes)
    columns["unit"] = np.concatenate([np.arange(size) for size in sizes]).astype(np.uint32)
    columns["uuid"] = np.arange(sum(sizes))
    return pd.DataFrame(columns).assign(concept=concept, group=group)


def _info(table: pd.DataFrame) -> dict[str, Any]:
    ap = table["ap"].to_numpy()
    counts = {f"{threshold:0.5f}": int((ap > threshold).sum()) for threshold in THRESHOLDS}
    return {
        "concept": str(table["concept"].iloc[0]),
        "group": str(table["group"].iloc[0]),
        "max_ap": float(ap.max()),
        "layer_names": list(dict.fromkeys(table["layer"])),
        "total_neurons": len(table),
        "neurons_at_ap": counts,
    }


def _write_limited(table: pd.DataFrame, limited: int, folder: Path) -> None:
    half = limited // 2
    if not 1 <= half <= len(table):
        raise InputError(
            f"{limited} of {len(table)} neurons", where="--limited", fix="choose an even number of them"
        )
    table = tables.harmless(table)
    top = table.sort_values("ap", ascending=False, kind="stable").head(half)
    bottom = table.sort_values("ap", ascending=True, kind="stable").head(half)
    top.to_csv(folder / f"expertise_limited_{half}_top.csv", index=False)
    bottom.to_csv(folder / f"expertise_limited_{half}_bottom.csv", index=False)
    pd.concat([top, bottom], ignore_index=True).to_csv(
        folder / f"expertise_limited_{limited}_both.csv", index=False
    )


def _files(sources: Sequence[str | Path]) -> Iterator[Path]:
    for source in map(Path, sources):
        if source.is_file():
            yield source
        elif source.is_dir():
            yield from sorted(source.rglob(SCORES))
        else:
            raise InputError("no such file or folder", where=source, fix="check the path")


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in COLUMNS})
    except (ValueError, OSError) as error:  # pandas: parser and encoding errors are ValueErrors
        raise InputError(f"not a CSV table ({' '.join(str(error).split())[:120]})", where=path) from error
    lacking = [name for name in ("ap", "layer", "unit", "concept") if name not in table]
    if lacking or table.empty:
        raise InputError(f"has no {', '.join(lacking) or 'rows'}", where=path, fix="give an expertise.csv")
    if table["concept"].nunique() != 1:
        raise InputError("is not of one concept", where=path, fix="give a file per concept")
    for name in COLUMNS:
        if name in table and table[name].dtype.kind not in "fiu":
            raise InputError(f"column {name} holds text", where=path)
    low, high = float(table["ap"].min()), float(table["ap"].max())
    if table["ap"].isna().any() or not 0 <= low <= high <= 1:
        problem = f"average precisions from {low:g} to {high:g}, or none, where 0 to 1 can be"
        raise InputError(problem, where=path, fix="write the file again")
    if table["unit"].dtype.kind not in "iu":
        raise InputError("column unit holds other than whole numbers", where=path)
    return table


def _placed(
    store: Store, files: Sequence[Path], tables: Sequence[pd.DataFrame]
) -> dict[str, dict[str, np.ndarray]]:
    """Site -> statistic that every table has -> float32 [table, layer, neuron]."""
    shared = [name for name in COLUMNS if all(name in table for table in tables)]
    places = {layer: place for place, layer in _layers(store).items()}
    scores = {
        site: {
            COLUMNS[name]: np.full((len(tables), layout.n_layers, layout.width), np.nan, np.float32)
            for name in shared
        }
        for site, layout in store.layouts.items()
    }
    for at, (path, table) in enumerate(zip(files, tables, strict=True)):
        row = {
            site: {name: scores[site][COLUMNS[name]][at] for name in shared}  # each a view [layer, neuron]
            for site in scores
        }
        _place(table, places, row, path)
    return scores


def _place(
    table: pd.DataFrame,
    places: Mapping[str, tuple[str, int]],
    targets: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
) -> None:
    """Put one concept's rows where they belong in site -> column -> [layer, neuron].

    All neurons must be there, once.
    """
    seen = set()
    for layer, rows in table.assign(layer=table["layer"].astype(str)).groupby("layer", sort=False):
        layer = str(layer)
        if layer not in places:
            raise IdentityError(
                f"layer {layer!r:.80} is no site of this store", where=path, fix=_hint(places)
            )
        site, number = places[layer]
        width = next(iter(targets[site].values())).shape[1]
        units = rows["unit"].to_numpy()
        if not np.array_equal(np.sort(units), np.arange(width)):
            raise IdentityError(f"{layer} has {len(units)} units, the store has {width}", where=path)
        for name, target in targets[site].items():
            target[number, units] = rows[name].to_numpy(np.float32)
        seen.add(layer)
    missing = [layer for layer in places if layer not in seen]
    if missing:
        raise IdentityError(
            f"has no {missing[0]} (and {len(missing) - 1} more layers of the store)", where=path
        )


def _hint(places: Mapping[str, Any]) -> str:
    example = next(iter(places))
    return f"layers are named like {re.sub(r'[.]0[.]', '.N.', example)}"

"""Looks: what the neurons of a mask write, and where in prompts they act, read off the model once and kept.

Written as ``looks/<mask>``, so that a shared store answers without the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from relact import plan, schema
from relact.ablating.prepare import StoreModel
from relact.analysis import query
from relact.analysis.looks import promoted
from relact.capturing.looking import Target, by_token, pieces
from relact.models import cost
from relact.models.loading import LoadedModel, encode
from relact.models.targets import NONE, first_tokens
from relact.models.writing import TOGETHER, WRITING, word, written
from relact.progress import Progress, in_notebooks
from relact.schema import ACTIVATION, BY, IDENTIFY, LOOKS, PROMOTED, SUPPRESSED
from relact.scoring import masks
from relact.scoring.arrays import stored
from relact.scoring.selection import row_of
from relact.store import local
from relact.store.local import LocalStore
from relact.store.reading import Store
from relact.store.skeleton import write_whole

NEURONS = 20  # of every relation
DRIVEN, PROMPTS = 3, 2  # of so many neurons the prompts that drive them most
WORDS = 10  # that each promotes, and suppresses
EMPTY = ""
ARRAYS, WORD_BYTES = 14, 40  # that are stored; of one token's text, with its length, at most


def look_at_mask(
    store: str | Path | Store,
    mask: str,
    *,
    neurons: int = NEURONS,
    model: str | LoadedModel | StoreModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
) -> pd.DataFrame:
    """Read off what the best neurons of a mask write, and where in the prompts that drive them most they act:
    ``looks/<mask>``, unless it is there.

    Args:
        neurons: of every relation of the mask, in the order of the score that chose them.
        model: the store's own by default; another one is refused. It is loaded only where it is needed.

    Returns:
        As `promoted`.

    Raises:
        ModelError: a final norm or a head that cannot be read. InputError: no such mask.
    """
    opened = local.writable(store)
    local.recover(opened)
    record = opened.mask_record(mask)
    made = schema.LooksRecord(opened.manifest.model.fingerprint, record, neurons, PROMPTS)
    group = f"{LOOKS}/{mask}"
    if opened.has(group):
        stored = schema.LooksRecord.from_attributes(opened.attributes(group), opened.path)
        if stored == made:
            return promoted(opened, mask)
    loaded = (
        model if isinstance(model, StoreModel) else StoreModel(opened, model, device, trust_remote_code)
    ).model
    chosen = _chosen(opened, mask, neurons)
    arrays = {
        **_places(chosen),
        **_words(loaded, chosen, progress),
        **_driven(opened, loaded, chosen, progress),
    }
    with opened.stage(group, made.to_attributes()) as built:
        for name, (dimensions, values) in arrays.items():
            write_whole(built, name, values, dimensions)
    return promoted(opened, mask)


def forecast_of(
    loaded: LoadedModel,
    texts: Sequence[str],
    n_relations: int,
    attributed: bool,
    *,
    special_tokens: bool = True,
) -> plan.Plan:
    """The plan of looking at one mask; files, bytes and memory are bounds.

    Args:
        texts: the identification prompts. attributed: whether its neurons have attributions alone.
    """
    lengths = sorted(map(len, encode(loaded, list(texts), special_tokens=special_tokens)), reverse=True)
    units, driven = n_relations * NEURONS, min(n_relations * DRIVEN * PROMPTS, len(lengths))
    passes = [(1, 0, length) for length in lengths[:driven]]
    values = 4 * units * PROMPTS * lengths[0] + 40 * units
    words = WORD_BYTES * (2 * units * WORDS + driven * lengths[0])
    size = plan.compressed(values + words) + ARRAYS * (plan.METADATA + 2 * plan.NAME)
    memory = cost.held_bytes(loaded, passes, ("mlp.hidden",) if attributed else ())
    memory += cost.readout_bytes(loaded, TOGETHER)
    seconds = plan.known(cost.seconds(loaded, passes, 0, (1, attributed)))
    return plan.Plan("look", 2 + 2 * ARRAYS, size, False, memory, seconds, loaded.notes)


def words_of(
    store: Store,
    site: str,
    layer: int,
    index: int,
    *,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> tuple[list[str], list[str]] | None:
    """(promoted, suppressed) of one neuron, read off the store's model; None of one that only reads."""
    if site not in WRITING:
        return None
    loaded = StoreModel(store, model, device, trust_remote_code).model
    found = written(loaded, site, layer, [index], WORDS)
    up, down = (
        [word(loaded, token) for token in ids[0].tolist()] for ids in (found.promoted, found.suppressed)
    )
    return up, down


Arrays = dict[str, tuple[tuple[str, ...], np.ndarray]]


def _chosen(store: LocalStore, mask: str, n: int) -> pd.DataFrame:
    """The best of every relation's set: whose, rank, site, layer, neuron."""
    record, (relations, sets) = store.mask_record(mask), masks.numbers(store, mask)
    scored = store.scores_record().relations
    numbering, rows = sets.numbering, []
    for relation, places in zip(relations, sets.numbers, strict=True):
        if relation in scored:
            scores = stored(store, record.statistic, numbering.shapes)
            values = row_of(scores, scored.index(relation))[places]
        else:
            values = np.zeros(len(places))  # sets of set algebra have no scores of their own
        best = places[query.best(values, min(n, len(places)), numbering.hashes(places, 0))]
        for which_site, which, layers, indices in numbering.places(best):
            rows += [
                (relation, int(rank), which_site, int(layer), int(index))
                for rank, layer, index in zip(which, layers, indices, strict=True)
            ]
    table = pd.DataFrame(rows, columns=["whose", "rank", "site", "layer", "neuron"])
    order = table["whose"].map({name: at for at, name in enumerate(relations)})
    return table.assign(order=order).sort_values(["order", "rank"], ignore_index=True).drop(columns="order")


def _places(chosen: pd.DataFrame) -> Arrays:
    return {
        schema.WHOSE: (("unit",), _text(chosen["whose"])),
        "site": (("unit",), _text(chosen["site"])),
        **{name: (("unit",), chosen[name].to_numpy("int64")) for name in (schema.RANK, "layer", "neuron")},
    }


def _words(loaded: LoadedModel, chosen: pd.DataFrame, progress: Progress) -> Arrays:
    """Tokens and logits [unit, word], nothing of neurons that only read."""
    shape, done = (len(chosen), WORDS), 0
    words = {kind: np.full(shape, EMPTY, object) for kind in (PROMOTED, SUPPRESSED)}
    logits = {kind: np.full(shape, np.nan, np.float32) for kind in words}
    known: dict[int, str] = {}
    for key, rows in chosen.groupby(["site", "layer"], sort=False).indices.items():
        site, layer = cast(tuple[str, int], key)
        done += len(rows)
        progress("written", done, len(chosen), "neurons")
        if site not in WRITING:
            continue
        found = written(loaded, site, int(layer), chosen["neuron"].to_numpy()[rows].tolist(), WORDS)
        for kind in words:
            logits[kind][rows] = getattr(found, f"{kind}{BY}").float().numpy()
            ids = getattr(found, kind).tolist()
            words[kind][rows] = [[known.setdefault(x, word(loaded, x)) for x in row] for row in ids]
    both = ("unit", "word")
    return {
        **{kind: (both, _text(values)) for kind, values in words.items()},
        **{f"{kind}{BY}": (both, values) for kind, values in logits.items()},
    }


def _driven(store: LocalStore, loaded: LoadedModel, chosen: pd.DataFrame, progress: Progress) -> Arrays:
    """The prompts that drive the first neurons of every relation most, and their values token by token."""
    table, special = store.prompts(IDENTIFY), store.manifest.capture.special_tokens
    strongest = dict(_strongest(store, chosen))
    shown = sorted({int(prompt) for _, prompts in strongest.values() for prompt in prompts})
    texts = table["text"].iloc[shown].tolist()
    ids = encode(loaded, texts, special_tokens=special)
    width = max(map(len, ids), default=1)
    piece = np.full((len(shown), width), EMPTY, object)
    driver = np.full((len(chosen), PROMPTS), -1, np.int64)
    drive = np.full((*driver.shape, width), np.nan, np.float32)
    quantity = np.full(len(chosen), EMPTY, object)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for unit, (what, prompts) in strongest.items():
        quantity[unit] = what
        for slot, prompt in enumerate(prompts):
            driver[unit, slot] = shown.index(int(prompt))
            wanted.setdefault(shown.index(int(prompt)), []).append((unit, slot))
    progress("driven", 0, len(texts), "prompts")
    for row, (text, tokens) in enumerate(zip(texts, ids, strict=True)):
        sites = sorted({str(chosen["site"][unit]) for unit, _ in wanted[row]})
        owed = any(quantity[unit] != ACTIVATION for unit, _ in wanted[row])
        found = by_token(
            loaded, tokens, sites, _target(loaded, table.iloc[shown[row]], special), backward=owed
        )
        piece[row, : len(tokens)] = pieces(loaded, text, tokens, special_tokens=special)
        for unit, slot in wanted[row]:
            of = getattr(found, quantity[unit])[str(chosen["site"][unit])]
            drive[unit, slot, : len(tokens)] = of[:, chosen["layer"][unit], chosen["neuron"][unit]]
        progress("driven", row + 1, len(texts), "prompts")
    return {
        schema.SHOWN: ((schema.SHOWN,), np.array(shown, np.int64)),
        schema.PIECE: ((schema.SHOWN, "token"), _text(piece)),
        schema.DRIVER: (("unit", "slot"), driver),
        schema.DRIVE: (("unit", "slot", "token"), drive),
        schema.QUANTITY: (("unit",), _text(quantity)),
    }


def _target(loaded: LoadedModel, prompt: pd.Series, special: bool) -> Target:
    """The prompt's answer, as attributions are of it."""
    asked = ([str(prompt[name])] for name in ("text", "object", "language"))
    token = int(first_tokens(loaded, *asked, special_tokens=special)[0])
    return Target(None if token == NONE else token)


def _strongest(store: LocalStore, chosen: pd.DataFrame) -> Iterator[tuple[int, tuple[str, Any]]]:
    """(unit, (quantity, prompts)) of every relation's first neurons, where the store has their values."""
    for unit, row in enumerate(chosen.to_dict("records")):
        if row["rank"] >= DRIVEN:
            continue
        held = query.quantity_of(store, row["site"])
        if held is not None:
            values = query.activations(store, row["site"], row["layer"], row["neuron"], by=held)[held]
            yield unit, (held, np.argsort(-values.to_numpy(), kind="stable")[:PROMPTS])


def _text(values: Any) -> np.ndarray:
    return np.array(np.asarray(values, object), dtype="T")

"""Look: one sentence, token by token: where neurons act in it, and what of the next token is owed to them.

>>> seen = look("smollm2", "The capital of France is", answer="Paris")
>>> seen["mlp.hidden"]["attribution"].dims
('token', 'layer', 'neuron')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from relact import durable, schema, sites
from relact.ablating.overridden import Neurons, places_of
from relact.ablating.subject import Subject, subject_of
from relact.analysis import query
from relact.capturing.looking import Target, Tokens, by_token, pieces
from relact.capturing.objectives import objective_of
from relact.errors import InputError
from relact.models.loading import LoadedModel, encode
from relact.models.targets import NONE, first_tokens
from relact.models.writing import word
from relact.reporting.highlight import highlighted
from relact.schema import ACTIVATION, ATTRIBUTION, ATTRIBUTION_Z, IDENTIFY, TEST
from relact.store.reading import Store

MOST = 10  # neurons that are shown of a model, or of one relation
SHOWN = ((ATTRIBUTION, "nats of the answer", "sum"), (ACTIVATION, "value of the neuron", "mean"))
PLACE = ["relation", "site", "layer", "neuron"]


@dataclass(frozen=True)
class Look:
    """One text, token by token; in a notebook its display needs no network.

    Attributes:
        tokens: their texts. answer: the token whose log-probability is attributed.
        log_probability: of it after the text, in nats.
        sites: site -> activation and attribution (token, layer, neuron), float32.
        shown: the chosen neurons: relation ("" where none is known), site, layer, neuron.
        skipped: first tokens that sums and means leave out, as the store's pools do.
    """

    model: str
    text: str
    tokens: list[str]
    answer: str
    log_probability: float
    sites: dict[str, xr.Dataset]
    shown: pd.DataFrame
    skipped: int = 0

    def __getitem__(self, site: str) -> xr.Dataset:
        """Everything of one site."""
        return self.sites[site]

    def values(self, quantity: str = ATTRIBUTION) -> np.ndarray:
        """float32 [shown neuron, token]: ``attribution`` or ``activation``."""
        rows = [
            self.sites[site][quantity].sel(layer=layer, neuron=index).values
            for _, site, layer, index in places(self.shown)
        ]
        return np.array(rows, np.float32).reshape(len(rows), len(self.tokens))

    def table(self) -> pd.DataFrame:
        """A row per shown neuron and token: relation, site, layer, neuron, token, text, and both numbers."""
        n_tokens = len(self.tokens)
        table = self.shown[PLACE].loc[np.repeat(self.shown.index, n_tokens)].reset_index(drop=True)
        table["token"] = np.tile(np.arange(n_tokens), len(self.shown))
        table["text"] = self.tokens * len(self.shown)
        return table.assign(**{name: self.values(name).ravel() for name in (ACTIVATION, ATTRIBUTION)})

    def write(self, path: str | Path) -> Path:
        """Write what a notebook shows as one HTML file that needs nothing else; returns the path."""
        head = (
            f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(self.text[-60:])}</title>"
        )
        page = f"{head}<body style='font:16px system-ui,sans-serif;margin:1rem'>{self._repr_html_()}"
        durable.replace(Path(path), [page.encode("utf-8", "replace")])
        return Path(path)

    def _repr_html_(self) -> str:
        """The text once per neuron, its tokens coloured."""
        said = (
            f"{escape(self.model)} answers <b>{escape(self.answer)}</b> with {self.log_probability:.2f} nats"
        )
        blocks = (self._block(*about) for about in SHOWN)
        return f"<p>{said}</p>{''.join(blocks)}"

    def _block(self, quantity: str, what: str, pooled: str) -> str:
        """A row per shown neuron."""
        values = self.values(quantity)
        pooling = np.sum if pooled == "sum" else np.mean
        totals = pooling(values[:, self.skipped :], axis=1).tolist()
        heads = ("relation", "neuron", pooled, f"{quantity}: {what}")
        lines = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
        for row, total, of_tokens in zip(places(self.shown), totals, values, strict=True):
            relation, *place = row
            cells = (relation, "/".join(map(str, place)), f"{total:+.3f}")
            line = "".join(f"<td style='padding-right:1em'>{escape(cell)}</td>" for cell in cells)
            lines.append(f"<tr>{line}<td>{highlighted(self.tokens, of_tokens)}</td></tr>")
        table = f"<table style='text-align:left;border-spacing:0'>{''.join(lines)}</table>"
        return f"<div style='overflow-x:auto'>{table}</div>"


def look(
    place: str | Path | Store | LoadedModel,
    text: str | None = None,
    *,
    prompt: int | None = None,
    split: str = IDENTIFY,
    answer: str | None = None,
    neurons: Neurons | None = None,
    relation: str | None = None,
    n: int | None = None,
    by: str | None = None,
    sites: str | Sequence[str] | None = None,
    model: str | LoadedModel | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Look:
    """Activations and attributions of every token of one text: of all neurons of a site, some of them shown.

    Args:
        place: a model, or a store, whose model reads the text.
        text: what is read; or ``prompt``, the number of a store's own prompt in ``split``.
        answer: whose first token is attributed; the prompt's own, or the model's likeliest by default.
        neurons: those to be shown, see `overridden`; by default ``n`` of each relation of a store, of one
            ``relation`` the best 10, of a model the 10 that carry most of the answer.
        by: what a relation's best are: ``attribution`` where the store has it, or ``activation``.
        sites: of which neurons are read, beside those shown.

    Returns:
        A `Look`. A prompt's attributions add up over its tokens to the stored ones (pool ``sum``), its
        activations average to them (``mean``); of a store that skips the first token, over the others.

    Raises:
        InputError: neither text nor prompt, no such prompt, relation, site or neuron.
    """
    subject = subject_of(place, model=model, device=device, trust_remote_code=trust_remote_code)
    asked, target = _asked(subject, text, prompt, split, answer)
    shown = None if neurons is None else _listed(places_of(neurons))
    if shown is None and subject.store is not None:
        shown = _best(subject.store, relation, n, by, sites)
    ids = encode(subject.loaded, [asked], special_tokens=subject.special_tokens)[0]
    if not ids:
        raise InputError("no token", where="text", fix="give some text")
    found = by_token(subject.loaded, ids, _sites(subject, shown, sites), target)
    if shown is None:
        shown = _carrying(found, n or MOST)
    _require_there(shown, found)
    parts = pieces(subject.loaded, asked, ids, special_tokens=subject.special_tokens)
    said = word(subject.loaded, found.target)
    datasets = {site: _dataset(found, site, parts) for site in found.activation}
    return Look(
        subject.loaded.id, asked, parts, said, found.log_probability, datasets, shown, subject.n_skipped
    )


def _asked(
    subject: Subject, text: str | None, prompt: int | None, split: str, answer: str | None
) -> tuple[str, Target]:
    """The text that is read and the token that counts."""
    if (text is None) == (prompt is None):
        raise InputError("name a text, or a prompt", where="text, prompt", fix="give exactly one of them")
    if prompt is None:
        token = _first(subject, text or "", answer, "en")
        return text or "", Target(token)
    store = subject.require_store("a prompt by number")
    if split not in (IDENTIFY, TEST):
        raise InputError(f"no split {split!r}", where="split", fix=f"use {IDENTIFY} or {TEST}")
    table = store.prompts(split)
    if not 0 <= prompt < len(table):
        raise InputError(f"prompt {prompt} of {len(table)}", where=store.path, fix="count from 0")
    row = table.iloc[prompt]
    if answer is None and split == IDENTIFY and store.manifest.capture.attribution is not None:
        return row["text"], _recorded(subject, store, table, prompt)
    return row["text"], Target(_first(subject, row["text"], answer or row["object"], row["language"]))


def _recorded(subject: Subject, store: Store, table: pd.DataFrame, prompt: int) -> Target:
    """What a store's attributions of one of its prompts are of."""
    settings = store.manifest.capture
    tokens = encode(subject.loaded, table["text"].tolist(), special_tokens=settings.special_tokens)
    objective = objective_of(subject.loaded, table, tokens, settings, store.appended())
    if objective is None:
        return Target()
    other = None if objective.others is None else int(objective.others[prompt])
    return Target(int(objective.targets[prompt]), other)


def _first(subject: Subject, text: str, answer: str | None, language: str) -> int | None:
    """The first token of an answer; None where it is not known."""
    if not answer:
        return None
    special = subject.special_tokens
    found = int(first_tokens(subject.loaded, [text], [answer], [language], special_tokens=special)[0])
    return None if found == NONE else found


def _best(
    store: Store, relation: str | None, n: int | None, by: str | None, wanted: str | Sequence[str] | None
) -> pd.DataFrame:
    """A few of every relation's best neurons, or more of one."""
    names = store.relations() if relation is None else [relation]
    if by is None and ATTRIBUTION_Z in store.statistics():
        by = ATTRIBUTION
    count = n or (1 if relation is None else MOST)
    parts = [
        query.top(store, relation=name, n=count, by=by, sites=wanted).assign(relation=name) for name in names
    ]
    return pd.concat(parts)[PLACE].reset_index(drop=True)


def _listed(places: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = [("", site, int(layer), int(index)) for site, pairs in places.items() for layer, index in pairs]
    return pd.DataFrame(rows, columns=PLACE)


def _sites(
    subject: Subject, shown: pd.DataFrame | None, wanted: str | Sequence[str] | None
) -> tuple[str, ...]:
    """The sites that are read."""
    config = subject.loaded.model.config
    needed = set() if shown is None else set(shown["site"])
    asked = sites.resolve(config, wanted) if wanted is not None else () if needed else ("mlp.hidden",)
    return sites.resolve(config, [*needed, *asked])


def _carrying(found: Tokens, n: int) -> pd.DataFrame:
    """The neurons to which most of the answer is owed, up or down, over all tokens."""
    rows = []
    for site, values in found.attribution.items():
        total = values.sum(axis=0)  # [layer, neuron]
        for at in np.argsort(-np.abs(total), axis=None, kind="stable")[:n]:
            place, index = np.unravel_index(at, total.shape)
            layer = found.layers[site][int(place)]
            rows.append((abs(float(total[place, index])), "", site, layer, int(index)))
    best = sorted(rows, key=lambda row: -row[0])[:n]
    return pd.DataFrame([row[1:] for row in best], columns=PLACE)


def places(shown: pd.DataFrame) -> Iterator[tuple[str, str, int, int]]:
    """(relation, site, layer, index) of every neuron that is shown."""
    for relation, site, layer, index in shown[PLACE].itertuples(index=False, name=None):
        yield str(relation), str(site), int(layer), int(index)


def _require_there(shown: pd.DataFrame, found: Tokens) -> None:
    for _, site, layer, index in places(shown):
        n_layers, width = found.activation[site].shape[1:]
        if not (layer in found.layers[site] and 0 <= index < width):
            fix = f"there are {n_layers} layers of {width}"
            raise InputError(f"no neuron {site}/{layer}/{index}", where="neurons", fix=fix)


def _dataset(found: Tokens, site: str, tokens: Sequence[str]) -> xr.Dataset:
    values = {ACTIVATION: found.activation[site], ATTRIBUTION: found.attribution[site]}
    n_tokens, _, width = values[ACTIVATION].shape
    return xr.Dataset(
        {name: (("token", "layer", "neuron"), of) for name, of in values.items()},
        {
            "token": range(n_tokens),
            "layer": found.layers[site],
            "neuron": range(width),
            "text": ("token", list(tokens)),
        },
        {"site": site, schema.N_TOKENS: n_tokens},
    )

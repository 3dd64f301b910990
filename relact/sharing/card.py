"""The card of a packed store: what it holds, what made it, how to make it again, what was found."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

import relact
from relact import plan, schema
from relact.analysis.claims import claims, criterion_of
from relact.analysis.evidence import evidence
from relact.errors import InputError
from relact.models.packaged import PACKAGED
from relact.scoring.criteria import meaning
from relact.store.reading import Store

if TYPE_CHECKING:
    import xarray as xr

LICENCE = "not stated"
ABOUT = "https://arxiv.org/abs/2502.17355"


def spdx(licence: str) -> str:
    """A licence as SPDX spells it.

    >>> spdx("cc-by-4.0 and unicode-3.0"), spdx("LicenseRef-ours")
    ('CC-BY-4.0 AND Unicode-3.0', 'LicenseRef-ours')

    Raises:
        InputError: no SPDX expression.
    """
    try:
        return str(canonicalize_license_expression(licence))
    except InvalidLicenseExpression as error:
        problem = f"{licence!r:.80} is no licence that SPDX knows (spdx.org/licenses)"
        fix = "give its identifier, an expression of several, or LicenseRef-NAME for any other"
        raise InputError(problem, where="--licence", fix=fix) from error


def describe(store: Store, stages: Sequence[str], licence: str | None) -> dict[str, Any]:
    """The card as plain values, for the package's attributes.

    Args:
        stages: top-level groups that are packed.
        licence: of the data; an SPDX identifier or expression such as ``CC-BY-4.0 AND Unicode-3.0``.
    """
    manifest = store.manifest
    packaged = PACKAGED.get(manifest.model.id)
    return {
        "model": manifest.model.id,
        "revision": manifest.model.revision,
        "fingerprint": manifest.model.fingerprint,
        "family": manifest.model.family,
        "relations": store.relations(),
        "prompts": {split: dict(described) for split, described in manifest.prompts.items()},
        "sites": {site: [lay.n_layers, lay.width] for site, lay in store.layouts.items()},
        "pool": manifest.capture.pooled,
        "dtype": manifest.capture.dtype,
        "stages": list(stages),
        "masks": {name: store.mask_record(name).k for name in store.children(schema.MASKS)}
        if schema.MASKS in stages
        else {},
        "figures": _figures(store) if schema.ABLATIONS in stages else {},
        "licence": spdx(licence) if licence else LICENCE,
        "model_licence": packaged.licence if packaged else None,
        "reproduce": "relact run --like THIS_STORE --store again.zarr",
        "relact": relact.__version__,
    }


def render(card: Mapping[str, Any], size: int) -> str:
    """README.md of a packed store; front matter as the hub reads it.

    Args:
        size: bytes of all packed files.
    """
    lines = [
        *_front_matter(card["licence"]),
        "",
        f"# Neurons of {_code(card['model'])}",
        "",
        "A store packed by relact: which neurons of a language model belong to a relation, "
        f"and what breaks without them ([the method]({ABOUT})).",
        "",
        *_identity(card, size),
        "",
    ]
    for name, figure in card["figures"].items():
        lines += [f"## Ablation {_code(name)}", "", *_effect(figure), ""]
    return "\n".join([*lines, *_use(card)])


def _front_matter(licence: str) -> list[str]:
    """As the hub reads it; it knows single identifiers of licences, no expressions."""
    identifier = re.fullmatch(r"[A-Za-z0-9.+-]+", licence)
    known = identifier and not licence.startswith("LicenseRef-")
    return [
        "---",
        f"license: {licence.lower()}" if known else "license: other",
        "tags: [relact, interpretability]",
        "---",
    ]


def _identity(card: Mapping[str, Any], size: int) -> list[str]:
    """A table: what the numbers are of, and what made them."""
    sites = ", ".join(f"{_code(site)} {n} x {width}" for site, (n, width) in card["sites"].items())
    neurons = sum(n * width for n, width in card["sites"].values())
    prompts, of_model = card["prompts"], card["model_licence"]
    n_prompts = {split: table[schema.N_ROWS] for split, table in prompts.items()}
    return [
        "| | |",
        "|---|---|",
        f"| model | {_code(card['model'])} ({_code(card['family'])}) |",
        f"| revision | {_code(card['revision'] or 'none')} |",
        f"| fingerprint | {_code(card['fingerprint'])} |",
        f"| prompts | {n_prompts[schema.IDENTIFY]} to identify, {n_prompts[schema.TEST]} to test |",
        *[f"| digest of {split} | {_code(table[schema.ROWS_DIGEST])} |" for split, table in prompts.items()],
        f"| relations | {', '.join(map(_code, card['relations']))} |",
        f"| neurons | {neurons:,}: {sites} |",
        f"| pooled over tokens by | {_code(card['pool'])}, stored as {_code(card['dtype'])} |",
        f"| holds | {', '.join(map(_code, card['stages']))}, {plan.show_bytes(size)} |",
        f"| licence | {_code(card['licence'])} |",
        *([f"| licence of the model, which is not in here | {_bare(of_model)} |"] if of_model else []),
        f"| made by | relact {_code(card['relact'])} |",
    ]


def _effect(figure: Mapping[str, Any]) -> list[str]:
    """A table: what one ablation cost."""
    labels = {
        "own": "a relation's own neurons",
        "other": "another relation's neurons",
        "random": "random neurons",
    }
    rows = [
        f"| {label} | {figure[key]} | {_bare(figure['intervals'][key])} |"
        for key, label in labels.items()
        if figure[key] is not None
    ]
    chosen = (
        f", by {_bare(figure['statistic'])} ({_bare(figure['meaning'])})" if "statistic" in figure else ""
    )
    return [
        f"Mean loss of accuracy in points, k = {_bare(figure['k'])}{chosen}:",
        "",
        "| switched off | loss | 95 % interval, over relations and prompts |",
        "|---|---|---|",
        *rows,
        "",
        *(f"- {_bare(sentence)}" for sentence in figure["claims"]),
    ]


def _use(card: Mapping[str, Any]) -> list[str]:
    """How to ask it, unpack it, and make it again."""
    return [
        "## Use",
        "",
        "```console",
        f"$ relact top THIS_STORE --relation {_bare(card['relations'][0])}",
        "$ relact unpack THIS_STORE study.zarr",
        f"$ {_bare(card['reproduce'])}",
        "```",
        "",
        "`THIS_STORE` is where it lies: a path, or an http(s), s3 or hf address. Without relact:",
        "",
        "```python",
        'xarray.open_datatree("THIS_STORE", engine="zarr")  # a folder',
        'xarray.open_datatree(zarr.storage.ZipStore("THIS_STORE", read_only=True), engine="zarr")  # a .zip',
        "```",
        "",
        "The first also takes an address, where `fsspec` and `aiohttp` (https) or `s3fs` (s3) are installed.",
        "",
    ]


def _figures(store: Store) -> dict[str, dict[str, Any]]:
    """Mean loss of accuracy in points with its interval, and what may be claimed, per ablation and k."""
    figures = {}
    for name in store.children(schema.ABLATIONS):
        stored = store.dataset(f"{schema.ABLATIONS}/{name}").load()
        if "k" not in stored.dims:
            figures[name] = _figure(int(stored.attrs["k"]), stored)
            continue
        for k in stored["k"].values.tolist():
            figures[f"{name}, k = {k}"] = _figure(k, stored.sel(k=k))
    return figures


def _figure(k: int, ablation: xr.Dataset) -> dict[str, Any]:
    found = evidence(ablation)
    names = ("group", "mean_drop", "mean_low", "mean_high")
    table = {
        str(group): (float(drop), f"{low:.2f} to {high:.2f}")
        for group, drop, low, high in zip(*(found[name].values for name in names), strict=True)
    }
    groups = {name: table.get(name, (math.nan, "")) for name in ("own", "other", "random")}
    losses = {name: None if math.isnan(drop) else round(drop, 2) for name, (drop, _) in groups.items()}
    intervals = {name: interval for name, (_, interval) in groups.items()}
    statistic = criterion_of(ablation)[0]
    chosen = {"statistic": statistic, "meaning": meaning(statistic)} if statistic else {}
    return {"k": k, **chosen, **losses, "intervals": intervals, "claims": claims(found)}


def _bare(value: object) -> str:
    """Text that neither HTML nor a table nor a fence can mistake for itself."""
    return html.escape(" ".join(str(value).split())).replace("`", "'").replace("|", "&#124;")


def _code(value: object) -> str:
    return f"`{' '.join(str(value).split())}`".replace("|", "\\|") if "`" not in str(value) else _bare(value)

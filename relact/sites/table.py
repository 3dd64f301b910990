"""What the table says of one model: its sites, the layers each is in, how wide it is and where it is read.

A ``config`` is any object with the attributes of a transformers configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from relact.errors import ModelError
from relact.sites import names as site_names
from relact.sites import own, rules
from relact.sites.families import FAMILIES
from relact.sites.names import ALIASES, BY_EXPERT, MORE, SITES
from relact.sites.refused import REFUSED
from relact.sites.taps import EXPERTS, Family, Part, Tap

_BY_NAME: Mapping[str, Family] = {name: row for row in FAMILIES for name in row.names}
KNOWN: tuple[str, ...] = tuple(sorted(_BY_NAME))


@dataclass(frozen=True)
class Place:
    """A site of one model.

    Attributes:
        width: neurons per layer.
        taps: where it is in each of its layers, by the layer's number, ascending.
        experts: how many experts its neurons belong to, all of the first in front; 0 where to none.
        chosen: of these, how many a token is routed to.
    """

    width: int
    taps: Mapping[int, Tap]
    experts: int = 0
    chosen: int = 0

    @property
    def per_token(self) -> int:
        """Neurons that a token has values of, in a layer."""
        return self.width // self.experts * self.chosen if self.experts else self.width

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have the site."""
        return tuple(self.taps)


def places(config: Any) -> dict[str, Place]:
    """Every site of a model, in canonical order; `ModelError` for a family that the table lacks."""
    row, text = family(config), text_config(config)
    taps: dict[str, dict[int, Tap]] = {}
    width: dict[str, int] = {}
    for group in row.groups:
        layers = group.layers(text)
        if not layers:
            continue
        sizes = group.widths(text)
        for site, tap in group.taps.items():
            taps.setdefault(site, {}).update(dict.fromkeys(layers, tap))
            width[site] = int(sizes[site])
    n_experts = rules.n_experts(text)
    found = {}
    for site in SITES:
        if site in taps:
            ordered = dict(sorted(taps[site].items()))
            routed = any(tap.side == EXPERTS for tap in ordered.values())
            mixed = (n_experts, rules.n_chosen(text)) if routed else (0, 0)
            found[site] = Place(width[site], ordered, *mixed)
    return found


def family(config: Any) -> Family:
    """The row of ``config.model_type``, matched exactly; `ModelError` for others."""
    name = getattr(config, "model_type", None) or "without model_type"
    row = _BY_NAME.get(name) or own.rows(_BY_NAME).get(name)
    if row is None:
        raise _unknown(name)
    if row.text and text_config(config) is not config:
        row = replace(row, groups=family(text_config(config)).groups)
    elif (experts := rules.n_experts(config)) > 1 and "moe.weight" not in row.taps and not row.unread:
        raise ModelError(
            f"its configuration asks for {experts} experts, which this family has nowhere",
            where=f"model family {name}",
            fix=f"check its configuration, or name a file with a row for it in {own.VARIABLE}",
        )
    return row


def _unknown(name: str) -> ModelError:
    """Why a type has no row, or what a row would need."""
    where = f"model family {name}"
    if name in REFUSED:
        return ModelError(REFUSED[name], where=where, fix="choose one of the decoders in docs/models.md")
    near = ", ".join(get_close_matches(name, KNOWN, n=3, cutoff=0.5))
    like = f"; its like there may be {near}" if near else ""
    return ModelError(
        f"not in the table of families, which docs/models.md lists{like}",
        where=where,
        fix=f"name a file with a row for it in {own.VARIABLE}, see docs/howto/family.md",
    )


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the decoder."""
    return getattr(config, "text_config", None) or config


def n_layers(config: Any) -> int:
    """How many decoder layers the configuration asks for."""
    family(config)
    return int(text_config(config).num_hidden_layers)


def widths(config: Any) -> dict[str, int]:
    """Neurons per layer of each site the model has, in canonical order, from the configuration alone."""
    return {site: place.width for site, place in places(config).items()}


def layers_of(config: Any) -> dict[str, tuple[int, ...]]:
    """Numbers of the layers that have each site."""
    return {site: place.layers for site, place in places(config).items()}


def resolve(config: Any, names: str | Sequence[str]) -> tuple[str, ...]:
    """`expand` for one model: aliases leave out what it lacks, a site named outright must exist.

    Where neurons belong to experts, aliases leave out those that are as wide as all experts together: they
    are asked for by name.
    """
    found = places(config)
    asked = site_names.words(names)
    site_names.expand(names)
    missing = [word for word in asked if word in SITES and word not in found]
    if missing:
        raise ModelError(
            f"has no {', '.join(missing)}",
            where=f"model family {config.model_type}",
            fix=f"choose from {', '.join(found)}",
        )
    wanted = {word for word in asked if word in SITES}
    for alias in asked:
        wanted |= _stands_for(alias, found)
    if not wanted:
        raise ModelError(
            f"has nothing that {', '.join(asked)} stands for",
            where=f"model family {config.model_type}",
            fix=f"choose from {', '.join(found)}",
        )
    return site_names.in_order(wanted)


def _stands_for(alias: str, found: Mapping[str, Place]) -> set[str]:
    """The sites of a model that an alias stands for; ``mlp`` for all where it has neither MLP nor experts."""
    stands = {*ALIASES.get(alias, ()), *MORE.get(alias, ())} & found.keys()
    if alias == "mlp" and not stands:
        stands = {*MORE["all"]} & found.keys()
    return {site for site in stands if not (site in BY_EXPERT and found[site].experts)}


def part(
    config: Any, site: str, tap: Tap | None = None, found: Mapping[str, Place] | None = None
) -> Part | None:
    """The columns of a fused projection that are ``site``; None where the module's output is nothing else.

    Args:
        tap: one of the site's; None is that of its first layer.
        found: the model's `places`, where they are known already.
    """
    if tap is not None and not tap.fused:
        return None
    found = places(config) if found is None else found
    tap = tap or next(iter(found[site].taps.values()))
    if not tap.fused:
        return None
    groups = _groups(text_config(config), tap, found)
    width = {name: found[name].width // groups for name in tap.fused}
    start = sum(width[name] for name in tap.fused[: tap.fused.index(site)])
    return Part(groups, start, start + width[site])


def _groups(text: Any, tap: Tap, found: Mapping[str, Place]) -> int:
    """How often a fused layout repeats."""
    if not tap.per:
        return 1
    heads = int(text.num_attention_heads)
    if tap.per == "kv":  # a head of queries is as large as one of keys
        return heads * found["attn.k"].width // found["attn.q"].width
    if tap.per == "head":
        return heads
    if tap.per == "key":
        return int(text.linear_num_key_heads)
    return int(tap.per)


def aliases_of(config: Any) -> tuple[str, ...]:
    """The aliases that stand for something in a model."""
    found = places(config)
    return tuple(alias for alias in ALIASES if _stands_for(alias, found))


def count(config: Any, names: str | Sequence[str]) -> int:
    """Neurons in the whole model: the layers x the widths of the named sites."""
    found = places(config)
    return sum(found[site].width * len(found[site].taps) for site in resolve(config, names))

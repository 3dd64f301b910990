"""Names of sites, the aliases that stand for several, and what of them is one hidden unit.

A site is a rectangle: in a model it has one width, in every layer that it is in. What is as wide elsewhere
as in no other layer has a name of its own: ``dense.*`` are the MLPs without experts of a model that has
experts, ``wide.*`` MLPs of a second width, ``global.*`` attention whose heads are of a second size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relact.errors import InputError

_PARTS = ("gate", "act", "up", "hidden", "down")
MLPS = ("mlp", "dense", "wide", "shared")  # groups whose sites are those of an MLP
SITES = (
    *(f"mlp.{part}" for part in _PARTS),
    *(f"attn.{part}" for part in ("q", "k", "v", "o")),
    *(f"{group}.{part}" for group in MLPS[1:] for part in _PARTS),
    "moe.router",
    "moe.weight",
    "attn.gate",
    *(f"global.{part}" for part in ("q", "k", "v", "o", "gate")),
    *(f"lin.{part}" for part in ("q", "k", "v", "z", "hidden", "out")),
    *(f"ssm.{part}" for part in ("in", "hidden", "out")),
    *(f"conv.{part}" for part in ("in", "hidden", "out")),
)
_MLP = ("mlp.gate", "mlp.up", "mlp.down")
_ATTN = ("attn.q", "attn.k", "attn.v", "attn.o")
ALIASES: Mapping[str, tuple[str, ...]] = {"mlp": _MLP, "attn": _ATTN, "all": _MLP + _ATTN}
# what an alias stands for beside that, in models that have it
_MORE_MLP = (
    "moe.router",
    "moe.weight",
    *(f"{group}.{part}" for group in MLPS[1:] for part in ("gate", "up", "down")),
)
_MORE_ATTN = tuple(f"global.{part}" for part in ("q", "k", "v", "o"))
_MIXERS = tuple(site for site in SITES if site.startswith(("lin.", "ssm.", "conv.")))
MORE: Mapping[str, tuple[str, ...]] = {
    "mlp": _MORE_MLP,
    "attn": _MORE_ATTN,
    "all": (*_MORE_MLP, *_MORE_ATTN, *_MIXERS),
}
BY_EXPERT = tuple(
    f"mlp.{part}" for part in _PARTS[:4]
)  # as wide as all experts together, where there are any


def group_of(site: str) -> str:
    """``mlp`` of ``mlp.gate``."""
    return site.partition(".")[0]


def words(names: str | Sequence[str]) -> list[str]:
    """What is asked for: one text with commas, or several."""
    texts = [names] if isinstance(names, str) else names
    split = [word.strip() for text in texts for word in text.split(",")]
    return [word for word in split if word]


def expand(names: str | Sequence[str]) -> tuple[str, ...]:
    """The sites that names and aliases stand for, in canonical order, each once; `InputError` on others.

    >>> expand("attn.q, mlp") == expand(["mlp", "attn.q"])
    True
    """
    asked = words(names)
    unknown = [word for word in asked if word not in SITES and word not in ALIASES]
    if unknown or not asked:
        problem = f"unknown site {', '.join(unknown)}" if unknown else "no site given"
        raise InputError(problem, where="sites", fix=f"choose from {', '.join((*ALIASES, *SITES))}")
    wanted = {site for word in asked for site in ALIASES.get(word, (word,))}
    return in_order(wanted)


def in_order(sites: set[str]) -> tuple[str, ...]:
    """Sites in canonical order."""
    return tuple(site for site in SITES if site in sites)

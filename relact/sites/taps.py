"""Records that the table of families is made of: where a site is, in which layers, and how wide.

A `Family` has `Group`s. A group is what stands together in a layer: an MLP, an attention, a state space. It
says where its sites are (a `Tap` each), which layers it is in and how wide its sites are; both are rules of
the configuration, so that one row serves models of all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relact.sites.names import in_order

Layers = Callable[[Any], Sequence[int]]  # of a text configuration: numbers of the layers, ascending
Widths = Callable[[Any], Mapping[str, int]]  # of a text configuration: neurons per layer of every site

OUTPUT, INPUT, EXPERTS = "output", "input", "experts"


@dataclass(frozen=True)
class Tap:
    """One place to read or replace a site: a module inside a decoder layer, and the side of it.

    ``side`` is ``output`` or ``input``; ``experts`` is what the module's experts compute inside it, which no
    hook on a module sees (`relact.models.experts`). ``item`` is the site's place in an output that is a
    tuple. ``fused`` lists the sites that share the module's output, in their order in memory; () when it is
    this site alone. ``per`` tells the layouts of a fused projection apart: "" is [all of q | all of k | all
    of v]; ``kv`` repeats [q k v] once per key-value head, as GPT-NeoX, BLOOM and Falcon do; ``head`` repeats
    what is fused once per head. ``again``: after a cache the module computes its tokens anew, too, and puts
    them in front of those that come.
    """

    module: str
    side: str = OUTPUT
    fused: tuple[str, ...] = ()
    per: str = ""
    item: int | None = None
    again: bool = False


@dataclass(frozen=True)
class Part:
    """A site's columns in a module's output: of every group of [groups, -1] those from start to stop."""

    groups: int
    start: int
    stop: int


def every_layer(config: Any) -> Sequence[int]:
    """All decoder layers."""
    return range(int(config.num_hidden_layers))


@dataclass(frozen=True)
class Group:
    """Sites that are in the same layers.

    Attributes:
        taps: where each site is in a decoder layer.
        widths: neurons per layer of each.
        layers: the layers that have them.
    """

    taps: Mapping[str, Tap] = field(repr=False)
    widths: Widths = field(repr=False)
    layers: Layers = field(default=every_layer, repr=False)


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        names: the exact ``model_type`` of every configuration it is for.
        layers: path of the list of decoder layers in the causal language model.
        groups: what its layers are made of. A site is in several groups where it is elsewhere in some layers,
            as wide.
        text: whether a model's groups are those of the row of its text model, as where it also sees.
        unread: whether it has experts whose neurons are read nowhere, in code of its own.
    """

    names: tuple[str, ...]
    layers: str
    groups: tuple[Group, ...] = field(default=(), repr=False)
    text: bool = False
    unread: bool = False

    @property
    def taps(self) -> Mapping[str, Tap]:
        """Where each site is, in the first of the groups that have it."""
        found: dict[str, Tap] = {}
        for group in self.groups:
            for site, tap in group.taps.items():
                found.setdefault(site, tap)
        return found

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites this family has, in canonical order; a model of it may lack some."""
        return in_order(set(self.taps))

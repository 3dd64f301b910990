"""Values of the units of a mixture of experts: kept where tokens are routed, 0 everywhere else.

A routed layer is read as one MLP of experts x units neurons, neuron = expert x units + unit, of which a token
has only those of its own experts. A row of `Routed` is one token at one of its experts, so that nothing of
[tokens, experts x units] is ever made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


def last_of(mask: Tensor) -> Tensor:
    """int64 [batch]: the last token of every row of a mask [batch, tokens]."""
    return mask.cumsum(dim=1).argmax(dim=1)


@dataclass(frozen=True)
class Added:
    """What all tokens of some parts of the batch write, routed or not: values [n] at neurons [n] of rows [n].

    Attributes:
        groups: into how many equal parts the tokens are cut; ``rows`` number them.
        places: int64 [m], the only tokens of a part; None is all of them.
    """

    groups: int
    rows: Tensor
    neurons: Tensor
    values: Tensor
    places: Tensor | None = None


@dataclass(frozen=True)
class Routed:
    """Values of units at the tokens that reach them: ``raw`` [rows, units], times ``weight`` if there is one.

    Attributes:
        experts, tokens: int64 [rows], the expert of every row and its token, flat over [batch, tokens].
        shape: (batch, tokens) of the layer's input. n_experts: of the layer.
        weight: [rows], what the router gives the expert; None where values do not have it as a factor.
        added: what replaced values write for tokens that are not routed.
    """

    raw: Tensor
    experts: Tensor
    tokens: Tensor
    shape: tuple[int, int]
    n_experts: int
    weight: Tensor | None = None
    added: tuple[Added, ...] = ()

    @property
    def units(self) -> int:
        """Neurons of one expert."""
        return int(self.raw.shape[-1])

    @property
    def width(self) -> int:
        """Neurons of the layer."""
        return self.n_experts * self.units

    @property
    def device(self) -> torch.device:
        return self.raw.device

    @property
    def values(self) -> Tensor:
        """[rows, units]."""
        return self.raw if self.weight is None else self.raw * self.weight[:, None].to(self.raw.dtype)

    def of(self, values: Tensor) -> Routed:
        """Other values [rows, units] at the same tokens and experts."""
        return replace(self, raw=values, weight=None, added=())

    def dense(self) -> Tensor:
        """[batch, tokens, neurons]: for small models alone."""
        whole = self.values.new_zeros(self.shape[0] * self.shape[1], self.n_experts, self.units)
        whole = whole.index_put((self.tokens, self.experts), self.values, accumulate=True)
        return whole.view(*self.shape, self.width)

    def at(self, other: Routed) -> Tensor:
        """[rows of other, units]: the values at the tokens and experts of another, 0 where there are none."""
        number = self.tokens.new_full((self.shape[0] * self.shape[1], self.n_experts), -1)
        number[self.tokens, self.experts] = torch.arange(len(self.tokens), device=self.device)
        found = number[other.tokens, other.experts]
        return self.values[found.clamp_min(0)].masked_fill((found < 0)[:, None], 0)

    def instead(self, new: Routed, counted: Tensor) -> Routed:
        """These values, but the new ones at the tokens of a mask [batch, tokens].

        Where values have the router's weight they are what is written, whichever experts it chooses now; else
        only those of chosen experts count.
        """
        if self.weight is None:
            return self.of(
                torch.where(self._real(counted)[:, None], new.at(self).to(self.raw.dtype), self.raw)
            )
        mine, theirs = ~self._real(counted), new._real(counted)
        experts = torch.cat([new.experts[theirs], self.experts[mine]])
        tokens = torch.cat([new.tokens[theirs], self.tokens[mine]])
        values = torch.cat([new.values[theirs].to(self.raw.dtype), self.values[mine]])
        order = experts.argsort(stable=True)
        return replace(self.of(values[order]), experts=experts[order], tokens=tokens[order])

    def total(self, mask: Tensor) -> Tensor:
        """[batch, neurons]: sums over the tokens of a mask [batch, tokens], in float32 at least."""
        return self._sum(self._wide(self.values), mask)

    def positive(self, mask: Tensor) -> Tensor:
        """[batch, neurons]: how many tokens of a mask have values above 0."""
        return self._sum((self.values > 0).float(), mask)

    def largest(self, mask: Tensor) -> Tensor:
        """[batch, neurons]: over the tokens of a mask, those that are not routed counting as 0."""
        values = self._wide(self.values).masked_fill(~self._real(mask)[:, None], float("-inf"))
        found = values.new_full((self.shape[0] * self.n_experts, self.units), float("-inf"))
        found = found.scatter_reduce(0, self._cells[:, None].expand_as(values), values, "amax")
        routed = mask.new_zeros(self.shape[0] * self.n_experts, dtype=torch.int64)
        routed = routed.index_add(0, self._cells, self._real(mask).long()).view(self.shape[0], -1)
        absent = (routed < mask.sum(dim=1)[:, None]).view(-1, 1)
        return torch.where(absent, found.clamp_min(0), found).view(self.shape[0], self.width)

    def last(self, mask: Tensor) -> Tensor:
        """[batch, neurons] at the last token of a mask."""
        ends = torch.zeros_like(mask)
        ends[torch.arange(len(mask), device=mask.device), last_of(mask)] = True
        return self.total(ends)

    def scaled(self, groups: int, rows: Tensor, neurons: Tensor, by: Tensor, places: Tensor | None) -> Routed:
        """Values of neurons [n] of parts ``rows`` [n] times ``by`` [n]; arguments as in `Added`."""
        chosen, factors = self._tables(groups, rows, neurons, by, places)
        return replace(self, raw=torch.where(chosen, self.raw * factors, self.raw).to(self.raw.dtype))

    def set(self, groups: int, rows: Tensor, neurons: Tensor, to: Tensor, places: Tensor | None) -> Routed:
        """Values of neurons [n] of parts ``rows`` [n] set to ``to`` [n]; arguments as in `Added`.

        Where values have the router's weight they are what is written, so all tokens have the new ones; else
        tokens that are not routed keep nothing to be set.
        """
        chosen, new = self._tables(groups, rows, neurons, to, places)
        if self.weight is None:
            return replace(self, raw=torch.where(chosen, new.to(self.raw.dtype), self.raw))
        there = to != 0
        new_here = Added(groups, rows[there], neurons[there], to[there], places)
        return replace(self, raw=self.raw.masked_fill(chosen, 0), added=(*self.added, new_here))

    @property
    def _cells(self) -> Tensor:
        """int64 [rows]: batch row x experts + expert."""
        return self.tokens // self.shape[1] * self.n_experts + self.experts

    def _real(self, mask: Tensor) -> Tensor:
        """[rows]: what a mask [batch, tokens] says of every row's token."""
        return mask.reshape(-1)[self.tokens]

    def _wide(self, values: Tensor) -> Tensor:
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def _sum(self, values: Tensor, mask: Tensor) -> Tensor:
        values = values.masked_fill(~self._real(mask)[:, None], 0)
        sums = values.new_zeros(self.shape[0] * self.n_experts, self.units)
        return sums.index_add(0, self._cells, values).view(self.shape[0], self.width)

    def _tables(
        self, groups: int, rows: Tensor, neurons: Tensor, new: Tensor, places: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """For every row and unit whether it is chosen, and its new value: [rows, units]."""
        chosen = torch.zeros(groups, self.width, dtype=torch.bool, device=self.device)
        values = torch.zeros(groups, self.width, dtype=new.dtype, device=self.device)
        chosen[rows, neurons], values[rows, neurons] = True, new
        per_group = self.shape[0] * self.shape[1] // groups
        cells = self.tokens // per_group * self.n_experts + self.experts
        chosen, values = (table.view(-1, self.units)[cells] for table in (chosen, values))
        if places is not None:
            counted = torch.zeros(per_group, dtype=torch.bool, device=self.device)
            counted[places] = True
            chosen = chosen & counted[self.tokens % per_group][:, None]
        return chosen, values


def tensor_of(values: Tensor | Routed) -> Tensor:
    """The tensor of values, of any site: [batch, tokens, neurons] or [rows, units]."""
    return values.values if isinstance(values, Routed) else values


def whole(values: Tensor | Routed) -> Tensor:
    """[batch, tokens, neurons] of values of any site: of experts' only where that is small."""
    return values.dense() if isinstance(values, Routed) else values


def like(values: Tensor | Routed, tensor: Tensor) -> Tensor | Routed:
    """Other values of the same site, from such a tensor."""
    return values.of(tensor) if isinstance(values, Routed) else tensor


def instead(values: Tensor | Routed, new: Tensor | Routed, counted: Tensor) -> Tensor | Routed:
    """``values`` of any site, but ``new`` ones at the tokens of a mask [batch, tokens]."""
    if isinstance(values, Routed) and isinstance(new, Routed):
        return values.instead(new, counted.to(values.device))
    return torch.where(counted[..., None].to(values.device), new, values)

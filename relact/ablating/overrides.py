"""Conditions that run together: one batch row each, their neurons overridden while the model runs.

The first row is the intact model. A condition joins the batch at its lowest overridden layer, up to which it
equals that row.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from relact.ablating.conditions import Condition
from relact.models import hooks
from relact.models.forward import advance
from relact.models.loading import LoadedModel
from relact.models.routed import Routed

# (site, layer) -> batch rows, neurons, and new values or factors, of all that is overridden there
Entries = dict[tuple[str, int], tuple[Tensor, Tensor, Tensor]]


class Chunk:
    """Conditions that run together over one prefix, the intact model in row 0
    and the others in ``row_of`` [condition].

    Args:
        joining: conditions join the batch at their lowest overridden layer, instead of running from the
            start.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        conditions: Sequence[Condition],
        prefix: Sequence[int],
        *,
        last: bool,
        joining: bool,
    ) -> None:
        self.loaded, self.model, self.device, self.last = loaded, loaded.model, loaded.device, last
        firsts = [condition.first_layer() for condition in conditions]
        self.joining = Counter(first for first in firsts if first is not None)  # layer -> conditions
        self.n_rows = 1 + self.joining.total()
        self.row_of = [0] * len(conditions)
        by_layer = sorted((first, at) for at, first in enumerate(firsts) if first is not None)
        for row, (_, at) in enumerate(by_layer, 1):
            self.row_of[at] = row
        placed = list(zip(self.row_of, conditions, strict=True))
        self.set = self._entries([pair for pair in placed if pair[1].factor is None])
        self.scaled = self._entries([pair for pair in placed if pair[1].factor is not None])
        self.prefix = tuple(prefix)
        # what the cache has rows for: conditions that joined, all conditions, or the intact model alone
        self.joined, self.apart = joining, not joining and not last
        self.cache: Any = None
        if prefix:
            ids = torch.tensor([self.prefix], device=self.device)
            if self.apart:
                ids = ids.expand(self.n_rows, -1)
            with self.overridden(joining=joining) if not last else nullcontext():
                self.cache = advance(self.model.base_model, ids)[1]

    def _entries(self, placed: Sequence[tuple[int, Condition]]) -> Entries:
        """Of conditions with their batch rows."""
        entries: Entries = {}
        for site in sorted({site for _, condition in placed for site in condition.off}):
            for layer in range(self.loaded.n_layers):
                parts = [(row, *condition.entries(site, layer)) for row, condition in placed]
                rows = np.concatenate([np.full(len(neurons), row) for row, neurons, _ in parts])
                if len(rows):
                    neurons, values = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
                    entries[site, layer] = tuple(
                        torch.from_numpy(x).to(self.device) for x in (rows, neurons, values)
                    )
        return entries

    def rows_at(self, layer: int) -> int:
        """Batch rows at a layer's output, while conditions are joining."""
        return 1 + sum(count for first, count in self.joining.items() if first <= layer)

    @contextmanager
    def overridden(self, *, joining: bool, ends: Tensor | None = None) -> Iterator[None]:
        """Override inside the block; the batch is rows x prompts,
        or the intact row alone that conditions are ``joining``.

        Args:
            ends: the only token positions to override, of a row's tokens (all its prompts together); None is
                all.
        """

        def write(site: str, layer: int, values: Tensor | Routed) -> Tensor | Routed | None:
            if (site, layer) not in places:
                return None
            n_rows = self.rows_at(layer) if joining else self.n_rows
            for entries, multiply in ((self.set, False), (self.scaled, True)):
                if (site, layer) in entries:
                    entry = entries[site, layer]
                    if isinstance(values, Routed):
                        values = (values.scaled if multiply else values.set)(n_rows, *entry, ends)
                    else:
                        values = _overwritten(values, n_rows, entry, ends, multiply)
            return values

        places = self.set.keys() | self.scaled.keys()
        with ExitStack() as stack:
            if not places:
                yield
                return
            sites, layers = {site for site, _ in places}, {layer for _, layer in places}
            visit = stack.enter_context(hooks.visit(self.model, sorted(sites), write, layers=layers))
            if joining:
                _, blocks = hooks.find_layers(self.model)
                for layer, count in self.joining.items():
                    stack.enter_context(_grown(blocks[layer], count, visit))
            yield


def _overwritten(
    values: Tensor, n_rows: int, entry: tuple[Tensor, Tensor, Tensor], ends: Tensor | None, multiply: bool
) -> Tensor:
    """A site's values [batch, tokens, neurons], set or multiplied; in place unless they lie transposed."""
    rows, neurons, new = entry
    values = values.contiguous()  # a copy of those of state spaces
    full = values.view(n_rows, -1, values.shape[-1])  # [rows, tokens of all prompts, neurons]
    at = (rows, slice(None), neurons) if ends is None else (rows[:, None], ends, neurons[:, None])
    new = new[:, None]
    # a product is rounded once: factors stay float32
    full[at] = (full[at] * new if multiply else new).to(values.dtype)
    return values


@contextmanager
def _grown(block: nn.Module, count: int, visit: hooks.Visit) -> Iterator[None]:
    """Append ``count`` copies of the batch's first row to what a decoder layer is given."""

    def before(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        hidden = torch.cat([hidden, hidden[:1].expand(count, -1, -1)])
        visit.batch = len(hidden)
        return (hidden, *args[1:]), kwargs

    handle = block.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def fitted(cache: Any, rows: Callable[[int], int]) -> Any:
    """A copy of a cache in which every layer has ``rows(layer)`` rows:
    the first one again for those that lack.
    """
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    for number, layer in enumerate(copied.layers):
        lacking = rows(number) - len(layer.keys)
        if lacking:
            layer.keys, layer.values = (
                torch.cat([x, x[:1].expand(lacking, *x.shape[1:])]) for x in (layer.keys, layer.values)
            )
    return copied

"""The built-in statistics on a torch device, for machines with a CUDA device.

One sort per column, then cumulative counts along it for every relation. Counts are exact; their ratios are
added in float64 in the device's own order, so results equal `ranks.rank_statistics` within float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from relact.errors import InputError, ModelError
from relact.kernels.columns import NotANumber, format_of
from relact.kernels.labels import NEGATIVE, POSITIVE, Labels
from relact.kernels.statistics import BUILT_IN, MEANS, QUANTILES
from relact.schema import AVERAGE_PRECISION


def on_device(device: str) -> Callable[[Sequence[np.ndarray], Labels, Sequence[str]], dict[str, np.ndarray]]:
    """``on_device("cuda")(blocks, labels, ["average_precision"])``: `rank_statistics` on a torch device.

    Raises:
        ModelError: torch is missing or does not have the device.
    """
    try:
        import torch

        torch.empty(0, device=device)
    except (ImportError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"cannot be used ({reason})", where=f"--device {device}", fix="score with --device cpu"
        ) from error
    return partial(_rank_statistics, device)


def _rank_statistics(
    device: str, blocks: Sequence[np.ndarray], labels: Labels, statistics: Sequence[str]
) -> dict[str, np.ndarray]:
    import torch

    unknown = [name for name in statistics if name not in BUILT_IN]
    if unknown:
        problem = f"{', '.join(unknown)} has no form for a device"
        raise InputError(problem, where="statistics", fix="score it with --device cpu")
    format_of(blocks, labels.prompts)
    values = torch.cat([_floats(block, device) for block in blocks])  # float32 [prompts, neurons]
    missing = values.isnan()
    if missing.any():
        prompt, neuron = missing.nonzero()[0].tolist()
        raise NotANumber(neuron, prompt)
    columns = _Columns(values, torch.from_numpy(labels.classes.astype(np.int64)).to(device))
    results = {name: np.empty((len(labels.relations), values.shape[1])) for name in statistics}
    for r in range(len(labels.relations)):
        role = torch.from_numpy(labels.roles[:, r].copy()).to(device)
        for name, out in results.items():
            out[r] = columns.statistic(name, role).double().cpu().numpy()
    return results


class _Columns:
    """Columns sorted from the top, and where each group of equal values begins and ends."""

    def __init__(self, values: Any, classes: Any) -> None:
        import torch

        self.values, self.classes = values, classes
        self.sorted, order = values.sort(dim=0, descending=True)
        self.sorted_classes = classes[order]  # [prompts, neurons]
        n = len(values)
        place = torch.arange(n, device=values.device)[:, None].expand_as(values)
        differs = self.sorted[1:] != self.sorted[:-1]
        edge = torch.ones_like(differs[:1]) if n > 1 else torch.ones_like(values, dtype=torch.bool)
        first, last = torch.cat([edge, differs])[:n], torch.cat([differs, edge])[:n]
        self.start = torch.where(first, place, 0).cummax(dim=0).values
        self.end = torch.where(last, place, n).flip(0).cummin(dim=0).values.flip(0)

    def statistic(self, name: str, role: Any) -> Any:
        """[neurons] of one relation, whose role is given for every class."""
        if name in MEANS:
            chosen = self.values[role[self.classes] == MEANS[name]].double()
            return chosen.mean(dim=0)  # NaN where none is chosen
        roles = role[self.sorted_classes]
        if name in QUANTILES:
            wanted, quantile = QUANTILES[name]
            return self._quantile(roles == wanted, quantile)
        positive, negative = roles == POSITIVE, roles == NEGATIVE
        hits, misses = positive.cumsum(dim=0), negative.cumsum(dim=0)
        hits_there, misses_there = hits.gather(0, self.end), misses.gather(0, self.end)
        if name == AVERAGE_PRECISION:
            share = hits_there.double() / (hits_there + misses_there).clamp(min=1)
            return (share * positive).sum(dim=0) / hits[-1]
        in_group = misses_there - misses.gather(0, self.start) + negative.gather(0, self.start).long()
        wins = ((2 * (misses[-1] - misses_there) + in_group) * positive).sum(dim=0)
        return wins.double() / (2 * hits[-1] * misses[-1])  # NaN without negatives

    def _quantile(self, chosen: Any, quantile: float) -> Any:
        import torch

        count = int(chosen[:, 0].sum())
        if not count:
            return torch.full_like(self.values[0], torch.nan)
        values = self.sorted.T[chosen.T].reshape(-1, count).double().flip(1)  # ascending [neurons, chosen]
        place = (count - 1) * quantile
        lower = int(place)
        low, high = values[:, lower], values[:, min(lower + 1, count - 1)]
        return torch.where(low == high, low, low + (high - low) * (place - lower))


def _floats(block: np.ndarray, device: str) -> Any:
    """A block as float32 on the device; moved in its own dtype."""
    import torch

    moved = torch.from_numpy(np.array(block)).to(device)
    return moved.view(torch.bfloat16).float() if block.dtype == np.uint16 else moved.float()

"""Quantities: which statistics are of which stream, and what is scored of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relact import kernels
from relact.errors import InputError
from relact.schema import ATTRIBUTIONS, OF_ATTRIBUTIONS
from relact.scoring.criteria import CAPTURE, PROBE, SHORT, of_attributions
from relact.scoring.options import ScoreOptions
from relact.store.layout import site_of


@dataclass(frozen=True)
class Wanted:
    """What is scored of one stream.

    Attributes:
        names: of the statistics, as they are stored.
        of_neurons: those that a neuron's column gives; statistics: what `kernels.STATISTICS` calls them.
    """

    stream: str
    names: tuple[str, ...]

    @property
    def of_neurons(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name != PROBE)

    @property
    def statistics(self) -> tuple[str, ...]:
        return tuple(map(statistic_of, self.of_neurons))

    @property
    def site(self) -> str:
        return site_of(self.stream)


def statistic_of(name: str) -> str:
    """The kernel of a stored statistic."""
    return SHORT.get(name, name.removeprefix(OF_ATTRIBUTIONS))


def stream_of(site: str, statistic: str) -> str:
    """The stream of a site that a stored statistic is computed from."""
    return f"{ATTRIBUTIONS}/{site}" if of_attributions(statistic) else site


def wanted(streams: Iterable[str], statistics: Sequence[str]) -> list[Wanted]:
    """What is scored of every stream, those of a site one after the other; a stream may have nothing.

    Raises:
        InputError: no such statistic; statistics of attributions are asked for (not by default) and there are
            none; probes of attributions.
    """
    streams = list(streams)
    for name in statistics:
        if name != PROBE and statistic_of(name) not in (*kernels.STATISTICS, PROBE):
            names = ", ".join(kernels.STATISTICS)
            fix = f"choose from {names}, {PROBE}; of attributions with {OF_ATTRIBUTIONS} before it"
            raise InputError(f"no statistic {name!r}", where="--statistics", fix=fix)
    if f"{OF_ATTRIBUTIONS}{PROBE}" in statistics:
        raise InputError("probes are of activations", where="--statistics", fix=f"name {PROBE}")
    split = {
        False: tuple(name for name in statistics if not of_attributions(name)),
        True: tuple(name for name in statistics if of_attributions(name)),
    }
    attributed = any(stream.startswith(ATTRIBUTIONS) for stream in streams)
    if split[True] and not attributed and tuple(statistics) != tuple(ScoreOptions.statistics):
        raise InputError(
            f"no attributions for {split[True][0]}",
            where="--statistics",
            fix=CAPTURE,
        )
    sites = list(dict.fromkeys(map(site_of, streams)))
    ordered = sorted(streams, key=lambda stream: sites.index(site_of(stream)))
    found = [Wanted(stream, split[stream.startswith(ATTRIBUTIONS)]) for stream in ordered]
    return [each for each in found if each.names]

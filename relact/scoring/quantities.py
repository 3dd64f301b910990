"""Which statistic is of what: those of attributions have the names of those of activations, prefixed.

``attribution_z`` is the statistic ``z`` of a site's attributions, ``attribution_mean`` the mean of the
positives. Whatever can be computed of activations can be of attributions: ``attribution_auroc`` and so on.

>>> named("attribution"), named("activation"), named("attribution", "auroc")
('attribution_z', 'average_precision', 'attribution_auroc')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relact.errors import InputError
from relact.kernels.statistics import ON_MEAN
from relact.schema import (
    ACTIVATION,
    ATTRIBUTION,
    ATTRIBUTION_Z,
    ATTRIBUTIONS,
    AVERAGE_PRECISION,
    OF_ATTRIBUTIONS,
)
from relact.scoring.options import ScoreOptions
from relact.store.layout import site_of

SHORT = {f"{OF_ATTRIBUTIONS}mean": ON_MEAN}  # names of their own
LONG = {statistic: name for name, statistic in SHORT.items()}
USUAL = {ACTIVATION: AVERAGE_PRECISION, ATTRIBUTION: ATTRIBUTION_Z}  # quantity -> what it is chosen by
CAPTURE = "capture them: `relact capture ... --attribution`, into a new store"
MEANINGS = {
    ACTIVATION: "neurons that tell the relation's prompts from others': detectors of the kind of prompt",
    ATTRIBUTION: "neurons that the answer's log-probability hangs on: carriers of the answer",
}


@dataclass(frozen=True)
class Wanted:
    """What is scored of one stream.

    Attributes:
        names: of the statistics, as they are stored. statistics: those of `kernels.STATISTICS`.
    """

    stream: str
    names: tuple[str, ...]

    @property
    def statistics(self) -> tuple[str, ...]:
        return tuple(map(statistic_of, self.names))

    @property
    def site(self) -> str:
        return site_of(self.stream)


def named(by: str | None, statistic: str | None = None) -> str:
    """The stored statistic of a quantity, ``activation`` or ``attribution``; each has a usual one.

    A statistic without a quantity is what it says: ``z`` is of activations, ``attribution_z`` of
    attributions.

    Raises:
        InputError: no such quantity, or a statistic of the other one.
    """
    if by is None:
        return statistic or AVERAGE_PRECISION
    if by not in USUAL:
        raise InputError(f"no quantity {by!r}", where="--by", fix=f"choose from {', '.join(USUAL)}")
    if statistic is None:
        return USUAL[by]
    if by == ATTRIBUTION and not of_attributions(statistic):
        return LONG.get(statistic, f"{OF_ATTRIBUTIONS}{statistic}")
    if by == ACTIVATION and of_attributions(statistic):
        raise InputError(f"{statistic} is not of activations", where="--by", fix=f"give --by {ATTRIBUTION}")
    return statistic


def meaning(statistic: str) -> str:
    """What neurons with a high score are, in words."""
    return MEANINGS[ATTRIBUTION if of_attributions(statistic) else ACTIVATION]


def of_attributions(name: str) -> bool:
    """Whether a stored statistic is one of attributions."""
    return name.startswith(OF_ATTRIBUTIONS)


def statistic_of(name: str) -> str:
    """The kernel of a stored statistic."""
    return SHORT.get(name, name.removeprefix(OF_ATTRIBUTIONS))


def stream_of(site: str, statistic: str) -> str:
    """The stream of a site that a stored statistic is computed from."""
    return f"{ATTRIBUTIONS}/{site}" if of_attributions(statistic) else site


def wanted(streams: Iterable[str], statistics: Sequence[str]) -> list[Wanted]:
    """What is scored of every stream, those of a site one after the other; a stream may have nothing.

    Raises:
        InputError: statistics of attributions are asked for (not by default) and there are none.
    """
    streams = list(streams)
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

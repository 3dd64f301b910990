"""Criteria: by which quantity, and which statistic of it, neurons are chosen; what that means in words.

Statistics of attributions have the names of those of activations, prefixed: ``attribution_z`` is the
statistic ``z`` of a site's attributions, ``attribution_mean`` the mean of the positives. Whatever can be
computed of activations can be of attributions: ``attribution_auroc`` and so on. But for `PROBE`, which is of
activations, and of all neurons together (`probes`). Nothing heavy is imported here.

>>> named("attribution"), named("activation"), named("attribution", "auroc")
('attribution_z', 'average_precision', 'attribution_auroc')
"""

from __future__ import annotations

from relact.errors import InputError
from relact.schema import (
    ACTIVATION,
    ATTRIBUTION,
    ATTRIBUTION_Z,
    AVERAGE_PRECISION,
    OF_ATTRIBUTIONS,
    ON_MEAN,
)

PROBE = "probe"
SHORT = {f"{OF_ATTRIBUTIONS}mean": ON_MEAN}  # names of their own
LONG = {statistic: name for name, statistic in SHORT.items()}
USUAL = {ACTIVATION: AVERAGE_PRECISION, ATTRIBUTION: ATTRIBUTION_Z}  # quantity -> what it is chosen by
CAPTURE = "capture them: `relact capture ... --attribution`, into a new store"
MEANINGS = {
    ACTIVATION: "chosen as they tell the relation's prompts from others'",
    ATTRIBUTION: "chosen by how much of the answer's log-probability is attributed to them",
}


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
    """How neurons are chosen by a statistic, in words; what they do is for an ablation to show."""
    return MEANINGS[ATTRIBUTION if of_attributions(statistic) else ACTIVATION]


def of_attributions(name: str) -> bool:
    """Whether a stored statistic is one of attributions."""
    return name.startswith(OF_ATTRIBUTIONS)

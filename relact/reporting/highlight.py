"""Highlight: tokens coloured by a number each, as HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from relact import colours

WARM, COLD = ("#fff3e6", "#e08214"), ("#eef4fa", "#4393c3")  # pale, strong
FAINT = 0.04  # of the largest: below it no colour


def ground(share: float) -> str:
    """The colour behind a token: orange up to 1, blue down to -1, none around 0."""
    if not abs(share) >= FAINT:  # also NaN
        return ""
    pale, strong = WARM if share > 0 else COLD
    return colours.mix(pale, strong, min(abs(share), 1.0))


def shares(values: np.ndarray) -> np.ndarray:
    """Values as shares of the largest magnitude among them."""
    far = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 0.0
    return values / (far or 1.0)


def highlighted(tokens: Sequence[str], values: np.ndarray) -> str:
    """The text with every token coloured by its value, which it says when pointed at."""
    spans = []
    for token, value, share in zip(tokens, values.tolist(), shares(values).tolist(), strict=True):
        colour = ground(share)
        style = f" style='background:{colour};color:#000'" if colour else ""
        spans.append(f"<span title='{value:+.4g}'{style}>{escape(token)}</span>")
    text = "".join(spans).replace("\n", "\u21b5<br>")
    return f"<span style='font-family:monospace;white-space:pre-wrap'>{text}</span>"

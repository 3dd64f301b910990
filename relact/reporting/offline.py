"""Offline: charts that a notebook shows as pictures, where Altair would load scripts from the network."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from html import escape
from typing import Any, cast

import altair as alt


class Drawn:
    """A chart whose display is its picture, as SVG."""

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, str]:
        return {"image/svg+xml": svg(self), "text/plain": type(self).__name__}


class Figures(dict[str, alt.TopLevelMixin]):
    """Charts by name; a notebook shows all of them."""

    def _repr_html_(self) -> str:
        parts = (f"<h3>{escape(name)}</h3>{svg(chart)}" for name, chart in self.items())
        return "".join(parts)


def offline(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """The same Altair chart, displayed without network."""
    drawn: alt.TopLevelMixin = chart.copy(deep=False)  # type: ignore[attr-defined]
    object.__setattr__(
        drawn, "__class__", _kind(cast(Hashable, type(drawn)))
    )  # past Altair, which takes attributes for its own
    return drawn


@cache
def _kind(kind: Any) -> type:
    return type(kind.__name__, (Drawn, kind), {"__doc__": kind.__doc__})


def svg(chart: Any) -> str:
    """A chart as SVG."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_dict()))

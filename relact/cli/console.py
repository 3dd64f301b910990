"""The consoles of rich, for whatever has colours; files and pipes are written without (`terminal`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from relact.schema import escaped

PIPE_WIDTH = 100_000


class Plain(Console):
    """A console that shows what a terminal would obey: texts of a store are somebody else's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(escaped(text, kept="\n"), style)


out, err = Plain(soft_wrap=True), Plain(stderr=True)


def wide(shown: Table) -> None:
    """Print a table; one that goes to a file or a pipe is never cut."""
    (out if out.is_terminal else Plain(width=PIPE_WIDTH)).print(shown)


def pairs(values: Mapping[str, str]) -> None:
    """Names in bold, and values."""
    width = max(map(len, values))
    for name, value in values.items():
        out.print(Text(f"{name:<{width}}  ", style="bold") + Text(value), highlight=False)


def table(
    columns: Mapping[str, Sequence[str]],
    left: Sequence[str],
    title: str | None,
    styles: Mapping[str, Sequence[str]],
) -> None:
    """Columns of cells; those not named in ``left`` are right-aligned, those of ``styles`` coloured."""
    shown = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for name in columns:
        shown.add_column(Text(name), justify="left" if name in left else "right", no_wrap=True)
    cells = [
        [
            Text(cell, style=style)
            for cell, style in zip(column, styles.get(name, [""] * len(column)), strict=True)
        ]
        for name, column in columns.items()
    ]
    for row in zip(*cells, strict=True):
        shown.add_row(*row)
    wide(shown)

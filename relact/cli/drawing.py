"""Results as pictures of characters: matrices, histograms, a neuron at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from relact.analysis.claims import criterion_of
from relact.analysis.effects import kinds_of
from relact.cli.console import out, wide
from relact.cli.terminal import say, shade, table
from relact.schema import (
    ACCURACY,
    ANSWERS,
    ATTRIBUTE,
    DEV,
    IDENTIFY,
    KIND_INTACT,
    KIND_RANDOM,
    PART,
    PERPLEXITY,
    TEST,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from relact.analysis.looks import Driver
    from relact.studies.look import Look

MATRIX_CELL = 6  # characters of one accuracy
DEEPEST = 0.5  # loss of accuracy with the deepest colour
PROMPT_WIDTH = 60  # characters of a prompt's last line
QUANTILES = ("min", "p10", "p50", "p90", "max")
BLOCKS = " ▁▂▃▄▅▆▇█"
SPARK_BINS = 16
TEXT_WIDTH = 28  # characters of the narrowest column of free text


def grid(frame: pd.DataFrame, title: str | None = None) -> None:
    """A matrix of numbers with named rows; columns are numbered,
    cells shaded from the smallest to the largest.
    """
    values = frame.to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    shown = Table(
        title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, padding=(0, 0)
    )
    label = max(len(str(name)) for name in frame.index)
    shown.add_column("", width=label + 2, no_wrap=True)
    for name in frame.columns:
        shown.add_column(f" {name} ", justify="right", no_wrap=True)
    for name, row in zip(frame.index, values, strict=True):
        cells = [Text(f" {value:.0f} ", style=shade((value - low) / (high - low or 1))) for value in row]
        shown.add_row(Text(str(name)), *cells)
    wide(shown)


def overlaps(shared: xr.Dataset) -> None:
    """Shared neurons of relations: a matrix, or pairs against the third dimension where there is one."""
    names = [str(name) for name in shared["relation"].values]
    by = [str(name) for name in shared.dims if name not in ("relation", "other")]
    counts, expected = shared["shared"], shared["expected"]
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    if not by:
        heads = [str(number) for number in range(1, len(names) + 1)]
        labels = [f"{number:>2} {name}" for number, name in enumerate(names, 1)]
        grid(_frame(counts.values, labels, heads), title="shared neurons; columns in the order of the rows")
    elif pairs:
        labels = [f"{names[i]} & {names[j]}" for i, j in pairs]
        rows = np.array([counts.values[i, j] for i, j in pairs])
        order = np.argsort(-rows.sum(axis=1), kind="stable")
        heads = [str(value) for value in shared[by[0]].values]
        grid(_frame(rows[order], [labels[at] for at in order], heads), title=f"shared neurons by {by[0]}")
    if pairs:
        chance = ", ".join(
            f"{value:.1f}" for value in np.mean([expected.values[i, j] for i, j in pairs], axis=0).ravel()
        )
        say(f"\nexpected of two random sets of these sizes: {chance}")
    if shared.attrs.get("negatives") == "rest":
        also = "" if "negatives" in by else " (--k K --negatives 4 shows them beside)"
        say(
            "scored against all other relations, a neuron that answers to two of them ranks low in both, so "
            f"next to nothing is shared; against a few sampled negatives, as published, more may be{also}"
        )


def neuron(frame: pd.DataFrame, prompts: pd.DataFrame | None, everywhere: pd.DataFrame | None) -> None:
    """One neuron: its statistics with a histogram in every relation,
    then the prompts that drive it most and least.
    """
    if everywhere is not None:
        quantity = str(everywhere.columns[-1])
        low, high = everywhere[quantity].min(), everywhere[quantity].max()
        values = dict(iter(everywhere.groupby("relation")[quantity]))
        bars = [sparkline(values[name].to_numpy(), low, high) for name in frame["relation"]]
        frame = frame[["relation", frame.columns[1], *QUANTILES]].assign(distribution=bars)
    table(frame, heat=(frame.columns[1],))
    if prompts is not None:
        lines = [
            text.strip().splitlines()[-1][-PROMPT_WIDTH:] if text.strip() else "" for text in prompts["text"]
        ]
        shown = prompts[["drive", prompts.columns[-1], "relation", "object"]].assign(prompt=lines)
        say("")
        table(shown)


def texts(table: pd.DataFrame) -> None:
    """What was said after every prompt, a column per condition where they fit, else a row."""
    for _, rows in table.groupby("prompt", sort=False):
        names = rows["condition"].tolist()
        said_ = [" ↵ ".join(filter(None, text.splitlines())) for text in rows["generated"]]
        out.print(Text(rows["text"].iloc[0], style="bold"))
        across = out.is_terminal and out.width >= TEXT_WIDTH * len(names)
        shown = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), show_header=across)
        for name in names if across else ("", ""):
            shown.add_column(name, overflow="fold")
        lines = [[Text(text) for text in said_]] if across else []
        lines += (
            [] if across else [[Text(x, style="dim"), Text(y)] for x, y in zip(names, said_, strict=True)]
        )
        for line in lines:
            shown.add_row(*line)
        wide(shown)
        say("")


def look(seen: Look) -> None:
    """One text, its tokens coloured once per neuron: the last line, and what comes of the lines before it."""
    from relact.studies.look import SHOWN, places

    say(f"{seen.model}: log-probability of {seen.answer!r} {seen.log_probability:.2f} nats")
    start = max((at for at, token in enumerate(seen.tokens[:-1], 1) if "\n" in token), default=0)
    for quantity, what, pooled in SHOWN:
        shown = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("relation", "neuron", pooled, *(["before"] if start else []), f"{quantity}: {what}"):
            number = name in (pooled, "before")
            shown.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=number)
        for (relation, *place), of_tokens in zip(places(seen.shown), seen.values(quantity), strict=True):
            parts = [of_tokens, *([of_tokens[:start]] if start else [])]
            totals = [f"{part.sum() if pooled == 'sum' else part.mean():+.3f}" for part in parts]
            line = coloured(seen.tokens[start:], of_tokens[start:], float(np.abs(of_tokens).max()))
            shown.add_row(relation, "/".join(map(str, place)), *totals, line)
        say("")
        wide(shown)


def written(promoted: Sequence[str], suppressed: Sequence[str]) -> None:
    """What a neuron writes, in tokens."""
    for verb, words in (("promotes", promoted), ("suppresses", suppressed)):
        if words:
            say(f"{verb:<10}  {'  '.join(word.strip() or repr(word) for word in words)}")


def drivers(prompts: Sequence[Driver]) -> None:
    """The last line of the prompts that drive a neuron most, coloured where it acts."""
    for at, prompt in enumerate(prompts):
        if not at:
            say(f"\nwhere it acts ({prompt.quantity})")
        start = max((at for at, token in enumerate(prompt.tokens[:-1], 1) if "\n" in token), default=0)
        values = prompt.values
        out.print(coloured(prompt.tokens[start:], values[start:], float(np.abs(values[start:]).max())))


def coloured(tokens: Sequence[str], values: np.ndarray, far: float) -> Text:
    """Tokens on the colours of their values, deepest at ``far``; without colours the values stand behind."""
    line = Text()
    for token, value in zip(tokens, values.tolist(), strict=True):
        line.append(token.replace("\n", "↵"), style=shade(value / (far or 1.0)))
        if not out.is_terminal:
            line.append(f"[{value:+.2g}]")
    return line


def sparkline(values: np.ndarray, low: float, high: float) -> str:
    """A histogram of ``values`` between two bounds as one word of block characters."""
    counts = np.histogram(values, SPARK_BINS, (low, high if high > low else low + 1))[0]
    levels = np.ceil(counts / max(counts.max(), 1) * (len(BLOCKS) - 1)).astype(int)  # what is there is seen
    return "".join(BLOCKS[level] for level in levels)


def ablation(result: xr.Dataset, k: int, said: Sequence[str], influences: pd.DataFrame) -> None:
    """The matrix of one k, what may be claimed of it, and who hurts or helps whom beyond chance."""
    say(f"accuracy in percent; columns: neurons of relation 1, 2, ... switched off ({chosen_by(result, k)})")
    say(f"{asked(result)}\n")
    matrix(result)
    say("")
    for sentence in said:
        say(sentence)
    for row in influences.itertuples():
        for verb, others in (("hurts", row.hurts), ("helps", row.helps)):
            if others:
                say(f"{row.switched_off!s} {verb} {others!s}")
    if PERPLEXITY in result:
        names = [str(name) for name in result["condition"].values]
        values = zip(names, result[PERPLEXITY].values.tolist(), strict=True)
        what = result.attrs.get("perplexity_of", "text")
        text = "neutral sentences about the objects" if what == "objects" else "the bundled text"
        say(f"perplexity of {text}: " + ", ".join(f"{name} {value:.1f}" for name, value in values))


def chosen_by(result: xr.Dataset, k: int) -> str:
    """How many neurons, and by which statistic of which sites."""
    statistic, sites = criterion_of(result)
    return f"k = {k}, by {statistic} of {', '.join(sites)}" if statistic else f"k = {k}"


def asked(result: xr.Dataset) -> str:
    """Which prompts a matrix shows, and what its sets leave out."""
    parts = Counter(map(str, result[PART].values)) if PART in result else Counter()
    n_prompts = f"{result.sizes['prompt']}{' other' if ANSWERS in result else ''}"
    if parts[IDENTIFY]:
        shown = f"on {n_prompts} identification prompts: the neurons were chosen on these"
    elif len(parts) == 2:
        shown = f"on all {n_prompts} test prompts ({parts[DEV]} dev, {parts[TEST]} test)"
    elif parts[DEV]:
        shown = f"on {n_prompts} dev prompts: for choosing, not for showing"
    else:
        shown = f"on {n_prompts} test prompts"
    record = result.attrs.get(ATTRIBUTE, {})
    masks = record.get("mask", {})
    without = (masks[0] if isinstance(masks, list) else masks).get("without") or []
    if without:
        names = ", ".join(f"{site} {layer} {neuron}" for site, layer, neuron in without)
        shown += f"; left out of all sets, each breaks the model alone: {names}"
    if record.get("registration"):
        shown += f"; registered before as {record['registration']}"
    return shown


def matrix(ablation: xr.Dataset) -> None:
    """Accuracy of every relation (rows) intact, under random neurons,
    and under each relation's neurons (columns).
    """
    accuracy = ablation[ACCURACY].transpose("condition", "relation").values * 100
    relations = [str(name) for name in ablation["relation"].values]
    conditions, kinds = [str(name) for name in ablation["condition"].values], kinds_of(ablation)
    random = [at for at, kind in enumerate(kinds) if kind == KIND_RANDOM]
    columns = [conditions.index(name) for name in relations if name in conditions]
    label = max(map(len, relations))
    head = " " * (label + 3) + f"{'intact':>{MATRIX_CELL}}"
    head += f" {'random':>{MATRIX_CELL}} |" if random else " |"
    out.print(
        head + "".join(f"{number:>{MATRIX_CELL}}" for number in range(1, len(columns) + 1)), highlight=False
    )
    for at, name in enumerate(relations):
        intact = accuracy[kinds.index(KIND_INTACT), at]
        control = f" {accuracy[random, at].mean():{MATRIX_CELL}.1f}" if random else ""
        line = Text(f"{at + 1:>2} {name:<{label}}{intact:{MATRIX_CELL}.1f}{control} |")
        for column in columns:
            value = accuracy[column, at]
            style = _heat((intact - value) / 100, conditions[column] == name)
            line.append(f"{value:{MATRIX_CELL}.1f}", style=style)
        out.print(line, highlight=False)


def _frame(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(values, index=list(rows), columns=list(columns))


def _heat(drop: float, own: bool) -> str:
    """Style of a cell by its loss of accuracy, deepest at `DEEPEST`; a relation's own neurons in bold."""
    return f"{'bold ' if own else ''}{shade(drop / DEEPEST)}".strip()

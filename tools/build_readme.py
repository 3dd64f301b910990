"""Fill the README's answer from a finished study: the best neurons of capitals, by either choice.

    python tools/build_readme.py demo/study.zarr

What stands between ``<!-- answer -->`` and ``<!-- /answer -->`` is replaced by what the commands print; the
pictures go to docs/figures/ablation.svg and docs/figures/ablation_activation.svg.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import relact
from relact.analysis import compare, tables
from relact.reporting import figures
from relact.reporting.gather import Contents, gather
from relact.scoring import masks
from relact.scoring.criteria import named
from relact.scoring.options import SelectOptions

ROOT = Path(__file__).parent.parent
README, FIGURES = ROOT / "README.md", ROOT / "docs" / "figures"
ASKED, OTHER, WORD = "country_capital", "country_currency", "currencies"
START, END = "<!-- answer -->", "<!-- /answer -->"
CHOICES = {
    "activation": (
        "These tell prompts about capitals from others (`relact top`)",
        "on_p50 off_p50",
        "ablation_activation",
    ),
    "attribution": (
        "To these the answers owe most (`relact top --by attribution`)",
        "attribution_mean",
        "ablation",
    ),
}


def answer(path: Path, contents: Contents) -> str:
    """Which neurons make the model know capitals, and do currencies hang on them too?"""
    names = masks_of(contents)
    parts = []
    for by, (words, beside, _) in CHOICES.items():
        best = relact.top(path, relation=ASKED, n=3, by=by)
        statistic = contents.choices[names[by]].statistic
        table = tables.markdown(best[["site", "layer", "neuron", statistic, *beside.split()]])
        parts.append(f"{words}:\n\n{table}\n{wrapped(costs(contents, names[by]))}\n")
    common = (
        compare.in_common(path, names["activation"], names["attribution"]).set_index("relation").loc[ASKED]
    )
    last = (
        f"Both choose {common['shared']:.0f} of {common['other_size']:.0f} hidden units; two random sets "
        f"would share {common['expected']:.1f} "
        f"(`relact compare --mask {names['activation']} --with {names['attribution']}`)."
    )
    return "\n".join([*parts, wrapped(last), ""])


def masks_of(contents: Contents) -> dict[str, str]:
    """The masks, and ablations, of `relact run` by either choice."""
    return {by: masks.name_of(SelectOptions(contents.k, statistic=named(by))) for by in CHOICES}


def costs(contents: Contents, choice: str) -> str:
    """What switching off the neurons of capitals takes from capitals and currencies."""
    accuracy = contents.accuracy
    rows = accuracy[accuracy["choice"] == choice].set_index(["condition", "relation"])
    own, side, random = rows.loc[(ASKED, ASKED)], rows.loc[(ASKED, OTHER)], rows.loc[("random", ASKED)]
    changes = "; ".join(
        f"{asked} from {row.intact:.0f} % right to {row.accuracy:.0f} %"
        for asked, row in (
            ("capitals", own),
            (WORD, side),
            ("capitals under as many random neurons of the same layers", random),
        )
    )
    return f"Switching off the best {contents.choices[choice].k} takes {changes}."


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def pictures(contents: Contents) -> list[Path]:
    """Both matrices."""
    FIGURES.mkdir(exist_ok=True)
    written = []
    for by, name in masks_of(contents).items():
        ordered = {name: contents.choices[name], **contents.choices}
        written.append(FIGURES / f"{CHOICES[by][2]}.svg")
        figures.charts(replace(contents, choices=ordered))["ablation"].save(written[-1])
    return written


def main() -> None:
    path = Path(sys.argv[1])
    contents = gather(path)
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{answer(path, contents)}{END}{rest.split(END)[1]}", encoding="utf-8")
    print("written:", README, *pictures(contents))


if __name__ == "__main__":
    main()

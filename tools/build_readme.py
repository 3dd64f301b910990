"""Fill the README's answer from a finished study: the matrix, the best neurons of capitals, who shares them.

    python tools/build_readme.py demo/study.zarr

What stands between ``<!-- answer -->`` and ``<!-- /answer -->`` is replaced by what the commands print; the
picture goes to docs/figures/ablation.svg.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import relact
from relact.analysis import tables
from relact.reporting.gather import gather

ROOT = Path(__file__).parent.parent
README, FIGURES = ROOT / "README.md", ROOT / "docs" / "figures"
ASKED, OTHERS = "country_capital", {"country_currency": "currencies", "country_language": "languages"}
START, END = "<!-- answer -->", "<!-- /answer -->"


def answer(path: Path) -> str:
    """Which neurons make the model know capitals, and are they shared with currencies (or languages)?"""
    contents = gather(path)
    other = next(name for name in OTHERS if name in contents.relations)
    word = OTHERS[other]
    best = relact.top(path, relation=ASKED, n=5)
    pair = contents.overlap.query("site == 'all' and relation == @ASKED and other == @other").iloc[0]
    choice = next(iter(contents.choices))
    rows = contents.accuracy[contents.accuracy["choice"] == choice].set_index(["condition", "relation"])
    own, side, random = rows.loc[(ASKED, ASKED)], rows.loc[(ASKED, other)], rows.loc[("random", ASKED)]
    more = "more" if pair["shared"] > pair["expected"] else "not more"
    changes = "; ".join(
        f"{asked} from {row.intact:.0f} % right to {row.accuracy:.0f} %"
        for asked, row in (
            ("capitals", own),
            (word, side),
            ("capitals under as many random neurons of the same layers", random),
        )
    )
    columns = ["site", "layer", "neuron", "average_precision", "on_p50", "off_p50"]
    sentence = (
        f"Switching off the best {contents.k} of {contents.n_neurons:,} takes {changes}. "
        f"They share {pair['shared']} of these {contents.k} with {word}, "
        f"{more} than the {pair['expected']:.1f} that chance gives (`relact compare`)."
    )
    return (
        "These know capitals best (`relact top`):\n\n"
        f"{tables.markdown(best[columns])}\n{textwrap.fill(sentence, 120, break_long_words=False)}\n"
    )


def main() -> None:
    path = Path(sys.argv[1])
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{answer(path)}{END}{rest.split(END)[1]}", encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    relact.charts(path)["ablation"].save(FIGURES / "ablation.svg")
    print(f"written: {README}, {FIGURES / 'ablation.svg'}")


if __name__ == "__main__":
    main()

"""Fill the README's answer from a finished study: the matrix as a picture, the best neurons of capitals,
and who shares them.

    python tools/build_readme.py demo/study.zarr

What stands between ``<!-- answer -->`` and ``<!-- /answer -->`` is replaced by what the commands print; the
picture goes to docs/figures/ablation.svg.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from relact import report
from relact.analysis import query, tables
from relact.reporting import figures

ROOT = Path(__file__).parent.parent
README, FIGURES = ROOT / "README.md", ROOT / "docs" / "figures"
ASKED, OTHERS = "country_capital", {"country_currency": "currencies", "country_language": "languages"}
START, END = "<!-- answer -->", "<!-- /answer -->"


def answer(path: Path) -> str:
    """Which neurons make the model know capitals, and are they shared with currencies (or languages)?"""
    study = report.gather(path)
    other = next(name for name in OTHERS if name in study.relations)
    word = OTHERS[other]
    best = query.top(path, relation=ASKED, n=5)
    pair = study.overlap.query("site == 'all' and relation == @ASKED and other == @other").iloc[0]
    choice = next(iter(study.choices))
    rows = study.accuracy[study.accuracy["choice"] == choice].set_index(["condition", "relation"])
    own, side, random = rows.loc[(ASKED, ASKED)], rows.loc[(ASKED, other)], rows.loc[("random", ASKED)]
    more = "more" if pair["shared"] > pair["expected"] else "not more"
    changes = "; ".join(
        f"{what} from {row.intact:.0f} % right to {row.accuracy:.0f} %"
        for what, row in (
            ("capitals", own),
            (word, side),
            ("capitals under as many random neurons of the same layers", random),
        )
    )
    columns = ["site", "layer", "neuron", "average_precision", "on_p50", "off_p50"]
    found = (
        f"Switching off the best {study.k} of {study.n_neurons:,} takes {changes}. They share {pair['shared']} of these "
        f"{study.k} with {word}, {more} than the {pair['expected']:.1f} that chance gives (`relact compare`)."
    )
    return (
        "These know capitals best (`relact top`):\n\n"
        f"{tables.markdown(best[columns])}\n{textwrap.fill(found, 120, break_long_words=False)}\n"
    )


def main() -> None:
    path = Path(sys.argv[1])
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(f"{before}{START}\n{answer(path)}{END}{rest.split(END)[1]}", encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    figures.charts(report.gather(path))["ablation"].save(FIGURES / "ablation.svg")
    print(f"written: {README}, {FIGURES / 'ablation.svg'}")


if __name__ == "__main__":
    main()

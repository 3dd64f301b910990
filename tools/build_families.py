"""Write the table of model types into docs/models.md: every causal type of the installed transformers.

    python tools/build_families.py

A type's row is what came out when a tiny random model of it was compared with its own weights, with plain
hooks and with transformers' ``generate`` (`helpers.comparison`). tests/models/test_families.py compares every
type again and holds its row of the page to that; tests/test_docs.py holds the other lines to this.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers import comparison, shrunk  # noqa: E402

from relact import sites  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- types: made by tools/build_families.py -->", "<!-- end of types -->"


def table(rows: Mapping[str, str]) -> str:
    """The table as text, of every known type's row."""
    known = comparison.KINDS
    others = [kind for kind in shrunk.TYPES if kind not in sites.KNOWN]
    lines = [
        f"{sum(kind in shrunk.TYPES for kind in known)} of {len(shrunk.TYPES)} causal types, "
        f"and {sum(kind in shrunk.WRAPPERS for kind in known)} that also see, by their text model.",
        "",
        "| `model_type` | sites | the self-check leaves out |",
        "|---|---|---|",
        *(rows[kind] for kind in sorted(known)),
        "",
        f"Refused, for they have no row: {', '.join(f'`{kind}`' for kind in others)}.",
    ]
    return "\n".join(lines)


def placed(page: str, table: str) -> str:
    """A page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    PAGE.write_text(placed(PAGE.read_text(), table({kind: comparison.of(kind) for kind in comparison.KINDS})))

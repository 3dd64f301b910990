"""Write the table of model types into docs/models.md: every causal type of the installed transformers.

    python tools/build_families.py

What is said of a type comes from the table of families and from the self-check of a tiny random model of it;
tests/models/test_families.py holds every one of them to its own weights. A test compares the page with this.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers import shrunk  # noqa: E402

from relact import sites  # noqa: E402
from relact.models import selfcheck  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- types: made by tools/build_families.py -->", "<!-- end of types -->"


def build() -> str:
    """The table as text."""
    known = [kind for kind in (*shrunk.TYPES, *shrunk.WRAPPERS) if kind in sites.KNOWN]
    others = [kind for kind in shrunk.TYPES if kind not in sites.KNOWN]
    lines = [
        f"{sum(kind in shrunk.TYPES for kind in known)} of {len(shrunk.TYPES)} causal types, "
        f"and {sum(kind in shrunk.WRAPPERS for kind in known)} that also see, by their text model.",
        "",
        "| `model_type` | sites | the self-check leaves out |",
        "|---|---|---|",
        *(f"| `{kind}` | {_sites(kind)} | {_left_out(kind)} |" for kind in sorted(known)),
        "",
        f"Refused, for they have no row: {', '.join(f'`{kind}`' for kind in others)}.",
    ]
    return "\n".join(lines)


def _sites(kind: str) -> str:
    """Groups of sites, and those of them that not every layer has."""
    model_config = shrunk.config(kind)
    n_layers, groups = sites.n_layers(model_config), dict[str, set[int]]()
    for site, place in sites.places(model_config).items():
        groups.setdefault(site.partition(".")[0], set()).update(place.layers)
    return ", ".join(
        f"{group}{'' if len(layers) == n_layers else ' (some layers)'}" for group, layers in groups.items()
    )


def _left_out(kind: str) -> str:
    found = selfcheck.check(shrunk.model(kind), range(5, 60), None)
    left = {
        "padding": found.padded,
        "shared prefixes": found.split,
        "reading on": found.stepped,
    }
    return ", ".join(name for name, holds in left.items() if not holds)


def placed(page: str, table: str) -> str:
    """A page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    PAGE.write_text(placed(PAGE.read_text(), build()))

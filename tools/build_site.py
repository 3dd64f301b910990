"""Build the documentation site into build/site, and refuse a page that would ask something of a network.

    python tools/build_site.py

mkdocs checks links and anchors (mkdocs.yml); a warning is an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build" / "site"
# what a browser fetches by itself: no link that a reader follows
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|<link\b(?![^>]*\brel=[\"']?(?:canonical|next|prev|alternate))[^>]*\bhref=[\"']?(?:https?:)?//[^\s\"'>]+"
    r"|@import\s+[\"']?(?:url\()?(?:https?:)?//[^\s\"')]+|url\([\"']?(?:https?:)?//[^\s\"')]+"
)


def fetched(site: Path) -> Iterator[str]:
    """What pages and styles would fetch from elsewhere, a line each."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for found in FETCHED.finditer(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: {found[0]}"


def main() -> int:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of the theme's makers, about their next product
    done = subprocess.run([*command, "--site-dir", str(SITE)], cwd=ROOT, env=quiet)
    found = list(fetched(SITE)) if done.returncode == 0 else []
    for line in found:
        print(line, file=sys.stderr)
    return done.returncode or bool(found)


if __name__ == "__main__":
    raise SystemExit(main())

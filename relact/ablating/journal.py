"""A journal of replies beside the store: what an interrupted ablation had finished.

One JSON line per piece of work, flushed before the next piece starts; a line that was cut off is left out.
Replies are kept by the digest of their condition, so names, order and company of conditions may change
between two runs.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

Entry = tuple[str, float, float]  # text, log-probability, logit difference


class Journal:
    """Replies that are already there, by condition digest and prompt number.

    Args:
        path: of the journal; it need not exist.
        identity: of model and prompts; a journal of another one is started anew.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.replies: dict[str, dict[int, Entry]] = defaultdict(dict)
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        if not lines or lines[0] != identity or len(lines) < 2:
            path.unlink(missing_ok=True)
            return
        whole = [line for line in lines[1:-1] if line]  # what follows the last newline was cut off
        for line in whole:
            for digest, replies in json.loads(line).items():
                self.replies[digest].update({int(prompt): tuple(reply) for prompt, reply in replies.items()})
        path.write_text("\n".join([identity, *whole, ""]), encoding="utf-8")

    def write(self, replies: Mapping[str, Mapping[int, Entry]]) -> None:
        """Add replies, durably."""
        new = not self.path.exists()
        with self.path.open("a", encoding="utf-8") as file:
            if new:
                file.write(f"{self.identity}\n")
            file.write(json.dumps(replies, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def known(self, digests: Sequence[str], prompts: int) -> list[dict[int, Entry]]:
        """Replies of every condition, to the prompts below ``prompts``."""
        return [
            {at: reply for at, reply in self.replies[digest].items() if at < prompts} for digest in digests
        ]

    def remove(self) -> None:
        """The work is in the store: forget the journal."""
        self.path.unlink(missing_ok=True)

"""LRE's files (Hernandez et al. 2023): JSON with ``samples`` and ``prompt_templates``, a relation each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relact.errors import InputError
from relact.relations.row import Bad, Row, all_slotted, short


def recognised(data: Any) -> bool:
    """Whether a file's JSON is one of LRE's."""
    return isinstance(data, dict) and isinstance(data.get("samples"), list)


def rows(path: Path, data: dict[str, Any], bad: Bad) -> Iterator[Row]:
    """A row per sample, with prompt_templates and prompt_templates_zs. The relation is the file's stem."""
    told = [*data.get("prompt_templates", ()), *data.get("prompt_templates_zs", ())]
    templates = all_slotted(told, str(path), bad)
    if told and not templates:
        return
    about = {
        "description": str(data.get("name", "")),
        "source": "LRE (Hernandez et al. 2023)",
        "licence": "MIT",
    }
    for number, sample in enumerate(data["samples"], 1):
        where = f"{path}: sample {number}"
        values = [sample.get(name) for name in ("subject", "object")] if isinstance(sample, dict) else []
        texts = [_unescape(text) for text in values if isinstance(text, str) and text.strip()]
        if len(texts) == 2:
            subject, answer = texts
            yield Row(path.stem, subject, answer, templates=templates, about=about, where=where)
        else:
            problem = f"no subject and object in {short(sample)}"
            bad(InputError(problem, where=where, fix="give both as texts"))


def _unescape(text: str) -> str:
    r"""LRE files escaped some letters twice: a literal ``\u00ed`` in the decoded text means the letter."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda escape: chr(int(escape[1], 16)), text).strip()

"""Every type of model that the table knows, against its own weights: tiny random models of all of them.

tests/test_sites.py recomputes usual families by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import comparison, deep, shrunk

from relact import sites
from relact.errors import ModelError
from relact.models import loading, outline

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text().splitlines()
USUAL = (*deep.TYPES, "deepseek_v2", "openai-gpt")  # and latent attention, and no cache at all
UNREADABLE = ("gemma4_assistant",)  # what its type alone says has sizes that do not go together


@pytest.mark.parametrize("kind", deep.rest(comparison.KINDS, USUAL))
def test_a_type_is_what_its_weights_hooks_and_generation_say(kind: str, tmp_path: Path) -> None:
    """Its row of the documentation is what was found; see `helpers.comparison` for what is compared."""
    assert comparison.of(kind) in PAGE, "run `python tools/build_families.py`"
    config, _ = loading.configured(named(tmp_path, kind), None, code=False)
    widths = sites.widths(
        config
    )  # of the sizes that transformers takes for granted, though some fit no model
    assert set(widths) <= set(sites.SITES) and min(widths.values()) > 0


def named(folder: Path, kind: str) -> str:
    """A model's folder that says its type and nothing else."""
    (folder / kind).mkdir()
    (folder / kind / "config.json").write_text(json.dumps({"model_type": kind}))
    return str(folder / kind)


def test_every_other_type_is_refused_in_a_line(tmp_path: Path) -> None:
    """Of what transformers makes of text, alone or beside pictures."""
    others = {*shrunk.TYPES, *shrunk.WRAPPERS} - {*sites.KNOWN, *UNREADABLE}
    for kind in sorted(others):
        with pytest.raises(ModelError) as refusal:
            outline.describe(named(tmp_path, kind))
        reason = sites.REFUSED.get(kind, "not in the table of families")
        assert re.fullmatch(rf"model family {kind}: {reason}[^\n]+", str(refusal.value))


def test_a_type_without_a_row_is_answered_with_its_like_and_what_to_do() -> None:
    with pytest.raises(
        ModelError, match=r"docs/models\.md lists; its like .*qwen3_moe.*RELACT_FAMILIES"
    ) as told:
        sites.family(SimpleNamespace(model_type="qwen3_moo"))
    assert len(str(told.value)) < 300
    with pytest.raises(ModelError, match=r"which docs/models\.md lists\. Name a file"):
        sites.family(SimpleNamespace(model_type="0"))


def test_what_is_refused_is_installed_and_has_no_row() -> None:
    assert sites.REFUSED.keys() <= {*shrunk.TYPES, *shrunk.WRAPPERS} - set(sites.KNOWN)

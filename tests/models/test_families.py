"""Every type of model that the table knows, against its own weights: tiny random models of all of them.

tests/test_sites.py recomputes usual families by hand.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import comparison, deep

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text().splitlines()
USUAL = (*deep.TYPES, "deepseek_v2", "openai-gpt")  # and latent attention, and no cache at all


@pytest.mark.parametrize("kind", deep.rest(comparison.KINDS, USUAL))
def test_a_type_is_what_its_weights_hooks_and_generation_say(kind: str) -> None:
    """Its row of the documentation is what was found; see `helpers.comparison` for what is compared."""
    assert comparison.of(kind) in PAGE, "run `python tools/build_families.py`"

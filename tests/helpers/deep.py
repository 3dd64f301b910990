"""What `make deep` runs beside slow tests: the rest of the kind of which `make test` has seen some.

@pytest.mark.parametrize("kind", deep.rest(TYPES, USUAL))  # in `make test` only the usual ones
@pytest.mark.parametrize("count", deep.more(50, 400))  # in `make test` only 50
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

only = pytest.mark.deep
# one of every kind of layer: usual, fused, sliding, experts, linear attention, state space
TYPES = ("llama", "gpt2", "gemma3", "gpt_oss", "qwen3_next", "mamba2")


def rest(every: Iterable[Any], usual: Collection[Any]) -> list[Any]:
    """Every value as a parameter of a test; what is not usual is deep."""
    every = list(every)
    assert usual and set(usual) <= set(every), f"not among the values: {set(usual) - set(every)}"
    return [value if value in usual else pytest.param(value, marks=only) for value in every]


def more(few: int, many: int) -> list[Any]:
    """How often a test repeats what it does, as a parameter."""
    return [few, pytest.param(many, marks=only)]

"""Self-check: whether a model computes the same in a padded batch and from a prefix's cache.

One prompt is run alone, then padded on the right beside a longer one, then cut in two and continued from its
cache, then by a single token. Models with sparse attention or state spaces may compute something else in one
of these, without a word. What fails is left out (`Shortcuts`); nothing but time is lost.

It runs when a model is loaded and is remembered by the model's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from relact import durable
from relact.caches import cache_folder
from relact.models.forward import advance, pad
from relact.sites import text_config

LENGTH, PREFIX, LONGER = 24, 11, 31  # tokens of the prompt, of the part whose cache is used, of its neighbour
SEEN = 6  # tokens that sparse attention picks while it is checked
LEAST = 8  # tokens; a model that takes fewer is not checked
VERSION = 2  # of the check itself


@dataclass(frozen=True)
class Shortcuts:
    """By how much values differ, of their own size, where a shortcut is taken; None: it cannot be taken.

    Attributes:
        padding: beside a longer prompt. splitting: several tokens after a cache. stepping: one token after.
        tolerance: what rounding may make of it in the model's dtype.
        switch: the position beyond which every token is rotated otherwise (LongRoPE), where there is one.
    """

    padding: float | None = 0.0
    splitting: float | None = 0.0
    stepping: float | None = 0.0
    tolerance: float = 0.0
    switch: int | None = None

    @property
    def padded(self) -> bool:
        """Whether prompts of unequal length may run together."""
        return self._holds(self.padding)

    @property
    def split(self) -> bool:
        """Whether prompts may share a prefix that is computed once."""
        return self._holds(self.splitting)

    @property
    def stepped(self) -> bool:
        """Whether answers may be read on token by token."""
        return self._holds(self.stepping)

    def _holds(self, difference: float | None) -> bool:
        return difference is not None and difference <= self.tolerance

    def notes(self) -> tuple[str, ...]:
        """What is done otherwise, for whoever loads the model."""
        found = []
        if not self.padded:
            found.append(
                f"prompts of unequal length are run apart: padding {_changes(self.padding)} (self-check)"
            )
        if not self.split:
            found.append(
                f"no prefix is shared: continuing from a cache {_changes(self.splitting)} (self-check)"
            )
        if not self.stepped:
            found.append(
                f"answers are read anew for every token: a step after a cache {_changes(self.stepping)} "
                "(self-check)"
            )
        return tuple(found)


def _changes(difference: float | None) -> str:
    """What a shortcut does to a model's values, in words."""
    return "does not run" if difference is None else f"changes values by {difference:.2g} of their size"


def of_model(model: Any, ids: Sequence[int], fingerprint: str, limit: int | None) -> Shortcuts:
    """The model's shortcuts, checked unless that was done before.

    Args:
        ids: tokens of some text; they are repeated as often as it takes.
        limit: tokens that the model takes.
    """
    facts = [VERSION, torch.__version__, transformers.__version__, str(model.dtype), model.device.type]
    facts += [fingerprint, str(getattr(model.config, "_attn_implementation", ""))]
    name = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
    path = cache_folder() / "self-checks" / f"{name}.json"
    try:
        return Shortcuts(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # never checked, or by another version
        pass
    found = check(model, ids, limit)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, [json.dumps(asdict(found)).encode()])
    except OSError:  # it is checked again next time
        pass
    return found


def check(model: Any, ids: Sequence[int], limit: int | None) -> Shortcuts:
    """Run the prompt in every way."""
    tolerance, switch = float(torch.finfo(model.dtype).eps) ** 0.5, _switch(model.config)
    longest = min(LONGER, limit or LONGER)
    tokens = (list(ids) * (1 + LONGER // max(1, len(ids))))[:longest] or [1] * longest
    short = tokens[: LENGTH * longest // LONGER]
    if longest < LEAST:
        return Shortcuts(tolerance=tolerance, switch=switch)
    base, device = model.base_model, model.device
    row = torch.tensor([short], device=device)

    def alone() -> Tensor:
        states: Tensor = base(input_ids=row, use_cache=False)[0]
        return states[0]  # [tokens, width]

    def padded() -> Tensor:
        both, mask = pad([short, tokens], device)
        states: Tensor = base(input_ids=both, attention_mask=mask.long(), use_cache=False)[0]
        return states[0, : len(short)]

    def continued(at: int) -> Tensor:
        first, cache = advance(base, row[:, :at])
        second, _ = advance(base, row[:, at:], cache=cache)
        return torch.cat([first[0], second[0]], dim=1)[0]

    with torch.inference_mode():
        stepping = _apart(lambda: continued(len(short) - 1), alone())
        with _few_seen(model):
            whole = alone()
            padding = _apart(padded, whole)
            splitting = _apart(lambda: continued(PREFIX * len(short) // LENGTH), whole)
    return Shortcuts(padding, splitting, stepping, tolerance, switch)


@contextmanager
def _few_seen(model: nn.Module) -> Iterator[None]:
    """Inside the block attention that picks what it looks at picks few tokens, as of a long prompt."""
    picking = [part for part in model.modules() if isinstance(getattr(part, "index_topk", None), int)]
    before = [part.index_topk for part in picking]
    try:
        for part in picking:
            part.index_topk = min(int(part.index_topk), SEEN)
        yield
    finally:
        for part, kept in zip(picking, before, strict=True):
            part.index_topk = kept


def _apart(run: Callable[[], Tensor], whole: Tensor) -> float | None:
    """How far the states [tokens, width] are from those of the whole prompt; None where there are none."""
    try:
        states = run()
    # no cache, another one than transformers', no masks: there is no contract to rely on
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError):
        return None
    difference = (states.double() - whole.double()).norm() / whole.double().norm().clamp_min(1e-30)
    return float(difference) if bool(torch.isfinite(difference)) else None


def _switch(config: Any) -> int | None:
    """Positions that LongRoPE's short factors are for."""
    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type")) if isinstance(rope, dict) else None
    if kind not in ("longrope", "su"):
        return None
    length = rope.get("original_max_position_embeddings") or getattr(
        text, "original_max_position_embeddings", None
    )
    return int(length) if length else None

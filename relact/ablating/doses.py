"""Doses: one ablation per factor that neurons' values are multiplied by, from one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from relact.ablating.ablate import ablate_with
from relact.ablating.conditions import SCALE
from relact.ablating.options import AblateOptions
from relact.ablating.prepare import StoreModel, masks_of, name_of
from relact.errors import InputError
from relact.models.loading import LoadedModel
from relact.progress import Progress, in_notebooks
from relact.store import local
from relact.store.reading import Store


def require_factors(options: AblateOptions, factors: Sequence[float]) -> None:
    """Refuse factors beside another mode, none, and one twice."""
    if options.mode not in (AblateOptions.mode, SCALE):
        fix = "leave one of them out"
        raise InputError(f"factors and mode {options.mode!r}", where="--scale", fix=fix)
    if not factors or len(set(factors)) < len(factors):
        raise InputError(f"factors {list(factors)}", where="--scale", fix="give each once, such as 0.5,1.5,2")


def of_factor(options: AblateOptions, factor: float, name: str | None) -> tuple[AblateOptions, str | None]:
    """Of one factor: the options, and the result's name where one is given for all."""
    return replace(options, mode=SCALE, scale=factor), f"{name}-x{factor:g}" if name else None


def ablate_doses(
    options: AblateOptions,
    store: str | Path | Store,
    factors: Sequence[float],
    *,
    mask: str | None = None,
    k: int | None = None,
    model: str | LoadedModel | None = None,
    name: str | None = None,
    suffix: Sequence[str] = (),
    device: str = "auto",
    trust_remote_code: bool = False,
    progress: Progress = in_notebooks,
    **asked: Any,
) -> dict[str, xr.Dataset]:
    """`ablate_with` once per factor: results by their names, ``<mask>-x0.5``, or ``<name>-x0.5``.

    Args:
        options: all but mode and scale.
        asked: every other argument of `ablate_with`.

    Raises:
        InputError: another mode, no factor or one twice.
    """
    require_factors(options, factors)
    opened = local.writable(store)
    loaded = StoreModel(opened, model, device, trust_remote_code)
    chosen = masks_of(opened, options, mask, k, loaded, progress)
    results = {}
    for factor in map(float, factors):
        scaled, given = of_factor(options, factor, name)
        called = given or "-".join([name_of(chosen, scaled), *suffix])
        results[called] = ablate_with(
            scaled, opened, mask=chosen[0], model=loaded, name=called, progress=progress, **asked
        )
    return results

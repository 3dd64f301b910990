"""What a capture would write and need. No weights of a model that is named are loaded; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from relact import schema
from relact.capturing import prepare
from relact.capturing.options import CaptureOptions
from relact.capturing.sizing import passes_of, shape_of, sized
from relact.capturing.writing import reading_seconds
from relact.models import cost
from relact.models.loading import LoadedModel
from relact.models.outline import outline
from relact.plan import Plan, known
from relact.plan import passes as passes_of_prompt
from relact.relations.table import read
from relact.store import local
from relact.store.layout import block_ranges, record_bytes
from relact.store.skeleton import Blueprint


def forecast(
    options: CaptureOptions,
    model: str | LoadedModel,
    prompts: pd.DataFrame | str | Path,
    store: str | Path | None = None,
    *,
    model_dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    append: bool = False,
) -> Plan:
    """What `capture` with the same arguments would write, and need.

    Files and bytes are exact for an uncompressed store: what is not a block is built in a temporary folder
    and measured. Where a model that is named has no tokenizer at hand, tokens are guessed.

    Args:
        model: a name, whose time is what captures measured on this device; or a loaded model, which is timed.
        store: where it may have begun already; None, or a place where nothing is, for a new one.
    """
    loaded = outline(model, dtype=model_dtype, device=device, trust_remote_code=trust_remote_code)
    path = Path(store) if store is not None and Path(store).exists() else None
    record = options.record(loaded.model.config)
    intake = prepare.take_in(loaded, read(prompts), record, compress=options.compress)
    intake = sized(_assumed(loaded, intake, path), loaded, options, path)
    begun = _begun(intake, path, append)
    tokens = prepare.tokens_of(loaded, begun.prompts, intake)
    rows, n_prompts = intake.manifest.capture.block, len(tokens)
    ranges = begun.left(block_ranges(n_prompts, rows))
    passes = list(passes_of(loaded, intake.manifest.capture, tokens, ranges))
    shape = shape_of(loaded, intake, passes, n_prompts, begun.compress)
    _, buffers = shape.fit(options.budget, rows)
    n_files, n_bytes = prepare.measure(begun.skeleton) if begun.skeleton else (0, 0)
    streams = shape.layouts(rows)
    n_files += len(ranges) * (1 + sum(lay.n_layers for lay in streams.values()))
    n_bytes += len(ranges) * (
        record_bytes(streams) + sum(lay.n_layers * lay.shard_bytes for lay in streams.values())
    )
    peak = shape.memory(rows, min(buffers, max(1, len(ranges))))
    attributed = intake.manifest.capture.attribution
    seconds = cost.seconds(loaded, passes, n_bytes, passes_of_prompt(attributed, loaded.n_layers))
    if attributed and attributed.method == "increase":
        seconds += reading_seconds(loaded, sum(last - first for first, last in ranges), len(passes))
    exact = not (begun.compress or loaded.is_guessed)
    return Plan("capture", n_files, n_bytes, exact, peak, known(seconds), loaded.notes)


def _assumed(loaded: LoadedModel, intake: prepare.Intake, path: Path | None) -> prepare.Intake:
    """The intake as of the store's own model, where there is a store and only weights could tell another."""
    if path is None or not loaded.is_outline:
        return intake
    recorded, asked = local.read_manifest(path), intake.manifest
    manifest = replace(
        asked,
        model=replace(asked.model, fingerprint=recorded.model.fingerprint, revision=recorded.model.revision),
        tokenizer=recorded.tokenizer if loaded.is_guessed else asked.tokenizer,
    )
    return replace(intake, blueprint=replace(intake.blueprint, manifest=manifest))


@dataclass(frozen=True)
class _Begun:
    """What there is of a store before the capture, and what is missing.

    Attributes:
        prompts: its identification prompts once the capture is done.
        stops: one past the last committed row of every block that there is.
        skeleton: what is still to be built beside blocks; None where it stands.
    """

    prompts: pd.DataFrame
    stops: Sequence[int]
    skeleton: Blueprint | None
    compress: bool

    def left(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Row ranges of blocks that are not wholly captured."""
        stops = [*self.stops, *[0] * (len(ranges) - len(self.stops))]
        return [(first, last) for (first, last), stop in zip(ranges, stops, strict=True) if stop < last]


def _begun(intake: prepare.Intake, path: Path | None, append: bool) -> _Begun:
    if path is None:
        return _Begun(intake.tables[schema.IDENTIFY], (), intake.blueprint, intake.blueprint.compress)
    store = local.open(path)
    stops = [store.committed_stop(block) for block in range(store.n_blocks)]
    grown = prepare.grown(store, intake) if append else None
    if not append:
        prepare.resume(store, intake)  # refuses another identity
    prompts = grown.tables[schema.IDENTIFY] if grown else store.prompts(schema.IDENTIFY)
    return _Begun(prompts, stops, grown, store.compressed)

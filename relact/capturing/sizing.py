"""How large a capture may be: rows per block, buffers and memory, from its model, prompts and budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from relact import schema
from relact.capturing.memory import CaptureShape
from relact.capturing.options import CaptureOptions
from relact.capturing.prepare import Intake
from relact.capturing.transfer import copies
from relact.errors import StoreError
from relact.models import batches, cost
from relact.models.loading import LoadedModel
from relact.store import local
from relact.store.layout import block_bytes, block_of, block_ranges, layouts

IN_CACHES = 1024  # tokens: 6 % faster than 2,048 on two cores, and half the memory


def sized(intake: Intake, loaded: LoadedModel, options: CaptureOptions, path: Path | None) -> Intake:
    """The intake with rows per block: as asked, as the store at ``path`` has them, or what memory allows."""
    rows = options.block
    if rows is None and path is not None:
        rows = _block_of(path)
    if rows is None:
        n_prompts = len(intake.tokens)
        ranges = block_ranges(n_prompts, block_of(n_prompts))
        settings = intake.manifest.capture
        passes = passes_of(loaded, settings, intake.tokens, ranges) if options.memory else ()
        rows, _ = shape_of(loaded, intake, passes, n_prompts, options.compress).fit(options.budget)
    return intake.with_block(rows)


def _block_of(path: Path) -> int | None:
    """Rows per block that the store at ``path`` records; None where none can be read."""
    try:
        return local.read_manifest(path).capture.block
    except StoreError:
        return None


def together(loaded: LoadedModel, settings: schema.CaptureRecord) -> int:
    """Tokens that run together: as asked, and where gradients go back on a CPU no more than caches hold."""
    backward = _differentiated(settings.attribution)
    return min(settings.batch, IN_CACHES) if backward and loaded.device.type == "cpu" else settings.batch


def ways(loaded: LoadedModel, settings: schema.CaptureRecord) -> batches.Ways:
    """What may run together: an attribution's prompts are whole, and so are those of a model whose cache
    changes what follows.
    """
    shortcuts = loaded.shortcuts
    whole = settings.attribution is not None or not shortcuts.split
    return batches.Ways(whole, not shortcuts.padded, shortcuts.switch)


def passes_of(
    loaded: LoadedModel,
    settings: schema.CaptureRecord,
    tokens: Sequence[Sequence[int]],
    ranges: Iterable[tuple[int, int]],
) -> Iterator[batches.Pass]:
    """Shapes of the forward passes over ranges of prompts that are batched together."""
    budget, chosen = together(loaded, settings), ways(loaded, settings)
    for first, last in ranges:
        yield from batches.passes(tokens[first:last], budget, chosen)


def shape_of(
    loaded: LoadedModel, intake: Intake, passes: Iterable[batches.Pass], n_prompts: int, compress: bool
) -> CaptureShape:
    """What the memory of these passes and of the blocks around them depends on."""
    blueprint, passes, settings = intake.blueprint, list(passes), intake.manifest.capture
    n_layers, widths, attribution = blueprint.n_layers, blueprint.widths, settings.attribution
    arrive = {name: "float32" if "/" in name else dtype for name, dtype in settings.streams.items()}
    places = settings.layers, settings.experts
    pooled = block_bytes(layouts(1, 1, n_layers, widths, arrive, *places))  # of one prompt
    arriving = copies(loaded.device) * max((rows for rows, _, _ in passes), default=0) * pooled
    held = cost.held_bytes(loaded, passes, attributed=_differentiated(attribution)) + arriving
    if attribution and attribution.method in schema.OF_LAST and loaded.device.type == "cpu":
        held += cost.readout_bytes(loaded, max((rows for rows, _, _ in passes), default=0))
    return CaptureShape(n_prompts, n_layers, widths, settings.streams, held, compress, *places)


def _differentiated(record: schema.AttributionRecord | None) -> tuple[str, ...]:
    """Sites whose values and gradients are held; along a path their values are, too, as they move."""
    if record is None or record.method in schema.OF_LAST:
        return ()
    return record.sites * (2 if record.method == schema.INTEGRATED else 1)

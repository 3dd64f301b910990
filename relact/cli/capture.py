"""`relact capture`: a model's activations into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from relact.capturing.options import CaptureOptions
from relact.cli.options import (
    Along,
    Attribution,
    AttributionDtype,
    AttributionMethod,
    AttributionPool,
    AttributionSites,
    BatchTokens,
    Block,
    Device,
    DryRun,
    Dtype,
    Json,
    ModelDtype,
    Pool,
    Sites,
    SkipFirstToken,
    SpecialTokens,
    Steps,
    Target,
    TargetToken,
    TrustRemoteCode,
)
from relact.cli.printing import say_stale, show_plans, show_store
from relact.cli.progress import Stages
from relact.schema import RESULTS


def capture(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="hub id, local folder, GGUF file, smollm2 or gemma3-270m")
    ],
    prompt_file: Annotated[Path, typer.Argument(metavar="PROMPTS", help="prompt table")],
    store: Annotated[
        str, typer.Argument(metavar="STORE", help="a folder, or an object store: s3://bucket/name.zarr")
    ],
    sites: Sites = str(CaptureOptions.sites),
    pool: Pool = CaptureOptions.pool,
    dtype: Dtype = CaptureOptions.dtype,
    block: Block = CaptureOptions.block,
    batch_tokens: BatchTokens = CaptureOptions.batch_tokens,
    special_tokens: SpecialTokens = CaptureOptions.special_tokens,
    skip_first_token: SkipFirstToken = CaptureOptions.skip_first_token,
    model_dtype: ModelDtype = "auto",
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    memory: Annotated[
        str | None, typer.Option(help="memory budget of the process, such as 8GiB; no limit by default")
    ] = None,
    compress: Annotated[
        bool, typer.Option("--compress", help="a new store smaller, but slower to write and read")
    ] = False,
    attribution: Attribution = CaptureOptions.attribution,
    attribution_sites: AttributionSites = str(CaptureOptions.attribution_sites),
    attribution_pool: AttributionPool = CaptureOptions.attribution_pool,
    attribution_dtype: AttributionDtype = CaptureOptions.attribution_dtype,
    target: Target = CaptureOptions.target,
    target_token: TargetToken = None,
    attribution_method: AttributionMethod = None,
    steps: Steps = None,
    path: Along = None,
    append: Annotated[
        bool, typer.Option("--append", help="add the prompts that the store does not have")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="check every byte, capture damaged blocks again")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stream a model's activations, and attributions, on prompts into a store; run it again to resume."""
    from relact.packed import urls

    attributed = attribution, attribution_sites, attribution_pool, attribution_dtype, target, target_token
    method = attribution_method, steps, path
    options = CaptureOptions(
        sites,
        pool,
        dtype,
        block,
        batch_tokens,
        special_tokens,
        memory,
        compress,
        *attributed,
        *method,
        skip_first_token,
    )
    away = urls.is_url(store)
    loading: dict[str, Any] = {
        "model_dtype": model_dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if dry_run:
        if repair:
            problem = "what a repair would do is told by `relact verify`"
            raise typer.BadParameter(problem, param_hint="--dry-run")
        return _plan(
            options, model, prompt_file, None if away else store, loading | {"append": append}, as_json
        )
    if away:
        if append or repair:
            problem = "only stores on disk are appended to or repaired"
            raise typer.BadParameter(problem, param_hint="--append/--repair")
        return _stream(options, model, prompt_file, store, loading, as_json)
    from relact.capturing.capture import capture_with

    how = {**loading, "append": append, "repair": repair}
    with Stages() as progress:
        opened = capture_with(options, model, prompt_file, store, **how, progress=progress)
    say_stale(opened, *RESULTS)
    show_store(opened, as_json)


def _plan(
    options: CaptureOptions,
    model: str,
    prompt_file: Path,
    begun: str | None,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    from relact.capturing.forecast import forecast

    show_plans([forecast(options, model, prompt_file, begun, **how)], as_json)


def _stream(
    options: CaptureOptions, model: str, prompt_file: Path, url: str, loading: dict[str, Any], as_json: bool
) -> None:
    from relact.sharing.stream import stream_with

    with Stages() as progress:
        opened = stream_with(options, model, prompt_file, url, **loading, progress=progress)
    show_store(opened, as_json)

"""`relact verify`: every byte against its checksum."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from relact.cli import terminal
from relact.cli.options import Json
from relact.cli.progress import Stages


def check_store(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="folder of the store, or a packed one")],
    workers: Annotated[int, typer.Option(help="files read at once")] = 4,
    drop: Annotated[
        bool, typer.Option("--drop", help="delete damaged results, so that they are computed again")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every committed byte; name what is damaged and how to repair it.
    Exit code 1 when something is.
    """
    from relact.packed.store import is_packed
    from relact.sharing.unpack import check
    from relact.store.verify import drop_damaged, verify

    packed = is_packed(store)
    with Stages() as progress:
        verdict = (
            check(store, progress=progress) if packed else verify(store, workers=workers, progress=progress)
        )
    dropped = drop_damaged(store, verdict) if drop and not packed else []
    if as_json:
        terminal.dump(
            {
                "store": store,
                "ok": verdict.ok,
                "files": verdict.files,
                "bytes": verdict.bytes,
                "blocks": verdict.blocks,
                "missing": verdict.missing,
                "problems": [asdict(problem) for problem in verdict.problems],
                "repairs": verdict.repairs(),
                "dropped": dropped,
            }
        )
    else:
        _show_verdict(verdict, dropped)
    if not verdict.ok:
        raise typer.Exit(1)


def _show_verdict(verdict: Any, dropped: list[str]) -> None:
    from relact.plan import show_bytes

    for problem in verdict.problems:
        terminal.say(str(problem))
    terminal.say(
        f"{verdict.files:,} files with {show_bytes(verdict.bytes)} checked, {len(verdict.problems)} damaged; "
        f"{verdict.blocks - len(verdict.missing)} of {verdict.blocks} blocks captured"
    )
    for group in dropped:
        terminal.say(f"deleted: {group}")
    for command in verdict.repairs():
        terminal.say(f"to repair: {command}")

"""Export by the name of a format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relact import schema
from relact.store import local
from relact.errors import InputError
from relact.remote import open as open_store
from relact.share import selfcond, tables

SCORES = (selfcond.SELFCOND, selfcond.LANG_NEURON)
FORMATS = (*SCORES, *tables.NEURON_FORMATS, tables.ABLATION_FORMAT, tables.CONCEPTS)


def export(
    store: str | Path | local.Store,
    out: str | Path,
    form: str,
    *,
    mask: str | None = None,
    ablation: str | None = None,
    relations: Sequence[str] | None = None,
    group: str = selfcond.GROUP,
    limited: int | None = None,
) -> list[Path]:
    """Write ``store``'s scores, a mask, an ablation or its prompts in ``form`` (one of ``FORMATS``); returns what was written.

    Args:
        out: a file, or for ``selfcond``, ``lang_neuron`` and ``concepts`` a folder.
        mask, ablation: which one; may be left out when there is one.
        relations, group, limited: see `selfcond.export`.
    """
    opened = open_store(store)
    if form in SCORES:
        return selfcond.export(opened, out, flavour=form, relations=relations, group=group, limited=limited)
    if form in tables.NEURON_FORMATS:
        return [tables.neurons(opened, mask or _only(opened, schema.MASKS), out, form)]
    if form == tables.ABLATION_FORMAT:
        return [tables.ablation(opened, ablation or _only(opened, schema.ABLATIONS), out)]
    if form == tables.CONCEPTS:
        return tables.concepts(opened, out, group)
    raise InputError(f"no format {form!r}", where="--format", fix=f"choose from {', '.join(FORMATS)}")


def _only(store: local.Store, stage: str) -> str:
    names = store.children(stage)
    if len(names) != 1:
        raise InputError(
            f"{len(names)} {stage}: {', '.join(names) or 'none'}", where=store.path, fix="name one of them"
        )
    return names[0]

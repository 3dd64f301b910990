"""Export by the name of a format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relact import schema
from relact.analysis.replies import error_types
from relact.analysis.tables import write_table
from relact.errors import InputError
from relact.exchange import hooks, lists, selfcond
from relact.packed.store import open_store
from relact.store.reading import Store

SCORES = (selfcond.SELFCOND, selfcond.LANG_NEURON)
ERRORS = "errors"
FORMATS = (*SCORES, *lists.NEURON_FORMATS, *hooks.LIBRARIES, lists.ABLATION_FORMAT, ERRORS, lists.CONCEPTS)


def export(
    store: str | Path | Store,
    out: str | Path,
    form: str,
    *,
    mask: str | None = None,
    ablation: str | None = None,
    relations: Sequence[str] | None = None,
    group: str = selfcond.GROUP,
    limited: int | None = None,
) -> list[Path]:
    """Write ``store``'s scores, a mask, an ablation or its prompts in ``form`` (one of ``FORMATS``).

    Returns the paths written.

    Args:
        form: ``transformer-lens``, ``nnsight``, ``hooks``: a mask by the names of other libraries, see
            `hooks`; ``errors``: of an ablation, what was said instead (`error_types`), by the suffix of
            ``out``.
        out: a file, or for ``selfcond``, ``lang_neuron`` and ``concepts`` a folder.
        mask, ablation: which one; may be left out when there is one.
        relations, group, limited: see `selfcond.export`.
    """
    opened = open_store(store)
    if form in SCORES:
        return selfcond.export(opened, out, flavour=form, relations=relations, group=group, limited=limited)
    if form in lists.NEURON_FORMATS:
        return [lists.neurons(opened, opened.named(schema.MASKS, mask), out, form)]
    if form in hooks.LIBRARIES:
        return [hooks.neurons(opened, opened.named(schema.MASKS, mask), out, form)]
    if form == lists.ABLATION_FORMAT:
        return [lists.ablation(opened, opened.named(schema.ABLATIONS, ablation), out)]
    if form == ERRORS:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        return [write_table(error_types(opened, opened.named(schema.ABLATIONS, ablation)), out)]
    if form == lists.CONCEPTS:
        return lists.concepts(opened, out, group)
    raise InputError(f"no format {form!r}", where="--format", fix=f"choose from {', '.join(FORMATS)}")

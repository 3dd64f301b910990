"""Register: settings and hypotheses of an ablation, written into the store before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from relact import schema
from relact.ablating.options import AblateOptions
from relact.errors import InputError
from relact.store.local import LocalStore

HYPOTHESES = (
    "A relation's own neurons cost it more than another relation's neurons do, on average over relations.",
    "A relation's own neurons cost it more than matched random sets do, on average over relations.",
)  # where nothing else is said: the claims that a matrix is made for

UNSEEN = ("batch_tokens",)  # of the options: it does not change what is found
LATER = ("scale",)  # said where they are chosen: registrations from before have no such setting


def register(
    store: LocalStore,
    name: str,
    options: AblateOptions,
    masks: Sequence[schema.MaskRecord],
    prompts: str,
    hypotheses: Sequence[str] = (),
) -> str:
    """Write ``registrations/<name>`` and return what a result refers to it by: a digest of all it says.

    Args:
        masks: records of the neuron sets. prompts: digest of the test prompts.
        hypotheses: one sentence each; `HYPOTHESES` by default.

    Raises:
        InputError: the ablation has been run already, or another registration has its name.
    """
    settings = {name: _listed(value) for name, value in asdict(options).items() if name not in UNSEEN}
    settings = {name: value for name, value in settings.items() if name not in LATER or value is not None}
    settings["masks"] = [mask.to_attributes() for mask in masks]
    said = {"settings": settings, "hypotheses": list(hypotheses or HYPOTHESES), "prompts": prompts}
    digest = schema.digest([said])
    group = f"{schema.REGISTRATIONS}/{name}"
    if store.has(group):
        if store.attributes(group).get("digest") == digest:
            return digest
        fix = "choose another --name, or give the settings and hypotheses that were registered"
        raise InputError(f"another registration is called {name!r}", where=store.path, fix=fix)
    if store.has(f"{schema.ABLATIONS}/{name}"):
        fix = "choose another --name: a registration comes before its result"
        raise InputError(f"the ablation {name!r} has been run already", where=store.path, fix=fix)
    written = datetime.now(UTC).isoformat(timespec="seconds")
    with store.stage(group, {**said, "written": written, "digest": digest}):
        pass
    return digest


def _listed(value: object) -> object:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple | range) else value

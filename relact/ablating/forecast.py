"""What an ablation would write and need. Of a named model no weights are loaded; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from relact import plan
from relact import sites as site_names
from relact.ablating.decode import passes_of
from relact.ablating.options import AblateOptions
from relact.ablating.perplexity import ROWS, encoded, texts_of
from relact.ablating.prepare import (
    has_masks,
    is_stored,
    ks_of,
    name_of,
    outline_of,
    record_of,
    require_one,
    tests_of,
)
from relact.models import cost
from relact.models.batches import Pass
from relact.models.loading import LoadedModel, encode
from relact.scoring import masks
from relact.store import local
from relact.store.reading import Store

ANSWER = 192  # bytes of one stored reply, its verdict and numbers included: most are of a few tokens


def forecast(
    options: AblateOptions,
    store: str | Path | Store,
    *,
    mask: str | None = None,
    k: int | Sequence[int] | None = None,
    model: str | LoadedModel | None = None,
    tests: pd.DataFrame | None = None,
    name: str | None = None,
    suffix: Sequence[str] = (),
    device: str = "auto",
    trust_remote_code: bool = False,
    registered: bool = False,
) -> plan.Plan:
    """What `ablate` with the same arguments would write and need; nothing where the very result is stored.

    Errors are those of `ablate`, but for what only the model's weights can tell.

    Args:
        registered: the run is registered before; whether its result is there is not looked up.
    """
    require_one(mask, k)
    opened = local.writable(store)
    loaded = outline_of(opened, model, device, trust_remote_code)
    asked = tests_of(opened, tests, options.part)
    choices = [options.selection(size) for size in ks_of(k)]
    sites = {site for choice in choices for site in masks.sites_of(opened, choice)}
    relations = opened.relations() if mask is None else masks.read(opened, mask)[0]
    chosen = [masks.name_of(choice) for choice in choices] if mask is None else [mask]
    called = name or "-".join([name_of(chosen, options), *suffix])
    there = not registered and has_masks(opened, chosen, mask is None)
    if there and is_stored(opened, called, record_of(opened, options, chosen, asked)):
        return plan.Plan("ablate", 0, 0, True, 0, 0.0, (f"ablations/{called} is stored already",))
    widths = {site: opened.shape(site)[1] for site in sites}
    matrix = Matrix(asked.table, relations, len(options.seeds), widths, len(choices))
    return forecast_of(options, loaded, matrix, special_tokens=opened.manifest.capture.special_tokens)


@dataclass(frozen=True)
class Matrix:
    """What an ablation asks.

    Attributes:
        tests: the test prompts.
        relations: whose sets are overridden. n_random: controls.
        widths: neurons per layer of the sites that masks are stored of.
        new_masks: masks that are selected first, one per k; 0 where one is stored already.
    """

    tests: pd.DataFrame
    relations: Sequence[str]
    n_random: int
    widths: Mapping[str, int]
    new_masks: int = 1

    @property
    def per_k(self) -> int:
        """Conditions of every k, but for the intact model."""
        return len(self.relations) + self.n_random

    @property
    def n_ks(self) -> int:
        return max(1, self.new_masks)

    @property
    def n_conditions(self) -> int:
        """All that run: those of every k, and what each k adds to every relation's set."""
        return self.n_ks * self.per_k + (self.n_ks - 1) * len(self.relations)


def forecast_of(
    options: AblateOptions, loaded: LoadedModel, matrix: Matrix, *, special_tokens: bool = True
) -> plan.Plan:
    """The plan of an ablation; files, bytes and memory are bounds."""
    tokens = encode(loaded, matrix.tests["text"].tolist(), special_tokens=special_tokens)
    passes, work, words = passes_of(tokens, matrix.n_conditions, options.batch_tokens)
    if options.perplexity:
        read = texts_of(options.perplexity_of, matrix.tests["object"])
        ids_of = encoded(loaded, read, special_tokens=special_tokens)
        texts: list[Pass] = [(ROWS, 0, len(ids)) for ids in ids_of]
        work += matrix.n_ks * (1 + matrix.per_k) * sum(own for _, _, own in texts)
        passes, words = passes + texts, max(words, 2 * ROWS * max(own for _, _, own in texts))
    vocabulary = int(site_names.text_config(loaded.model.config).vocab_size)
    logits = 2 * 4 * words * vocabulary  # and the copy that they are chosen from
    memory = cost.held_bytes(loaded, passes) + (logits if loaded.device.type == "cpu" else 0)
    n_files, n_bytes = _size(loaded, matrix)
    longest = max(passes, key=lambda batch: batch[0] * batch[2])
    seconds = cost.seconds(loaded, [longest], n_bytes) * work / (longest[0] * longest[2])
    return plan.Plan("ablate", n_files, n_bytes, False, memory, plan.known(seconds), loaded.notes)


def _size(loaded: LoadedModel, matrix: Matrix) -> tuple[int, int]:
    """(files, bytes) that an ablation writes at most, its masks included."""
    n_relations = matrix.tests["relation"].nunique()
    n_files, n_bytes = ablation_size(1 + matrix.per_k, len(matrix.tests), n_relations, matrix.n_ks)
    mask_files, mask_bytes = mask_size(len(matrix.relations), loaded.n_layers, matrix.widths)
    n_files, n_bytes = n_files + matrix.new_masks * mask_files, n_bytes + matrix.new_masks * mask_bytes
    return n_files + 2, n_bytes + 2 * plan.NAME


def mask_size(n_relations: int, n_layers: int, widths: Mapping[str, int]) -> tuple[int, int]:
    """(files, bytes) of one stored mask, at most."""
    files, size = 1, plan.METADATA
    for width in widths.values():
        files += 1 + 4 + 3 + n_relations  # the group, its arrays, coordinates, a chunk per relation
        size += n_relations * plan.compressed(n_layers * width)
        size += plan.compressed(8 * (n_layers + width) + 64 * n_relations)
        size += 5 * plan.METADATA + n_relations * plan.NAME
    return files, size


def ablation_size(n_conditions: int, n_prompts: int, n_relations: int, n_ks: int = 1) -> tuple[int, int]:
    """(files, bytes) of one stored ablation, at most; ``n_conditions`` per k."""
    # verdicts, texts, numbers, accuracy, digests, perplexity, steps of a sweep, foreign prompts, coordinates
    arrays = 23
    answers = n_ks * n_prompts * (n_conditions + 1) * ANSWER
    accuracies = n_ks * n_conditions * (4 * n_relations + 64)
    labels = 8 * n_prompts + 64 * (n_conditions * (1 + n_relations) + n_prompts)
    size = plan.compressed(answers + accuracies + labels) + arrays * (plan.METADATA + 2 * plan.NAME)
    return 1 + 2 * arrays, size

"""Every stored name, dimension and attribute of the written format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# --- the hierarchy: its groups, and what every one of them has
FORMAT = 1  # of stores whose every site is in all layers, and no neurons are those of experts
LAYERED = 2  # of others: earlier versions would take the places of their layers for the layers
FORMATS = (FORMAT, LAYERED)
DOCUMENT = "zarr.json"  # metadata of a group or an array
ATTRIBUTE = "relact"  # key of our attributes in every zarr.json we write
PROMPTS = "prompts"
ACTIVATIONS = "activations"
ATTRIBUTIONS = "attributions"
SCORES = "scores"
MASKS = "masks"
ABLATIONS = "ablations"
COMMITS = "commits"
LOOKS = "looks"  # what neurons of a mask write, and where in prompts they act: see `LooksRecord`
SUPER_UNITS = "super_units"  # units that break the model alone: (unit), see `SuperUnitsRecord`
REGISTRATIONS = "registrations"  # settings and hypotheses that were written before their ablation

# --- prompts/<split>, and prompts.<split> of the root's attributes
IDENTIFY, TEST = "identify", "test"
PROMPT_TEXT = ("text", "relation", "subject", "object", "template", "language")  # strings of both prompt sets
N_TOKENS = "n_tokens"  # integers of both prompt sets
ANSWERS, ANSWER = "answers", "answer"  # (prompt, answer) strings of test prompts, padded with ""
N_ROWS, ROWS_DIGEST = "n", "digest"  # attributes: how many prompts, and `digest` of them
APPENDED = "appended"  # attribute of identify, where there was an append: first row of every one

# --- activations/<site>, attributions/<site>, commits. A stream is one of these arrays, by its `streams` name
ACTIVATION, ATTRIBUTION = "activation", "attribution"  # (prompt, layer, neuron)
ARRAYS = {ACTIVATIONS: ACTIVATION, ATTRIBUTIONS: ATTRIBUTION}  # group -> its array
RECORD, FIELD = "record", "field"  # (block, field), and the names along `field`: see `commit_fields`
START, STOP = "start", "stop"  # the first two fields: row range of the block
DTYPES = ("float16", "float32")
POOLS = ("mean", "max", "last", "positive")
TARGETS = ("answer", "contrast", "token")  # whose log-probability is attributed
ATTRIBUTION_POOLS = ("sum", "last", "own")
INTEGRATED, OF_LAST = "integrated", ("direct", "increase")  # the latter of the last token, without gradient
ATTRIBUTION_METHODS = ("gradient", INTEGRATED, *OF_LAST)
PATHS = ("site", "layer")  # what is scaled together where gradients are integrated

# --- scores/<site>, masks/<name>/<site>
BY_NEURON = ("relation", "layer", "neuron")  # dimensions of every score and mask
AVERAGE_PRECISION = "average_precision"
ON_P50, ON_P90, ON_MEAN, OFF_MEAN, OFF_P50 = "on_p50", "on_p90", "on_mean", "off_mean", "off_p50"
MARGIN = "margin"  # decides between equal scores where it is stored
STATISTICS = (AVERAGE_PRECISION, ON_P50, ON_P90, OFF_MEAN, OFF_P50)  # those that are computed by default
OF_ATTRIBUTIONS = "attribution_"  # prefix of a statistic's name
ATTRIBUTION_Z = "attribution_z"
ATTRIBUTION_STATISTICS = ("attribution_average_precision", ATTRIBUTION_Z, "attribution_mean")
MASK, UNIT, NEURON = "mask", "unit", "neuron"  # the last two are what a mask counts
HIDDEN = ("mlp.gate", "mlp.up", "mlp.act", "mlp.hidden")  # of one layer and index: one hidden unit

# --- mixtures of experts: neuron = expert x units + unit, both of them coordinates along `neuron`
EXPERT = "expert"
ROUTER, WEIGHT = "moe.router", "moe.weight"  # a neuron of these is an expert
BY_EXPERT = (*HIDDEN, WEIGHT)  # as wide as all experts together, where there are any

# --- ablations/<name>
INTACT, RANDOM = "intact", "random-"  # conditions: the model as it is; a seed follows. Others are relations
KIND = "kind"  # coordinate of condition: nothing, a relation's own neurons, or random ones are switched off
KIND_INTACT, KIND_OWN, KIND_RANDOM = "intact", "own", "random"
PART, DEV = "part", "dev"  # coordinate of prompt: `DEV` to choose on, `TEST` to show, or `IDENTIFY`
CORRECT, GENERATED, ACCURACY, DIGEST = "correct", "generated", "accuracy", "digest"
LOG_PROBABILITY, LOGIT_DIFFERENCE = "log_probability", "logit_difference"  # of the answer's first token
RELATION_OF = "relation_of"  # the relation of every prompt
STEP_CORRECT, STEP_GENERATED = "step_correct", "step_generated"  # of a sweep: without what a step of k adds
PERPLEXITY = "perplexity"  # where a text was given

# --- looks/<mask>: the best neurons (unit) of every relation of a mask, rank by rank
WHOSE, RANK = "whose", "rank"  # (unit): the relation, and the place in its order
PROMOTED, SUPPRESSED, BY = "promoted", "suppressed", "_by"  # (unit, word) tokens; with `BY` their logits
SHOWN, PIECE = "shown", "piece"  # (shown) numbers of identification prompts, (shown, token) their tokens
DRIVER, DRIVE = "driver", "drive"  # (unit, slot) a place in `SHOWN` or -1; (unit, slot, token) its values
QUANTITY = "quantity"  # (unit): what they are values of

# --- a store packed for sharing
PACKAGE = "package"  # root attribute: what is in it, and its card
TOP = "top"  # group: every relation's best neurons, ready to be shown
PLACE, VALUE = "place", "value"  # (relation, rank, axis) site, layer, neuron; (relation, rank, statistic)
TOP_STATISTIC, TOP_SITES = "statistic", "sites"  # its attributes: what neurons are ranked by; sites by number


def kinds_of_names(conditions: Sequence[str]) -> list[str]:
    """The kind of every condition of a result that does not say it, as those before `KIND` was stored."""
    return [
        KIND_INTACT if name == INTACT else KIND_RANDOM if name.startswith(RANDOM) else KIND_OWN
        for name in conditions
    ]


def commit_fields(layers: Mapping[str, Iterable[int]]) -> list[str]:
    """Names along the ``field`` of a commit record: start, stop, then ``stream/layer`` of every checksum.

    Args:
        layers: of every stream, the numbers of its layers.
    """
    return [START, STOP, *(f"{stream}/{layer}" for stream, numbers in layers.items() for layer in numbers)]


def digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Hex digest of prompt rows in order; equal rows give equal digests on every machine."""
    state = hashlib.blake2b(digest_size=16)
    for row in rows:
        state.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode())
        state.update(b"\n")
    return state.hexdigest()

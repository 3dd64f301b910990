"""Options and arguments that commands share, declared once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from relact.errors import InputError
from relact.relations.options import ReadingOptions

R = TypeVar("R")

StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="folder of the store")]
StoreModel = Annotated[
    str | None, typer.Option("--model", help="where the store's model is now, if it moved")
]
StorePlace = Annotated[
    str,
    typer.Argument(metavar="STORE", help="a folder, a .zarr.zip, or its URL: http(s), s3, hf://datasets/..."),
]
Place = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|STORE", help="a model: hub id, folder, GGUF file, smollm2; or a store, for its model"
    ),
]
PlaceModel = Annotated[
    str | None, typer.Option("--model", help="of a store: where its model is now, if it moved")
]
PromptTexts = Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="what to go on from")]
NeuronNames = Annotated[
    list[str] | None,
    typer.Option(
        "--neuron", metavar="SITE/LAYER/INDEX", help="these neurons instead; may be given several times"
    ),
]
Timeout = Annotated[float, typer.Option(help="seconds for one request to a server")]
Licence = Annotated[
    str | None,
    typer.Option(help="of the data, for the card: an SPDX identifier or expression, such as cc-by-4.0"),
]
Activations = Annotated[bool, typer.Option("--activations", help="pack the activations too, compressed")]
PackedStages = Annotated[str, typer.Option("--stages", help="results to pack, comma-separated")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Shots = Annotated[int, typer.Option(help="in-context examples before every prompt")]
Examples = Annotated[
    str, typer.Option(help="of identification prompts: drawn for each, or shared as in test prompts")
]
Language = Annotated[str, typer.Option(help="language of the prompts: en, de, fr, es, zh, ja")]
Templates = Annotated[str, typer.Option(help="first or all templates of a relation")]
Form = Annotated[str, typer.Option(help="statement, or paper: `? Answer:` at the end")]
PerRelation = Annotated[int | None, typer.Option(help="identification prompts per relation at most")]
Strict = Annotated[
    bool, typer.Option("--strict", help="refuse where a relation lacks what is asked, instead of dropping it")
]
TestSize = Annotated[int, typer.Option(help="held-out facts per relation")]
Seed = Annotated[int, typer.Option(help="of the split, of examples and, in a run, of sampled negatives")]
Sites = Annotated[str, typer.Option(help="sites to capture: mlp, attn, all, or names like mlp.gate,mlp.up")]
Pool = Annotated[str, typer.Option(help="over a prompt's tokens: mean, max, last, positive")]
Dtype = Annotated[str, typer.Option(help="stored as float16 or float32")]
Block = Annotated[int | None, typer.Option(help="prompts committed together (about 512)")]
BatchTokens = Annotated[int, typer.Option(help="tokens in one forward pass at most")]
SpecialTokens = Annotated[
    bool,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        " /--no-bos",
        help="let the tokenizer add its special tokens (BOS), or not",
    ),
]
SkipFirstToken = Annotated[
    bool,
    typer.Option(
        "--skip-first-token", help="leave every prompt's first token, often a sink, out of what is pooled"
    ),
]
ModelDtype = Annotated[str, typer.Option(help="dtype to load the model in: auto, float32, bfloat16, float16")]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1; for a model larger than a card balanced, over all cards, main memory "
        "and disk, or a device map in a .json file"
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="run the Python code that the model's folder brings along"),
]
Attribution = Annotated[
    bool,
    typer.Option(
        "--attribution",
        help="also attribute the answer to neurons: activation times gradient, a backward pass",
    ),
]
AttributionSites = Annotated[str, typer.Option(help="sites to attribute to")]
AttributionPool = Annotated[
    str, typer.Option(help="over a prompt's tokens: sum, last, own (its last line, without the examples)")
]
AttributionDtype = Annotated[str, typer.Option(help="stored as float32 or float16")]
Target = Annotated[
    str,
    typer.Option(
        help="what is attributed: the answer's first token, its contrast with another answer, or one token"
    ),
]
TargetToken = Annotated[
    str | None, typer.Option(metavar="TEXT|#ID", help="of --target token, the same for all prompts")
]
AttributionMethod = Annotated[
    str | None,
    typer.Option(help="how: gradient, the default; integrated gradients; direct; increase, of log p"),
]
Steps = Annotated[int | None, typer.Option(help="of integrated gradients: points along the path, 20")]
Along = Annotated[
    str | None, typer.Option("--path", help="of integrated gradients: all layers of a site, or one layer")
]
Relations = Annotated[
    str | None,
    typer.Option(help="only these relations, comma-separated; one with a comma in quotes: '\"a, b\",c'"),
]
Negatives = Annotated[int | None, typer.Option(help="sample so many negatives per positive instead of all")]
OwnNegatives = Annotated[
    bool,
    typer.Option(
        "--own-negatives",
        help="labels of one group are each other's negatives, and nothing else is: toxic=1 and toxic=0, a "
        "concept's own sentences",
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label-column", "--relation-column", help="column of your table that names the relation"),
]
SubjectColumn = Annotated[str | None, typer.Option(help="column with the subjects of facts")]
ObjectColumn = Annotated[str | None, typer.Option(help="column with the answers")]
TextColumn = Annotated[str | None, typer.Option(help="column with ready texts, instead of facts")]
TemplateColumn = Annotated[str | None, typer.Option(help="column with every row's template")]
GroupColumn = Annotated[
    str | None, typer.Option(help="column that names the question of a label: relations are group=label")
]
LabelNames = Annotated[
    str | None, typer.Option(metavar="OLD=NEW,...", help="what labels are called: 0=negative,1=positive")
]
Template = Annotated[
    str | None,
    typer.Option(
        help='of facts without one, "The capital of {} is"; of texts it asks for the label: "{} This is"'
    ),
]
Limit = Annotated[int | None, typer.Option(help="facts per relation to read at most, for very large tables")]
SkipBad = Annotated[bool, typer.Option(help="pass over rows that cannot be used, and count them")]
Workers = Annotated[int | None, typer.Option(help="threads; all cores by default")]
Memory = Annotated[str, typer.Option(help="memory budget, such as 4GiB")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would write and need, and stop")]
Seeds = Annotated[int, typer.Option(help="random controls")]
Kind = Annotated[str, typer.Option(help="the top k, the bottom k, or both: half of k of each")]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="by activation (what tells prompts apart; the default) or attribution (what the answer owes "
        "each neuron)",
    ),
]
Statistic = Annotated[
    str | None,
    typer.Option(
        "--statistic",
        help="by this stored statistic: auroc, margin, z, attribution_mean, ...; average_precision of "
        "activations and z of attributions by default",
    ),
]
CountNeurons = Annotated[
    bool,
    typer.Option("--count-neurons", help="count gate and up of a hidden unit as two neurons, as published"),
]
Unit = Annotated[
    str, typer.Option("--unit", help="what is chosen: neuron, or expert, whole ones of a mixture of experts")
]
KeepSuperUnits = Annotated[
    bool, typer.Option("--keep-super-units", help="do not leave out neurons that break the model alone")
]
MaskSites = Annotated[str | None, typer.Option(help="choose among these sites only: attn, mlp.up, ...")]
Mode = Annotated[
    str, typer.Option(help="override with: zero, mean, off_mean, on_p50, on_p90, off_p50, resample")
]
Tokens = Annotated[str, typer.Option(help="override at all tokens, or from the last one of a prompt on")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="write the table: .parquet, .csv, .tex, .md, .json")
]
Match = Annotated[str, typer.Option(help="rule for a correct answer: prefix, exact, paper")]
Control = Annotated[
    str,
    typer.Option(
        help="random sets: matched to each relation's own per site and layer, magnitude (and of like "
        "activations), or uniform over all neurons, as published"
    ),
]


def chosen_of(record: type[R], context: typer.Context, **others: Any) -> R:
    """The options of a step: what the command's parameters of the same names are, but for ``others``."""
    names = {entry.name for entry in fields(record)} & context.params.keys()  # type: ignore[arg-type]
    return record(**{name: context.params[name] for name in names} | others)


def reading_of(context: typer.Context) -> ReadingOptions:
    """How sources are read. Rows that name no language are English, whichever prompts are asked for."""
    kept = {"language": ReadingOptions.language, "seed": ReadingOptions.seed}
    return chosen_of(ReadingOptions, context, label_names=_pairs(context.params["label_names"]), **kept)


def _pairs(pairs: str | None) -> dict[str, str] | None:
    """``old=new`` pairs separated by commas.

    Raises:
        InputError: something else.
    """
    if not pairs:
        return None
    found = [[part.strip() for part in pair.split("=", 1)] for pair in pairs.split(",")]
    if wrong := [pair for pair in found if len(pair) < 2 or not all(pair)]:
        fix = "give for example 0=negative,1=positive"
        raise InputError(f"{'='.join(wrong[0])!r} is no pair", where="--label-names", fix=fix)
    return dict(found)


def require_only(context: typer.Context, allowed: Collection[str], why: str) -> None:
    """Refuse options that are given and would be ignored.

    Args:
        allowed: names of parameters that count.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
        if given and parameter.name not in allowed:
            raise typer.BadParameter(why, param_hint=parameter.opts[0])

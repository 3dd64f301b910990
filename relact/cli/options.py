"""Options and arguments that commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="bundled relations, `starter`, a folder of LRE JSON, .jsonl/.csv/.parquet"
    ),
]
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
Seed = Annotated[int, typer.Option(help="seed of the split and of sampled negatives")]
Sites = Annotated[str, typer.Option(help="sites to capture: mlp, attn, all, or names like mlp.gate,mlp.up")]
Pool = Annotated[str, typer.Option(help="over a prompt's tokens: mean, max, last, positive")]
Dtype = Annotated[str, typer.Option(help="stored as float16 or float32")]
Block = Annotated[int | None, typer.Option(help="prompts committed together (about 512)")]
BatchTokens = Annotated[int, typer.Option(help="tokens in one forward pass at most")]
SpecialTokens = Annotated[bool, typer.Option(help="let the tokenizer add its special tokens (BOS)")]
ModelDtype = Annotated[str, typer.Option(help="dtype to load the model in: auto, float32, bfloat16, float16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
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
Relations = Annotated[str | None, typer.Option(help="only these relations, comma-separated")]
Negatives = Annotated[int | None, typer.Option(help="sample so many negatives per positive instead of all")]
Workers = Annotated[int | None, typer.Option(help="threads; all cores by default")]
Memory = Annotated[str, typer.Option(help="memory budget, such as 4GiB")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would write and need, and stop")]
Seeds = Annotated[int, typer.Option(help="random controls")]
Kind = Annotated[str, typer.Option(help="the top k, the bottom k, or both: half of k of each")]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="choose by activation (what tells prompts apart; the default) or attribution (what carries "
        "the answer)",
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

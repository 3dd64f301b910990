"""The commands: parse, call one library function, print.

Heavy libraries are imported inside the commands, so that ``relact --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from relact import __version__

app = typer.Typer(
    name="relact",
    help="Which neurons of a language model belong to a relation, and what breaks without them.",
    epilog="Every command takes --json for machines. Add --debug to see a traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Options are declared once.
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="bundled relations, `starter`, a folder of LRE JSON, .jsonl/.csv/.parquet"
    ),
]
StorePath = Annotated[Path, typer.Argument(metavar="STORE", help="folder of the store")]
StorePlace = Annotated[
    str, typer.Argument(metavar="STORE", help="a folder, a .zarr.zip, or its URL: http(s), s3, hf://datasets/...")
]
Timeout = Annotated[float, typer.Option(help="seconds for one request to a server")]
Licence = Annotated[
    str | None, typer.Option(help="of the data, for the card: an SPDX identifier or expression, such as cc-by-4.0")
]
Activations = Annotated[bool, typer.Option("--activations", help="pack the activations too, compressed")]
PackedStages = Annotated[str, typer.Option("--stages", help="results to pack, comma-separated")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
Shots = Annotated[int, typer.Option(help="in-context examples before every prompt")]
Examples = Annotated[str, typer.Option(help="of identification prompts: drawn for each, or shared as in test prompts")]
Language = Annotated[str, typer.Option(help="language of the prompts: en, de, fr, es, zh, ja")]
Templates = Annotated[str, typer.Option(help="first or all templates of a relation")]
Form = Annotated[str, typer.Option(help="statement, or paper: `? Answer:` at the end")]
PerRelation = Annotated[int | None, typer.Option(help="identification prompts per relation at most")]
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
Relations = Annotated[str | None, typer.Option(help="only these relations, comma-separated")]
Negatives = Annotated[int | None, typer.Option(help="sample so many negatives per positive instead of all")]
Workers = Annotated[int | None, typer.Option(help="threads; all cores by default")]
Memory = Annotated[str, typer.Option(help="memory budget, such as 4GiB")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what it would write and need, and stop")]
Seeds = Annotated[int, typer.Option(help="random controls")]
Kind = Annotated[str, typer.Option(help="the top k, the bottom k, or both: half of k of each")]
MaskSites = Annotated[str | None, typer.Option(help="choose among these sites only: attn, mlp.up, ...")]
Mode = Annotated[str, typer.Option(help="override with: zero, mean, off_mean, on_p50, on_p90, off_p50, resample")]
Tokens = Annotated[str, typer.Option(help="override at all tokens, or from the last one of a prompt on")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="write the table: .parquet, .csv, .tex, .md, .json")
]
Match = Annotated[str, typer.Option(help="rule for a correct answer: prefix, exact, paper")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(f"relact {__version__}")
        raise typer.Exit


@app.command()
def prompts(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE...", help="as listed by --list, or files")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write: .parquet, .csv, .jsonl")] = None,
    shots: Shots = 0,
    examples: Examples = "drawn",
    language: Language = "en",
    templates: Templates = "first",
    form: Form = "statement",
    per_relation: PerRelation = None,
    test_size: TestSize = 50,
    seed: Seed = 0,
    paraphrase: Annotated[bool, typer.Option(help="test prompts from the other templates")] = False,
    preset: Annotated[
        str | None, typer.Option(help="paper: the published method's prompts from a folder of LRE JSON")
    ] = None,
    known_by: Annotated[
        str | None, typer.Option(metavar="MODEL", help="keep the identification prompts that this model answers")
    ] = None,
    match: Match = "prefix",
    label_column: Annotated[str | None, typer.Option(help="column of your table that names the relation")] = None,
    template: Annotated[
        str | None, typer.Option(help='for tables of facts without one: "The capital of {} is"')
    ] = None,
    limit: Annotated[int | None, typer.Option(help="facts per relation to read at most, for very large tables")] = None,
    skip_bad: Annotated[bool, typer.Option(help="pass over rows that cannot be used, and count them")] = False,
    listing: Annotated[bool, typer.Option("--list", help="list the bundled relations")] = False,
    as_json: Json = False,
) -> None:
    """Build labelled prompts from relations."""
    from relact.relations import facts
    from relact import terminal
    from relact.relations import prompts as tables

    if listing:
        return _list_relations(as_json)
    if not sources:
        raise typer.BadParameter("name at least one SOURCE, or use --list")
    skipped: list[str] = []
    if preset:
        frame = tables.preset(preset, sources, seed=seed, paraphrase=paraphrase)
    else:
        relations = facts.load_all(
            sources, label_column=label_column, template=template, limit=limit, skip_bad=skip_bad, skipped=skipped
        )
        frame = tables.build(
            relations, shots=shots, examples=examples, language=language, templates=templates, form=form,
            per_relation=None if known_by else per_relation, test_size=test_size, seed=seed, paraphrase=paraphrase,
        )  # fmt: skip
    if known_by:
        from relact.known import known

        with terminal.Stages() as progress:
            frame = known(frame, known_by, match=match, per_relation=per_relation, progress=progress)
    summary = tables.summary(frame)
    where = tables.write(frame, output) if output else None
    if as_json:
        terminal.dump({"output": where, "skipped": skipped, "relations": summary.to_dict("records")})
        return
    terminal.table(summary)
    if skipped:
        terminal.say(
            f"\n{len(skipped)} rows skipped: " + "; ".join(skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
        )
    terminal.say(f"written to {where}" if where else f"\n{tables.preview(frame)}")


def _list_relations(as_json: bool) -> None:
    from relact.relations import facts
    from relact import terminal

    rows: list[dict[str, Any]] = [
        {
            "relation": relation.name,
            "facts": len({fact.key for fact in relation.facts}),
            "languages": list(relation.languages),
            "templates": {language: len(texts) for language, texts in relation.templates.items()},
            "source": relation.source,
        }
        for relation in facts.load("all")
    ]
    if as_json:
        terminal.dump(rows)
        return
    for row in rows:
        row["languages"], row["templates"] = " ".join(row["languages"]), sum(row["templates"].values())
    import pandas as pd

    terminal.table(pd.DataFrame(rows))


@app.command()
def capture(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="hub id, local folder, GGUF file, or smollm2")],
    prompt_file: Annotated[Path, typer.Argument(metavar="PROMPTS", help="prompt table")],
    store: Annotated[str, typer.Argument(metavar="STORE", help="a folder, or an object store: s3://bucket/name.zarr")],
    sites: Sites = "mlp",
    pool: Pool = "mean",
    dtype: Dtype = "float16",
    block: Block = None,
    batch_tokens: BatchTokens = 2048,
    special_tokens: SpecialTokens = True,
    model_dtype: ModelDtype = "auto",
    device: Device = "auto",
    memory: Annotated[
        str | None, typer.Option(help="memory budget of the process, such as 8GiB; no limit by default")
    ] = None,
    compress: Annotated[
        bool, typer.Option("--compress", help="a new store smaller, but slower to write and read")
    ] = False,
    append: Annotated[bool, typer.Option("--append", help="add the prompts that the store does not have")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="check every byte, capture damaged blocks again")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stream a model's activations on prompts into a store; run it again to resume."""
    from relact import capture as capturing
    from relact import remote
    from relact.terminal import Stages

    options: dict[str, Any] = {
        "sites": sites, "pool": pool, "dtype": dtype, "block": block, "batch_tokens": batch_tokens, "memory": memory,
        "special_tokens": special_tokens, "model_dtype": model_dtype, "device": device, "compress": compress, "append": append,
    }  # fmt: skip
    if dry_run:
        if repair:
            raise typer.BadParameter("what a repair would do is told by `relact verify`", param_hint="--dry-run")
        place = None if remote.is_url(store) else store
        return _show_plans([capturing.dry_run(model, prompt_file, place, **options)], as_json)
    if remote.is_url(store):
        return _stream(model, prompt_file, store, {**options, "repair": repair}, as_json)
    with Stages() as progress:
        opened = capturing.capture(model, prompt_file, store, **options, repair=repair, progress=progress)
    _show(opened.describe(), as_json)


def _stream(model: str, prompt_file: Path, url: str, options: dict[str, Any], as_json: bool) -> None:
    from relact.share.stream import stream
    from relact.terminal import Stages

    if options.pop("append") | options.pop("repair"):
        raise typer.BadParameter("only stores on disk are appended to or repaired", param_hint="--append/--repair")
    with Stages() as progress:
        opened = stream(model, prompt_file, url, **options, progress=progress)
    _show(opened.describe(), as_json)


@app.command()
def score(
    store: StorePath,
    relations: Relations = None,
    negatives: Negatives = None,
    seed: Seed = 0,
    statistics: Annotated[
        str | None, typer.Option(help="names, comma-separated; auroc and on_mean beside the default")
    ] = None,
    workers: Workers = None,
    memory: Memory = "4GiB",
    scheduler: Annotated[
        str, typer.Option(help="threads, or the address of a Dask scheduler: tcp://host:8786")
    ] = "threads",
    device: Annotated[str, typer.Option(help="cpu, or cuda: the same within float32 rounding")] = "cpu",
    bootstrap: Annotated[
        int, typer.Option(help="also draw the prompts again so often: how much of the top K stays")
    ] = 0,
    k: Annotated[int, typer.Option("--k", help="K of --bootstrap")] = 400,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Average precision and more for every neuron and all relations."""
    from relact import score as scoring
    from relact.stability import stability
    from relact.terminal import Stages

    if dry_run:
        from relact import outlook

        planned = outlook.of_score(
            store,
            relations=_listed(relations),
            statistics=_listed(statistics) or scoring.STATISTICS,
            workers=workers,
            memory=memory,
        )
        return _show_plans([planned], as_json)
    with Stages() as progress:
        opened = scoring.score(
            store, relations=_listed(relations), negatives=negatives, seed=seed, workers=workers, memory=memory,
            statistics=_listed(statistics) or scoring.STATISTICS, scheduler=scheduler, device=device, progress=progress,
        )  # fmt: skip
        shown = opened.describe()
        if bootstrap:
            survival = stability(
                opened, k=k, resamples=bootstrap, seed=seed, negatives=negatives, workers=workers, progress=progress
            )["survival"]
            shown |= {f"top {k} that stay": dict(survival.mean("resample").round(3).to_series())}
    _show(shown, as_json)


def _listed(names: str | None) -> list[str] | None:
    """Names separated by commas."""
    return [name.strip() for name in names.split(",")] if names else None


@app.command()
def select(
    store: StorePath,
    k: Annotated[int | None, typer.Option("--k", help="neurons per relation")] = None,
    kind: Kind = "top",
    fdr: Annotated[float | None, typer.Option(help="instead of k: all neurons that beat chance at this rate")] = None,
    of: Annotated[str | None, typer.Option(metavar="MASK", help="set algebra on this mask: --only or --pair")] = None,
    only: Annotated[bool, typer.Option("--only", help="each relation's neurons that no other has")] = False,
    pair: Annotated[str | None, typer.Option(metavar="A,B", help="A and B, A without B, B without A")] = None,
    name: Annotated[str | None, typer.Option(help="name of the mask; by default what it is, such as top-400")] = None,
    sites: MaskSites = None,
    as_json: Json = False,
) -> None:
    """Keep a set of neurons for every relation as a mask."""
    from relact import masks
    from relact.store import local

    if of:
        two = tuple(word.strip() for word in pair.split(",")) if pair else None
        if bool(pair) == only or (two and len(two) != 2):
            raise typer.BadParameter("give --only, or --pair with two relations", param_hint="--of")
        made = masks.combine(store, of, two, name=name)  # type: ignore[arg-type]
    else:
        made = masks.select(store, k=k, kind=kind, fdr=fdr, name=name, sites=sites)
    relations, sets = masks.read(local.open(store), made)
    sizes = dict(zip(relations, masks.flatten(sets).sum(axis=1).tolist(), strict=True))
    _show({"mask": made, "store": str(store), **({"neurons": sizes} if as_json else sizes)}, as_json)


@app.command()
def ablate(
    store: StorePath,
    mask: Annotated[str | None, typer.Option(help="name of a stored mask")] = None,
    k: Annotated[str | None, typer.Option("--k", help="select the top k first; 10,50,200 sweeps")] = None,
    kind: Kind = "top",
    sites: MaskSites = None,
    mode: Mode = "zero",
    tokens: Tokens = "all",
    model: Annotated[str | None, typer.Option(help="where the store's model is now, if it moved")] = None,
    seeds: Seeds = 10,
    match: Match = "prefix",
    prompt_file: Annotated[Path | None, typer.Option("--prompts", help="test prompts of this table instead")] = None,
    language: Annotated[str | None, typer.Option(help="ask the same facts in de, fr, es, zh, ja instead")] = None,
    paraphrase: Annotated[bool, typer.Option("--paraphrase", help="ask with the other templates instead")] = False,
    shots: Annotated[int, typer.Option(help="of those prompts: as in the store's")] = 0,
    test_size: TestSize = 50,
    seed: Seed = 0,
    perplexity: Annotated[bool, typer.Option("--perplexity", help="of a bundled text under every condition")] = False,
    preset: Annotated[str | None, typer.Option(help="paper: k, mode, tokens, rule and controls as published")] = None,
    name: Annotated[str | None, typer.Option(help="name of the result; by default what was done")] = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch off each relation's neurons and see which test prompts stay correct."""
    from relact import ablate as ablating
    from relact import presets
    from relact.relations import prompts as tables
    from relact.pipeline import asked_otherwise
    from relact.terminal import Stages

    options: dict[str, Any] = {
        "k": _numbers(k) if k else None, "kind": kind, "sites": sites, "mode": mode, "tokens": tokens,
        "seeds": range(seeds), "match": match, "perplexity": perplexity,
    }  # fmt: skip
    if preset:
        options |= {**presets.get(preset).ablate, "k": _numbers(k) if k else presets.get(preset).k}
    tests = tables.read(prompt_file) if prompt_file else None
    if language or paraphrase:
        tests = asked_otherwise(
            store, language=language or "en", paraphrase=paraphrase, shots=shots, test_size=test_size, seed=seed
        )
        name = name or "-".join([mask or f"top-{k}", *([language] if language else []), *["paraphrase"] * paraphrase])
    options |= {"mask": mask, "model": model, "tests": tests, "device": device}
    if dry_run:
        planned = {
            key: options[key] for key in ("mask", "k", "sites", "model", "seeds", "tests", "perplexity", "device")
        }
        return _show_plans([ablating.dry_run(store, **planned)], as_json)
    with Stages() as progress:
        result = ablating.ablate(store, **options, name=name, progress=progress)
    _show_ablation(result, as_json)


@app.command()
def compare(
    store: StorePlace,
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help="another store, to compare with")] = None,
    mask: Annotated[str | None, typer.Option(help="a stored mask; the only one by default")] = None,
    k: Annotated[str | None, typer.Option("--k", help="instead of a mask, the top k: one or several, 100,400")] = None,
    by: Annotated[str | None, typer.Option(help="count in every `site` or `layer` apart")] = None,
    relation: Annotated[str | None, typer.Option(help="with OTHER: the neurons of this relation that moved")] = None,
    n: Annotated[int, typer.Option("-n", help="with OTHER and --relation: how many")] = 20,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Neurons that relations share, against chance; or how far two stores agree."""
    from relact import compare as comparing
    from relact import terminal

    sizes = _numbers(k) if k else None
    if other is None:
        shared = comparing.overlap(store, mask, k=sizes, by=by)
        frame = comparing.pairs(shared)
        if output is None and not as_json:
            terminal.overlaps(shared)
            return
    elif relation:
        frame = comparing.moved(store, other, relation=relation, n=n)
    else:
        if isinstance(sizes, list):
            raise typer.BadParameter("two stores are compared at one k", param_hint="--k")
        frame = comparing.agreement(store, other, k=sizes or comparing.TOP)
    _show_frame(frame, as_json, output, heat=("correlation", "jaccard", "change"))


@app.command()
def top(
    store: StorePlace,
    relation: Annotated[str, typer.Option(help="relation")],
    n: Annotated[int, typer.Option("-n", help="how many")] = 20,
    sites: Annotated[str | None, typer.Option(help="only these sites")] = None,
    statistic: Annotated[str, typer.Option(help="what to sort by")] = "average_precision",
    output: Output = None,
    as_json: Json = False,
) -> None:
    """A relation's best neurons."""
    from relact import query

    frame = query.top(store, relation=relation, n=n, sites=sites, statistic=statistic)
    _show_frame(frame, as_json, output, heat=(statistic,))


@app.command()
def neuron(
    store: StorePlace,
    site: Annotated[str, typer.Argument(metavar="SITE", help="site, such as mlp.gate")],
    layer: Annotated[int, typer.Argument(metavar="LAYER", help="layer, from 0")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="neuron in its layer, from 0")],
    n: Annotated[int, typer.Option("-n", help="prompts that drive it most, and as many that drive it least")] = 5,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """One neuron in every relation, and the prompts that drive it most and least."""
    from relact import query, terminal

    opened = query.opened_store(store)
    frame = query.neuron(opened, site, layer, index)
    prompts = query.extremes(opened, site, layer, index, n) if query.has_activations(opened) else None
    if as_json:
        found = {"site": site, "layer": layer, "neuron": index, "relations": frame.to_dict("records")}
        terminal.dump(found | ({} if prompts is None else {"prompts": prompts.to_dict("records")}))
    elif output:
        _show_frame(frame, False, output)
    else:
        everywhere = None if prompts is None else query.activations(opened, site, layer, index)
        terminal.neuron(frame, prompts, everywhere)


@app.command()
def info(
    what: Annotated[str, typer.Argument(metavar="STORE|MODEL", help="a store, or a model to describe")],
    as_json: Json = False,
) -> None:
    """What a store holds, or which sites and how many neurons a model has."""
    from relact import remote

    if (Path(what) / "zarr.json").is_file() or remote.is_packed(what):
        _show(remote.open(what).describe(), as_json)
        return
    from relact.models import loading

    _show(asdict(loading.describe(what)), as_json)


@app.command()
def verify(
    store: StorePath,
    workers: Annotated[int, typer.Option(help="files read at once")] = 4,
    drop: Annotated[
        bool, typer.Option("--drop", help="delete damaged results, so that they are computed again")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every committed byte; name what is damaged and how to repair it. Exit code 1 when something is."""
    from relact import terminal
    from relact.store import verify as checks

    with terminal.Stages() as progress:
        verdict = checks.verify(store, workers=workers, progress=progress)
    dropped = checks.drop_damaged(store, verdict) if drop else []
    if as_json:
        terminal.dump(
            {"store": store, "ok": verdict.ok, "files": verdict.files, "bytes": verdict.bytes, "blocks": verdict.blocks,
             "missing": verdict.missing, "problems": [asdict(one) for one in verdict.problems],
             "repairs": verdict.repairs(), "dropped": dropped}
        )  # fmt: skip
    else:
        _show_verdict(verdict, dropped)
    if not verdict.ok:
        raise typer.Exit(1)


def _show_verdict(verdict: Any, dropped: list[str]) -> None:
    from relact import plan, terminal

    for problem in verdict.problems:
        terminal.say(str(problem))
    terminal.say(
        f"{verdict.files:,} files with {plan.show_bytes(verdict.bytes)} checked, {len(verdict.problems)} damaged; "
        f"{verdict.blocks - len(verdict.missing)} of {verdict.blocks} blocks captured"
    )
    for group in dropped:
        terminal.say(f"deleted: {group}")
    for command in verdict.repairs():
        terminal.say(f"to repair: {command}")


@app.command()
def report(
    store: StorePlace,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="page to write: .html")] = None,
    figures: Annotated[Path | None, typer.Option(help="folder for every figure as PNG, SVG and PDF")] = None,
    mask: Annotated[str | None, typer.Option(help="neuron sets to show; those of the last ablation by default")] = None,
    as_json: Json = False,
) -> None:
    """One page with every result of a study, and its figures as files."""
    from relact import report as reporting

    if output is None and figures is None:
        raise typer.BadParameter("say what to write: -o FILE, --figures FOLDER, or both")
    written = reporting.report(store, output, figures=figures, mask=mask)
    if as_json:
        from relact import terminal

        terminal.dump({"store": store, "written": written})
        return
    for path in written:
        typer.echo(f"written: {path}")


@app.command("run")
def run_all(
    store: Annotated[Path, typer.Option(help="folder of the store")],
    sources: Annotated[list[str] | None, typer.Argument(metavar="SOURCE...", help="as of `relact prompts`")] = None,
    like: Annotated[
        str | None, typer.Option(metavar="STORE", help="repeat the study that this store or URL records")
    ] = None,
    model: Annotated[str | None, typer.Option(help="hub id, local folder, GGUF file; smollm2 by default")] = None,
    k: Annotated[
        int | None, typer.Option("--k", help="neurons per relation to switch off; 400, or the preset's")
    ] = None,
    shots: Shots = 0,
    examples: Examples = "drawn",
    language: Language = "en",
    templates: Templates = "first",
    per_relation: PerRelation = None,
    test_size: TestSize = 50,
    seed: Seed = 0,
    sites: Sites = "mlp",
    pool: Pool = "mean",
    dtype: Dtype = "float16",
    negatives: Negatives = None,
    memory: Memory = "4GiB",
    mode: Mode = "zero",
    tokens: Tokens = "all",
    seeds: Seeds = 10,
    match: Match = "prefix",
    perplexity: Annotated[bool, typer.Option("--perplexity", help="of a bundled text under every condition")] = False,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: everything as published, from a folder of LRE JSON; only --k and --seed count"),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """All of it: prompts, capture, score, select, ablate. Run it again to resume."""
    from relact import pipeline, terminal

    if bool(like) == bool(sources):
        raise typer.BadParameter("name SOURCE... or --like STORE, one of them")
    if like:
        from relact.again import repeat

        if dry_run:
            raise typer.BadParameter("--dry-run takes SOURCE..., not --like STORE", param_hint="--dry-run")

        with terminal.Stages() as progress:
            opened, result = repeat(like, store, model=model, progress=progress)
        return _show_ablation(result, as_json, opened.path)
    steps: dict[str, Any] = {
        "prompts": {"shots": shots, "examples": examples, "language": language, "templates": templates,
                    "per_relation": per_relation, "test_size": test_size, "seed": seed},
        "capture": {"sites": sites, "pool": pool, "dtype": dtype},
        "scores": {"negatives": negatives, "seed": seed, "memory": memory},
        "ablate": {"mode": mode, "tokens": tokens, "seeds": range(seeds), "match": match, "perplexity": perplexity},
    }  # fmt: skip
    if preset:
        steps = {"prompts": {"seed": seed}, "scores": {"seed": seed, "memory": memory}, "capture": {"dtype": dtype}}
    if dry_run:
        plans = pipeline.dry_run(sources or [], model=model or "smollm2", store=store, preset=preset, **steps)
        return _show_plans(plans, as_json)
    with terminal.Stages() as progress:
        opened, result = pipeline.run(
            sources or [], model=model or "smollm2", store=store, k=k, preset=preset, progress=progress, **steps
        )
    _show_ablation(result, as_json, opened.path)


@app.command()
def pack(
    store: StorePath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="an archive when it ends in .zip, a folder otherwise")],
    stages: PackedStages = "scores,masks,ablations",
    activations: Activations = False,
    licence: Licence = None,
    as_json: Json = False,
) -> None:
    """Pack a store for others: one file or folder that opens where it lies, with its card."""
    from relact import share
    from relact.terminal import Stages

    with Stages() as progress:
        packed = share.pack(store, out, stages=_listed(stages) or (), activations=activations, licence=licence,
                            progress=progress)  # fmt: skip
    _show({"packed": str(packed.path), "files": packed.files, "bytes": packed.bytes, "sha256": packed.sha256}, as_json)


@app.command()
def unpack(
    packed: StorePlace,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder of the store to make")],
    sha256: Annotated[str | None, typer.Option(help="that the archive must have")] = None,
    as_json: Json = False,
) -> None:
    """Make a packed store one that can be worked on; every byte is checked first."""
    from relact import share
    from relact.terminal import Stages

    with Stages() as progress:
        opened = share.unpack(packed, out, sha256=sha256, progress=progress)
    _show(opened.describe(), as_json)


@app.command()
def push(
    store: Annotated[str, typer.Argument(metavar="STORE", help="a store, or one that is packed")],
    url: Annotated[str, typer.Argument(metavar="URL", help="s3://bucket/name.zarr.zip, hf://datasets/OWNER/NAME/...")],
    stages: PackedStages = "scores,masks,ablations",
    activations: Activations = False,
    licence: Licence = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Pack a store and publish it on an object store or the hub."""
    from relact import share
    from relact.terminal import Stages

    with Stages() as progress:
        share.push(store, url, stages=_listed(stages) or (), activations=activations, licence=licence, timeout=timeout,
                   progress=progress)  # fmt: skip
    _show({"published": url}, as_json)


@app.command()
def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="http(s), s3, hf://datasets/... or a path")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder of the store, or .zip to keep the archive")],
    sha256: Annotated[str | None, typer.Option(help="that the archive must have")] = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Fetch a published store and check all of it."""
    from relact import share
    from relact.terminal import Stages

    with Stages() as progress:
        where = share.pull(url, out, sha256=sha256, timeout=timeout, progress=progress)
    _show({"store": str(where)}, as_json)


@app.command("stores")
def list_stores(
    index: Annotated[str | None, typer.Argument(metavar="INDEX", help="path or URL of an index.json")] = None,
    as_json: Json = False,
) -> None:
    """List published stores: the catalogue of this repository, or another one."""
    import pandas as pd

    from relact import plan
    from relact.share import catalogue

    rows = [asdict(one) for one in catalogue.read(index)]
    if as_json:
        return _show_frame(pd.DataFrame(rows), as_json)
    shown = [{**row, "bytes": plan.show_bytes(row["bytes"])} for row in rows]
    _show_frame(pd.DataFrame(shown, columns=["name", "model", "relations", "neurons", "bytes", "location"]), as_json)


@app.command()
def export(
    store: StorePlace,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="file, or folder for the formats of other tools")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="scores: selfcond, lang_neuron; masks: json, csv, safetensors; ablations: parquet; prompts: concepts",
        ),
    ],
    mask: Annotated[str | None, typer.Option(help="mask to export; the only one by default")] = None,
    ablation: Annotated[str | None, typer.Option(help="ablation to export; the only one by default")] = None,
    relations: Relations = None,
    group: Annotated[str, typer.Option(help="the other tools' name for a family of concepts")] = "sense",
    limited: Annotated[int | None, typer.Option(help="also expertise_limited files of so many neurons")] = None,
    as_json: Json = False,
) -> None:
    """Write scores, neuron lists, ablations or prompts for other tools."""
    from relact import share

    written = share.export(store, out, form, mask=mask, ablation=ablation, relations=_listed(relations), group=group,
                           limited=limited)  # fmt: skip
    _show({"format": form, "written": [str(path) for path in written]}, as_json)


@app.command("import")
def import_scores(
    source: Annotated[list[Path], typer.Argument(metavar="SOURCE... STORE", help="expertise.csv files or folders")],
    store: StorePath,
    as_json: Json = False,
) -> None:
    """Put the scores of ml-selfcond or lang_neuron into a store of the same model."""
    from relact.share import selfcond

    _show(selfcond.read(store, source).describe(), as_json)


def _show(values: dict[str, Any], as_json: bool) -> None:
    from relact import terminal

    terminal.dump(values) if as_json else terminal.pairs(values)


def _show_plans(plans: Sequence[Any], as_json: bool) -> None:
    """What commands are about to do: exact numbers plain, bounds with a sign, times as estimates."""
    import pandas as pd

    from relact import plan, terminal

    if as_json:
        terminal.dump([asdict(one) for one in plans])
        return
    rows = [
        {
            "step": one.what,
            "files": f"{'' if one.exact else '≤ '}{one.files:,}",
            "on disk": f"{'' if one.exact else '≤ '}{plan.show_bytes(one.bytes)}",
            "memory": f"≤ {plan.show_bytes(one.memory)}",
            "time": "unknown" if one.seconds is None else f"about {timedelta(seconds=max(1, round(one.seconds)))}",
        }
        for one in plans
    ]
    terminal.table(pd.DataFrame(rows))


def _show_frame(frame: Any, as_json: bool, output: Path | None = None, heat: tuple[str, ...] = ()) -> None:
    from relact import terminal

    if output:
        from relact import tables

        output = tables.write(frame, output)
    if as_json:
        terminal.dump(frame.to_dict("records"))
    elif output:
        terminal.say(f"written: {output}")
    else:
        terminal.table(frame, heat=heat)


def _numbers(text: str) -> int | list[int]:
    """``400`` or ``10,50,200``."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor numbers with commas", param_hint="--k") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _show_ablation(result: Any, as_json: bool, where: Path | None = None) -> None:
    from relact import terminal
    from relact.effects import cumulativity
    from relact.evidence import evidence, influences

    sweep = "k" in result.dims
    found = []
    for part in [result.sel(k=k) for k in result["k"].values] if sweep else [result]:
        part = part.load()
        k = int(part["k"]) if sweep else result.attrs["k"]
        shown = evidence(part)
        summary = {
            str(group): {"drop": float(drop), "low": float(low), "high": float(high)}
            for group, drop, low, high in zip(
                shown["group"].values, shown["mean_drop"], shown["mean_low"], shown["mean_high"], strict=True
            )
        }
        table = influences(shown)
        found.append({"k": k, "drops": summary, "accuracy": part["accuracy"].values.tolist(),
                      "influences": table.astype(object).where(table.notna(), None).to_dict("records")})  # fmt: skip
        if "perplexity" in part:
            found[-1]["perplexity"] = part["perplexity"].values.tolist()
        if not as_json:
            terminal.ablation(part, k, summary, table)
    steps = cumulativity(result) if sweep else None
    if as_json:
        names = {"condition": result["condition"].values.tolist(), "relation": result["relation"].values.tolist()}
        content: dict[str, Any] = {"sweep": found} if sweep else found[0]
        if steps is not None:
            content["cumulativity"] = steps.astype(object).where(steps.notna(), None).to_dict("records")
        terminal.dump({"store": where, **names, **content})
        return
    if steps is not None:
        terminal.table(steps[steps["relation"].isin(["macro", "micro"])], title="cumulativity")
    if where:
        terminal.say(f"store: {where}")


def main() -> None:
    """Entry point: run a command, turn every problem into one line and exit code 1."""
    from relact.errors import RelactError

    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        app(arguments)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to resume", 130)
    except RelactError as error:
        if debug:
            raise
        _fail(str(error), 1)
    except Exception as error:
        if debug:
            raise
        _fail(f"unexpected problem: {type(error).__name__}: {error}. Add --debug for the traceback", 1)


def _fail(text: str, code: int) -> None:
    from relact import terminal

    terminal.problem(text)
    sys.exit(code)

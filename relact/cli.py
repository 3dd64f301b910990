"""The commands: parse, call one library function, print.

Heavy libraries are imported inside the commands, so that ``relact --help`` answers at once.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
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
Seeds = Annotated[int, typer.Option(help="random controls")]
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
    from relact import facts, terminal
    from relact import prompts as tables

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
    from relact import facts, terminal

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
    store: StorePath,
    sites: Sites = "mlp",
    pool: Pool = "mean",
    dtype: Dtype = "float16",
    block: Block = None,
    batch_tokens: BatchTokens = 2048,
    special_tokens: SpecialTokens = True,
    model_dtype: ModelDtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Stream a model's activations on prompts into a store; run it again to resume."""
    from relact.capture import capture as run
    from relact.terminal import Stages

    with Stages() as progress:
        opened = run(
            model, prompt_file, store, sites=sites, pool=pool, dtype=dtype, block=block, batch_tokens=batch_tokens,
            special_tokens=special_tokens, model_dtype=model_dtype, device=device, progress=progress,
        )  # fmt: skip
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
    as_json: Json = False,
) -> None:
    """Average precision and more for every neuron and all relations."""
    from relact import score as scoring
    from relact.stability import stability
    from relact.terminal import Stages

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
    k: Annotated[int, typer.Option("--k", help="neurons per relation")],
    name: Annotated[str | None, typer.Option(help="name of the mask; top-K by default")] = None,
    sites: Annotated[str | None, typer.Option(help="a subset of the captured sites")] = None,
    as_json: Json = False,
) -> None:
    """Keep the top-k neurons of every relation as a mask."""
    from relact import masks

    _show({"mask": masks.select(store, k=k, name=name, sites=sites), "k": k, "store": str(store)}, as_json)


@app.command()
def ablate(
    store: StorePath,
    mask: Annotated[str | None, typer.Option(help="name of a stored mask")] = None,
    k: Annotated[int | None, typer.Option("--k", help="select the top k first")] = None,
    model: Annotated[str | None, typer.Option(help="where the store's model is now, if it moved")] = None,
    seeds: Seeds = 10,
    match: Match = "prefix",
    name: Annotated[str | None, typer.Option(help="name of the result; the mask's by default")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Switch off each relation's neurons and see which test prompts stay correct."""
    from relact.ablate import ablate as run
    from relact.terminal import Stages

    with Stages() as progress:
        result = run(
            store, mask=mask, k=k, model=model, seeds=range(seeds), match=match, name=name, device=device,
            progress=progress,
        )  # fmt: skip
    _show_ablation(result, as_json)


@app.command()
def compare(
    store: StorePath,
    other: Annotated[Path | None, typer.Argument(metavar="OTHER", help="another store, to compare with")] = None,
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

    sizes = _numbers(k)
    if other is None:
        shared = comparing.overlap(store, mask, k=sizes[0] if len(sizes) == 1 else sizes or None, by=by)
        frame = comparing.pairs(shared)
        if output is None and not as_json:
            terminal.overlaps(shared)
            return
    elif relation:
        frame = comparing.moved(store, other, relation=relation, n=n)
    else:
        frame = comparing.agreement(store, other, k=sizes[0] if sizes else comparing.TOP)
    _show_frame(frame, as_json, output, heat=("correlation", "jaccard", "change"))


@app.command()
def top(
    store: StorePath,
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
    store: StorePath,
    site: Annotated[str, typer.Argument(metavar="SITE", help="site, such as mlp.gate")],
    layer: Annotated[int, typer.Argument(metavar="LAYER", help="layer, from 0")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="neuron in its layer, from 0")],
    n: Annotated[int, typer.Option("-n", help="prompts that drive it most, and as many that drive it least")] = 5,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """One neuron in every relation, and the prompts that drive it most and least."""
    from relact import query, terminal
    from relact import store as stores

    opened = stores.open(store)
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
    from relact import store as stores

    if (Path(what) / "zarr.json").is_file():
        _show(stores.open(what).describe(), as_json)
        return
    from relact import models

    _show(asdict(models.describe(what)), as_json)


@app.command()
def report(
    store: StorePath,
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
    sources: Sources,
    store: Annotated[Path, typer.Option(help="folder of the store")],
    model: Annotated[str, typer.Option(help="hub id, local folder, GGUF file, or smollm2")] = "smollm2",
    k: Annotated[int, typer.Option("--k", help="neurons per relation to switch off")] = 400,
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
    seeds: Seeds = 10,
    match: Match = "prefix",
    as_json: Json = False,
) -> None:
    """All of it: prompts, capture, score, select, ablate. Run it again to resume."""
    from relact import terminal
    from relact.pipeline import run

    with terminal.Stages() as progress:
        opened, result = run(
            sources, model=model, store=store, k=k,
            prompts={"shots": shots, "examples": examples, "language": language, "templates": templates,
                     "per_relation": per_relation, "test_size": test_size, "seed": seed},
            capture={"sites": sites, "pool": pool, "dtype": dtype},
            scores={"negatives": negatives, "seed": seed, "memory": memory},
            ablate={"seeds": range(seeds), "match": match},
            progress=progress,
        )  # fmt: skip
    _show_ablation(result, as_json, opened.path)


def _show(values: dict[str, Any], as_json: bool) -> None:
    from relact import terminal

    terminal.dump(values) if as_json else terminal.pairs(values)


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


def _numbers(text: str | None) -> list[int]:
    """Whole numbers separated by commas."""
    try:
        return [int(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers") from error


def _show_ablation(result: Any, as_json: bool, where: Path | None = None) -> None:
    from relact import terminal
    from relact.effects import effects

    summary = effects(result)
    drops = {"own": summary.own, "other": summary.other, "random": summary.random}
    if as_json:
        accuracy = result["accuracy"].load()
        terminal.dump(
            {"store": where, "drops": drops, "condition": accuracy["condition"].values.tolist(),
             "relation": accuracy["relation"].values.tolist(), "accuracy": accuracy.values.tolist()}
        )  # fmt: skip
        return
    terminal.say(
        f"accuracy in percent; columns: neurons of relation 1, 2, ... switched off (k = {result.attrs['k']})\n"
    )
    terminal.matrix(result)
    terminal.say("\nmean drop in points: " + ", ".join(f"{name} {value:.1f}" for name, value in drops.items()))
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

"""Every public name as the README and the docs use it: never run, checked as strictly as mypy can."""

# mypy: disallow-any-generics, disallow-subclassing-any, disallow-untyped-calls, disallow-incomplete-defs
# mypy: disallow-untyped-decorators, no-implicit-reexport, strict-equality, extra-checks, warn-return-any

from __future__ import annotations

from pathlib import Path

import relact


def study(folder: Path) -> None:
    """Make one."""
    prompts = relact.prompts(["starter"], shots=5, per_relation=100)
    store = relact.capture("smollm2", prompts, folder / "study.zarr", sites=["mlp.gate"], memory="8GiB")
    relact.capture("smollm2", prompts, folder / "other.zarr", attribution=True, attribution_method="direct")
    relact.score(store, negatives=4)
    name: str = relact.select(store, k=400)
    relact.combine(store, name, ("country_capital", "country_currency"))
    result = relact.ablate(store, mask=name, seeds=range(3))
    print(result["accuracy"].sel(condition="intact"), store.describe()["neurons"])
    made: relact.Study = relact.run(
        ["starter"],
        store=folder / "again.zarr",
        k=400,
        prompts=relact.PromptOptions(shots=5),
        capture=relact.CaptureOptions(dtype="float32"),
        scores=relact.ScoreOptions(workers=2),
        ablate=relact.AblateOptions(perplexity=True),
    )
    print(made.store.path, made.effects().own, made.ablation["correct"])
    relact.repeat(made.store, folder / "third.zarr")
    relact.stream("smollm2", prompts, "s3://bucket/study.zarr", licence="cc-by-4.0").missing_blocks()


def questions(path: str) -> None:
    """Ask one."""
    tree = relact.open(path)
    print(tree["scores/mlp.gate"]["average_precision"])
    best = relact.top(path, relation="country_capital", n=20)
    relact.write_table(best, "best.md")
    relact.neuron(path, "mlp.gate", 12, 345).head()
    relact.activations(path, "mlp.gate", 12, 345).head()
    relact.extremes(path, "mlp.gate", 12, 345, n=3).head()
    print(relact.overlap(path, "top-400")["shared"], relact.stability(path, k=400)["shared"])
    relact.agreement(path, "other.zarr", k=400).head()
    relact.in_common(path, "top-400", "attribution_z-top-400").head()
    relact.moved(path, "other.zarr", relation="country_capital").head()
    relact.expert_use(path, "top-400", relation="country_capital", n=3).head()
    result = tree["ablations/top-400"].to_dataset()
    found = relact.evidence(result)
    relact.influences(found).head()
    print(relact.claims(found), relact.effects(relact.of_part(result, "test")).log_own)
    relact.judge(path, "top-400", match="exact").head()
    relact.leaderboard(path, ["average_precision", "margin"], k=[100, 400]).head()
    relact.leaderboard_of([path, "other.zarr"], part="dev").head()
    relact.cumulativity(result).head()
    relact.ablate(path, mask="top-400", mode="scale", scale=0.5)
    seen: relact.Look = relact.look(path, prompt=3, relation="country_capital", n=4)
    print(seen["mlp.hidden"]["attribution"].sum("token"), seen.values("activation"), seen.table().head())
    print(relact.look_at_mask(path, "top-400").head(), relact.promoted(path, "top-400").head())
    relact.generate(path, ["The capital of France is"], mask="top-400", relation="country_capital").head()
    with relact.overridden(
        relact.load("smollm2"), relact.mask_of(path, "top-400", "country_capital"), scale=2
    ):
        pass
    relact.dose_response(path, "top-400").head()
    relact.patch(path, "top-400", per_relation=3, tokens="last").head()
    labels = relact.split_of(path, "top-400", "answers")
    print(relact.effects(result, labels)["unseen"].own)
    relact.effect_table(path, "top-400", split="language").head()
    relact.error_types(path, "top-400").head()
    print(relact.effects(result).own, relact.kernels.lape(best.to_numpy()))


def others(path: str) -> None:
    """Share one."""
    store: relact.Store = relact.open_store(path)
    print(store.manifest.model.id, relact.verify(path).ok, relact.upgrade(path).done)
    print(relact.pack(path, "study.zarr.zip").sha256, relact.unpack("study.zarr.zip", "copy.zarr").path)
    relact.push(path, "s3://bucket/study.zarr")
    relact.pull("s3://bucket/study.zarr", "copy.zarr")
    print([listed.location for listed in relact.stores()])
    relact.export(store, "masks.json", "json", mask="top-400")
    relact.import_scores(path, "expertise/")
    rows = relact.torch_dataset(path, site="mlp.up", layer=3)
    print(len(rows), rows.relations[rows[0]["label"]], relact.hf_dataset(path, site="mlp.up", layer=3))
    relact.report(store, "report.html", figures="figures")
    print(relact.charts(store)["ablation"])
    try:
        relact.open_store("nowhere.zarr")
    except relact.errors.StoreError as error:
        print(error)

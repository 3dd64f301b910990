"""A whole study of a mixture of experts, from capture to report, held to the model's own weights.

Two kinds: OLMoE (gate and up side by side, SiLU), and gpt-oss (interleaved, biased, clamped, transposed).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import mixtures
from helpers.disk import made_once
from sklearn.metrics import average_precision_score
from torch import Tensor

import relact
from relact import schema
from relact.ablating.controls import Drawing
from relact.analysis.experts import expert_use
from relact.capturing.forecast import forecast
from relact.capturing.looking import Target, by_token
from relact.errors import InputError, ModelError
from relact.models import loading
from relact.models.hooks import visit
from relact.models.loading import LoadedModel, encode
from relact.models.targets import first_tokens
from relact.models.writing import directions
from relact.scoring import controls, masks
from relact.scoring.experts import by_expert, loads_of
from relact.scoring.stability import halves_of
from relact.store import local
from relact.store.local import LocalStore

KINDS = ("olmoe", "gpt_oss")
N_EXPERTS, UNITS, LAYERS = mixtures.EXPERTS, 44, 2
SITES = "mlp.gate,mlp.up,mlp.act,mlp.hidden,mlp.down,moe.router,moe.weight,attn"
OPTIONS = relact.CaptureOptions(
    sites=SITES, dtype="float32", block=5, attribution=True, attribution_sites="mlp.hidden,moe.weight"
)


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    name = request.param
    folder = made_once(tmp_path_factory, name, partial(mixtures.save, name=name))
    return loading.load(str(folder))


@pytest.fixture(scope="module")
def store(loaded: LoadedModel, tiny_prompts: pd.DataFrame, tmp_path_factory: Any) -> LocalStore:
    """Captured, attributed, scored; neurons and experts selected and switched off."""
    path = tmp_path_factory.mktemp("mixtures") / f"{loaded.family}.zarr"
    relact.capture(loaded, tiny_prompts, path, **options(OPTIONS))
    relact.score(path)
    for unit, k in (("neuron", 60), ("expert", 2)):
        for by in ("activation", "attribution"):
            mask = relact.select(path, k=k, unit=unit, by=by)
            relact.ablate(path, mask=mask, model=loaded, seeds=range(2))
    return local.open(path)


def options(record: Any) -> dict[str, Any]:
    names = ("sites", "dtype", "block", "attribution", "attribution_sites")
    return {name: getattr(record, name) for name in names}


def tokens_of(loaded: LoadedModel, store: LocalStore, split: str = schema.IDENTIFY) -> list[Tensor]:
    return [torch.tensor([row]) for row in encode(loaded, store.prompts(split)["text"].tolist())]


def values_of(store: LocalStore, stream: str) -> np.ndarray:
    return np.asarray(store.arrays[stream][:])


def test_experts_are_coordinates_of_neurons(store: LocalStore) -> None:
    for group in (
        "activations/mlp.hidden",
        "scores/mlp.gate",
        "attributions/mlp.hidden",
        "masks/top-60/mlp.up",
    ):
        data = store.dataset(group)
        assert data["expert"].dims == data["unit"].dims == ("neuron",)
        assert (data["expert"] * UNITS + data["unit"] == data["neuron"]).all()
        assert {"expert", "unit"} <= set(data.coords)
    assert store.dataset("scores/moe.weight")["expert"].values.tolist() == list(range(N_EXPERTS))
    assert "expert" not in store.dataset("activations/mlp.down")
    assert store.manifest.format == schema.LAYERED


def test_a_chunk_lies_inside_one_expert() -> None:
    from relact.store.layout import span_of

    assert span_of(128 * 768, 128) == 768
    assert span_of(8 * 14336, 8) == 512 and 14336 % 512 == 0
    assert span_of(64 * 1024, 64) == 1024
    assert span_of(6 * 44, 6) == span_of(6 * 44)  # too small to be worth a chunk


def test_captured_are_means_over_every_real_token(loaded: LoadedModel, store: LocalStore) -> None:
    for row, ids in enumerate(tokens_of(loaded, store)):
        found: dict[tuple[str, int], Tensor] = {}

        def keep(site: str, layer: int, values: Any, found: dict[tuple[str, int], Tensor] = found) -> None:
            dense = values.dense() if hasattr(values, "dense") else values
            found[site, layer] = dense[0].mean(dim=0)

        with torch.no_grad(), visit(loaded.model, SITES, keep):
            loaded.model(ids, use_cache=False)
        for (site, layer), expected in found.items():
            stored = values_of(store, site)[row, layer]
            np.testing.assert_allclose(stored, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_not_routed_is_exactly_zero(store: LocalStore) -> None:
    hidden, weight = values_of(store, "mlp.hidden"), values_of(store, "moe.weight")
    unused = np.repeat(weight == 0, UNITS, axis=-1)
    assert unused.any() and (hidden[unused] == 0).all()
    assert (hidden[~unused] != 0).mean() > 0.9


def log_p(loaded: LoadedModel, ids: Tensor, target: int) -> Tensor:
    return loaded.model(ids, use_cache=False).logits[0, -1].double().log_softmax(-1)[target]


@pytest.mark.parametrize("site", ["mlp.hidden", "moe.weight"])
def test_attribution_is_the_slope_of_what_a_neuron_is_worth(
    loaded: LoadedModel, store: LocalStore, site: str
) -> None:
    """Values times (1 +- step), at every token: d log p / d factor."""
    row, step = 3, 0.02
    ids, text = tokens_of(loaded, store)[row], store.prompts(schema.IDENTIFY).loc[row]
    target = int(first_tokens(loaded, [text["text"]], [text["object"]], ["en"])[0])
    stored = values_of(store, f"attributions/{site}")[row]
    for layer in range(LAYERS):
        neuron = int(np.abs(stored[layer]).argmax())
        slopes = []
        for factor in (1 + step, 1 - step):

            def scale(_: str, at: int, values: Any, layer: int = layer, neuron: int = neuron) -> Any:
                if at != layer:
                    return None
                if site == "moe.weight":
                    changed = values.clone()
                    changed[..., neuron] *= factor  # noqa: B023
                    return changed
                one = torch.tensor([0])
                return values.scaled(1, one, torch.tensor([neuron]), torch.tensor([factor]), None)  # noqa: B023

            with torch.no_grad(), visit(loaded.model, [site], scale):
                slopes.append(float(log_p(loaded, ids, target)))
        slope = (slopes[0] - slopes[1]) / (2 * step)
        assert stored[layer, neuron] == pytest.approx(slope, rel=0.05, abs=1e-3)


def test_an_expert_is_owed_what_its_units_are(store: LocalStore) -> None:
    """Without a bias of its own: weights are a factor of every unit."""
    of_units = values_of(store, "attributions/mlp.hidden").reshape(-1, LAYERS, N_EXPERTS, UNITS).sum(axis=-1)
    of_experts = values_of(store, "attributions/moe.weight")
    biased = store.manifest.model.family == "gpt_oss"
    assert np.allclose(of_units, of_experts, rtol=1e-3, atol=1e-4) == (not biased)


@pytest.mark.parametrize("path", ["site", "layer"])
def test_integrated_gradients_add_up_to_what_is_lost(
    loaded: LoadedModel, tiny_prompts: pd.DataFrame, tmp_path: Path, path: str
) -> None:
    few = tiny_prompts[tiny_prompts["subject"].isin(["thing 0", "thing 1", "thing 9"])]
    store = relact.capture(
        loaded,
        few,
        tmp_path / "s.zarr",
        sites="moe.weight",
        attribution=True,
        attribution_sites="mlp.hidden",
        attribution_method="integrated",
        attribution_path=path,
        attribution_steps=64,
    )
    table = store.prompts(schema.IDENTIFY)
    targets = first_tokens(loaded, table["text"].tolist(), table["object"].tolist(), ["en"] * len(table))
    found = values_of(store, "attributions/mlp.hidden").sum(axis=-1)  # [prompt, layer]
    for row, ids in enumerate(tokens_of(loaded, store)):
        intact = float(log_p(loaded, ids, int(targets[row])).detach())
        # where a later layer routes anew on the way the objective jumps and nothing adds up: not in the last
        for layers in [[0, 1]] if path == "site" else [[1]]:
            with torch.no_grad(), visit(loaded.model, ["mlp.hidden"], _nothing, layers=layers):
                lost = intact - float(log_p(loaded, ids, int(targets[row])))
            assert found[row, layers].sum() == pytest.approx(lost, rel=0.05, abs=0.05)


def _nothing(_: str, __: int, values: Any) -> Any:
    return values.of(torch.zeros_like(values.raw))


@pytest.mark.parametrize("method", ["direct", "increase"])
def test_what_is_read_off_the_residual_stream_is_refused(
    loaded: LoadedModel, tiny_prompts: pd.DataFrame, tmp_path: Path, method: str
) -> None:
    with pytest.raises(ModelError, match="mixtures of experts"):
        relact.capture(
            loaded, tiny_prompts, tmp_path / "s.zarr", attribution=True, attribution_method=method,
            attribution_sites="mlp.hidden",
        )  # fmt: skip


# --- sets


def test_neurons_and_experts_are_chosen_apart(store: LocalStore) -> None:
    _, neurons = masks.read(store, "top-60")
    assert not {"moe.router", "moe.weight"} & set(neurons)
    _, experts = masks.read(store, "top-2-experts")
    assert set(experts) == {"moe.weight"}
    scores = store.dataset("scores/moe.weight")["average_precision"].values
    for chosen, values in zip(experts["moe.weight"], scores, strict=True):
        assert chosen.sum() == 2 and values[chosen].min() >= values[~chosen].max()
    assert store.mask_record("top-2-experts").unit == "expert"
    assert store.mask_record("top-60").unit is None


def test_experts_without_weights_are_scored_by_their_units(
    loaded: LoadedModel, tiny_prompts: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "units.zarr"
    relact.capture(loaded, tiny_prompts, path, sites="mlp.hidden", dtype="float32")
    relact.score(path)
    _, sets = masks.read(opened := local.open(path), relact.select(path, k=3, unit="expert"))
    means = by_expert(opened.dataset("scores/mlp.hidden")["average_precision"].values, N_EXPERTS)
    for chosen, values in zip(sets["moe.weight"], means, strict=True):
        assert values[chosen].min() >= values[~chosen].max()
    result = relact.ablate(path, mask="top-3-experts", model=loaded, seeds=range(1))
    assert set(result["kind"].values.tolist()) == {"intact", "own", "random"}


def test_what_cannot_be_chosen_is_refused(store: LocalStore, tiny_study: LocalStore) -> None:
    with pytest.raises(InputError, match="nothing follows"):
        relact.select(store, k=1, sites="moe.router")
    with pytest.raises(InputError, match="no scores of experts"):
        relact.select(tiny_study, k=1, unit="expert")
    with pytest.raises(InputError, match="unknown unit"):
        relact.select(store, k=1, unit="layer")


@pytest.mark.parametrize("mode", ["mean", "on_p50", "resample"])
def test_weights_cannot_be_set(loaded: LoadedModel, store: LocalStore, mode: str) -> None:
    with pytest.raises(InputError, match="weights cannot be set"):
        relact.ablate(store.path, mask="top-2-experts", model=loaded, mode=mode, seeds=())


# --- ablations


@pytest.mark.parametrize(
    "mask", ["top-60", "attribution_z-top-60", "top-2-experts", "attribution_z-top-2-experts"]
)
def test_switched_off_is_without_weights(loaded: LoadedModel, store: LocalStore, mask: str) -> None:
    """Of every condition the answers' log-probabilities are those of a model whose weights are zeroed."""
    result = store.dataset(f"ablations/{mask}").load()
    relations, sets = masks.read(store, mask)
    tests = store.prompts(schema.TEST)
    targets = first_tokens(loaded, tests["text"].tolist(), tests["object"].tolist(), ["en"] * len(tests))
    for at, relation in enumerate(relations):
        expected = without(loaded, store, {site: chosen[at] for site, chosen in sets.items()}, targets)
        found = result["log_probability"].sel(condition=relation).values
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    intact = result["log_probability"].sel(condition="intact").values
    assert not np.allclose(found, intact, atol=1e-2)


def without(
    loaded: LoadedModel, store: LocalStore, off: dict[str, np.ndarray], targets: np.ndarray
) -> list[float]:
    """Log-probabilities of the targets where rows of plain weights are zeroed, or plain hooks set outputs."""
    model = loaded.model
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    handles = []
    with torch.no_grad():
        for layer, block in enumerate(model.model.layers):
            handles += [_zeroed(block, site, chosen[layer]) for site, chosen in off.items()]
        found = [
            float(log_p(loaded, ids, int(target)))
            for ids, target in zip(tokens_of(loaded, store, schema.TEST), targets, strict=True)
        ]
        for handle in filter(None, handles):
            handle.remove()
        model.load_state_dict(kept)
    return found


def _zeroed(block: Any, site: str, chosen: np.ndarray) -> Any:
    """Weights of units and experts; where that is something else (a site's output), a hook."""
    experts, which = block.mlp.experts, np.flatnonzero(chosen)
    if site == "moe.weight":
        experts.down_proj[which] = 0
        if experts.has_bias:
            experts.down_proj_bias[which] = 0
        return None
    if site in schema.HIDDEN:
        expert, unit = np.divmod(which, UNITS)
        if site in ("mlp.hidden", "mlp.act"):
            down = experts.down_proj if experts.is_transposed else experts.down_proj.transpose(1, 2)
            down[expert, unit] = 0
            return None
        first = experts.gate_up_proj.transpose(1, 2) if experts.is_transposed else experts.gate_up_proj
        rows = 2 * unit + (site == "mlp.up") if experts.is_transposed else unit + UNITS * (site == "mlp.up")
        first[expert, rows] = 0
        if experts.has_bias:
            experts.gate_up_proj_bias[expert, rows] = 0
        return None
    module = {
        "mlp.down": experts,
        **{f"attn.{x}": getattr(block.self_attn, f"{x}_proj") for x in "qkvo"},
    }[site]
    columns = torch.from_numpy(chosen)
    return module.register_forward_hook(lambda _, __, output: output.masked_fill(columns, 0))


def test_scaling_to_nothing_is_switching_off(loaded: LoadedModel, store: LocalStore) -> None:
    for mask in ("top-60", "top-2-experts"):
        off = store.dataset(f"ablations/{mask}").load()
        half, none = (
            relact.ablate(
                store.path, mask=mask, model=loaded, seeds=(), mode="scale", scale=scale, name="s"
            ).load()
            for scale in (0.5, 0.0)
        )
        own = [str(name) for name in off["relation"].values]
        found, expected = (data["log_probability"].sel(condition=own).values for data in (none, off))
        np.testing.assert_array_equal(found, expected)
        assert not np.allclose(half["log_probability"].sel(condition=own).values, expected, atol=1e-3)


def test_random_sets_are_of_experts_that_are_used_as_much(store: LocalStore) -> None:
    """Of six experts there is one class; of 32 there are eight, of which each has as many in both sets."""
    generator = np.random.default_rng(0)
    loads, own = generator.random((3, 32)), {"mlp.hidden": generator.random((3, 32 * 8)) < 0.05}
    own["moe.weight"] = generator.random((3, 32)) < 0.1
    drawn = controls.random_like_load(own, loads, 1, "r")
    classes = loads.argsort(axis=1).argsort(axis=1) * 8 // 32
    for site, units in (("mlp.hidden", 8), ("moe.weight", 1)):
        for layer in range(3):
            of_neuron = np.repeat(classes[layer], units)
            for chosen in (own, drawn):
                counts = np.bincount(of_neuron[chosen[site][layer]], minlength=8)
                assert counts.tolist() == np.bincount(of_neuron[own[site][layer]], minlength=8).tolist()
        assert (drawn[site] != own[site]).any()
    relations, sets = masks.read(store, "top-60")
    drawing = Drawing(store, relations, sets, "matched", "unit")
    np.testing.assert_allclose(drawing.loads, np.abs(values_of(store, "moe.weight")).mean(axis=0), rtol=1e-5)
    for site, chosen in drawing.draw(0, relations[0]).items():
        assert chosen.sum(axis=1).tolist() == sets[site][0].sum(axis=1).tolist()


def test_loads_are_known_from_units_where_weights_are_not(
    loaded: LoadedModel, tiny_prompts: pd.DataFrame, tmp_path: Path
) -> None:
    store = relact.capture(loaded, tiny_prompts, tmp_path / "s.zarr", sites="mlp.hidden", dtype="float32")
    expected = (
        np.abs(values_of(store, "mlp.hidden")).mean(axis=0).reshape(LAYERS, N_EXPERTS, UNITS).mean(axis=-1)
    )
    np.testing.assert_allclose(loads_of(store), expected, rtol=1e-5)


# --- what is shown


def test_compare_says_which_experts_a_relation_uses(store: LocalStore) -> None:
    table = expert_use(store, "top-60")
    weight = values_of(store, "moe.weight")
    labels = store.prompts(schema.IDENTIFY)["relation"].to_numpy()
    _, sets = masks.read(store, "top-60")
    neurons = sum(chosen.reshape(2, LAYERS, N_EXPERTS, UNITS).sum(-1) for site, chosen in sets.items()
                  if site in schema.HIDDEN)  # fmt: skip
    for row in table.itertuples():
        own = labels == row.relation
        assert row.use == pytest.approx(weight[own, row.layer, row.expert].mean(), abs=1e-6)
        assert row.others == pytest.approx(weight[~own, row.layer, row.expert].mean(), abs=1e-6)
        at = store.relations().index(row.relation)
        assert row.neurons == neurons[at, row.layer, row.expert]
    few = expert_use(store, relation="colour", n=2)
    assert len(few) == 2 * LAYERS and set(few["relation"]) == {"colour"}
    beyond = few["use"] - few["others"]
    assert (beyond.iloc[::2].to_numpy() >= beyond.iloc[1::2].to_numpy()).all()


def test_commands_know_experts(store: LocalStore, command: Any) -> None:
    _, said, _ = command("compare", store.path, "--by", "expert", "--json")
    rows = json.loads(said)
    assert len(rows) == 2 * LAYERS * 3 and {"relation", "layer", "expert", "use"} <= set(rows[0])
    _, said, _ = command("select", store.path, "--k", 2, "--unit", "expert", "--json")
    assert json.loads(said)["mask"] == "top-2-experts"
    code, _, problem = command("compare", store.path, "--by", "expert", "--k", 3)
    assert code == 2 and "--k" in problem


def test_no_experts_to_compare(tiny_study: LocalStore) -> None:
    with pytest.raises(InputError, match=r"no moe\.weight"):
        expert_use(tiny_study)


@pytest.mark.slow
def test_report_shows_experts(store: LocalStore, tiny_study: LocalStore, tmp_path: Path) -> None:
    page = relact.report(store, tmp_path / "report.html")[0]
    text = Path(page).read_text()
    assert "Which experts it uses" in text and 'id="f-experts"' in text
    drawn = relact.charts(store)["experts"].to_dict()
    assert drawn["title"].startswith("Experts that")
    assert "experts" not in relact.charts(tiny_study)


def test_a_package_of_it_answers_the_same(store: LocalStore, tmp_path: Path) -> None:
    packed = relact.pack(store.path, tmp_path / "packed.zip", activations=True)
    opened = relact.open_store(packed.path)
    assert opened.experts_of("mlp.hidden") == N_EXPERTS
    pd.testing.assert_frame_equal(expert_use(opened), expert_use(store))


# --- plans, defaults, many experts


def test_default_sites_are_those_that_are_small(
    loaded: LoadedModel, tiny_prompts: pd.DataFrame, tmp_path: Path
) -> None:
    store = relact.capture(loaded, tiny_prompts, tmp_path / "s.zarr")
    assert set(store.sites) == {
        "moe.router",
        "moe.weight",
        "mlp.down",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.o",
    }


def test_a_plan_counts_what_a_token_has(tmp_path: Path, tiny_prompts: pd.DataFrame) -> None:
    """Passes of 128 experts need little more than those of 8 as large: what grows is what is pooled."""
    plans = []
    for n_experts in (8, 128):
        folder = mixtures.save(tmp_path / str(n_experts), "olmoe", num_experts=n_experts)
        loaded = loading.load(str(folder))
        made = forecast(relact.CaptureOptions(sites="mlp.hidden"), loaded, tiny_prompts, tmp_path / "s")
        plans.append(made)
    few, many = plans
    assert many.bytes > 5 * few.bytes
    width = 128 * UNITS
    tokens = int(tiny_prompts["text"].str.len().sum())
    assert many.memory - few.memory < 4 * tokens * width  # never [tokens, experts x units]


@pytest.mark.slow
def test_average_precision_of_128_experts_is_scikit_learns_with_its_zeros(
    tmp_path: Path, tiny_prompts: pd.DataFrame
) -> None:
    folder = mixtures.save(
        tmp_path / "m", "olmoe", num_experts=128, num_experts_per_tok=8, intermediate_size=4
    )
    path = tmp_path / "s.zarr"
    store = relact.capture(str(folder), tiny_prompts, path, sites="mlp.hidden,moe.weight", dtype="float16")
    relact.score(path)
    labels = store.prompts(schema.IDENTIFY)["relation"].to_numpy()
    for site in ("mlp.hidden", "moe.weight"):
        values, scored = values_of(store, site), local.open(path).dataset(f"scores/{site}")
        assert 0.3 < (values == 0).mean() < 0.95, "many exact zeros, and not all"
        for at, relation in enumerate(scored["relation"].values.tolist()):
            expected = [
                [average_precision_score(labels == relation, column) for column in values[:, layer].T]
                for layer in range(LAYERS)
            ]
            np.testing.assert_allclose(scored["average_precision"].values[at], expected, atol=1e-6)


@pytest.mark.parametrize("where", ["below", "between"])
@pytest.mark.slow
def test_the_null_is_wide_enough_for_columns_of_zeros(where: str) -> None:
    """Random rankings with half of them equal are no better than those without ties: too few are found."""
    generator = np.random.default_rng(0)
    positives, prompts = 12, 60
    labels = np.arange(prompts) < positives
    values = np.abs(generator.normal(size=prompts)) if where == "below" else generator.normal(size=prompts)
    values[: prompts // 2] = 0
    drawn = [average_precision_score(generator.permutation(labels), values) for _ in range(3000)]
    null = relact.kernels.average_precision_null(positives, prompts, 20_000, seed=0)
    for share in (0.9, 0.95, 0.99):
        assert np.quantile(drawn, share) <= np.quantile(null, share) * 1.02


# --- one text, and anybody's own code


def test_a_text_is_looked_at_token_by_token(loaded: LoadedModel, store: LocalStore) -> None:
    """What a store holds of a prompt is the mean, and the sum, of its tokens'."""
    row, sites = 3, ("mlp.hidden", "moe.weight")
    ids, text = tokens_of(loaded, store)[row], store.prompts(schema.IDENTIFY).loc[row]
    target = int(first_tokens(loaded, [text["text"]], [text["object"]], ["en"])[0])
    seen = by_token(loaded, ids[0].tolist(), sites, Target(target))
    for site in sites:
        np.testing.assert_allclose(seen.activation[site].mean(axis=0), values_of(store, site)[row], atol=1e-5)
        owed = values_of(store, f"attributions/{site}")[row]
        np.testing.assert_allclose(seen.attribution[site].sum(axis=0), owed, atol=1e-4)


def test_neurons_are_overridden_in_anybodys_code(loaded: LoadedModel, store: LocalStore) -> None:
    ids = tokens_of(loaded, store)[0]
    weight = values_of(store, "moe.weight")[0, 1]
    neuron = int(weight.argmax()) * UNITS + 5
    with torch.no_grad():
        intact = loaded.model(ids).logits
        for scale in (None, 0.0):
            with relact.overridden(loaded, [("mlp.hidden", 1, neuron)], scale=scale):
                off = loaded.model(ids).logits
            experts = loaded.model.model.layers[1].mlp.experts
            kept, down = experts.down_proj.clone(), by_input(experts)
            down[neuron // UNITS, neuron % UNITS] = 0
            expected = loaded.model(ids).logits
            experts.down_proj.copy_(kept)
            assert torch.equal(off, expected) and not torch.equal(off, intact)
    with pytest.raises(InputError, match="no neuron"), relact.overridden(loaded, [("mlp.hidden", 1, 10**6)]):
        loaded.model(ids)


def by_input(experts: Any) -> Tensor:
    """[experts, units, width]."""
    return experts.down_proj if experts.is_transposed else experts.down_proj.transpose(1, 2)


def test_what_a_neuron_writes_is_its_column(loaded: LoadedModel) -> None:
    neurons = [3, UNITS + 1, 5 * UNITS + 43]
    experts = loaded.model.model.layers[1].mlp.experts
    columns = by_input(experts).flatten(0, 1)[neurons]
    torch.testing.assert_close(directions(loaded.model, "mlp.hidden", 1, neurons), columns)


def test_halves_choose_neurons_too(store: LocalStore, loaded: LoadedModel) -> None:
    found = relact.stability(store, k=5, splits=1)
    assert found["relation"].tolist() == store.relations()
    halves = next(iter(halves_of(store, k=5, splits=1)))
    assert not {"moe.router", "moe.weight"} & set(halves.choices[0].sets)

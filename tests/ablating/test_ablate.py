"""Ablation gives the verdicts of the straightforward way: one condition at a time, plain hooks,
``generate``.
"""

from __future__ import annotations

import shutil
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from helpers import deep, tiny, victims

from relact import schema
from relact.ablating import ablate, answers, conditions
from relact.ablating.controls import Drawing
from relact.ablating.doses import ablate_doses
from relact.ablating.means import means_of
from relact.ablating.perplexity import plain_text
from relact.analysis.doses import dose_response
from relact.analysis.effects import effects
from relact.capturing.capture import capture
from relact.errors import IdentityError, InputError
from relact.models.hooks import visit
from relact.relations import prompts as tables
from relact.relations import sources, verdict
from relact.scoring import masks
from relact.scoring.score import score
from relact.store import local

MODULES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}


def straightforward(loaded, text, off, n_tokens):
    """Greedy text and the logits after the prompt, with the neurons of ``off`` zeroed by plain hooks."""
    handles = []
    for site, mask in off.items():
        for layer, block in enumerate(loaded.model.model.layers):
            columns = torch.from_numpy(mask[layer])

            def hook(module, inputs, output, columns=columns):
                return output.masked_fill(columns, 0)

            handles.append(getattr(block.mlp, MODULES[site]).register_forward_hook(hook))
    ids = loaded.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        out = loaded.model.generate(
            **ids,
            max_new_tokens=n_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for handle in handles:
        handle.remove()
    said = out.sequences[0, ids["input_ids"].shape[1] :]
    return loaded.tokenizer.decode(said, skip_special_tokens=True), out.logits[0][0]


def sets_of(study):
    """Of every condition and the relation of a prompt: what is off, by the mask and by plain drawing."""
    relations, chosen = masks.read(study, "top-200")
    drawing = Drawing(study, relations, chosen, "matched", study.mask_record("top-200").counted)
    own = {name: {site: mask[at] for site, mask in chosen.items()} for at, name in enumerate(relations)}
    return {
        ("intact", None): {},
        **{(name, None): off for name, off in own.items()},
        **{("random-1", name): drawing.draw(1, name) for name in relations},
    }


@pytest.mark.parametrize(
    ("names", "every"),
    [(("study", "model"), 2), pytest.param(("embedded_study", "smollm2"), 6, marks=deep.only)],
    ids=["random", "embedded"],
)
def test_verdicts_texts_and_numbers_equal_plain_generate(request, names, every):
    study, model = map(request.getfixturevalue, names)
    tests = study.prompts(schema.TEST)
    assert set(tests[::every].relation) == set(study.relations())
    result = study.dataset("ablations/top-200").load()
    assert len(set(result["correct"].values.flat)) == 2
    for (condition, relation), neurons in sets_of(study).items():
        for row, test in tests[::every].iterrows():
            if relation not in (None, test.relation):
                continue
            most = verdict.most_tokens(test.answers)
            text, logits = straightforward(model, test.text, neurons, most)
            stored = result.sel(condition=condition, prompt=row)
            said = str(stored["generated"].values)
            assert text.startswith(said.rstrip("\ufffd"))
            assert said == text or not verdict.is_open(said, test.answers)
            assert bool(stored["correct"]) == verdict.is_correct(text, test.answers)
            target = first_token(model, test.text, test.object)
            expected = float(logits.log_softmax(0)[target])
            assert float(stored["log_probability"]) == pytest.approx(expected, abs=1e-4)
            facts = [*tests.itertuples(), *study.prompts(schema.IDENTIFY).itertuples()]
            objects = {fact.object for fact in facts if fact.relation == test.relation} - {test.object}
            others = {first_token(model, test.text, name) for name in objects} - {target}
            if not others:  # every answer begins with the same token
                assert np.isnan(float(stored["logit_difference"]))
                continue
            differences = [float(logits[target] - logits[other]) for other in others]
            assert np.abs(np.array(differences) - float(stored["logit_difference"])).min() < 1e-4


def first_token(loaded, text, answer):
    """The first token after the prompt's own when both are read together."""
    before, both = (loaded.tokenizer(some)["input_ids"] for some in (text, f"{text} {answer}"))
    assert both[: len(before)] == before
    return both[len(before)]


def test_accuracy_is_the_mean_of_the_verdicts_per_relation(study):
    result = study.dataset("ablations/top-200").load()
    relation_of = study.prompts(schema.TEST).relation.to_numpy()
    for relation in study.relations():
        expected = result["correct"].values[:, relation_of == relation].mean(axis=1)
        np.testing.assert_allclose(result["accuracy"].sel(relation=relation).values, expected, rtol=1e-6)
    assert result.attrs["k"] == 200 and result.attrs["mode"] == "zero"
    assert list(result.attrs["seeds"]) == [0, 1] and result.attrs["match"] == "prefix"
    assert result["kind"].values.tolist() == ["intact", "own", "own", "own", "random", "random"]
    assert set(result["part"].values) == {"dev", "test"} and "kind" in result.coords


def test_logits_differ_inside_and_are_bit_identical_afterwards(study, model):
    ids = torch.tensor([model.tokenizer("The capital of France is")["input_ids"]])
    _, chosen = masks.read(study, "top-200")
    off = {site: torch.from_numpy(mask[0]) for site, mask in chosen.items()}

    def zero(site, layer, values):
        return values.masked_fill(off[site][layer], 0)

    with torch.inference_mode():
        before = model.model(ids).logits
        with visit(model.model, list(off), zero):
            inside = model.model(ids).logits
        after = model.model(ids).logits
    assert not torch.equal(before, inside)
    assert torch.equal(before, after)


def test_results_are_reused(study, model, monkeypatch):
    monkeypatch.setattr(ablate, "generate", lambda *_, **__: pytest.fail("computed"))
    again = ablate.ablate(study, mask="top-200", model=model, seeds=[0, 1])
    assert again["accuracy"].shape == (6, 3)
    with pytest.raises(pytest.fail.Exception, match="computed"):
        ablate.ablate(study, mask="top-200", model=model, seeds=[2])


@pytest.fixture
def copied(study, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(study.path, tmp_path / "s.zarr")
    return local.open(tmp_path / "s.zarr")


class Stopped(Exception):
    pass


def test_a_killed_ablation_goes_on_where_it_was(copied, model, monkeypatch):
    options = {"mask": "top-200", "model": model, "seeds": [], "name": "killed"}
    expected = ablate.ablate(copied, **{**options, "name": "whole"}).load()
    local.drop(copied.path, "ablations/whole")
    local.drop(copied.path, "ablations/top-200")
    steps: list[int] = []

    def stop(stage, done, total, unit):
        steps.append(done)
        if len(steps) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        ablate.ablate(copied, **options, progress=stop)
    journal = copied.path.with_name(".s.zarr.killed.jsonl")
    with journal.open("a") as file:
        file.write('{"cut": {"0"')  # as a crash in the middle of a line leaves it
    assert not copied.has("ablations/killed")
    again: list[int] = []
    result = ablate.ablate(
        copied, **options, progress=lambda stage, done, total, unit: again.append(done)
    ).load()
    assert again[0] == steps[1] < again[1]  # what is there is told at once
    xr.testing.assert_identical(result, expected)
    assert not journal.exists()


def test_what_another_ablation_of_the_store_found_is_not_computed_again(copied, model, monkeypatch):
    before = copied.dataset("ablations/top-200").load()
    monkeypatch.setattr(
        answers, "decode", lambda loaded, exam, conditions, *_, todo, **__: todo.any() and pytest.fail()
    )
    fewer = ablate.ablate(copied, mask="top-200", model=model, seeds=[1], name="fewer").load()
    xr.testing.assert_equal(fewer["generated"], before["generated"].sel(condition=fewer["condition"]))


def test_a_result_of_other_seeds_is_not_replaced_without_a_word(copied, model, caplog):
    seeds = copied.ablation_record("top-200").seeds
    ablate.ablate(copied, mask="top-200", model=model, seeds=seeds)
    assert "replaced" not in caplog.text
    ablate.ablate(copied, mask="top-200", model=model, seeds=[1])
    assert f"ablations/top-200 is replaced, which had seeds {seeds}" in caplog.text


def test_a_sweep_has_a_dimension_k_and_equals_its_parts(copied, model):
    result = ablate.ablate(copied, k=[50, 200], model=model, seeds=[0, 1]).load()
    assert dict(result["correct"].sizes) == {"k": 2, "condition": 6, "prompt": 18}
    assert result["k"].values.tolist() == [50, 200]
    alone = copied.dataset("ablations/top-200").load()
    xr.testing.assert_equal(result["correct"].sel(k=200, drop=True), alone["correct"])
    xr.testing.assert_equal(result["accuracy"].sel(k=200, drop=True), alone["accuracy"])
    assert not result["accuracy"].sel(k=50, drop=True).equals(alone["accuracy"])


def twin(loaded, text, condition, last, n_tokens):
    """Greedy text by plain hooks, without a cache; overrides at all tokens or from the prompt's end on."""
    ids = loaded.tokenizer(text)["input_ids"]
    start = len(ids)
    for _ in range(n_tokens):
        handles = []
        for site in condition.off:
            for layer, block in enumerate(loaded.model.model.layers):
                columns, new = map(torch.from_numpy, condition.entries(site, layer))

                def hook(module, inputs, output, columns=columns, new=new):
                    output = output.clone()
                    first = start - 1 if last else 0
                    output[:, first:, columns] = new
                    return output

                handles.append(getattr(block.mlp, MODULES[site]).register_forward_hook(hook))
        with torch.inference_mode():
            ids = [*ids, int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())]
        for handle in handles:
            handle.remove()
    return loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)


def own_conditions(store, name="top-200", mode="zero"):
    relations, chosen = masks.read(store, name)
    return conditions.of_sets(relations, chosen, conditions.Replacements(store, mode, tuple(chosen)))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "tokens"), [("zero", "last"), ("on_p50", "all"), ("resample", "last")])
def test_every_mode_and_choice_of_tokens_equals_its_twin(copied, model, mode, tokens):
    result = ablate.ablate(copied, mask="top-200", model=model, seeds=[], mode=mode, tokens=tokens).load()
    assert (result.attrs["mode"], result.attrs["tokens"]) == (mode, tokens)
    tests = copied.prompts(schema.TEST)
    for condition in own_conditions(copied, mode=mode)[1:]:
        for row in range(len(tests)):
            text = twin(model, tests.text[row], condition, tokens == "last", 3)
            stored = result.sel(condition=condition.name, prompt=row)
            said = str(stored["generated"].values)
            assert text.startswith(said[: len(text)].rstrip("\ufffd")) and said[:1] == text[:1]
            if not verdict.is_open(text, tests.answers[row]):
                assert bool(stored["correct"]) == verdict.is_correct(text, tests.answers[row])


def test_a_factor_multiplies_and_results_say_by_how_much(copied, model):
    doses = ablate_doses(ablate.AblateOptions(seeds=(0, 1)), copied, [0.5, 2], mask="top-200", model=model)
    assert list(doses) == ["top-200-x0.5", "top-200-x2"]
    tests = copied.prompts(schema.TEST)
    for name, factor in zip(doses, (0.5, 2.0), strict=True):
        record = copied.ablation_record(name)
        assert (
            (record.mode, record.scale)
            == ("scale", factor)
            == tuple(doses[name].attrs[key] for key in ("mode", "scale"))
        )
        for (condition, relation), off in sets_of(copied).items():
            for row, test in tests[::3].iterrows():
                if relation in (None, test.relation):
                    expected = multiplied(model, test.text, off, factor)[
                        first_token(model, test.text, test.object)
                    ]
                    stored = doses[name]["log_probability"].sel(condition=condition, prompt=row)
                    assert float(stored) == pytest.approx(float(expected), abs=1e-4)
    digests = [str(result["digest"][1, 0].values) for result in (*doses.values(), whole(copied))]
    assert len(set(digests)) == 3


def multiplied(loaded, text, off, factor):
    """Log-probabilities after the prompt, with the neurons of ``off`` multiplied by plain hooks."""
    handles = []
    for site, mask in off.items():
        for layer, block in enumerate(loaded.model.model.layers):
            factors = torch.where(torch.from_numpy(mask[layer]), factor, 1.0)

            def hook(module, inputs, output, factors=factors):
                return output * factors

            handles.append(getattr(block.mlp, MODULES[site]).register_forward_hook(hook))
    with torch.inference_mode():
        logits = loaded.model(**loaded.tokenizer(text, return_tensors="pt")).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits.log_softmax(0)


def whole(store):
    return store.dataset("ablations/top-200").load()


def test_times_0_is_zero_and_times_1_is_intact_without_asking_again(copied, model, monkeypatch):
    monkeypatch.setattr(
        answers, "decode", lambda loaded, exam, conditions, *_, todo, **__: todo.any() and pytest.fail()
    )
    options = {"mask": "top-200", "model": model, "seeds": [0, 1], "mode": "scale"}
    nothing, same = (ablate.ablate(copied, **options, scale=factor).load() for factor in (0, 1))
    zero = whole(copied)
    for name in ("generated", "log_probability", "digest"):
        xr.testing.assert_equal(nothing[name], zero[name])
    assert (same["log_probability"] == zero["log_probability"].sel(condition="intact")).all()
    assert copied.ablation_record("top-200").scale is None and copied.ablation_record("top-200-x0").scale == 0
    table = dose_response(copied, "top-200")
    assert table["factor"].tolist() == [0, 0, 1] and table["ablation"][0] == "top-200"
    assert table["own"][0] == table["own"][1] == effects(zero).own and table["log_own"][2] == 0


def test_a_dose_needs_its_mode_and_a_curve_its_doses(copied, model):
    for wrong in ({"scale": 0.5}, {"mode": "scale"}, {"mode": "scale", "scale": float("inf")}):
        with pytest.raises(InputError, match="scale"):
            ablate.AblateOptions(**wrong)
    for factors, mode in (([], "zero"), ([2, 2], "zero"), ([2], "mean")):
        with pytest.raises(InputError, match="--scale"):
            ablate_doses(ablate.AblateOptions(mode=mode), copied, factors, mask="top-200", model=model)
    with pytest.raises(InputError, match="no scaled ablation"):
        dose_response(copied, "top-200")
    with pytest.raises(InputError, match=r"no mask 'top-1'.*top-200"):
        dose_response(copied, "top-1")
    with pytest.raises(InputError, match=r"no ablation 'top-1'.*top-200"):
        dose_response(copied, like="top-1")


def test_replacements_are_what_they_are_called(study):
    activations = {site: study.dataset(f"activations/{site}")["activation"].values for site in study.layouts}
    relation_of = study.prompts(schema.IDENTIFY).relation.to_numpy()
    relation = study.relations()[1]
    own = relation_of == relation
    expected = {
        "mean": lambda values: values.mean(axis=0),
        "off_mean": lambda values: values[~own].mean(axis=0),
        "on_p50": lambda values: np.percentile(values[own], 50, axis=0),
        "on_p90": lambda values: np.percentile(values[own], 90, axis=0),
    }
    for mode, twin_of in expected.items():
        found = conditions.replacements(study, mode, list(study.layouts), relation)
        for site, values in activations.items():
            np.testing.assert_allclose(found[site], twin_of(values), rtol=1e-4, atol=1e-6)
    found = conditions.replacements(study, "resample", list(study.layouts), relation)
    donors = [
        np.flatnonzero((values == found[site]).all(axis=(1, 2))) for site, values in activations.items()
    ]
    assert len({int(donor[0]) for donor in donors}) == 1 and not own[donors[0][0]]
    assert conditions.replacements(study, "zero", ["mlp.up"], relation) == {}
    with pytest.raises(InputError, match=r"unknown mode 'ap'.*on_p50"):
        conditions.replacements(study, "ap", ["mlp.up"], relation)


@pytest.fixture(scope="module")
def carriers(study, model, tmp_path_factory):
    """Carriers of the answer, chosen by attribution, in a store that also has their activations."""
    table = pd.concat([study.prompts(split).assign(split=split) for split in ("identify", "test")])
    table["answers"] = [[text] for text in table["object"]]
    table, path = table.drop(columns="n_tokens").reset_index(drop=True), tmp_path_factory.mktemp("carriers")
    options = {"sites": "mlp.hidden", "dtype": "float32", "attribution": True}
    store = score(capture(model, table, path / "s.zarr", **options))
    masks.select(store, k=40, by="attribution", name="carriers")
    return store


@pytest.mark.parametrize("mode", ["on_p90", "off_mean"], ids=["towards", "away"])
def test_steering_is_measured_by_the_answers_log_probability(carriers, model, mode):
    """Each relation's set at its own statistic, by plain hooks on what the last projection reads."""
    result = ablate.ablate(carriers, mask="carriers", mode=mode, seeds=[], model=model).load()
    relations, chosen = masks.read(carriers, "carriers")
    statistic = carriers.dataset("scores/mlp.hidden")[mode].load()
    for (at, name), (row, test) in product(enumerate(relations), carriers.prompts("test").iterrows()):
        handles = []
        for layer, block in enumerate(model.model.model.layers):
            columns = torch.from_numpy(chosen["mlp.hidden"][at, layer])
            values = torch.from_numpy(statistic.sel(relation=name).values[layer])

            def hook(module, inputs, columns=columns, values=values):
                return (torch.where(columns, values, inputs[0]),)

            handles.append(block.mlp.down_proj.register_forward_pre_hook(hook))
        with torch.inference_mode():
            logits = model.model(**model.tokenizer(test.text, return_tensors="pt")).logits[0, -1]
        for handle in handles:
            handle.remove()
        target = first_token(model, test.text, test.object)
        found = float(result["log_probability"].sel(condition=name, prompt=row))
        assert found == pytest.approx(float(logits.log_softmax(0)[target]), abs=1e-4)
    intact = result["log_probability"].sel(condition="intact")
    assert (
        float(abs(result["log_probability"].sel(condition=relations) - intact).min("condition").max()) > 0.01
    )


def test_steering_without_activations_says_what_to_capture(everything):
    with pytest.raises(InputError, match=r"on_p90 of mlp.hidden is not stored.*--sites mlp.hidden"):
        conditions.replacements(everything, "on_p90", ["mlp.hidden"], "size")


def test_a_mean_needs_no_stored_activations(copied, model, tmp_path):
    lacking, there = "mlp.hidden", "mlp.up"
    assert lacking not in copied.layouts
    table = pd.concat([copied.prompts(split).assign(split=split) for split in ("identify", "test")])
    table["answers"] = [[text] for text in table["object"]]
    table = table.drop(columns="n_tokens").reset_index(drop=True)
    held = capture(model, table, tmp_path / "held.zarr", sites=lacking, dtype="float32")
    measure = partial(means_of, copied, model)
    found = conditions.Replacements(copied, "mean", [there, lacking], measure=measure)("size")
    expected = conditions.replacements(held, "mean", [lacking], None)[lacking]
    np.testing.assert_allclose(found[lacking], expected, rtol=1e-4, atol=1e-6)
    stored = conditions.replacements(copied, "mean", [there], None)[there]
    np.testing.assert_array_equal(found[there], stored)


def test_other_test_prompts(copied, model):
    other = tables.prompts(
        [sources.load("country_capital")[0]], shots=3, per_relation=12, test_size=6, paraphrase=True
    )
    result = ablate.ablate(
        copied, mask="top-200", model=model, seeds=[0], tests=other, name="paraphrase"
    ).load()
    assert set(result["relation_of"].values) == {"country_capital"} and result.sizes["relation"] == 1
    asked = other[other["split"] == "test"].reset_index(drop=True)
    assert result.sizes["prompt"] == len(asked)
    assert straightforward(model, asked.text[0], {}, 30)[0].startswith(
        str(result["generated"].sel(condition="intact")[0].values)
    )
    assert result["text"].values.tolist() == asked.text.tolist()  # what is not the store's own is kept


def test_a_stores_own_test_prompts_are_asked_again_as_they_come(copied, study, model):
    rows = study.prompts("test").groupby("relation", sort=False).head(2)
    again = ablate.ablate(copied, mask="top-200", model=model, seeds=[], tests=rows, name="again")
    stored = study.dataset("ablations/top-200").isel(prompt=rows.index.to_numpy())
    assert rows.index[-1] > len(rows)  # not the first rows of all
    for variable in ("correct", "generated"):
        expected = stored[variable].sel(condition=again["condition"])
        np.testing.assert_array_equal(again[variable], expected)


def test_another_model_is_refused(study, tiny_folder):
    with pytest.raises(IdentityError, match="the store records model fingerprint"):
        ablate.ablate(study, mask="top-200", model=str(tiny_folder), name="other", seeds=[7])


def test_mask_or_k_but_not_both(study):
    for options in ({}, {"mask": "top-200", "k": 3}):
        with pytest.raises(InputError, match="exactly one"):
            ablate.ablate(study, **options)


def test_steps_of_a_sweep_override_only_what_a_k_adds(copied, model):
    result = ablate.ablate(copied, k=[50, 200], model=model, seeds=[]).load()
    small, large = (own_conditions(copied, f"top-{k}") for k in (50, 200))
    added = {one.name: one for one in conditions.added(small, large)}
    tests = copied.prompts(schema.TEST)
    sizes = {one.name: sum(map(len, one.off.values())) for one in added.values()}
    assert sizes == dict.fromkeys(copied.relations(), 150)
    for row in range(len(tests)):
        own = tests.relation[row]
        text = twin(model, tests.text[row], added[own], False, 3)
        said = str(result["step_generated"].sel(k=200, prompt=row).values)
        assert text.startswith(said[: len(text)].rstrip("\ufffd"))
        right = verdict.is_correct(said, tests.answers[row])
        assert bool(result["step_correct"].sel(k=200, prompt=row)) == right
    relation_of = xr.DataArray(tests.relation.to_numpy(), dims="prompt")
    first = (
        result["correct"].sel(k=50, drop=True).sel(condition=relation_of, prompt=result["prompt"], drop=True)
    )
    assert np.array_equal(result["step_correct"].sel(k=50).values, first.values)


def test_perplexity_is_that_of_plain_transformers(copied, model):
    result = ablate.ablate(copied, mask="top-200", model=model, seeds=[], perplexity=True).load()
    for name, off in {"intact": {}, **dict(list(zip(*read_off(copied), strict=True))[:1])}.items():
        losses, n = 0.0, 0
        handles = [
            block.mlp.get_submodule(MODULES[site]).register_forward_hook(
                zeroing(torch.from_numpy(mask[layer]))
            )
            for site, mask in off.items()
            for layer, block in enumerate(model.model.model.layers)
        ]
        for text in plain_text():
            ids = model.tokenizer(text.strip(), return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                losses += float(model.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            n += ids.shape[1] - 1
        for handle in handles:
            handle.remove()
        assert float(result["perplexity"].sel(condition=name)) == pytest.approx(np.exp(losses / n), rel=5e-4)


def zeroing(columns):
    return lambda module, inputs, output: output.masked_fill(columns, 0)


def read_off(store):
    """Relation names, and the mask of each as {site: bool [layer, neuron]}."""
    relations, chosen = masks.read(store, "top-200")
    return relations, [{site: mask[at] for site, mask in chosen.items()} for at in range(len(relations))]


def test_test_prompts_about_subjects_that_identified_neurons_are_refused(copied, model, prompts):
    leaking = prompts[prompts["split"] == "identify"].assign(split="test")
    with pytest.raises(InputError, match="36 test subjects are also identification subjects"):
        ablate.ablate(copied, mask="top-200", model=model, seeds=[], tests=leaking)


@pytest.mark.slow
def test_an_ablation_stays_below_its_planned_memory(tiny_prompts, tmp_path):
    """Of a model with so many words that their logits are most of it: without them the plan is too small."""
    words = {"vocab_size": 20_000, "intermediate_size": 2048, "max_position_embeddings": 512}
    model = tiny.save(tmp_path / "model", **words)
    score(capture(str(model), tiny_prompts, tmp_path / "s.zarr", sites="mlp.gate"))
    context = victims.context()
    told = context.Queue()
    child = context.Process(target=victims.ablated, args=(tmp_path / "s.zarr", told))
    child.start()
    child.join(300)
    assert child.exitcode == 0
    planned, peak, before = told.get()
    print(f"planned {planned}, peak {peak}, before {before}")
    assert peak <= planned <= 3 * peak and peak > 2 * before

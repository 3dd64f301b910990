"""Files of other tools: read by their conventions, equal to values computed their way, and back again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import everything as everything_of
from helpers import tiny
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score

import relact
from relact import schema
from relact.errors import IdentityError, InputError
from relact.exchange import hooks, selfcond
from relact.exchange.formats import export
from relact.models import loading
from relact.relations import sources
from relact.scoring import masks
from relact.store import local

COLUMNS = ["ap", "off_mean", "on_p50", "on_p90", "layer", "unit", "uuid", "concept", "group"]


@pytest.mark.parametrize("relation", ["size", "colour"])
def test_expertise_is_what_ml_selfcond_computes(tiny_study, tmp_path, relation):
    export(tiny_study, tmp_path, "selfcond")
    folder = tmp_path / "llama" / "sense" / relation / "expertise"
    table = pd.read_csv(folder / "expertise.csv")
    assert list(table) == COLUMNS
    assert [str(table[name].dtype) for name in COLUMNS[:4]] == ["float64"] * 4 and table[
        "uuid"
    ].tolist() == list(range(648))
    responses = {}
    modules = {
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
        **{f"attn.{x}": f"self_attn.{x}_proj" for x in "qkvo"},
    }
    for site, module in modules.items():
        values = tiny_study.dataset(f"activations/{site}")["activation"].values.astype(np.float32)
        for layer in range(3):
            responses[f"model.layers.{layer}.{module}:0"] = values[:, layer].T  # [units, sentences]
    labels = (tiny_study.prompts(schema.IDENTIFY)["relation"] == relation).to_numpy(int)
    names = sorted(responses)
    stacked = np.concatenate([responses[name] for name in names])
    assert table["layer"].tolist() == [name for name in names for _ in responses[name]]
    assert table["unit"].tolist() == [unit for name in names for unit in range(len(responses[name]))]
    theirs = {
        "ap": [average_precision_score(labels, row) for row in stacked],
        "off_mean": stacked[:, labels == 0].mean(axis=1),
        "on_p50": np.percentile(stacked[:, labels == 1], q=50, axis=1),
        "on_p90": np.percentile(stacked[:, labels == 1], q=90, axis=1),
    }
    for name, values in theirs.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-5, atol=1e-6)
    info = json.loads((folder / "expertise_info.json").read_text())
    assert (info["concept"], info["group"], info["total_neurons"]) == (relation, "sense", 648)
    assert info["layer_names"] == names and info["max_ap"] == pytest.approx(max(theirs["ap"]))
    assert len(info["neurons_at_ap"]) == 501 and list(info["neurons_at_ap"])[:2] == ["0.50000", "0.50100"]
    assert info["neurons_at_ap"]["0.50000"] == int((table["ap"].to_numpy(np.float32) > 0.5).sum())


def test_lang_neuron_has_medians_and_limited_files(tiny_study, tmp_path):
    (folder, _) = export(tiny_study, tmp_path, "lang_neuron", limited=20)
    table = pd.read_csv(folder / "expertise.csv")
    assert list(table) == [*COLUMNS[:2], "off_p50", *COLUMNS[2:]]
    top, bottom, both = (
        pd.read_csv(folder / f"expertise_limited_{name}.csv") for name in ("10_top", "10_bottom", "20_both")
    )
    assert sorted(top["ap"]) == sorted(table["ap"].nlargest(10))
    assert sorted(bottom["ap"]) == sorted(table["ap"].nsmallest(10))
    pd.testing.assert_frame_equal(both, pd.concat([top, bottom], ignore_index=True))


def test_scores_round_trip_bit_for_bit(tiny_study, tmp_path):
    export(tiny_study, tmp_path / "out", "lang_neuron")
    shutil.copytree(tiny_study.path, tmp_path / "copy.zarr")
    local.drop(tmp_path / "copy.zarr", schema.SCORES)
    copy = selfcond.import_scores(tmp_path / "copy.zarr", tmp_path / "out")
    names = copy.attributes(schema.SCORES)["relations"]
    for site in tiny_study.layouts:
        ours = copy.dataset(f"scores/{site}").load()
        theirs = tiny_study.dataset(f"scores/{site}").sel(relation=names).load()
        for statistic in ours.data_vars:
            np.testing.assert_array_equal(ours[statistic].values, theirs[statistic].values)
    assert masks.select(copy, k=5) == "top-5"


def test_scores_of_another_model_are_refused(tiny_study, tmp_path):
    (folder, _) = export(tiny_study, tmp_path, "selfcond")
    table = pd.read_csv(folder / "expertise.csv")
    shutil.copytree(tiny_study.path, tmp_path / "copy.zarr")
    table.iloc[:-1].to_csv(folder / "expertise.csv", index=False)
    with pytest.raises(IdentityError, match="units"):
        selfcond.import_scores(tmp_path / "copy.zarr", folder)
    table.assign(ap="x").to_csv(folder / "expertise.csv", index=False)
    with pytest.raises(InputError, match="holds text"):
        selfcond.import_scores(tmp_path / "copy.zarr", folder)


def test_neuron_lists_agree_with_the_mask(tiny_study, tmp_path):
    relations, chosen = masks.read(tiny_study, "top-12")
    for kind in ("json", "csv", "safetensors"):
        export(tiny_study, tmp_path / f"m.{kind}", kind)
    tensors, listed = load_file(tmp_path / "m.safetensors"), json.loads((tmp_path / "m.json").read_text())
    rows = pd.read_csv(tmp_path / "m.csv")
    assert len(rows) == 24 and list(rows) == ["relation", "site", "layer", "neuron"]
    for at, relation in enumerate(relations):
        for site, mask in chosen.items():
            assert np.array_equal(tensors[f"{relation}/{site}"], mask[at])
            pairs = [
                (int(layer), n) for layer, own in listed["relations"][relation][site].items() for n in own
            ]
            of_csv = rows[(rows["relation"] == relation) & (rows["site"] == site)][["layer", "neuron"]]
            assert (
                pairs
                == list(zip(*map(list, np.nonzero(mask[at])), strict=True))
                == list(map(tuple, of_csv.to_numpy()))
            )


def test_ablations_are_tidy(tiny_study, tmp_path):
    export(tiny_study, tmp_path / "a.parquet", "parquet")
    table = pd.read_parquet(tmp_path / "a.parquet")
    data = tiny_study.dataset("ablations/top-12")
    assert len(table) == data["correct"].size
    assert {"condition", "prompt", "correct", "generated", "relation", "subject", "object"} <= set(table)
    assert set(table["kind"]) == {"intact", "own", "random"} and set(table["part"]) == {"dev", "test"}
    by_place = table.set_index(["condition", "prompt"])["log_probability"].to_xarray()
    expected = data["log_probability"].load().drop_vars(["kind", "part"])
    np.testing.assert_array_equal(by_place.sel(condition=expected["condition"]), expected)
    accuracy = table.groupby(["condition", "relation"])["correct"].mean()
    for condition, relation in accuracy.index:
        assert accuracy[condition, relation] == pytest.approx(
            float(data["accuracy"].sel(condition=condition, relation=relation))
        )


def test_a_tidy_ablation_of_other_prompts_has_their_facts(tiny_study, tiny_prompts, tmp_path):
    shutil.copytree(tiny_study.path, tmp_path / "s.zarr")
    tests = tiny_prompts[tiny_prompts["split"] == "test"]
    other = tests.assign(text=[f"In other words, {text}" for text in tests["text"]])
    options = {"mask": "top-12", "seeds": [], "model": tiny_study.manifest.model.id}
    relact.ablate(tmp_path / "s.zarr", tests=other, name="other", **options)
    relact.ablate(tmp_path / "s.zarr", part="identify", **options)
    for name, asked in (("other", other), ("top-12-identify", tiny_study.prompts(schema.IDENTIFY))):
        export(tmp_path / "s.zarr", tmp_path / "o.parquet", "parquet", ablation=name)
        table = pd.read_parquet(tmp_path / "o.parquet")
        assert len(table) == 3 * len(asked)
        assert table.loc[table["condition"] == "intact", "text"].tolist() == asked["text"].tolist()


def test_concepts_are_read_back(tiny_study, tmp_path):
    export(tiny_study, tmp_path, "concepts")
    document = json.loads((tmp_path / "sense" / "size.json").read_text())
    own = tiny_study.prompts(schema.IDENTIFY)
    assert document["sentences"]["positive"] == own["text"][own["relation"] == "size"].tolist()
    assert {relation.name for relation in sources.load(str(tmp_path / "concept_list.csv"))} >= {
        "size",
        "colour",
    }


def test_unknown_formats_are_one_line(tiny_study, tmp_path):
    with pytest.raises(InputError, match="no format 'pickle'"):
        export(tiny_study, tmp_path / "x", "pickle")


# By the names of other libraries


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A model whose projections are fused, and a mask of all its sites."""
    folder = tmp_path_factory.mktemp("fused")
    tiny.save(folder / "model", "phi3")
    options = {"sites": "mlp.gate,mlp.up,mlp.hidden,attn", "dtype": "float32"}
    store = relact.capture(str(folder / "model"), everything_of.prompts(), folder / "s.zarr", **options)
    masks.select(relact.score(store), k=80, name="some", counted="neuron")
    return folder / "model", local.open(folder / "s.zarr")


def test_plain_hooks_give_the_logits_of_overridden(fused, tmp_path, monkeypatch):
    """By the function of docs/sharing.md. `make libraries` does it with the libraries themselves."""
    folder, store = fused
    export(store, tmp_path / "hooks.json", "hooks")
    monkeypatch.chdir(tmp_path)
    page = (Path(relact.__file__).parents[1] / "docs" / "sharing.md").read_text()
    (code,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "def switch_off" in text)
    names: dict = {}
    exec(code.replace("country_capital", "size"), names)
    loaded = loading.load(str(folder))
    ids = loaded.tokenizer("size of thing 3 is", return_tensors="pt")
    with torch.inference_mode():
        with relact.overridden(loaded, relact.mask_of(store, "some", "size")):
            expected = loaded.model(**ids).logits
        handles = names["switch_off"](loaded.model, names["modules"])
        found = loaded.model(**ids).logits
        for handle in handles:
            handle.remove()
        assert float((loaded.model(**ids).logits - expected).abs().max()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_names_of_other_libraries_hold_every_neuron_in_the_order_of_the_model(fused, tmp_path):
    _, store = fused
    _, chosen = masks.read(store, "some")
    total = sum(int(mask[0].sum()) for mask in chosen.values())
    (lens,) = export(store, tmp_path / "lens.json", "transformer-lens")
    document = json.loads(lens.read_text())
    assert document["library"] == "transformer-lens" and document["fingerprint"]
    of = document["relations"]["size"]
    assert sum(map(len, of.values())) == total
    layers = [int(name.split(".")[1]) for name in of]
    assert layers == sorted(layers) and {name.split(".", 2)[2] for name in of} <= set(hooks.LENS.values())
    (plain,) = export(store, tmp_path / "n.json", "nnsight")
    modules = json.loads(plain.read_text())["relations"]["size"]
    assert sum(len(columns) for sides in modules.values() for columns in sides.values()) == total
    assert set(modules["model.layers.1.mlp.down_proj"]) == {"input"}


def test_what_no_hook_shows_alone_is_refused(tmp_path):
    def store_of(family, **layouts):
        class Fake:
            path = tmp_path
            sites = tuple(layouts)
            manifest = SimpleNamespace(model=SimpleNamespace(family=family))

        return Fake()

    with pytest.raises(InputError, match="inside a module, where no hook sees it"):
        hooks._module(store_of("mixtral"), "mlp.hidden")
    with pytest.raises(InputError, match="no hook in TransformerLens"):
        hooks._lens(store_of("llama"), "mlp.act")
    with pytest.raises(InputError, match="not a run of columns"):
        hooks._module(store_of("gpt_neox"), "attn.k")
    with pytest.raises(InputError, match="modules of its text model"):
        hooks._module(store_of("gemma3"), "mlp.up")

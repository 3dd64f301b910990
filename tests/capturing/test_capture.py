"""Captured activations equal a plain transformers forward pass, pooled by hand, one prompt at a time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from helpers import tiny

import relact
from relact import schema, sites
from relact.capturing import passes
from relact.capturing.capture import capture
from relact.capturing.forecast import forecast
from relact.capturing.options import CaptureOptions
from relact.capturing.passes import capture_rows
from relact.capturing.transfer import Arrivals
from relact.errors import IdentityError, InputError, ModelError, NumericError, StoreError
from relact.models import loading
from relact.models.batches import prefix_groups
from relact.models.hooks import visit
from relact.store.blocks import BlockBuffer
from relact.store.layout import layouts
from relact.studies.repeat import recipe_of

MODULES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}
POOLED = {
    "mean": lambda values: values.mean(dim=0),
    "max": lambda values: values.amax(dim=0),
    "last": lambda values: values[-1],
    "positive": lambda values: (values > 0).float().mean(dim=0),
}


def by_hand(loaded, ids, pool, skipped=0):
    """{(site, layer): [width]} of one unpadded prompt, read by plain PyTorch hooks."""
    got, handles = {}, []
    for layer, block in enumerate(loaded.model.model.layers):
        for site, name in MODULES.items():

            def hook(module, inputs, output, key=(site, layer)):
                got[key] = POOLED[pool](output[0][skipped:])

            handles.append(getattr(block.mlp, name).register_forward_hook(hook))
    with torch.inference_mode():
        loaded.model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return got


@pytest.mark.slow
def test_the_embedded_model_pooled_by_hand(embedded_study, smollm2):
    rows = embedded_study.prompts(schema.IDENTIFY)
    tree = relact.open(embedded_study.path)
    assert len(rows) == 36
    for row in (0, 15, 16, 35):
        ids = smollm2.tokenizer(rows.text[row])["input_ids"]
        assert rows.n_tokens[row] == len(ids)
        for (site, layer), expected in by_hand(smollm2, ids, "mean").items():
            stored = tree[f"activations/{site}"]["activation"].sel(prompt=row, layer=layer).values
            np.testing.assert_allclose(stored, expected.numpy(), atol=2e-4, rtol=2e-4)


def settings(pool, chosen, batch=60, skip=None):
    return schema.CaptureRecord(tuple(chosen), pool, "float32", 64, batch, True, skip_first_token=skip)


def captured(loaded, tokens, pool, chosen, batch=60, skip=None):
    """{site: [layer, prompt, neuron]} through the batched, prefix-sharing path."""
    widths = {site: loaded.widths[site] for site in chosen}
    dtypes = dict.fromkeys(chosen, "float32")
    buffer = BlockBuffer(layouts(len(tokens), len(tokens), loaded.n_layers, widths, dtypes))
    record = settings(pool, chosen, batch, skip)
    assert sum(capture_rows(loaded, tokens, buffer, record)) == len(tokens)
    return {
        site: np.stack(
            [np.concatenate(list(buffer.shard(site, layer)), axis=1) for layer in range(loaded.n_layers)]
        )
        for site in chosen
    }


def mixed_prompts():
    """Token lists of many lengths, among them two groups with a long common prefix."""
    generator = np.random.default_rng(3)
    first, second = generator.integers(3, 250, 30).tolist(), generator.integers(3, 250, 22).tolist()
    shared = [
        [*start, *generator.integers(3, 250, n).tolist()]
        for start in (first, second)
        for n in (1, 5, 3, 3, 9, 2, 7)
    ]
    plain = [generator.integers(3, 250, n).tolist() for n in (1, 2, 9, 17, 30, 4)]
    return [*shared, *plain]


@pytest.mark.parametrize("name", tiny.NAMES)
def test_batch_mates_padding_and_shared_prefixes_change_nothing(name):
    """Every family: batched with padding and shared prefixes equals one prompt at a time without either."""
    model = tiny.model(name)
    loaded = loading.LoadedModel(model, None, name, None, "", "", "float32", name.partition("/")[0])
    tokens = mixed_prompts()
    assert len(prefix_groups(tokens)) == 3
    chosen = [site for site in sites.SITES if site in loaded.widths]
    together = captured(loaded, tokens, "mean", chosen)
    for row, ids in enumerate(tokens):
        alone = {}
        with visit(
            model,
            chosen,
            lambda site, layer, values, at=alone: at.__setitem__((site, layer), values[0].mean(0)),
        ):
            model(torch.tensor([ids]))
        for (site, layer), expected in alone.items():
            np.testing.assert_allclose(together[site][layer, row], expected.numpy(), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("skip", [None, True])
@pytest.mark.parametrize("pool", schema.POOLS)
def test_every_pool_over_real_tokens_only(tiny_folder, pool, skip):
    loaded = loading.load(str(tiny_folder))
    with torch.no_grad():
        loaded.model.model.layers[1].mlp.up_proj.weight[7] = 0  # a neuron that is exactly 0 is not positive
    tokens = [ids for ids in mixed_prompts() if len(ids) > 1]
    assert len(prefix_groups(tokens)) == 3
    together = captured(loaded, tokens, pool, MODULES, skip=skip)
    for row, ids in enumerate(tokens):
        for (site, layer), expected in by_hand(loaded, ids, pool, int(bool(skip))).items():
            np.testing.assert_allclose(together[site][layer, row], expected.numpy(), atol=1e-4, rtol=1e-4)


def test_values_that_arrive_while_the_next_batch_runs_are_the_same(tiny_folder, monkeypatch):
    """As beside a CUDA device: the first batch is put in place only after the second was computed."""
    loaded, tokens = loading.load(str(tiny_folder)), mixed_prompts()
    at_once = captured(loaded, tokens, "mean", MODULES)
    departed, second, put, depart = [], threading.Event(), Arrivals.put, Arrivals.depart

    def departs(self):
        departed.append(self)
        if len(departed) == 2:
            second.set()
        depart(self)

    def puts(self, buffer):
        assert second.wait(60), "the next batch waited for this one"
        return put(self, buffer)

    monkeypatch.setattr(passes, "ahead", lambda device: 1)
    monkeypatch.setattr(Arrivals, "depart", departs)
    monkeypatch.setattr(Arrivals, "put", puts)
    later = captured(loaded, tokens, "mean", MODULES)
    for site in MODULES:
        np.testing.assert_array_equal(later[site], at_once[site])


def test_what_goes_wrong_on_the_way_into_a_block_ends_the_capture(tiny_folder, monkeypatch):
    def puts(self, buffer):
        raise MemoryError("no room")

    monkeypatch.setattr(Arrivals, "put", puts)
    with pytest.raises(MemoryError, match="no room"):
        captured(loading.load(str(tiny_folder)), mixed_prompts(), "mean", MODULES)


def test_special_tokens_count_as_real_tokens_only_when_asked(tiny_folder, tiny_prompts, tmp_path):
    with_bos = capture(str(tiny_folder), tiny_prompts, tmp_path / "with.zarr")
    without = capture(str(tiny_folder), tiny_prompts, tmp_path / "without.zarr", special_tokens=False)
    lengths = [store.prompts(schema.IDENTIFY).n_tokens.to_numpy() for store in (with_bos, without)]
    np.testing.assert_array_equal(lengths[0], lengths[1] + 1)


def test_another_model_or_setting_is_refused_with_both_values(tiny_folder, tiny_prompts, tmp_path):
    path = tmp_path / "s.zarr"
    capture(str(tiny_folder), tiny_prompts, path)
    other = tiny.save(tmp_path / "other", "llama", seed=1)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(IdentityError, match=r"model.fingerprint = \w+, this run has \w+"):
        capture(loading.load(str(other)), tiny_prompts, path)
    with pytest.raises(IdentityError, match=r"capture.pool = mean, this run has max"):
        capture(str(tiny_folder), tiny_prompts, path, pool="max")
    with pytest.raises(IdentityError, match=r"prompts.identify"):
        capture(str(tiny_folder), tiny_prompts.assign(text=tiny_prompts.text + "!"), path)
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"pool": "median"}, "--pool: 'median'"),
        ({"dtype": "int8"}, "--dtype: 'int8'"),
        ({"block": 0}, "--block: 0"),
        ({"sites": "mlp.gat"}, "mlp.gat"),
    ],
)
def test_wrong_settings_name_the_option_and_the_value(tiny_folder, tiny_prompts, tmp_path, change, where):
    with pytest.raises(InputError, match=where):
        capture(str(tiny_folder), tiny_prompts, tmp_path / "s.zarr", **change)
    assert not (tmp_path / "s.zarr").exists()


def test_a_prompt_longer_than_the_model_takes_is_named(tiny_folder, tiny_prompts, tmp_path):
    prompts = tiny_prompts.copy()
    prompts.loc[3, "text"] = "a" * 128
    with pytest.raises(InputError, match="identification prompt 3: 129 tokens, the model takes 1 to 128"):
        capture(str(tiny_folder), prompts, tmp_path / "s.zarr")
    prompts.loc[3, "text"] = "a" * 127
    assert capture(str(tiny_folder), prompts, tmp_path / "s.zarr").prompts("identify").n_tokens[3] == 128


def test_a_first_token_that_is_left_out_must_leave_another(tiny_folder, tiny_prompts, tmp_path):
    prompts = tiny_prompts.copy()
    prompts.loc[3, "text"] = "a"
    skipping = {"skip_first_token": True, "special_tokens": False}
    with pytest.raises(InputError, match="identification prompt 3: 1 tokens, and the first one is left out"):
        capture(str(tiny_folder), prompts, tmp_path / "s.zarr", **skipping)
    capture(str(tiny_folder), prompts, tmp_path / "s.zarr", skip_first_token=True)  # after <s>
    assert relact.open_store(tmp_path / "s.zarr").describe()["pool"] == "mean without the first token"
    with pytest.raises(IdentityError, match="skip_first_token"):
        capture(str(tiny_folder), prompts, tmp_path / "s.zarr")
    with pytest.raises(InputError, match="--skip-first-token"):
        CaptureOptions(pool="last", skip_first_token=True)
    CaptureOptions(pool="last", skip_first_token=True, attribution=True)  # of attributions


def test_both_are_options_of_the_command(tiny_folder, prompt_file, tmp_path, command):
    store = tmp_path / "s.zarr"
    code, _, err = command("capture", tiny_folder, prompt_file, store, "--no-bos", "--skip-first-token")
    assert code == 0, err
    record = relact.open_store(store).manifest.capture
    assert (record.special_tokens, record.skip_first_token) == (False, True)
    relact.score(store)
    code, _, err = command("ablate", store, "--k", 4, "--mode", "mean", "--seeds", 1)
    assert code == 0, err
    relact.ablate(store, k=3, seeds=[0], name="zero")
    again = recipe_of(relact.open_store(store), "zero").capture
    assert (again.special_tokens, again.skip_first_token) == (False, True)


def test_values_too_large_for_float16_stop_the_capture_with_their_place(tmp_path, tiny_prompts):
    model = tiny.model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[7] = 1e6
    loaded = loading.LoadedModel(model, tiny.tokenizer(), "loud", None, "f", "t", "float32", "llama")
    with pytest.raises(
        NumericError, match=r"site mlp.up, layer 1: the activation of neuron 7 on prompt 0 .*float32"
    ):
        capture(loaded, tiny_prompts, tmp_path / "s.zarr")
    assert len(capture(loaded, tiny_prompts, tmp_path / "t.zarr", dtype="float32").missing_blocks()) == 0


def test_default_sites_are_what_the_family_has(tmp_path, tiny_prompts):
    """Also in the plan; a site that is named must be there."""
    loaded = loading.load(str(tiny.save(tmp_path / "model", "gpt_neox")))
    plan = forecast(CaptureOptions(), loaded, tiny_prompts)
    store = capture(loaded, tiny_prompts, tmp_path / "s.zarr")
    assert store.manifest.capture.sites == ("mlp.up", "mlp.down")
    assert plan.files == len([file for file in store.path.rglob("*") if file.is_file()])
    with pytest.raises(ModelError, match=r"has no mlp\.gate"):
        capture(loaded, tiny_prompts, tmp_path / "t.zarr", sites="mlp.gate")


def test_a_foreign_folder_or_file_in_the_way_is_left_alone(tiny_folder, tiny_prompts, tmp_path):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(StoreError, match="not a relact store"):
        capture(str(tiny_folder), tiny_prompts, foreign)
    with pytest.raises(StoreError, match="is a file"):
        capture(str(tiny_folder), tiny_prompts, foreign / "cat.jpg" / "s.zarr")
    assert [path.name for path in foreign.iterdir()] == ["cat.jpg"]


def test_a_batch_that_does_not_fit_is_halved(tiny_folder, monkeypatch):
    """A device that holds three rows at a time gives what a large one gives;
    one that holds none says what to do.
    """
    loaded, tokens = loading.load(str(tiny_folder)), mixed_prompts()
    expected = captured(loaded, tokens, "mean", MODULES, batch=400)
    most, forward = 3, loaded.model.model.forward

    def tight(*args, input_ids, **options):
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, input_ids=input_ids, **options)

    monkeypatch.setattr(loaded.model.model, "forward", tight)
    found = captured(loaded, tokens, "mean", MODULES, batch=400)
    for site, values in expected.items():
        np.testing.assert_allclose(found[site], values, atol=1e-5, rtol=1e-4)
    most = 0
    with pytest.raises(
        ModelError, match=r"device cpu: one prompt of \d+ tokens does not fit into its memory\. Capture with"
    ):
        captured(loaded, mixed_prompts()[-6:], "mean", MODULES)

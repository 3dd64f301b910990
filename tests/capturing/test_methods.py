"""Every method of attribution against ten lines of plain transformers, one prompt at a time, and against what
its definition promises.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import deep, sample, tiny, victims

from relact import plan, schema
from relact.capturing.attributing import attribute_batch
from relact.capturing.capture import capture
from relact.capturing.forecast import forecast
from relact.capturing.objectives import Objective
from relact.capturing.options import CaptureOptions
from relact.errors import IdentityError, InputError, ModelError
from relact.models.hooks import visit
from relact.models.loading import LoadedModel, encode
from relact.models.readout import Readout
from relact.packed.store import open_store
from relact.sharing.pack import pack
from relact.store.verify import verify

HIDDEN = "attributions/mlp.hidden"
# family -> (a layer, attention's output in it, down_proj in it, final norm)
PLACES = {
    "llama": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "gemma": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "nemotron": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "olmo": ("model.layers.{}", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "gpt2": ("transformer.h.{}", "attn.c_proj", "mlp.c_proj", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers.{}", "attention.dense", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    "opt": ("model.decoder.layers.{}", "self_attn.out_proj", "fc2", "model.decoder.final_layer_norm"),
    "falcon/multi-query": (
        "transformer.h.{}",
        "self_attention.dense",
        "mlp.dense_4h_to_h",
        "transformer.ln_f",
    ),
}
UNREADABLE = ("gemma2", "gemma3_text", "olmo2", "exaone4", "glm4", "cohere")


def loaded_of(name, **options):
    model = tiny.model(name, **options)
    dtype = str(model.dtype).removeprefix("torch.")
    return LoadedModel(model, tiny.tokenizer(), name, None, "f", "t", dtype, name.partition("/")[0])


def captured(loaded, path, **options):
    """Six prompts of different lengths in batches of several, their hidden units attributed."""
    options = {"sites": "mlp.down", "dtype": "float32", "attribution": True, **options}
    return capture(loaded, victims.prompts(6), path / "s.zarr", **options)


def words_of(loaded, row):
    """Ids [1, tokens] of a prompt and the first token of its answer after it."""
    prompt = victims.prompts(6).query("split == 'identify'").iloc[row]
    ids = loaded.tokenizer(prompt.text, return_tensors="pt")["input_ids"]
    return ids, loaded.tokenizer(prompt.text + " " + prompt.object)["input_ids"][ids.shape[1]]


def last_states(loaded, ids):
    """Plain hooks: by layer (residual before the MLP's part, hidden values) at the last token, and what the
    final norm takes.
    """
    layer, attention, down, norm = PLACES[loaded.id]
    seen, handles = {}, []

    def keep(path, of_input, name):
        def hook(_, args, output=None):
            seen[name] = (args[0] if of_input else output).detach().reshape(ids.shape[1], -1)[-1].clone()

        module = loaded.model.get_submodule(path)
        register = module.register_forward_pre_hook if of_input else module.register_forward_hook
        handles.append(register(hook))

    for number in range(loaded.n_layers):
        at = layer.format(number)
        first = loaded.model.get_submodule(at)
        handles.append(
            first.register_forward_pre_hook(
                lambda _, args, kwargs, number=number: seen.__setitem__(
                    ("in", number), (args[0] if args else kwargs["hidden_states"])[0, -1].clone()
                ),
                with_kwargs=True,
            )
        )
        keep(f"{at}.{attention}", False, ("attention", number))
        keep(f"{at}.{down}", True, ("hidden", number))
    keep(norm, True, "last")
    loaded.model(ids)
    for handle in handles:
        handle.remove()
    layers = range(loaded.n_layers)
    return [
        (seen["in", number] + seen["attention", number], seen["hidden", number]) for number in layers
    ], seen["last"]


def columns_of(loaded, layer):
    """[neurons, width]: what each hidden unit writes."""
    path, _, down, _ = PLACES[loaded.id]
    module = loaded.model.get_submodule(f"{path.format(layer)}.{down}")
    return module.weight if loaded.id == "gpt2" else module.weight.T


def log_p(loaded, states, word):
    """By the model's own norm and head."""
    norm = loaded.model.get_submodule(PLACES[loaded.id][3])
    return loaded.model.get_output_embeddings()(norm(states)).log_softmax(-1)[..., word]


def close(found, expected):
    """To two ten-thousandths of the largest value."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", PLACES)
def test_increase_is_what_norm_and_head_make_of_one_more_column(name, tmp_path):
    loaded = loaded_of(name)
    stored = sample.read(captured(loaded, tmp_path, attribution_method="increase"), HIDDEN)
    for row in range(6):
        ids, word = words_of(loaded, row)
        for layer, (before, hidden) in enumerate(last_states(loaded, ids)[0]):
            with_one = before + hidden[:, None] * columns_of(loaded, layer)
            close(stored[row, layer], log_p(loaded, with_one, word) - log_p(loaded, before, word))


@pytest.mark.parametrize("name", PLACES)
def test_direct_is_the_slope_of_the_logit_beside_the_mean_while_the_scale_stays(name, tmp_path):
    loaded = loaded_of(name)
    stored = sample.read(captured(loaded, tmp_path, attribution_method="direct"), HIDDEN)
    norm, head = loaded.model.get_submodule(PLACES[name][3]), loaded.model.get_output_embeddings()
    centred = "LayerNorm" in type(norm).__name__
    for row in range(6):
        ids, word = words_of(loaded, row)
        layers, last = last_states(loaded, ids)
        for layer, (_, hidden) in enumerate(layers):
            # a state along a column that has the scale of the last
            written = columns_of(loaded, layer)
            apart = written - written.mean(-1, keepdim=True) if centred else written
            own = last - last.mean() if centred else last
            longer = apart * (own.norm() / apart.norm(dim=-1, keepdim=True))
            logits = head(norm(longer)) - head(norm(-longer))  # neither has the shift
            beside = logits[:, word] - logits.mean(dim=-1)
            close(stored[row, layer], hidden * beside / 2 * apart.norm(dim=-1) / own.norm())


@pytest.mark.parametrize("method", schema.OF_LAST)
def test_of_a_contrast_it_is_the_difference_of_two_words(method):
    """Where the words' sum drops out, and the mean of all words."""
    loaded = loaded_of("llama")
    record = CaptureOptions(attribution=True, attribution_method=method).record()
    settings = schema.CaptureRecord((), "mean", "float32", 4, 64, True, record.attribution)
    found = []
    for words in (([70, 71], None), ([80, 90], None), ([70, 71], [80, 90])):
        targets, others = (None if part is None else np.array(part) for part in words)
        objective = Objective(targets, others, np.zeros(2, np.int64))
        rows = encode(loaded, victims.prompts(6).text[:2].tolist())
        arrivals = attribute_batch(loaded, rows, [0, 1], settings, record.attribution, objective)
        found.append(np.stack([values.numpy() for _, _, values in arrivals._values]))
    close(found[2], found[0] - found[1])


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("method", schema.OF_LAST)
def test_families_that_add_up_otherwise_are_refused_before_anything_is_written(name, method, tmp_path):
    with pytest.raises(ModelError, match="Choose another --attribution-method") as told:
        captured(loaded_of(name), tmp_path, attribution_method=method)
    assert "\n" not in str(told.value) and list(tmp_path.iterdir()) == []


def test_a_norm_of_another_kind_is_refused(tmp_path):
    loaded = loaded_of("llama")
    norm = loaded.model.model.norm
    norm.register_forward_hook(lambda _, __, output: output.tanh())
    with pytest.raises(ModelError, match="its final norm is a LlamaRMSNorm, which cannot be read"):
        Readout.of(loaded.model)


def test_bfloat16_is_read_to_its_own_rounding(tmp_path):
    wide = sample.read(captured(loaded_of("llama"), tmp_path, attribution_method="increase"), HIDDEN)
    (tmp_path / "half").mkdir()
    half = loaded_of("llama", dtype=torch.bfloat16)
    found = sample.read(captured(half, tmp_path / "half", attribution_method="increase"), HIDDEN)
    assert np.corrcoef(found.ravel(), wide.ravel())[0, 1] > 0.99


# Integrated gradients


def objective_with(loaded, ids, word, replace, layers=None):
    """Log p of a word where hidden values are replaced."""
    with torch.no_grad(), visit(loaded.model, ["mlp.hidden"], replace, layers=layers):
        return float(loaded.model(ids).logits[0, -1].log_softmax(-1)[word])


def integrated_by_hand(loaded, ids, word, steps, layers, counted):
    """[layer of ``layers``, neuron]: midpoints of the straight line, by plain autograd."""
    intact = {}

    def look(_, layer, values):
        intact[layer] = values.detach().clone()

    with visit(loaded.model, ["mlp.hidden"], look):
        loaded.model(ids)
    sums = 0
    for step in range(steps):
        leaves = {layer: ((step + 0.5) / steps * intact[layer]).requires_grad_() for layer in layers}

        def place(_, layer, values, leaves=leaves):
            return torch.where(counted, leaves[layer], values)

        with torch.enable_grad(), visit(loaded.model, ["mlp.hidden"], place, layers=layers):
            value = loaded.model(ids).logits[0, -1].log_softmax(-1)[word]
            gradients = torch.autograd.grad(value, list(leaves.values()))
        sums = sums + torch.stack([gradient.detach() for gradient in gradients])
    values = torch.stack([intact[layer] for layer in layers])
    return (values * sums / steps)[:, 0].sum(dim=1)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox", "opt", "falcon/multi-query"])
@pytest.mark.parametrize(("path", "pool"), [("site", "sum"), ("site", "last"), ("layer", "last")])
def test_integrated_gradients_are_those_of_plain_autograd(name, path, pool, tmp_path):
    loaded = loaded_of(name)
    options = {"attribution_steps": 3, "attribution_path": path, "attribution_pool": pool}
    stored = sample.read(captured(loaded, tmp_path, batch_tokens=60, **options), HIDDEN)
    for row in range(6):
        ids, word = words_of(loaded, row)
        counted = (torch.arange(ids.shape[1]) >= (ids.shape[1] - 1 if pool == "last" else 0))[None, :, None]
        every = [[0, 1, 2]] if path == "site" else [[0], [1], [2]]
        expected = [integrated_by_hand(loaded, ids, word, 3, layers, counted) for layers in every]
        close(stored[row], torch.cat(expected))


@pytest.mark.parametrize("path", schema.PATHS)
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])  # others compute norms in float32 whatever they are
def test_they_add_up_to_what_the_path_loses(name, path, tmp_path):
    """In float64, and the better the more steps: of all layers together, or of every layer alone."""
    loaded = loaded_of(name, dtype=torch.float64)
    ids, word = words_of(loaded, 4)
    every = [None] if path == "site" else [[0], [1], [2]]
    intact = objective_with(loaded, ids, word, lambda *_: None)
    lost = np.array(
        [intact - objective_with(loaded, ids, word, lambda _, __, v: v * 0, layers) for layers in every]
    )
    apart = []
    for steps in (4, 64):
        (tmp_path / str(steps)).mkdir()
        options = {"attribution_steps": steps, "attribution_path": path}
        of_prompt = sample.read(captured(loaded, tmp_path / str(steps), **options), HIDDEN)[4].sum(axis=1)
        apart.append(np.abs((of_prompt.sum() if path == "site" else of_prompt) - lost).max())
    assert apart[1] < 0.1 * apart[0] and apart[1] < 2e-3 * np.abs(lost).max()


def test_sites_that_projections_share_and_several_sites(tmp_path):
    """A path is one site's, whatever else is attributed."""
    loaded = loaded_of("phi3")
    (tmp_path / "alone").mkdir()
    both = captured(loaded, tmp_path, attribution_sites="mlp.up,attn.v", attribution_steps=2)
    alone = captured(loaded, tmp_path / "alone", attribution_sites="attn.v", attribution_steps=2)
    found, expected = (sample.read(store, "attributions/attn.v") for store in (both, alone))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(sample.read(both, "attributions/mlp.up")).max() > 0


# Stores


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({"attribution_steps": 5}, ("integrated", 5, "site", "sum")),
        ({"attribution_path": "layer", "attribution_pool": "last"}, ("integrated", 20, "layer", "last")),
        ({"attribution_method": "direct"}, ("direct", None, None, "last")),
        ({}, ("gradient", None, None, "sum")),
    ],
)
def test_what_is_recorded_by_name(options, recorded):
    record = CaptureOptions(attribution=True, **options).record().attribution
    assert (record.method, record.steps, record.path, record.pool) == recorded


def test_a_store_is_resumed_verified_packed_and_tells_its_method(tmp_path):
    loaded = loaded_of("llama")
    options = {"attribution_method": "increase", "block": 2}
    store = captured(loaded, tmp_path, **options)
    before = sample.read(store, HIDDEN)
    (store.path / "commits" / "record" / "c.1.0").unlink()
    again = captured(loaded, tmp_path, **options)
    np.testing.assert_allclose(sample.read(again, HIDDEN), before, atol=1e-6)
    assert verify(again.path).ok
    with pytest.raises(IdentityError, match=r"attribution\.method = increase, this run has direct"):
        captured(loaded, tmp_path, **{**options, "attribution_method": "direct"})
    pack(again, tmp_path / "s.zarr.zip", activations=True)
    packed = open_store(tmp_path / "s.zarr.zip").manifest.capture.attribution
    assert packed == again.manifest.capture.attribution and packed.method == "increase"


def test_a_store_that_names_no_method_has_gradients(tmp_path):
    manifest = captured(loaded_of("llama"), tmp_path).manifest
    raw = manifest.to_attributes()
    del raw["capture"]["attribution"]["method"]
    assert schema.Manifest.from_attributes(raw, "here").differences(manifest) == []


def test_activations_beside_them_are_those_without(tmp_path):
    loaded, found = loaded_of("llama"), []
    for method in schema.ATTRIBUTION_METHODS:
        (tmp_path / method).mkdir()
        store = captured(loaded, tmp_path / method, attribution_method=method, sites="all")
        found.append(sample.read(store, "attn.q"))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_passes_of_a_method_and_a_plan_of_each():
    records = [
        CaptureOptions(attribution=True, **options).record().attribution
        for options in (
            {},
            {"attribution_steps": 7, "attribution_sites": "mlp.up,attn.o"},
            {"attribution_path": "layer"},
            {"attribution_method": "direct"},
        )
    ]
    records[1] = schema.AttributionRecord(("mlp.up", "attn.o"), "answer", "sum", "float32", steps=7)
    found = [plan.passes(record, 30) for record in (None, *records)]
    assert found == [(1, 0), (1, 1), (15, 14), (601, 600), (1, 0)]
    loaded = victims.loaded()
    for method in schema.ATTRIBUTION_METHODS:
        options = CaptureOptions(attribution=True, attribution_method=method)
        planned = forecast(options, loaded, victims.prompts(6))
        assert planned.exact and planned.seconds > 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"attribution_method": "shapley"}, "'shapley' is not known"),
        ({"attribution_path": "token"}, "'token' is not known"),
        ({"attribution_steps": 0}, "0 is too small"),
        ({"attribution_method": "direct", "attribution_steps": 3}, "direct goes along no path"),
        ({"attribution_method": "gradient", "attribution_path": "site"}, "gradient goes along no path"),
        ({"attribution_method": "increase", "attribution_sites": "mlp.up"}, r"Give mlp\.hidden"),
        ({"attribution_method": "direct", "attribution_pool": "own"}, "last token"),
        ({"attribution": False, "attribution_steps": 3}, "Add --attribution"),
    ],
)
def test_choices_that_do_not_go_together(options, problem):
    with pytest.raises(InputError, match=problem):
        CaptureOptions(**{"attribution": True, **options})


@deep.only
@pytest.mark.parametrize("options", [{"attribution_steps": 1}, {"attribution_method": "direct"}])
def test_a_capture_stays_below_the_planned_peak(options, tmp_path):
    context = victims.context()
    told = context.Queue()
    taken = {"attribution": True, **options}
    child = context.Process(target=victims.measured, args=(tmp_path / "s.zarr", told, taken, 350))
    child.start()
    child.join(300)
    assert child.exitcode == 0
    planned, own, peak, before = told.get()
    assert peak <= planned and peak - before <= own + 20 * 10**6  # what Python and zarr grow by meanwhile

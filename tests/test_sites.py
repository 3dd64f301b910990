"""The table of families against the models themselves:
every site recomputed by hand from a tiny model's weights.

``HAND`` below is a second, independent account of where things are, written out with plain numbers for the
tiny sizes (hidden 32, 4 heads of 8, 2 key-value heads, 44 MLP neurons): it shares nothing with
relact/sites.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from helpers import shrunk, tiny
from torch import Tensor
from torch.nn import functional as F

from relact import sites
from relact.errors import InputError, ModelError
from relact.models.hooks import visit

# rows of a projection's weight that are the site's neurons, in their order; None: all of them
Rows = Tensor | None
tanh_gelu = partial(F.gelu, approximate="tanh")


def square_relu(x: Tensor) -> Tensor:
    return F.relu(x) ** 2


@dataclass
class Hand:
    """Module paths below a decoder layer, rows of fused weights, and the non-linearity."""

    layers: str
    act: Callable[[Tensor], Tensor] | None
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    gate: str | None = "mlp.gate_proj"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    out: str = "self_attn.o_proj"
    rows: dict[str, Rows] = field(default_factory=dict)


def _spans(q: int, k: int, v: int) -> dict[str, Rows]:
    all_rows = torch.arange(q + k + v)
    return dict(zip(("attn.q", "attn.k", "attn.v"), all_rows.split([q, k, v]), strict=True))


def _per_head() -> dict[str, Rows]:
    table = torch.arange(96).view(4, 3, 8)  # head, q|k|v, unit
    return {f"attn.{letter}": table[:, i].flatten() for i, letter in enumerate("qkv")}


def _falcon(layout: dict[str, Rows]) -> Hand:
    fused = "self_attention.query_key_value"
    return Hand(
        "transformer.h",
        F.gelu,
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
        None,
        fused,
        fused,
        fused,
        "self_attention.dense",
        layout,
    )


def _separate(under: str, out: str, **rest: Any) -> dict[str, Any]:
    return {
        "q": f"{under}.q_proj",
        "k": f"{under}.k_proj",
        "v": f"{under}.v_proj",
        "out": f"{under}.{out}",
        **rest,
    }


def _fused(path: str, out: str, rows: dict[str, Rows], **rest: Any) -> dict[str, Any]:
    return {"q": path, "k": path, "v": path, "out": out, "rows": rows, **rest}


_GATE_UP: dict[str, Rows] = {"mlp.gate": torch.arange(44), "mlp.up": torch.arange(44, 88)}
_GPT_MLP = {"up": "mlp.c_fc", "down": "mlp.c_proj", "gate": None}
_GROUPED = torch.arange(64).view(2, 4, 8)  # key-value head, [q q k v], unit
_GROUPED_ROWS = {
    "attn.q": _GROUPED[:, :2].flatten(),
    "attn.k": _GROUPED[:, 2].flatten(),
    "attn.v": _GROUPED[:, 3].flatten(),
}

HAND: dict[str, Hand] = {
    **{
        name: Hand("model.layers", F.silu)
        for name in (
            "llama",
            "llama/biased",
            "mistral",
            "ministral",
            "ministral3",
            "qwen2",
            "qwen3",
            "stablelm",
            "cohere",
            "cohere2",
            "olmo",
            "olmo/clipped",
            "olmo2",
            "olmo3",
            "smollm3",
            "granite",
            "seed_oss",
            "helium",
            "exaone4",
            "ernie4_5",
            "hunyuan_v1_dense",
        )
    },
    **{name: Hand("model.layers", tanh_gelu) for name in ("gemma", "gemma2", "gemma3_text")},
    "gemma3": Hand("model.language_model.layers", tanh_gelu),
    **{name: Hand("model.layers", square_relu, gate=None) for name in ("nemotron", "arcee")},
    "apertus": Hand("model.layers", None, gate=None),
    "phi": Hand("model.layers", tanh_gelu, "mlp.fc1", "mlp.fc2", None, out="self_attn.dense"),
    "phi3": Hand(
        "model.layers",
        F.silu,
        "mlp.gate_up_proj",
        gate="mlp.gate_up_proj",
        **_fused("self_attn.qkv_proj", "self_attn.o_proj", {**_GATE_UP, **_spans(32, 16, 16)}),
    ),
    **{
        name: Hand("model.layers", F.silu, "mlp.gate_up_proj", gate="mlp.gate_up_proj", rows=_GATE_UP)
        for name in ("glm", "glm4")
    },
    "starcoder2": Hand("model.layers", tanh_gelu, "mlp.c_fc", "mlp.c_proj", None),
    **{
        name: Hand(
            "transformer.h", tanh_gelu, **_GPT_MLP, **_fused("attn.c_attn", "attn.c_proj", _spans(32, 32, 32))
        )
        for name in ("gpt2", "gpt2/default-inner")
    },
    "gpt_bigcode/multi-query": Hand(
        "transformer.h", tanh_gelu, **_GPT_MLP, **_fused("attn.c_attn", "attn.c_proj", _spans(32, 8, 8))
    ),
    "gpt_bigcode/multi-head": Hand(
        "transformer.h", tanh_gelu, **_GPT_MLP, **_fused("attn.c_attn", "attn.c_proj", _per_head())
    ),
    "gpt_neo": Hand("transformer.h", tanh_gelu, **_GPT_MLP, **_separate("attn.attention", "out_proj")),
    "gptj": Hand(
        "transformer.h", tanh_gelu, "mlp.fc_in", "mlp.fc_out", None, **_separate("attn", "out_proj")
    ),
    "gpt_neox": Hand(
        "gpt_neox.layers",
        F.gelu,
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
        None,
        **_fused("attention.query_key_value", "attention.dense", _per_head()),
    ),
    "bloom": Hand(
        "transformer.h",
        tanh_gelu,
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
        None,
        **_fused("self_attention.query_key_value", "self_attention.dense", _per_head()),
    ),
    "falcon/multi-head": _falcon(_per_head()),
    "falcon/multi-query": _falcon(_spans(32, 8, 8)),
    "falcon/grouped": _falcon(_GROUPED_ROWS),
    "opt": Hand("model.decoder.layers", F.relu, "fc1", "fc2", None, **_separate("self_attn", "out_proj")),
    "mpt": Hand(
        "transformer.blocks",
        F.gelu,
        "ffn.up_proj",
        "ffn.down_proj",
        None,
        **_fused("attn.Wqkv", "attn.out_proj", _spans(32, 32, 32)),
    ),
}

NINE = (*(f"mlp.{part}" for part in ("gate", "act", "up", "hidden", "down")), *(f"attn.{x}" for x in "qkvo"))
IDS = torch.randint(3, 250, (2, 6), generator=torch.Generator().manual_seed(1))  # 2 prompts of 6 tokens
LAYER = 1

families = pytest.mark.parametrize("name", tiny.NAMES)


def _sites_of(model: Any) -> tuple[str, ...]:
    return sites.family(model.config).sites


def _weight(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight as [out, in] and bias; GPT-2's Conv1D stores it transposed."""
    turned = isinstance(module, transformers.pytorch_utils.Conv1D)
    return module.weight.T if turned else module.weight, module.bias


def _project(module: Any, x: Tensor, rows: Rows) -> Tensor:
    weight, bias = _weight(module)
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    return F.linear(x, weight, bias)


def _capture(model: Any, names: tuple[str, ...]) -> dict[tuple[str, int], Tensor]:
    seen: dict[tuple[str, int], Tensor] = {}
    with visit(model, names, lambda site, layer, value: seen.update({(site, layer): value.clone()})):
        model(IDS)
    return seen


def _inputs(model: Any, block: Any, paths: list[str]) -> dict[str, Tensor]:
    """Each module's input as [batch, tokens, width], with plain torch hooks."""
    seen: dict[str, Tensor] = {}
    handles = [
        block.get_submodule(path).register_forward_pre_hook(
            lambda _, args, path=path: seen.update({path: args[0].clone().view(*IDS.shape, -1)})
        )
        for path in paths
    ]
    model(IDS)
    for handle in handles:
        handle.remove()
    return seen


def _by_hand(model: Any, name: str, block: Any) -> dict[str, Tensor]:
    hand = HAND[name]
    x = _inputs(model, block, [hand.up, hand.q, hand.k, hand.v, hand.out])
    part = block.get_submodule
    values = {
        "mlp.up": _project(part(hand.up), x[hand.up], hand.rows.get("mlp.up")),
        "attn.q": _project(part(hand.q), x[hand.q], hand.rows.get("attn.q")),
        "attn.k": _project(part(hand.k), x[hand.k], hand.rows.get("attn.k")),
        "attn.v": _project(part(hand.v), x[hand.v], hand.rows.get("attn.v")),
        "attn.o": _project(part(hand.out), x[hand.out], None),
    }
    act = hand.act or part("mlp.act_fn")  # Apertus learns its non-linearity
    if hand.gate is None:
        values["mlp.act"] = values["mlp.hidden"] = act(values["mlp.up"])
    else:
        values["mlp.gate"] = _project(part(hand.gate), x[hand.up], hand.rows.get("mlp.gate"))
        values["mlp.act"] = act(values["mlp.gate"])
        values["mlp.hidden"] = values["mlp.act"] * values["mlp.up"]
    values["mlp.down"] = _project(part(hand.down), values["mlp.hidden"], None)
    return values


@families
def test_every_site_equals_the_weights_times_the_input(name: str) -> None:
    model = tiny.model(name)
    names = _sites_of(model)
    assert set(names) == set(NINE) - ({"mlp.gate"} if HAND[name].gate is None else set())
    seen = _capture(model, names)
    blocks = model.get_submodule(HAND[name].layers)
    assert sites.n_layers(model.config) == len(blocks) == tiny.LAYERS
    for layer, block in enumerate(blocks):
        for site, expected in _by_hand(model, name, block).items():
            assert seen[site, layer].shape == (*IDS.shape, sites.widths(model.config)[site])
            torch.testing.assert_close(
                seen[site, layer], expected, rtol=1e-4, atol=2e-4, msg=f"{name} {site} {layer}"
            )


def _without(model: Any, name: str, site: str, neuron: int) -> Any:
    """A copy of the model in which one neuron is 0 because its weights are, not because of a hook."""
    hand, copy = HAND[name], deepcopy(model)
    block = copy.get_submodule(hand.layers)[LAYER]
    paths = {
        "mlp.gate": hand.gate,
        "mlp.up": hand.up,
        "mlp.down": hand.down,
        "attn.q": hand.q,
        "attn.k": hand.k,
        "attn.v": hand.v,
        "attn.o": hand.out,
    }
    with torch.no_grad():
        if site in ("mlp.act", "mlp.hidden"):  # what it feeds: a column of the down projection
            _weight(block.get_submodule(hand.down))[0][:, neuron] = 0
        else:
            rows = hand.rows.get(site)
            row = neuron if rows is None else int(rows[neuron])
            weight, bias = _weight(block.get_submodule(paths[site]))
            weight[row] = 0
            if bias is not None:
                bias[row] = 0
    return copy


@families
def test_a_replaced_neuron_equals_a_neuron_without_weights(name: str) -> None:
    model = tiny.model(name)
    intact = model(IDS).logits
    for site in _sites_of(model):
        neuron = sites.widths(model.config)[site] - 3  # in the last head, not at its edge

        def off(_: str, __: int, value: Tensor, neuron: int = neuron) -> Tensor:
            value = value.clone()
            value[..., neuron] = 0
            return value

        with visit(model, [site], off, layers=[LAYER]):
            switched_off = model(IDS).logits
        expected = _without(model, name, site, neuron)(IDS).logits
        torch.testing.assert_close(switched_off, expected, rtol=1e-3, atol=1e-3, msg=f"{name} {site}")
        assert (switched_off - intact).abs().max() > 1e-5, f"{name} {site} had no effect"
        assert torch.equal(model(IDS).logits, intact), f"{name} {site} is not undone"


@families
def test_queries_keys_and_values_are_what_they_are_called(name: str) -> None:
    """Zero queries and zero keys both flatten attention, so they agree; zero values leave attn.o its bias."""
    model = tiny.model(name)

    def zero(site: str) -> Tensor:
        with visit(model, [site], lambda *a: torch.zeros_like(a[2]), layers=[LAYER]):
            logits: Tensor = model(IDS).logits
        return logits

    torch.testing.assert_close(zero("attn.q"), zero("attn.k"), rtol=1e-3, atol=1e-3)
    outputs: list[Tensor] = []
    with (
        visit(model, ["attn.v"], lambda *a: torch.zeros_like(a[2]), layers=[LAYER]),
        visit(model, ["attn.o"], lambda *a: outputs.append(a[2].clone()), layers=[LAYER]),
    ):
        model(IDS)
    bias = model.get_submodule(HAND[name].layers)[LAYER].get_submodule(HAND[name].out).bias
    expected = torch.zeros_like(outputs[0]) if bias is None else bias.expand_as(outputs[0])
    torch.testing.assert_close(outputs[0], expected)


def test_every_row_of_the_table_is_tested() -> None:
    """By hand here, or as all types of the installed transformers, in tests/models/test_families.py."""
    by_hand = {name.partition("/")[0] for name in tiny.NAMES}
    installed = {*shrunk.TYPES, *shrunk.WRAPPERS} & set(sites.KNOWN)
    inner = {sites.text_config(shrunk.config(name)).model_type for name in installed}
    assert set(sites.KNOWN) == by_hand | installed | (inner & set(sites.KNOWN))
    assert set(HAND) == set(tiny.NAMES)


@pytest.mark.parametrize(
    ("hidden", "inner", "layers", "heads", "mlp", "everything"),
    [
        (4096, 11008, 32, 32, 835_584, 1_359_872),  # Llama-2-7B
        (5120, 13824, 40, 40, 1_310_720, 2_129_920),  # Llama-2-13B
    ],
)
def test_neuron_counts_of_the_published_models(
    hidden: int, inner: int, layers: int, heads: int, mlp: int, everything: int
) -> None:
    config = transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads
    )
    assert (sites.count(config, "mlp"), sites.count(config, "all")) == (mlp, everything)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mlp", ("mlp.gate", "mlp.up", "mlp.down")),
        ("attn", ("attn.q", "attn.k", "attn.v", "attn.o")),
        ("all", ("mlp.gate", "mlp.up", "mlp.down", "attn.q", "attn.k", "attn.v", "attn.o")),
        (" attn.q , mlp.act,attn.q", ("mlp.act", "attn.q")),
        (["mlp.down", "mlp"], ("mlp.gate", "mlp.up", "mlp.down")),
        (sites.SITES[::-1], sites.SITES),
    ],
)
def test_expand(given: Any, expected: tuple[str, ...]) -> None:
    assert sites.expand(given) == expected


@pytest.mark.parametrize("given", ["mlp.gat", ["mlp", "mlp.gat"], "", []])
def test_expand_refuses(given: Any) -> None:
    with pytest.raises(InputError, match=r"mlp\.hidden"):
        sites.expand(given)


def test_an_alias_leaves_out_what_a_family_lacks_and_a_name_does_not() -> None:
    config = tiny.config("gpt2")
    assert sites.resolve(config, "mlp") == ("mlp.up", "mlp.down")
    with pytest.raises(ModelError, match=r"no mlp\.gate.*mlp\.act"):
        sites.resolve(config, ["mlp.gate", "attn"])


@pytest.mark.parametrize(
    ("kind", "like"), [("llama4", "llama"), ("gpt", "gpt2"), ("lama", "llama"), ("xllama", "llama")]
)
def test_families_are_matched_exactly_and_unknown_ones_are_told_their_like(kind: str, like: str) -> None:
    with pytest.raises(ModelError, match=rf"family {kind}: .*docs/models\.md lists; its like .* {like}\b"):
        sites.family(SimpleNamespace(model_type=kind))
    with pytest.raises(ModelError, match=r"without model_type: .*docs/models\.md lists\. "):
        sites.family(SimpleNamespace(model_type=None))


@pytest.mark.parametrize(
    ("kind", "changes", "experts", "layers"),
    [
        ("mixtral", {"num_local_experts": 5}, 5, (0, 1, 2, 3)),
        ("qwen3_moe", {"num_experts": 6, "decoder_sparse_step": 2}, 6, (1, 3)),
        ("qwen2_moe", {"num_experts": 6, "mlp_only_layers": [0, 2]}, 6, (1, 3)),
        ("deepseek_v3", {"n_routed_experts": 8, "first_k_dense_replace": 3}, 8, (3,)),
        ("gpt_oss", {"num_local_experts": 4}, 4, (0, 1, 2, 3)),
    ],
)
def test_neurons_of_experts_are_expert_by_expert_in_the_layers_that_have_some(
    kind: str, changes: dict[str, Any], experts: int, layers: tuple[int, ...]
) -> None:
    config = transformers.AutoConfig.for_model(kind, num_hidden_layers=4, **changes)
    places = sites.places(config)
    units = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    for site in ("mlp.gate", "mlp.up", "mlp.act", "mlp.hidden"):
        place = places[site]
        assert (place.width, place.experts, place.layers) == (experts * units, experts, layers)
    for site in ("moe.router", "moe.weight"):
        assert (places[site].width, places[site].layers) == (experts, layers)
    dense = places["dense.hidden"].layers if "dense.hidden" in places else ()
    assert set(dense) == set(range(4)) - set(layers)
    assert {site for site in places if places[site].layers == (0, 1, 2, 3)} >= {"attn.q", "attn.o"}


def test_aliases_leave_out_what_is_as_wide_as_all_experts_together() -> None:
    config = transformers.AutoConfig.for_model("deepseek_v3", num_hidden_layers=4)
    chosen = sites.resolve(config, "mlp")
    assert "mlp.gate" not in chosen
    assert {"mlp.down", "moe.router", "moe.weight", "dense.gate", "shared.up"} <= set(chosen)
    assert sites.resolve(config, "mlp.gate,attn")[0] == "mlp.gate"


def test_a_family_without_experts_whose_configuration_asks_for_some_is_refused() -> None:
    with pytest.raises(ModelError, match="8 experts"):
        sites.family(transformers.LlamaConfig(num_experts=8))


def test_the_table_is_data_only() -> None:
    code = (
        "import sys, relact.sites; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

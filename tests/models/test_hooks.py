"""visit(): what a callback may do, what leaving the block undoes,
and the ways a model can escape its hooks.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import Tensor
from torch.nn import functional as F

from relact import sites
from relact.errors import InputError, ModelError
from relact.models.hooks import visit

IDS = torch.randint(3, 250, (2, 6), generator=torch.Generator().manual_seed(1))  # 2 prompts of 6 tokens


def _nothing(site: str, layer: int, value: Tensor) -> None:
    pass


def _zero(site: str, layer: int, value: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.fixture
def llama() -> Any:
    return tiny.model("llama")


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3", "opt", "gemma3"])
def test_reading_changes_nothing_and_fires_once_per_site_layer_and_forward(name: str) -> None:
    model = tiny.model(name)
    names = sites.family(model.config).sites
    intact = model(IDS).logits
    fired: Counter[tuple[str, int]] = Counter()
    with visit(model, names, lambda site, layer, _: fired.update([(site, layer)])) as state:
        assert torch.equal(model(IDS).logits, intact)
        assert torch.equal(model(IDS).logits, intact)
    assert state.forwards == 2
    assert fired == {(site, layer): 2 for site in names for layer in range(tiny.LAYERS)}
    assert _hooks(model) == 0


def test_a_replacement_by_the_same_values_is_bit_identical() -> None:
    for name in ("llama", "gpt_neox", "falcon/grouped", "phi3", "opt"):
        model = tiny.model(name)
        intact = model(IDS).logits
        with visit(model, sites.family(model.config).sites, lambda s, n, value: value.clone()):
            assert torch.equal(model(IDS).logits, intact), name


def test_the_base_model_alone_is_enough(llama: Any) -> None:
    seen: list[Tensor] = []
    with visit(llama, "mlp.down", lambda s, n, value: seen.append(value.clone())) as state:
        llama.model(IDS)  # a part of the model it was given
    with visit(llama.model, "mlp.down", lambda s, n, value: seen.append(value.clone())):
        llama.model(IDS)  # given the part
    assert state.forwards == 1
    assert torch.equal(torch.stack(seen[: tiny.LAYERS]), torch.stack(seen[tiny.LAYERS :]))


def test_generation_with_a_cache_is_several_forwards(llama: Any) -> None:
    tokens: list[int] = []
    with visit(llama, "mlp.act", lambda s, n, value: tokens.append(value.shape[1]), layers=[0]) as state:
        llama.generate(IDS, max_new_tokens=3, do_sample=False)
    assert tokens == [6, 1, 1]
    assert state.forwards == 3


def test_only_the_layers_asked_for(llama: Any) -> None:
    seen: list[int] = []
    with visit(llama, "attn.v", lambda s, layer, v: seen.append(layer), layers=[2, 0, 2]):
        llama(IDS)
    assert seen == [0, 2]
    for wrong in (tiny.LAYERS, -1):
        with (
            pytest.raises(ModelError, match=f"no layer {wrong}.*0 to 2"),
            visit(llama, "mlp", _nothing, layers=[wrong]),
        ):
            pass


def test_hooks_go_away_after_an_exception_anywhere(llama: Any) -> None:
    intact = llama(IDS).logits

    def fails(site: str, layer: int, value: Tensor) -> Tensor:
        if layer == 1:
            raise KeyboardInterrupt
        return torch.zeros_like(value)

    with pytest.raises(KeyboardInterrupt), visit(llama, "all", fails):
        llama(IDS)
    assert _hooks(llama) == 0
    with pytest.raises(RuntimeError, match="mine"), visit(llama, "all", _zero):
        llama(IDS)
        raise RuntimeError("mine")
    assert _hooks(llama) == 0
    assert torch.equal(llama(IDS).logits, intact)


def test_a_forward_that_was_cut_short_does_not_spoil_the_next(llama: Any) -> None:
    cut = [True]

    def once(site: str, layer: int, value: Tensor) -> None:
        if cut and layer == 1:
            cut.clear()
            raise StopIteration("cut")

    with visit(llama, "mlp", once) as state:
        with pytest.raises(StopIteration, match="cut"):
            llama(IDS)
        llama(IDS)
    assert state.forwards == 1


def test_nothing_stays_when_entering_fails(llama: Any) -> None:
    del llama.model.layers[2].mlp.up_proj
    with (
        pytest.raises(ModelError, match=r"model\.layers\.2: no module mlp\.up_proj"),
        visit(llama, "all", _nothing),
    ):
        pass
    assert _hooks(llama) == 0


def test_replacements_are_cast_to_the_values_dtype() -> None:
    model = tiny.model("llama", dtype=torch.bfloat16)
    dtypes: list[torch.dtype] = []
    with (
        visit(model, "mlp.up", lambda s, n, value: value.double() * 0 + 1 / 3),
        visit(model, "mlp.up", lambda s, n, value: dtypes.append(value.dtype)),
    ):
        model(IDS)
    assert set(dtypes) == {torch.bfloat16}


def test_a_replacement_of_another_shape_is_refused(llama: Any) -> None:
    shapes = r"replacement of shape \[2, 6, 1\] for \[2, 6, 16\]"
    with (
        pytest.raises(ModelError, match=rf"attn\.k in layer 0: {shapes}"),
        visit(llama, "attn.k", lambda s, n, value: value[..., :1]),
    ):
        llama(IDS)


def test_nested_visits_run_in_order(llama: Any) -> None:
    """Capture inside an ablation sees the ablated values, at the site itself and downstream of it."""
    seen: dict[str, Tensor] = {}
    with (
        visit(llama, "mlp.act", _zero),
        visit(
            llama,
            ["mlp.act", "mlp.hidden", "mlp.down"],
            lambda site, n, value: seen.update({site: value.clone()}),
        ),
    ):
        llama(IDS)
    assert {site: float(value.abs().max()) for site, value in seen.items()} == {
        "mlp.act": 0,
        "mlp.hidden": 0,
        "mlp.down": 0,
    }


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "falcon/grouped", "phi3"])
def test_parts_of_a_fused_projection_are_replaced_together_and_apart(name: str) -> None:
    model = tiny.model(name)
    parts = ["attn.q", "attn.k", "attn.v"]
    values = {"attn.q": 1.0, "attn.k": 2.0, "attn.v": 3.0}

    def read(**replaced: float) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        chosen = {key.replace("_", "."): value for key, value in replaced.items()}
        with (
            visit(
                model,
                parts,
                lambda s, n, v: torch.full_like(v, chosen[s]) if s in chosen else None,
                layers=[0],
            ),
            visit(model, parts, lambda s, n, v: seen.update({s: v.clone()}), layers=[0]),
        ):
            model(IDS)
        return seen

    intact, all_three, one = read(), read(attn_q=1, attn_k=2, attn_v=3), read(attn_k=2)
    for site, value in values.items():
        assert torch.equal(all_three[site], torch.full_like(intact[site], value))
        assert torch.equal(one[site], torch.full_like(intact[site], 2) if site == "attn.k" else intact[site])


def test_flattened_batches_come_back_as_three_dimensions() -> None:
    model = tiny.model("opt")
    shapes: list[torch.Size] = []
    embedded = model.get_input_embeddings()(IDS)
    with visit(model, "mlp.act,mlp.up,mlp.down", lambda s, n, value: shapes.append(value.shape)):
        model(input_ids=IDS)
        model(inputs_embeds=embedded)
        model.model(IDS)
    assert {tuple(shape[:2]) for shape in shapes} == {(2, 6)}


def test_a_module_that_is_bypassed_is_noticed(llama: Any) -> None:
    layer = llama.model.layers[1].mlp
    layer.forward = lambda x: layer.down_proj(F.silu(layer.gate_proj(x)) * F.linear(x, layer.up_proj.weight))
    with visit(llama, "mlp.gate,mlp.down", _nothing):
        llama(IDS)  # these are still called
    with (
        pytest.raises(ModelError, match=r"mlp\.up in layer 1: hook fired 0 times"),
        visit(llama, "mlp.up", _nothing),
    ):
        llama(IDS)


def test_a_module_shared_between_layers_is_noticed(llama: Any) -> None:
    llama.model.layers[2].mlp.act_fn = llama.model.layers[0].mlp.act_fn
    with (
        pytest.raises(ModelError, match=r"mlp\.act in layer 0: hook fired 2 times"),
        visit(llama, "mlp.act", _nothing),
    ):
        llama(IDS)


def test_a_width_other_than_the_configurations_is_noticed(llama: Any) -> None:
    llama.config.intermediate_size = 45
    with pytest.raises(ModelError, match=r"mlp\.up in layer 0: width 44 where the configuration says 45"):  # noqa: SIM117
        with visit(llama, "mlp.up", _nothing):
            llama(IDS)


def test_unknown_names_and_models_are_refused_before_anything_is_hooked(llama: Any) -> None:
    with pytest.raises(InputError, match=r"mlp\.gat"), visit(llama, "mlp.gat", _nothing):
        pass
    with pytest.raises(ModelError, match="without model_type"), visit(llama.model.layers[0], "mlp", _nothing):
        pass
    with pytest.raises(ModelError, match=r"no mlp\.gate"), visit(tiny.model("gpt2"), "mlp.gate", _nothing):
        pass
    llama.model.layers = torch.nn.Identity()
    with (
        pytest.raises(ModelError, match=r"no list of decoder layers at model\.layers"),
        visit(llama, "mlp", _nothing),
    ):
        pass


def test_compiled_models_are_refused(llama: Any) -> None:
    with pytest.raises(ModelError, match="compiled"), visit(torch.compile(llama), "mlp", _nothing):
        pass
    llama.model.layers[1].compile()
    with pytest.raises(ModelError, match="compiled"), visit(llama, "mlp", _nothing):
        pass

"""Experts against their own weights: every mixture of the installed transformers, tiny and random.

What is expected is computed by hand from the modules' parameters, densely: all experts of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from helpers import deep, mixtures
from helpers.mixtures import IDS
from torch import Tensor, nn
from transformers.integrations import moe

from relact import sites
from relact.capturing.pooling import counted, pools
from relact.errors import ModelError
from relact.models import experts
from relact.models.experts import ACT, BETWEEN, GATE, HIDDEN, UP, WEIGHT, tapped
from relact.models.hooks import find_layers, visit
from relact.models.routed import Routed

SOME = ("olmoe", "gpt_oss", "nemotron_h", "aria_text", "deepseek_v4")
every = pytest.mark.parametrize("name", deep.rest(mixtures.NAMES, SOME))
some = pytest.mark.parametrize("name", SOME)


@cache
def built(name: str) -> Any:
    return mixtures.model(name)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


class Seen:
    """Whatever is served, the last of it by (module, site); and what the modules take and give."""

    def __init__(self, model: Any) -> None:
        self.modules = list(mixtures.experts_of(model).values())
        self.values: dict[tuple[int, str], Any] = {}
        self.calls: dict[int, tuple[Tensor, Tensor]] = {}
        handles = [module.register_forward_hook(self._called) for module in self.modules]
        with tapped(self.modules, BETWEEN, self._serve, lambda: len(IDS)):
            self.logits = logits(model)
        for handle in handles:
            handle.remove()

    def _serve(self, module: Any, site: str, values: Any) -> None:
        assert (id(module), site) not in self.values, "served twice in one pass"
        self.values[id(module), site] = values

    def _called(self, module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        self.calls[id(module)] = args[0], output


@cache
def seen(name: str) -> Seen:
    return Seen(built(name))


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def by_input(module: Any, weight: Tensor) -> Tensor:
    """[experts, in, out]."""
    return weight if module.is_transposed else weight.transpose(1, 2)


@every
def test_logits_are_the_models_own_to_the_bit(name: str) -> None:
    assert mixtures.experts_of(built(name)), "no experts in this model"
    assert torch.equal(seen(name).logits, logits(built(name)))


@every
def test_first_product_is_that_of_plain_weights(name: str) -> None:
    for module in seen(name).modules:
        states, _ = seen(name).calls[id(module)]
        first = "gate_up_proj" if module.has_gate else "up_proj"
        every_expert = torch.einsum("th,ehi->tei", states, by_input(module, getattr(module, first)))
        if module.has_bias:
            every_expert = every_expert + getattr(module, f"{first}_bias")
        expected = dict(
            zip((GATE, UP) if module.has_gate else (UP,), halves(module, every_expert), strict=True)
        )
        for site, whole in expected.items():
            values: Routed = seen(name).values[id(module), site]
            close(values.raw, whole[values.tokens, values.experts])


def halves(module: Any, both: Tensor) -> tuple[Tensor, ...]:
    if not module.has_gate:
        return (both,)
    if type(module).__name__ == "GptOssExperts":
        return both[..., 0::2], both[..., 1::2]
    half = both.shape[-1] // 2
    return both[..., :half], both[..., half:]


@every
def test_what_is_written_is_down_proj_of_hidden(name: str) -> None:
    for module in seen(name).modules:
        hidden, weight = (seen(name).values[id(module), site] for site in (HIDDEN, WEIGHT))
        written = hidden.dense().flatten(0, 1) @ by_input(module, module.down_proj).flatten(0, 1)
        if module.has_bias:
            written = written + weight @ module.down_proj_bias
        close(seen(name).calls[id(module)][1], written)


@every
def test_hidden_is_what_gate_act_and_up_make(name: str) -> None:
    for module in seen(name).modules:
        act, up, hidden = (seen(name).values[id(module), site] for site in (ACT, UP, HIDDEN))
        if not module.has_gate:
            close(hidden.raw, act.raw)
        elif type(module).__name__ == "GptOssExperts":
            close(hidden.raw, act.raw * (up.raw.clamp(-7, 7) + 1))
        elif type(module)._apply_gate is moe._default_apply_gate:
            gate = seen(name).values[id(module), GATE]
            close(act.raw, module.act_fn(gate.raw))
            close(hidden.raw, act.raw * up.raw)


@every
def test_a_token_has_weights_of_its_experts_alone(name: str) -> None:
    for module in seen(name).modules:
        hidden, weight = (seen(name).values[id(module), site] for site in (HIDDEN, WEIGHT))
        chosen = torch.zeros_like(weight, dtype=torch.bool)
        chosen[hidden.tokens, hidden.experts] = True
        assert (weight[~chosen] == 0).all()
        assert torch.equal(hidden.weight, weight[hidden.tokens, hidden.experts])


@every
def test_zeroing_a_unit_is_zeroing_its_column(name: str) -> None:
    model = built(name)
    module = list(mixtures.experts_of(model).values())[-1]
    hidden: Routed = seen(name).values[id(module), HIDDEN]
    expert, unit = int(hidden.experts[0]), 3
    neuron = torch.tensor([expert * hidden.units + unit])

    def zero(served: Any, site: str, values: Routed) -> Routed | None:
        return values.set(1, torch.tensor([0]), neuron, torch.zeros(1), None) if served is module else None

    with tapped([module], {HIDDEN}, zero, lambda: len(IDS)):
        off = logits(model)
    kept = module.down_proj.clone()
    with torch.no_grad():
        by_input(module, module.down_proj)[expert, unit] = 0
        expected = logits(model)
        module.down_proj.copy_(kept)
    assert torch.equal(off, expected)
    assert not torch.equal(off, logits(model))


@some
@pytest.mark.parametrize("site", [UP, ACT])
def test_zeroing_up_or_act_is_zeroing_hidden_or_not(name: str, site: str) -> None:
    """Where the gate function is f(gate) x up, either is the hidden unit; where it adds 1 to up, act is."""
    model = built(name)
    module = list(mixtures.experts_of(model).values())[-1]
    values: Routed = seen(name).values[id(module), HIDDEN]
    neuron = torch.tensor([int(values.experts[0]) * values.units + 3])

    def off(where: str) -> Tensor:
        def zero(_: Any, __: str, shown: Routed) -> Routed:
            return shown.set(1, torch.tensor([0]), neuron, torch.zeros(1), None)

        with tapped([module], {where}, zero, lambda: len(IDS)):
            return logits(model)

    same = name != "gpt_oss" or site == ACT
    assert torch.allclose(off(site), off(HIDDEN), rtol=1e-4, atol=1e-4) == same


@some
def test_a_value_is_set_at_every_token_routed_or_not(name: str) -> None:
    """The neuron writes value x column everywhere: as for the neurons of a dense MLP."""
    model = built(name)
    module = list(mixtures.experts_of(model).values())[-1]
    hidden: Routed = seen(name).values[id(module), HIDDEN]
    neurons, rows, values = (
        torch.tensor([3, hidden.units + 1]),
        torch.tensor([0, 1]),
        torch.tensor([2.0, -1.0]),
    )
    outputs = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))

    def put(_: Any, __: str, shown: Routed) -> Routed:
        return shown.set(2, rows, neurons, values, torch.tensor([0, 4]))

    with tapped([module], {HIDDEN}, put, lambda: len(IDS)):
        logits(model)
    handle.remove()
    dense = hidden.dense()  # [2 prompts, 6 tokens, neurons]
    for row, neuron, value in zip(rows, neurons, values, strict=True):
        dense[row, [0, 4], neuron] = value
    expected = dense.flatten(0, 1) @ by_input(module, module.down_proj).flatten(0, 1)
    if module.has_bias:
        expected = expected + seen(name).values[id(module), WEIGHT] @ module.down_proj_bias
    close(outputs[0], expected)


@some
def test_an_expert_without_weight_writes_nothing(name: str) -> None:
    model = built(name)
    module = list(mixtures.experts_of(model).values())[-1]
    hidden: Routed = seen(name).values[id(module), HIDDEN]
    expert = int(hidden.experts[0])

    def off(_: Any, __: str, weights: Tensor) -> Tensor:
        weights[:, expert] = 0
        return weights

    with tapped([module], {WEIGHT}, off):
        without = logits(model)
    kept = {key: value.clone() for key, value in module.named_parameters() if key.startswith("down_proj")}
    with torch.no_grad():
        for key in kept:
            getattr(module, key)[expert] = 0
        expected = logits(model)
        for key, value in kept.items():
            getattr(module, key).copy_(value)
    assert torch.allclose(without, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(without, logits(model), rtol=1e-3, atol=1e-3)


def test_an_expert_that_is_not_chosen_gets_no_weight() -> None:
    model = built("olmoe")
    with (
        pytest.raises(ModelError, match="not chosen"),
        tapped(seen("olmoe").modules, {WEIGHT}, lambda _, __, weights: torch.ones_like(weights)),
    ):
        logits(model)


@some
def test_general_replacement_equals_what_it_replaces(name: str) -> None:
    """Values put in as they are, with the router's weight in them, give the same output."""
    model = built(name)

    def again(_: Any, __: str, shown: Routed) -> Routed:
        return shown.of(shown.values.clone())

    with tapped(seen(name).modules, {HIDDEN}, again, lambda: len(IDS)):
        found = logits(model)
    assert torch.allclose(found, logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_undoes_everything(fails: bool) -> None:
    model = built("olmoe")
    modules, before = seen("olmoe").modules, list(moe.ALL_EXPERTS_FUNCTIONS)

    def serve(*_: Any) -> None:
        if fails:
            raise KeyError("of a callback")

    outer = tapped(modules, {HIDDEN}, lambda *_: None)
    with outer:
        try:
            with tapped(modules[:1], {GATE}, serve):
                logits(model)
        except KeyError:
            assert fails
        assert model.config._experts_implementation == experts.NAME  # the outer one goes on
    assert model.config._experts_implementation == experts.PLAIN
    assert list(moe.ALL_EXPERTS_FUNCTIONS) == before
    assert not experts._VISITORS


def test_other_implementations_are_refused() -> None:
    model = mixtures.model("olmoe")
    model.set_experts_implementation("eager")
    with (
        pytest.raises(ModelError, match="eager"),
        tapped(list(mixtures.experts_of(model).values()), {HIDDEN}, print),
    ):
        pass


def test_what_are_no_experts_is_refused() -> None:
    with (
        pytest.raises(ModelError, match="not as transformers keeps them"),
        tapped([nn.Linear(2, 2)], {UP}, print),
    ):
        pass


def test_a_norm_after_the_experts_is_refused() -> None:
    module = next(iter(mixtures.experts_of(mixtures.model("olmoe")).values()))
    module.has_post_expert_norm = True
    with pytest.raises(ModelError, match="norm"), tapped([module], {HIDDEN}, print):
        pass


# --- as sites of the table

REFUSED = ("gemma4", "gemma4_text")  # with experts: they stand beside an MLP, which the table does not know
KNOWN = [name for name in mixtures.NAMES if name in sites.KNOWN and name not in REFUSED]


@pytest.mark.parametrize("name", deep.rest(KNOWN, [name for name in SOME if name in KNOWN]))
def test_sites_of_experts_are_read_in_their_layers(name: str) -> None:
    """Each once, as wide as the configuration says; `mlp.down` is down_proj of `mlp.hidden`."""
    model = built(name)
    places, found = sites.places(model.config), dict[tuple[str, int], Any]()
    routed = [site for site, place in places.items() if place.experts]
    assert {WEIGHT, UP, ACT, HIDDEN} <= set(routed)

    def see(site: str, layer: int, values: Any) -> None:
        found[site, layer] = values

    with visit(model, list(places), see):
        assert torch.equal(logits(model), logits_alone(name))
    assert sorted(found) == sorted((site, layer) for site, place in places.items() for layer in place.layers)
    _, blocks = find_layers(model)
    for layer in places[HIDDEN].layers:
        module = blocks[layer].get_submodule(places[HIDDEN].taps[layer].module)
        written = found[HIDDEN, layer].dense() @ by_input(module, module.down_proj).flatten(0, 1)
        if module.has_bias:
            written = written + found[WEIGHT, layer] @ module.down_proj_bias
        close(found["mlp.down", layer], written)
        chosen = found["moe.router", layer].shape[-1]
        assert chosen == places["moe.router"].width


@cache
def logits_alone(name: str) -> Tensor:
    return logits(built(name))


# --- pools


@pytest.fixture(params=[GATE, HIDDEN])
def pooled(request: Any) -> Iterator[tuple[Routed, Tensor, Tensor]]:
    """Values, the same densely, and a mask of real tokens."""
    module = seen("olmoe").modules[0]
    values: Routed = seen("olmoe").values[id(module), request.param]
    mask = torch.ones(values.shape, dtype=torch.bool)
    mask[0, 4:] = False
    yield values, values.dense(), mask


def test_pools_are_those_of_every_token(pooled: tuple[Routed, Tensor, Tensor]) -> None:
    values, dense, mask = pooled
    real = dense.masked_fill(~mask[..., None], 0)
    assert torch.allclose(values.total(mask), real.sum(dim=1), rtol=1e-5, atol=1e-6)
    assert torch.equal(values.positive(mask), (real > 0).float().sum(dim=1))
    assert torch.equal(values.largest(mask), dense.masked_fill(~mask[..., None], -torch.inf).amax(dim=1))
    assert torch.allclose(values.last(mask), dense[[0, 1], [3, 5]])


def test_pools_without_the_first_token_are_those_of_the_others(pooled: tuple[Routed, Tensor, Tensor]) -> None:
    values, dense, mask = pooled
    kept = counted(mask, 1)
    rest = [dense[row, 1:][mask[row, 1:]].float() for row in range(len(mask))]
    for name, expected in (
        ("mean", [of.sum(dim=0) for of in rest]),
        ("max", [of.amax(dim=0) for of in rest]),
        ("last", [of[-1] for of in rest]),
        ("positive", [(of > 0).float().sum(dim=0) for of in rest]),
    ):
        for given in (values, dense):
            torch.testing.assert_close(pools(name).start(given, kept), torch.stack(expected))


def test_padding_is_not_pooled_even_where_it_is_no_number(pooled: tuple[Routed, Tensor, Tensor]) -> None:
    values, dense, mask = pooled
    padding = ~mask.reshape(-1)[values.tokens]
    spoiled = values.of(values.values.masked_fill(padding[:, None], torch.nan))
    real = dense.masked_fill(~mask[..., None], 0)
    assert torch.allclose(spoiled.total(mask), real.sum(dim=1), rtol=1e-5, atol=1e-6)


def test_nothing_as_large_as_all_experts_of_all_tokens_is_made() -> None:
    """The largest tensor of a pool is [prompts, neurons], or [rows, units]."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            sizes = [
                x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if hasattr(x, "numel")
            ]
            largest = max([largest, *sizes])
            return out

    tokens, n_experts, units = 50, 64, 16
    rows = torch.arange(2 * tokens * 2)
    values = Routed(torch.randn(len(rows), units), rows % n_experts, rows // 2, (2, tokens), n_experts)
    mask = torch.ones(2, tokens, dtype=torch.bool)
    with Watch():
        for pool in (values.total, values.positive, values.largest, values.last):
            pool(mask)
    assert largest <= max(2 * values.width, len(rows) * units) < 2 * tokens * values.width

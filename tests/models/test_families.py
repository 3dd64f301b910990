"""Every type of model that the table knows, against its own weights: tiny random models of all of them.

What is overridden must be what its weights make of it: a neuron set to 0 is a neuron whose row of weights
(or, of what a projection takes, whose column) is 0. tests/test_sites.py recomputes usual families by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import deep, shrunk
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from relact import sites
from relact.models.hooks import find_layers, visit
from relact.sites import INPUT, Tap

IDS = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(1))
TYPES = [kind for kind in (*shrunk.TYPES, *shrunk.WRAPPERS) if kind in sites.KNOWN]
types = pytest.mark.parametrize("kind", deep.rest(TYPES, deep.TYPES))


def _places(model: Any) -> dict[str, sites.Place]:
    """Sites that hooks on modules see."""
    return {site: place for site, place in sites.places(model.config).items() if not place.experts}


def _logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


@types
def test_every_site_is_read_once_in_its_layers_and_nothing_changes(kind: str) -> None:
    model = shrunk.model(kind)
    places, intact, seen = _places(model), _logits(model), list[tuple[str, int]]()
    assert places

    def see(site: str, layer: int, values: Tensor) -> None:
        assert values.shape == (*IDS.shape, places[site].width)
        seen.append((site, layer))

    with visit(model, list(places), see):
        assert torch.equal(_logits(model), intact)
    assert sorted(seen) == sorted((site, layer) for site in places for layer in places[site].layers)
    assert {layer for _, layer in seen} == set(range(sites.n_layers(model.config)))


@types
def test_a_neuron_that_is_0_is_one_whose_weights_are(kind: str) -> None:
    model = shrunk.model(kind)
    intact = _logits(model)
    _, blocks = find_layers(model)
    for site, place in _places(model).items():
        for layer in {place.layers[0], place.layers[-1]}:
            tap, neuron = place.taps[layer], place.width - 3
            module = blocks[layer].get_submodule(tap.module)
            linear = getattr(module, "linear", module)
            if tap.item is not None or not isinstance(linear, nn.Linear | Conv1D):
                continue  # a router picks, a non-linearity has no weights
            with visit(model, [site], _zero(neuron), layers=[layer]):
                off = _logits(model)
            with _without(linear, tap, _row(model.config, site, tap, neuron)):
                expected = _logits(model)
            torch.testing.assert_close(off, expected, rtol=1e-3, atol=1e-3, msg=f"{site} {layer}")
            assert not torch.equal(off, intact) or site.startswith("attn.k"), f"{site} {layer} has no effect"
    assert torch.equal(_logits(model), intact)


def _zero(neuron: int) -> Any:
    def off(_: str, __: int, values: Tensor) -> Tensor:
        values = values.clone()
        values[..., neuron] = 0
        return values

    return off


def _row(config: Any, site: str, tap: Tap, neuron: int) -> int:
    """The row of a projection that computes a neuron of a site, from the layout that the table says."""
    if not tap.fused:
        return neuron
    places = sites.places(config)
    total = sum(places[name].width for name in tap.fused)
    part = sites.part(config, site, tap)
    assert part is not None
    return int(torch.arange(total).view(part.groups, -1)[:, part.start : part.stop].flatten()[neuron])


@contextmanager
def _without(module: nn.Module, tap: Tap, row: int) -> Iterator[None]:
    """Inside the block the row (of an input: the column) of a projection is 0, and its bias."""
    weight: Any = module.weight.T if isinstance(module, Conv1D) else module.weight
    bias: Any = module.bias
    kept, kept_bias = weight.clone(), None if bias is None else bias.clone()
    with torch.no_grad():
        if tap.side == INPUT:
            weight[:, row] = 0
        else:
            weight[row] = 0
            if bias is not None:
                bias[row] = 0
    yield
    with torch.no_grad():
        weight.copy_(kept)
        if bias is not None:
            bias.copy_(kept_bias)


@types
def test_values_are_what_attention_puts_out(kind: str) -> None:
    """Without values attention has nothing to put out but its bias, whatever queries and keys say."""
    model = shrunk.model(kind)
    places, outputs = _places(model), list[Tensor]()
    _, blocks = find_layers(model)
    for group in ("attn", "global"):
        if f"{group}.v" not in places or f"{group}.q" not in places:
            continue
        layer = places[f"{group}.v"].layers[0]
        outputs.clear()
        with (
            visit(model, [f"{group}.v"], lambda *seen: torch.zeros_like(seen[2]), layers=[layer]),
            visit(model, [f"{group}.o"], lambda *seen: outputs.append(seen[2].clone()), layers=[layer]),
        ):
            _logits(model)
        out = blocks[layer].get_submodule(places[f"{group}.o"].taps[layer].module)
        bias = getattr(getattr(out, "linear", out), "bias", None)
        expected = torch.zeros_like(outputs[0]) if bias is None else bias.expand_as(outputs[0])
        torch.testing.assert_close(outputs[0], expected)

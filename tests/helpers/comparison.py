"""One type of model held to its own weights, to plain hooks and to transformers' ``generate``.

    comparison.of("mixtral")   # a row of docs/models.md; AssertionError where something differs

A tiny random model is built once for all of it. What is overridden must be what its weights make of it: a
neuron set to 0 is a neuron whose row of weights (or, of what a projection takes, whose column) is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers import shrunk
from relact import sites
from relact.ablating.conditions import INTACT_MODEL, Condition
from relact.ablating.decode import Questions, decode
from relact.capturing.options import CaptureOptions
from relact.capturing.passes import capture_rows
from relact.models import selfcheck
from relact.models.hooks import find_layers, visit
from relact.models.loading import LoadedModel
from relact.models.routed import whole
from relact.sites import EXPERTS, INPUT, Tap

IDS = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(1))
SAID = 3  # tokens of every answer
KINDS = [kind for kind in (*shrunk.TYPES, *shrunk.WRAPPERS) if kind in sites.KNOWN]


class Model:
    """A tiny model of a type, where its sites are, and what it computes with nothing overridden."""

    def __init__(self, kind: str) -> None:
        self.kind, self.model = kind, shrunk.model(kind)
        self.places = sites.places(self.model.config)
        self.blocks = find_layers(self.model)[1]
        shortcuts = selfcheck.check(self.model, range(5, 60), None)
        about = (kind, None, "", "", "float32", kind)
        self.loaded = LoadedModel(self.model, Words(), *about, shortcuts=shortcuts)
        self.intact = self.logits()

    def logits(self) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.model(input_ids=IDS, use_cache=False).logits
        return found

    def module(self, tap: Tap, layer: int) -> Any:
        return self.blocks[layer].get_submodule(tap.module)

    def columns(self, site: str, tap: Tap) -> Tensor:
        """Of a module's output those of a site, from the layout that the table says."""
        total = sum(self.places[name].width for name in tap.fused or (site,))
        part = sites.part(self.model.config, site, tap)
        every = torch.arange(total)
        return every if part is None else every.view(part.groups, -1)[:, part.start : part.stop].flatten()


class Words:
    """A tokenizer whose words are the numbers of tokens."""

    pad_token_id = eos_token_id = None

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def of(kind: str) -> str:
    """The type's row of docs/models.md, after everything was compared."""
    with torch.no_grad():
        tiny = Model(kind)
        for compare in (reading, overriding, values, experts, batches, answers):
            compare(tiny)
            assert torch.equal(tiny.logits(), tiny.intact), f"{compare.__name__} is not undone"
    return f"| `{kind}` | {_groups(tiny)} | {_left_out(tiny.loaded.shortcuts)} |"


def _groups(tiny: Model) -> str:
    """Groups of sites, and those of them that not every layer has."""
    groups = dict[str, set[int]]()
    for site, place in tiny.places.items():
        groups.setdefault(site.partition(".")[0], set()).update(place.layers)
    return ", ".join(
        f"{group}{'' if len(layers) == len(tiny.blocks) else ' (some layers)'}"
        for group, layers in groups.items()
    )


def _left_out(found: selfcheck.Shortcuts) -> str:
    left = {"padding": found.padded, "shared prefixes": found.split, "caches": found.stepped}
    return ", ".join(name for name, holds in left.items() if not holds)


def reading(tiny: Model) -> None:
    """Every site is read once in its layers, as wide as its row says, and nothing changes."""
    seen = list[tuple[str, int]]()

    def see(site: str, layer: int, values: Any) -> None:
        assert whole(values).shape == (*IDS.shape, tiny.places[site].width), f"{site} {layer}"
        seen.append((site, layer))

    with visit(tiny.model, list(tiny.places), see):
        assert torch.equal(tiny.logits(), tiny.intact)
    assert sorted(seen) == sorted((site, layer) for site, at in tiny.places.items() for layer in at.layers)
    assert {layer for _, layer in seen} == set(range(len(tiny.blocks)))


def overriding(tiny: Model) -> None:
    """In the first and the last of its layers a neuron that is 0 is one whose weights are."""
    for site, place in tiny.places.items():
        for layer in {place.layers[0], place.layers[-1]}:
            tap, neuron = place.taps[layer], place.width - 3
            module = tiny.module(tap, layer)
            linear = getattr(module, "linear", module)
            if tap.item is not None or not isinstance(linear, nn.Linear | Conv1D):
                continue  # a router picks, a non-linearity has no weights
            with visit(tiny.model, [site], _zero(neuron), layers=[layer]):
                off = tiny.logits()
            with _without(linear, tap, int(tiny.columns(site, tap)[neuron])):
                expected = tiny.logits()
            torch.testing.assert_close(off, expected, rtol=1e-3, atol=1e-3, msg=f"{site} {layer}")
            assert not torch.equal(off, tiny.intact) or site.startswith("attn.k"), (
                f"{site} {layer}: no effect"
            )


def _zero(neuron: int) -> Callable[[str, int, Tensor], Tensor]:
    def off(_: str, __: int, values: Tensor) -> Tensor:
        values = values.clone()
        values[..., neuron] = 0
        return values

    return off


@contextmanager
def _without(module: nn.Module, tap: Tap, row: int) -> Iterator[None]:
    """Inside the block the row (of an input: the column) of a projection is 0, and its bias."""
    weight: Any = module.weight.T if isinstance(module, Conv1D) else module.weight
    bias: Any = module.bias
    kept, kept_bias = weight.clone(), None if bias is None else bias.clone()
    if tap.side == INPUT:
        weight[:, row] = 0
    else:
        weight[row] = 0
        if bias is not None:
            bias[row] = 0
    yield
    weight.copy_(kept)
    if bias is not None:
        bias.copy_(kept_bias)


def values(tiny: Model) -> None:
    """Without values attention has nothing to put out but its bias, whatever queries and keys say."""
    for group in ("attn", "global"):
        if f"{group}.v" not in tiny.places or f"{group}.q" not in tiny.places:
            continue
        layer, outputs = tiny.places[f"{group}.v"].layers[0], list[Tensor]()
        with (
            visit(tiny.model, [f"{group}.v"], lambda *seen: torch.zeros_like(seen[2]), layers=[layer]),
            visit(tiny.model, [f"{group}.o"], _kept(outputs), layers=[layer]),
        ):
            tiny.logits()
        out = tiny.module(tiny.places[f"{group}.o"].taps[layer], layer)
        bias = getattr(getattr(out, "linear", out), "bias", None)
        expected = torch.zeros_like(outputs[0]) if bias is None else bias.expand_as(outputs[0])
        torch.testing.assert_close(outputs[0], expected)


def _kept(found: list[Tensor]) -> Callable[[str, int, Tensor], None]:
    return lambda _, __, values: found.append(values.clone())


def experts(tiny: Model) -> None:
    """A unit of an expert that is 0 is one whose column of ``down_proj`` is, to the bit."""
    if not (place := tiny.places.get("mlp.hidden")) or not place.experts:
        return
    layer = place.layers[-1]
    neurons = torch.arange(0, place.width, 3)  # of every expert some

    def zero(_: str, __: int, served: Any) -> Any:
        return served.set(1, torch.zeros_like(neurons), neurons, torch.zeros(len(neurons)), None)

    with visit(tiny.model, ["mlp.hidden"], zero, layers=[layer]):
        off = tiny.logits()
    with _without_units(tiny.module(place.taps[layer], layer), neurons):
        assert torch.equal(off, tiny.logits())
    assert not torch.equal(off, tiny.intact)


@contextmanager
def _without_units(module: Any, neurons: Tensor) -> Iterator[None]:
    """Inside the block these neurons of all experts write nothing."""
    kept = module.down_proj.clone()
    down = module.down_proj if module.is_transposed else module.down_proj.transpose(1, 2)
    down[neurons // down.shape[1], neurons % down.shape[1]] = 0
    yield
    module.down_proj.copy_(kept)


def batches(tiny: Model) -> None:
    """What is captured of prompts that run together is what each has alone: padded, and after a shared prefix
    where the self-check lets them.
    """
    rows = _rows([1, 2, 3, 4, 5, 5, 7], shared=24) + _rows([3, 8], shared=0)
    found: dict[tuple[int, str, int], Tensor] = {}

    class Taker:
        def put(self, stream: str, layer: int, places: np.ndarray, values: np.ndarray) -> None:
            for place, value in zip(places.tolist(), values, strict=True):
                found[place, stream, layer] = torch.from_numpy(value.copy())

    names = ",".join(tiny.places)
    settings = CaptureOptions(sites=names, dtype="float32", block=64).record(tiny.model.config)
    assert sum(capture_rows(tiny.loaded, rows, Taker(), settings)) == len(rows)
    for number, row in enumerate(rows):
        alone: dict[tuple[str, int], Tensor] = {}

        def keep(site: str, layer: int, values: Any, alone: dict[Any, Tensor] = alone) -> None:
            alone[site, layer] = whole(values)[0].mean(dim=0)

        with visit(tiny.model, list(tiny.places), keep):
            tiny.model(input_ids=torch.tensor([row]), use_cache=False)
        for (site, layer), expected in alone.items():
            apart = (found[number, site, layer] - expected).norm()
            assert apart <= 1e-3 * expected.norm() + 1e-6, f"{site} {layer} of prompt {number}"


def _rows(lengths: Sequence[int], shared: int) -> list[list[int]]:
    """Prompts of that many tokens each after as many shared ones."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randint(3, 250, (shared,), generator=generator).tolist()
    return [[*start, *torch.randint(3, 250, (n,), generator=generator).tolist()] for n in lengths]


def answers(tiny: Model) -> None:
    """What is said is what transformers generates: intact, and with a third of some sites' neurons at 0."""
    prompts, conditions = _rows([3, 1], shared=6), [INTACT_MODEL]
    for parts in ((".hidden", ".o"), (".q", ".k", ".v")):
        off = {
            site: np.array([(layer, neuron) for layer in at.layers for neuron in range(0, at.width, 3)])
            for site, at in tiny.places.items()
            if site.endswith(parts)
        }
        conditions.append(Condition("off", off))
    said = np.full((len(conditions), len(prompts)), None, object)

    def finished(conditions: Sequence[int], which: Sequence[int], replies: Any) -> None:
        said[np.ix_(conditions, which)] = replies.texts

    nobody = np.full(len(prompts), -1)
    asked = Questions(prompts, nobody, nobody, lambda _, __, n_tokens: n_tokens < SAID)
    decode(tiny.loaded, asked, conditions, finished)
    expected = []
    for condition in conditions:
        with ExitStack() as stack:
            for site, places in condition.off.items():
                for layer, tap in tiny.places[site].taps.items():
                    neurons = torch.from_numpy(places[places[:, 0] == layer, 1])
                    columns = neurons if tap.side == EXPERTS else tiny.columns(site, tap)[neurons]
                    stack.enter_context(_silenced(tiny.module(tap, layer), tap, columns))
            expected.append(_generated(tiny.model, prompts))
    assert said.tolist() == expected
    assert expected[0] != expected[1], "overriding has no effect"


def _generated(model: Any, prompts: Sequence[Sequence[int]]) -> list[str]:
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
        out = model.generate(ids, max_new_tokens=SAID, **how)
        found.append(" ".join(map(str, out[0, len(prompt) :].tolist())))
    return found


@contextmanager
def _silenced(module: Any, tap: Tap, neurons: Tensor) -> Iterator[None]:
    """Inside the block neurons are 0: by a plain hook, or of experts by their weights."""
    if tap.side == EXPERTS:
        with _without_units(module, neurons):
            yield
        return

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].index_fill(-1, neurons, 0), *args[1:])

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return output.index_fill(-1, neurons, 0)

    with_hook = (
        module.register_forward_pre_hook(before) if tap.side == INPUT else module.register_forward_hook(after)
    )
    yield
    with_hook.remove()

"""Ablation matrices per second: relact, plain ``generate`` under forward hooks, nnsight and TransformerLens,
equal verdicts and log-probabilities.

Run ``python benchmarks/bench_ablate.py`` (tens of minutes) or ``--quick`` (a minute); ``--reading`` measures
only what reading on, graded effects and controls per relation cost. The matrix is that of ``make demo``:
every starter relation's neurons, the intact model and ten random controls with a set for every relation, each
with every test prompt, few-shot and zero-shot. The straightforward way runs one condition and one prompt at a
time by ``model.generate`` until the verdict is decided, hooks that zero the neurons. Its cost is the same for
every condition, so it and the other tools run a few of them and are scaled to the whole matrix; relact runs
it whole. Neurons are random, as many per layer as a top-400 mask has on average: speed does not depend on
which ones. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from transformers import StoppingCriteria

from relact.ablating.answers import Exam, generate
from relact.ablating.conditions import INTACT_MODEL, Condition, asked_on
from relact.ablating.decode import Questions
from relact.ablating.result import judged
from relact.models import loading
from relact.models.targets import distractors, first_tokens
from relact.relations import prompts, sources
from relact.relations.verdict import decide, is_open, most_tokens

MODULES = {"mlp.gate": "gate_proj", "mlp.up": "up_proj", "mlp.down": "down_proj"}
Said = tuple[list[list[str]], list[list[float]]]  # texts and log-probabilities, both [condition][prompt]
CLOSE = 1e-4  # nats that log-probabilities may differ by


class Former(Exam):
    """The same prompts as relact 0.1 asked them: two tokens at most, and no log-probability."""

    def questions(self) -> Questions:
        def undecided(prompt: int, text: str, n_tokens: int) -> bool:
            return n_tokens < 2 and decide(text, self.answers[prompt]) is not False

        nothing = np.full(len(self.tokens), -1)
        return Questions(self.tokens, nothing, nothing, undecided)


def matrix(
    loaded: loading.LoadedModel, relations: Sequence[str], controls: int, k: int, *, former: bool = False
) -> list[Condition]:
    """``intact``, one condition per relation, and the controls: ``k`` random neurons of all MLP sites each.

    A control has a set for the prompts of every relation; the ``former`` ones had one for all.
    """
    shapes = {site: (loaded.n_layers, loaded.widths[site]) for site in MODULES}
    total = sum(layers * width for layers, width in shapes.values())
    asked = [(name, None) for name in relations]
    asked += [
        (f"random-{number}", name) for number in range(controls) for name in ([None] if former else relations)
    ]
    found = [INTACT_MODEL]
    for seed, (name, relation) in enumerate(asked):
        flat = np.zeros(total, bool)
        flat[np.random.default_rng(seed).choice(total, k, replace=False)] = True
        parts = np.split(flat, np.cumsum([layers * width for layers, width in shapes.values()])[:-1])
        off = {site: part.reshape(shapes[site]) for site, part in zip(shapes, parts, strict=True)}
        found.append(Condition.of(name, off, asked=relation))
    return found


@contextmanager
def hooked(model: torch.nn.Module, condition: Condition):
    """Zero a condition's neurons with one plain forward hook per module."""
    handles = []
    for site in condition.off:
        for layer, block in enumerate(model.model.layers):
            neurons = torch.from_numpy(condition.entries(site, layer)[0])

            def zero(module, inputs, output, neurons=neurons):
                output[..., neurons] = 0

            handles.append(getattr(block.mlp, MODULES[site]).register_forward_hook(zero))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Decided(StoppingCriteria):
    """Ends a generation after ``start`` tokens where the verdict is decided."""

    def __init__(self, loaded: loading.LoadedModel, answers: Sequence[str], start: int) -> None:
        self.loaded, self.answers, self.start = loaded, answers, start

    def __call__(self, ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        text = self.loaded.tokenizer.decode(ids[0, self.start :], skip_special_tokens=True)
        return torch.tensor([not is_open(text, self.answers)])


def straightforward(
    loaded: loading.LoadedModel, exam: Exam, rows: Sequence[int], conditions: Sequence[Condition]
) -> Said:
    texts, certain = [], []
    for condition in conditions:
        with hooked(loaded.model, condition), torch.inference_mode():
            found = [_greedy(loaded, exam, row) for row in rows]
        texts.append([text for text, _ in found])
        certain.append([value for _, value in found])
    return texts, certain


def _greedy(loaded: loading.LoadedModel, exam: Exam, row: int) -> tuple[str, float]:
    ids = torch.tensor([exam.tokens[row]])
    start, accepted = ids.shape[1], exam.answers[row]
    out = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=most_tokens(accepted),
        do_sample=False,
        pad_token_id=loaded.pad_id,
        stopping_criteria=[Decided(loaded, accepted, start)],
        output_logits=True,
        return_dict_in_generate=True,
    )
    text = loaded.tokenizer.decode(out.sequences[0, start:], skip_special_tokens=True)
    return text, float(out.logits[0][0].float().log_softmax(-1)[exam.targets[row]])


def with_nnsight(
    loaded: loading.LoadedModel, exam: Exam, rows: Sequence[int], conditions: Sequence[Condition]
) -> Said | None:
    """The same by nnsight's traces: a prompt and a condition at a time, a trace per token."""
    try:
        from nnsight import LanguageModel
    except ImportError:
        return None
    wrapped = LanguageModel(copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer)

    def logits_of(condition: Condition, ids: list[int]) -> torch.Tensor:
        neurons = _neurons(loaded, condition)
        with torch.inference_mode(), wrapped.trace(torch.tensor([ids])):
            for layer in range(loaded.n_layers):  # in the order in which the modules run
                for site, name in MODULES.items():
                    if (site, layer) in neurons:
                        module = getattr(wrapped.model.layers[layer].mlp, name)
                        module.output[..., neurons[site, layer]] = 0
            logits = wrapped.lm_head.output[0, -1].save()
        return logits

    return _token_by_token(loaded, exam, rows, conditions, logits_of)


def with_transformer_lens(
    loaded: loading.LoadedModel, exam: Exam, rows: Sequence[int], conditions: Sequence[Condition]
) -> Said | None:
    """The same by TransformerLens' run_with_hooks, without its weight processing:
    a prompt and a condition at a time.
    """
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        return None
    bridge = TransformerBridge.boot_transformers(
        loaded.id, hf_model=copy.deepcopy(loaded.model), tokenizer=loaded.tokenizer, device="cpu"
    )
    points = {"mlp.gate": "mlp.gate.hook_out", "mlp.up": "mlp.in.hook_out", "mlp.down": "mlp.out.hook_out"}

    def logits_of(condition: Condition, ids: list[int]) -> torch.Tensor:
        def zero(value, hook, neurons):
            value[..., neurons] = 0
            return value

        hooks = [
            (f"blocks.{layer}.{points[site]}", partial(zero, neurons=neurons))
            for (site, layer), neurons in _neurons(loaded, condition).items()
        ]
        with torch.inference_mode():
            return bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0, -1]

    return _token_by_token(loaded, exam, rows, conditions, logits_of)


def _neurons(loaded: loading.LoadedModel, condition: Condition) -> dict[tuple[str, int], list[int]]:
    places = {
        (site, layer): condition.entries(site, layer)[0].tolist()
        for site in condition.off
        for layer in range(loaded.n_layers)
    }
    return {place: neurons for place, neurons in places.items() if neurons}


def _token_by_token(
    loaded: loading.LoadedModel,
    exam: Exam,
    rows: Sequence[int],
    conditions: Sequence[Condition],
    logits_of: Callable[[Condition, list[int]], torch.Tensor],
) -> Said:
    texts: list[list[str]] = []
    certain: list[list[float]] = []
    for condition in conditions:
        texts.append([])
        certain.append([])
        for row in rows:
            ids, said, text = list(exam.tokens[row]), 0, ""
            while said == 0 or (said < most_tokens(exam.answers[row]) and is_open(text, exam.answers[row])):
                logits = logits_of(condition, ids)
                if said == 0:
                    certain[-1].append(float(logits.float().log_softmax(-1)[exam.targets[row]]))
                ids.append(int(logits.argmax()))
                said += 1
                text = loaded.tokenizer.decode(ids[-said:], skip_special_tokens=True)
                if ids[-1] == loaded.model.generation_config.eos_token_id:
                    break
            texts[-1].append(text)
    return texts, certain


def timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def hook_cost(
    loaded: loading.LoadedModel, exam: Exam, conditions: Sequence[Condition], wanted: np.ndarray
) -> list[tuple[float, float]]:
    """Seconds of every forward pass of an evaluation with its overrides, and of the same pass without them.

    Both run in direct succession, in turn first, so that they meet the same state of the machine. In the
    second kind conditions join their batch as they would, but no site is visited: all of them are the intact
    model.
    """
    from relact.ablating import apart, overrides, packs
    from relact.models import hooks

    passes: list[tuple[float, float]] = []
    overridden, advance = overrides.Chunk.overridden, packs.advance
    ways: list[Callable] = []

    @contextmanager
    def bare(chunk, joining):
        _, blocks = hooks.find_layers(chunk.model)
        with ExitStack() as stack:
            for layer, count in chunk.joining.items() if joining else ():
                stack.enter_context(overrides._grown(blocks[layer], count, hooks.Visit()))
            yield

    @contextmanager
    def remembered(self, *, joining, ends=None):
        ways[:] = [lambda: overridden(self, joining=joining, ends=ends), lambda: bare(self, joining)]
        yield
        ways.clear()

    def both(*args, cache=None, **options):
        if not ways:
            return advance(*args, cache=cache, **options)
        copies, seconds, found = [copy.deepcopy(cache), cache], [0.0, 0.0], [None, None]
        for way in (0, 1) if len(passes) % 2 else (1, 0):
            start = time.perf_counter()
            with ways[way]():
                found[way] = advance(*args, cache=copies[way], **options)
            seconds[way] = time.perf_counter() - start
        passes.append((seconds[0], seconds[1]))
        return found[0]

    with (
        mock.patch.object(overrides.Chunk, "overridden", remembered),
        mock.patch.object(packs, "advance", both),
        mock.patch.object(apart, "advance", both),
        mock.patch.object(overrides, "advance", both),
    ):
        generate(loaded, exam, conditions, wanted=wanted)
    return passes


def exam_of(loaded: loading.LoadedModel, tests: pd.DataFrame, kind: type[Exam] = Exam) -> Exam:
    columns = (tests[name].tolist() for name in ("text", "object", "language"))
    targets = first_tokens(loaded, *columns)
    others = distractors(loaded, tests, targets, list(zip(tests["relation"], tests["object"], strict=True)))
    rows = loading.encode(loaded, tests["text"].tolist())
    return kind(rows, tests["answers"].tolist(), targets, others)


def reading_cost(
    loaded: loading.LoadedModel, table: pd.DataFrame, controls: int, k: int, rounds: int
) -> tuple[float, float]:
    """Seconds of the matrix as it is and as relact 0.1 made it, in turn, the best of each."""
    tests = table[table["split"] == "test"].reset_index(drop=True)
    relations, relation_of = list(dict.fromkeys(tests["relation"])), tests["relation"].to_numpy()
    best = [float("inf"), float("inf")]
    for number in range(2 * rounds):
        way = number % 2
        exam = exam_of(loaded, tests, Former if way else Exam)
        conditions = matrix(loaded, relations, controls, k, former=bool(way))
        wanted = asked_on(conditions, relation_of)
        seconds, _ = timed(partial(generate, loaded, exam, conditions, wanted=wanted))
        best[way] = min(best[way], seconds)
    return best[0], best[1]


def equality(loaded: loading.LoadedModel, table: pd.DataFrame, few: int) -> None:
    """Print how many verdicts of the intact model and ``few`` relations' sets differ from ``generate``, and
    how far log-probabilities are from those of its first logits.
    """
    tests = table[table["split"] == "test"].reset_index(drop=True)
    exam, relations = exam_of(loaded, tests), list(dict.fromkeys(tests["relation"]))
    conditions = matrix(loaded, relations, 0, 400)[: 1 + few]
    replies = generate(loaded, exam, conditions)
    texts, certain = straightforward(loaded, exam, range(len(exam.tokens)), conditions)
    ours, theirs = (judged(said, exam.answers, "prefix") for said in (replies.texts, np.array(texts, object)))
    farthest = np.abs(np.array(certain) - replies.log_probability).max()
    print(
        f"{int((ours != theirs).sum())} of {ours.size} verdicts differ from `generate`, "
        f"log-probabilities by {farthest:.1e} nats at most"
    )
    assert farthest <= CLOSE and (ours == theirs).all()


def measure(
    loaded: loading.LoadedModel,
    table: pd.DataFrame,
    controls: int,
    few: int,
    fewer: int,
    slow_prompts: int,
) -> dict[str, object]:
    """Seconds for the whole matrix by every contender, and how many verdicts and numbers differ."""
    tests = table[table["split"] == "test"].reset_index(drop=True)
    relations, relation_of = list(dict.fromkeys(tests["relation"])), tests["relation"].to_numpy()
    conditions = matrix(loaded, relations, controls, 400)
    wanted, exam = asked_on(conditions, relation_of), exam_of(loaded, tests)
    ours, replies = timed(lambda: generate(loaded, exam, conditions, wanted=wanted))
    for_all = [at for at, condition in enumerate(conditions) if condition.asked is None]
    verdicts = judged(replies.texts[for_all], exam.answers, "prefix")
    certain = replies.log_probability[for_all]
    result: dict[str, object] = {
        "prompts": len(exam.tokens),
        "tokens_per_prompt": float(np.mean([len(row) for row in exam.tokens])),
        "conditions": 1 + len(relations) + controls,
        "accuracy_intact": float(verdicts[0].mean()),
        "relact_s": ours,
    }
    every = np.arange(len(exam.tokens))
    some = every[:: max(1, len(every) // slow_prompts)]
    at = np.unique(np.linspace(0, len(for_all) - 1, few).astype(int))
    contenders: list[tuple[str, Callable, np.ndarray, np.ndarray]] = [
        ("generate", straightforward, at, every),
        ("nnsight", with_nnsight, at[:fewer], some),
        ("transformer_lens", with_transformer_lens, at[:fewer], some),
    ]
    for name, run, which, asked in contenders:
        seconds, found = timed(
            lambda run=run, which=which, asked=asked: run(
                loaded, exam, asked, [conditions[for_all[one]] for one in which]
            )
        )
        if found is None:
            result[f"{name}_s"] = None
            continue
        theirs = judged(np.array(found[0], object), [exam.answers[row] for row in asked], "prefix")
        there = np.ix_(which, asked)
        result[f"{name}_s"] = seconds * int(wanted.sum()) / theirs.size
        result[f"{name}_measured"] = theirs.size
        result[f"{name}_other_verdicts"] = int((theirs != verdicts[there]).sum())
        result[f"{name}_farthest"] = float(np.abs(np.array(found[1]) - certain[there]).max())
        result[f"{name}_over_relact"] = result[f"{name}_s"] / ours
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 relations, 4 prompts of each, a control")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument(
        "--baseline", type=int, default=3, help="conditions that the straightforward way runs"
    )
    parser.add_argument("--hooks", action="store_true", help="only what overriding costs")
    parser.add_argument("--equal", type=int, metavar="N", help="only compare with N relations' sets")
    parser.add_argument("--reading", action="store_true", help="only what is new since 0.1 costs")
    options = parser.parse_args()
    loaded = loading.load("smollm2")
    relations = sources.load("starter")
    size, controls, few, slow = (50, 10, options.baseline, 40) if not options.quick else (4, 1, 2, 2)
    relations = relations[:2] if options.quick else relations
    few_shot = prompts.prompts(relations, shots=5, test_size=size, per_relation=2)
    results: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    if options.equal:
        return equality(loaded, few_shot, options.equal)
    rounds = 1 if options.quick else 2
    now, before = results["reading"] = reading_cost(loaded, few_shot, controls, 400, rounds)
    print(
        f"few-shot matrix: {now:.1f} s; {before:.1f} s with two tokens at most, one random set for all "
        f"relations and verdicts alone: {now / before:.2f} times that"
    )
    for name, shots in () if options.hooks or options.reading else (("few-shot", 5), ("zero-shot", 0)):
        table = prompts.prompts(relations, shots=shots, test_size=size, per_relation=2)
        found = measure(loaded, table, controls, few, 2, slow)
        results[name] = found
        print(
            f"{name}: {found['conditions']} conditions x {found['prompts']} prompts "
            f"of {found['tokens_per_prompt']:.0f} tokens"
        )
        print(f"  relact             {found['relact_s']:8.1f} s")
        for peer in ("generate", "nnsight", "transformer_lens"):
            if found[f"{peer}_s"] is None:
                print(f"  {peer:<18} not installed")
                continue
            print(
                f"  {peer:<18} {found[f'{peer}_s']:8.1f} s, "
                f"{found[f'{peer}_over_relact']:.1f} times relact's; {found[f'{peer}_other_verdicts']} "
                f"of {found[f'{peer}_measured']} verdicts differ (measured on those), "
                f"log-probabilities by {found[f'{peer}_farthest']:.1e} at most"
            )
            assert found[f"{peer}_farthest"] <= CLOSE, "log-probabilities differ"
            assert found[f"{peer}_other_verdicts"] <= found[f"{peer}_measured"] // 1000, "verdicts differ"
    tests = few_shot[few_shot["split"] == "test"].reset_index(drop=True)
    names = [relation.name for relation in relations]
    conditions = matrix(loaded, names, controls, 400)
    wanted = asked_on(conditions, tests["relation"].to_numpy())
    costs = () if options.reading else hook_cost(loaded, exam_of(loaded, tests), conditions, wanted)
    if not costs:
        return
    results["hook_cost"] = costs
    own, bare = (sum(seconds) for seconds in zip(*costs, strict=True))
    middle = np.median([one / other - 1 for one, other in costs])
    print(
        f"overriding adds {100 * (own / bare - 1):.1f}% to {bare:.0f} s of {len(costs)} forward passes, "
        f"{100 * middle:.1f}% to the median one"
    )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Do shuffled labels separate anything? Sets of neurons that belong to nothing, through the whole of it.

Run ``python benchmarks/bench_evidence.py`` (minutes) or ``--quick``. The labels of the identification
prompts are shuffled, neurons are scored and selected by them, ablated beside matched random sets on a tiny
random model, and `relact.evidence` is asked what separates. The model answers half of the test prompts, and
any set of neurons breaks some of them, so that there is something to be fooled by. Printed is the share of
shuffles in which any relation separates, which may be the level of the tests (0.05) at most.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
import xarray as xr
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as token_models

import relact
from relact import kernels, schema
from relact.ablating import prepare
from relact.ablating.answers import Exam, generate
from relact.ablating.conditions import Replacements, asked_on, of_sets
from relact.ablating.controls import Drawing
from relact.ablating.options import AblateOptions
from relact.ablating.result import judged
from relact.models import loading
from relact.scoring.selection import choose

RELATIONS, IDENTIFY, TEST = 4, 20, 12
LETTERS = "abcdefghijklmnopqrstuvwxyz"


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


def save_model(folder: Path, family: str = "llama", **changes: int) -> Path:
    """A random model with a token per byte that likes to say letters and line breaks."""
    config = transformers.AutoConfig.for_model(family, **{**SMALL, **changes})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{letter: 3 + at for at, letter in enumerate(alphabet)}}
    backend = Tokenizer(token_models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(noise if parameter.dim() > 1 else 1 + 0.3 * noise)
        head = model.get_output_embeddings().weight
        head[tokenizer.convert_tokens_to_ids([*LETTERS])] *= 4
        head[words["\u010a"]] *= 12
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts_of(loaded: loading.LoadedModel) -> pd.DataFrame:
    """Made-up prompts; of every three tests the model knows two: the word that it says is the answer."""
    generator = np.random.default_rng(0)
    rows = []
    for relation in range(RELATIONS):
        for number in range(IDENTIFY + TEST):
            subject = "".join(generator.choice([*LETTERS], 6))
            text, test = f"r{relation} of {subject} is", number >= IDENTIFY
            said = _word(loaded, text) if test and number % 3 else ""
            rows.append((text, f"r{relation}", subject, said or "nothing", "test" if test else "identify"))
    table = pd.DataFrame(rows, columns=["text", "relation", "subject", "object", "split"])
    return table.assign(answers=[[word] for word in table["object"]], template="{}", language="en", shots=0)


def _word(loaded: loading.LoadedModel, text: str) -> str:
    ids = torch.tensor(loading.encode(loaded, [text]), device=loaded.device)
    with torch.inference_mode():
        said = loaded.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    return loaded.tokenizer.decode(said, skip_special_tokens=True).partition("\n")[0]


def shuffled(
    store: relact.Store,
    loaded: loading.LoadedModel,
    tests: prepare.Tests,
    exam: Exam,
    seed: int,
    k: int,
    n: int,
) -> xr.Dataset:
    """The evidence for sets that were selected by shuffled labels, with ``n`` random sets beside them."""
    names = store.prompts(schema.IDENTIFY)["relation"].to_numpy(str)
    labels = kernels.Labels.one_vs_rest(np.random.default_rng(seed).permutation(names))
    scores = {}
    for site, lay in store.layouts.items():
        layers = [
            kernels.rank_statistics(store.columns(site, layer, 0, lay.width), labels)["average_precision"]
            for layer in range(lay.n_layers)
        ]
        scores[site] = np.stack(layers, axis=1)
    sets = choose(scores, k).sets
    relations, values = list(labels.relations), Replacements(store, "zero", tuple(sets))
    drawing = Drawing(store, relations, sets, "matched", "unit")
    seeds = range(1000 * seed, 1000 * seed + n)
    conditions = [*of_sets(relations, sets, values), *drawing.conditions(seeds, tests.relations, values)]
    wanted = asked_on(conditions, tests.relation_of)
    replies = generate(loaded, exam, conditions, wanted=wanted)
    by_name = {name: np.zeros(len(exam.tokens), int) for name in dict.fromkeys(c.name for c in conditions)}
    for at, condition in enumerate(conditions):
        by_name[condition.name][wanted[at]] = at
    rows = np.stack(list(by_name.values()))
    columns = np.arange(rows.shape[1])
    correct = judged(replies.texts[rows, columns], exam.answers, "prefix")
    kinds = {condition.name: condition.kind for condition in conditions}
    result = xr.Dataset(
        {
            schema.CORRECT: (("condition", "prompt"), correct),
            schema.LOG_PROBABILITY: (("condition", "prompt"), replies.log_probability[rows, columns]),
            schema.LOGIT_DIFFERENCE: (("condition", "prompt"), replies.logit_difference[rows, columns]),
            schema.RELATION_OF: ("prompt", tests.relation_of),
        },
        coords={
            "condition": list(by_name),
            "relation": tests.relations,
            schema.KIND: ("condition", [kinds[name] for name in by_name]),
        },
    )
    of_relation = [correct[:, tests.relation_of == name].mean(axis=1) for name in tests.relations]
    result[schema.ACCURACY] = (("condition", "relation"), np.stack(of_relation, axis=1).astype(np.float32))
    return relact.evidence(result, resamples=2000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20 shuffles instead of 200")
    parser.add_argument("--k", type=int, default=60, help="of 1,280 hidden units and down neurons")
    parser.add_argument("--random", type=int, default=12, help="random sets")
    options = parser.parse_args()
    shuffles = 20 if options.quick else 200
    torch.set_num_threads(1)  # the model is smaller than what threads cost
    with tempfile.TemporaryDirectory() as folder:
        loaded = loading.load(str(save_model(Path(folder) / "model")))
        store = relact.capture(loaded, prompts_of(loaded), Path(folder) / "s.zarr")
        tests = prepare.tests_of(store, None)
        exam = prepare.exam_of(store, loaded, tests, AblateOptions())
        start = time.perf_counter()
        found = [
            shuffled(store, loaded, tests, exam, seed, options.k, options.random) for seed in range(shuffles)
        ]
        seconds = time.perf_counter() - start
    drops = np.mean([float(one["mean_drop"].sel(group="own")) for one in found])
    control = np.mean([float(one["mean_drop"].sel(group="random")) for one in found])
    any_ = {
        name: np.mean([bool(one[name].any()) for one in found]) for name in ("separates", "separates_log")
    }
    beyond = np.mean([float(one["mean_low"].sel(group="own_minus_random")) > 0 for one in found])
    print(
        f"{shuffles} shuffles of {RELATIONS} relations x {TEST} tests, {options.random} random sets, "
        f"{seconds:.0f} s"
    )
    print(f"mean drop under sets of shuffled labels {drops:.1f} points, under random sets {control:.1f}")
    print(
        f"any relation separates: {any_['separates']:.3f} of shuffles by accuracy, "
        f"{any_['separates_log']:.3f} by log-probability; own above random by its interval: {beyond:.3f}"
    )
    limit = 0.05 + 2 * (0.05 * 0.95 / shuffles) ** 0.5
    assert max(any_.values()) <= limit, f"more than {limit:.3f}"


if __name__ == "__main__":
    main()

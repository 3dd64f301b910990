"""Result: what an ablation found, as ``ablations/<name>`` holds it; the verdicts are made here.

Nothing of this needs a model: texts that are stored can be judged again (`judge`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from relact import schema
from relact.relations.verdict import is_correct
from relact.store.local import LocalStore
from relact.store.skeleton import write_coordinates, write_whole

BY_PROMPT = ("condition", "prompt")


@dataclass(frozen=True)
class Result:
    """One ablation in memory; a sweep has a first axis k everywhere, of length 1 where there is one k.

    Attributes:
        conditions, kinds: names and kinds along the axis condition.
        prompts: coordinates and per-prompt arrays by name: ``prompt`` numbers, `schema.RELATION_OF`,
            `schema.PART`, and what is stored of prompts that are not the store's own.
        answers: accepted ones of every prompt.
        generated: str [k, condition, prompt].
        numbers: `schema.LOG_PROBABILITY`, `schema.LOGIT_DIFFERENCE` float32 [k, condition, prompt].
        digests: str [k, condition, relation], of the set that a relation's prompts ran under.
        steps: of a sweep, texts [k, prompt] without what a k adds. perplexity: [k, condition], if measured.
    """

    record: schema.AblationRecord
    conditions: Sequence[str]
    kinds: Sequence[str]
    prompts: Mapping[str, np.ndarray]
    answers: Sequence[Sequence[str]]
    generated: np.ndarray
    numbers: Mapping[str, np.ndarray]
    digests: np.ndarray
    steps: np.ndarray | None = None
    perplexity: np.ndarray | None = None

    @property
    def sweep(self) -> bool:
        """Whether there are several k."""
        return isinstance(self.record.k, tuple)

    @property
    def relations(self) -> list[str]:
        """In the order in which they are first asked about."""
        return list(dict.fromkeys(map(str, self.prompts[schema.RELATION_OF])))

    def write(self, store: LocalStore, name: str) -> None:
        """Judge the texts and write the group, whole or not at all."""
        attributes = self.record.to_attributes()
        shown = {"mode", "scale", "tokens", "seeds", "match", "control", "part", "perplexity_of"}
        shown |= set() if self.sweep else {"k"}
        with store.stage(f"{schema.ABLATIONS}/{name}", attributes) as built:
            # where xarray shows them
            built.attrs.update({key: value for key, value in attributes.items() if key in shown})
            write_coordinates(
                built,
                condition=list(self.conditions),
                relation=self.relations,
                prompt=self.prompts["prompt"].tolist(),
                **({"k": attributes["k"]} if self.sweep else {}),
            )
            write_whole(built, schema.KIND, np.array(self.kinds, object), ("condition",))
            for key, values in self.prompts.items():
                if key != "prompt":
                    write_whole(built, key, values, ("prompt", schema.ANSWER)[: values.ndim])
            for key, (values, dimensions) in self._arrays().items():
                chosen = (values, ("k", *dimensions)) if self.sweep else (values[0], dimensions)
                write_whole(built, key, *chosen)
            built.attrs["coordinates"] = f"{schema.KIND} {schema.PART}"

    def _arrays(self) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
        """Everything with an axis k, by name, with its other dimensions."""
        correct = np.stack([judged(texts, self.answers, self.record.match) for texts in self.generated])
        arrays: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
            schema.CORRECT: (correct, BY_PROMPT),
            schema.GENERATED: (self.generated, BY_PROMPT),
            schema.ACCURACY: (self._accuracy(correct), ("condition", "relation")),
            schema.DIGEST: (self.digests, ("condition", "relation")),
            **{name: (values, BY_PROMPT) for name, values in self.numbers.items()},
        }
        if self.steps is not None:
            arrays[schema.STEP_GENERATED] = self.steps, ("prompt",)
            arrays[schema.STEP_CORRECT] = judged(self.steps, self.answers, self.record.match), ("prompt",)
        if self.perplexity is not None:
            arrays[schema.PERPLEXITY] = self.perplexity, ("condition",)
        return arrays

    def _accuracy(self, correct: np.ndarray) -> np.ndarray:
        """float32 [k, condition, relation]."""
        relation_of = self.prompts[schema.RELATION_OF]
        of_relation = [correct[..., relation_of == name].mean(axis=-1) for name in self.relations]
        accuracy: np.ndarray = np.stack(of_relation, axis=-1).astype(np.float32)
        return accuracy


def judged(generated: np.ndarray, answers: Sequence[Sequence[str]], match: str) -> np.ndarray:
    """bool [condition, prompt]: whether each generated text answers its prompt."""
    verdicts = [
        [is_correct(text, accepted, match) for text, accepted in zip(texts, answers, strict=True)]
        for texts in generated
    ]
    return np.array(verdicts, bool)


def read(record: schema.AblationRecord, stored: xr.Dataset, answers: Sequence[Sequence[str]]) -> Result:
    """A stored ablation, to be judged again."""
    n_relations, n_prompts = stored.sizes["relation"], stored.sizes["prompt"]
    sweep = "k" in stored.dims

    def of(name: str) -> Any:
        values = stored[name].values
        return values if sweep else values[None]

    digests = of(schema.DIGEST)
    if digests.ndim == 2:  # one for all relations
        digests = np.repeat(digests[..., None], n_relations, axis=-1)
    names = [str(name) for name in stored["condition"].values]
    kinds = stored[schema.KIND].values if schema.KIND in stored else schema.kinds_of_names(names)
    per_prompt = {
        str(name): array.values for name, array in stored.variables.items() if array.dims[:1] == ("prompt",)
    }
    per_prompt.setdefault(schema.PART, np.full(n_prompts, schema.TEST, object))
    graded = (schema.LOG_PROBABILITY, schema.LOGIT_DIFFERENCE)
    return Result(
        record,
        names,
        [str(kind) for kind in kinds],
        per_prompt,
        answers,
        of(schema.GENERATED),
        {name: of(name) for name in graded if name in stored},
        digests,
        of(schema.STEP_GENERATED) if schema.STEP_GENERATED in stored else None,
        of(schema.PERPLEXITY) if schema.PERPLEXITY in stored else None,
    )


def under_rule(result: Result, match: str, version: int) -> Result:
    """The same texts, to be judged by another rule."""
    return replace(result, record=replace(result.record, match=match, rule=version))

"""Datasets as `relact ablate` stores them, from verdicts that a test makes up."""

from __future__ import annotations

import numpy as np
import xarray as xr

from relact.schema import kinds_of_names


def ablated(correct, relation_of, conditions, *, kinds=None, logs=None, logits=None, parts=None):
    """Verdicts [condition, prompt] as a dataset; relations are those of the prompts, in order of appearance.

    Kinds are stored by name unless given; ``kinds=False`` stores none, as older results do.
    """
    correct, relation_of = np.asarray(correct, bool), np.asarray(relation_of)
    relations = list(dict.fromkeys(relation_of.tolist()))
    accuracy = [[row[relation_of == name].mean() for name in relations] for row in correct]
    dataset = xr.Dataset(
        {
            "correct": (("condition", "prompt"), correct),
            "accuracy": (("condition", "relation"), np.array(accuracy, np.float32)),
            "relation_of": ("prompt", relation_of),
        },
        coords={"condition": conditions, "relation": relations},
    )
    if kinds is not False:
        dataset = dataset.assign_coords(kind=("condition", kinds or kinds_of_names(conditions)))
    if parts is not None:
        dataset = dataset.assign_coords(part=("prompt", parts))
    for name, values in (("log_probability", logs), ("logit_difference", logits)):
        if values is not None:
            dataset[name] = (("condition", "prompt"), np.asarray(values, np.float32))
    return dataset


def margins(generator, sizes, *, n_random, own=0.0, damage=0.3, noise=0.3):
    """Names, conditions and margins [condition, prompt] of a made-up model that is right above 0.

    Args:
        sizes: prompts of every relation. own: what a relation's own neurons cost beyond random ones.
        damage: of any set; a number, or a function of a shape that draws every set's.
    """
    names = [f"r{at}" for at in range(len(sizes))]
    relation_of = np.repeat(names, sizes)
    conditions = ["intact", *names, *(f"random-{at}" for at in range(n_random))]
    shape = (len(conditions) - 1, len(sizes))
    drawn = damage(shape) if callable(damage) else np.full(shape, damage)
    lost = np.repeat(drawn, sizes, axis=1) + noise * generator.normal(size=(shape[0], relation_of.size))
    lost = lost + own * (np.array(conditions[1:])[:, None] == relation_of)
    intact = generator.normal(1, 1.2, relation_of.size)
    return relation_of, conditions, np.vstack([intact, intact - lost])


def study(generator, sizes, **how):
    """A made-up ablation with everything that is stored; arguments as of `margins`."""
    relation_of, conditions, values = margins(generator, sizes, **how)
    logs = -np.logaddexp(0, -values)
    return ablated(values > 0, relation_of, conditions, logs=logs, logits=values)

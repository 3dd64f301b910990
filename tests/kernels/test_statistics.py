"""The registry of statistics: kernels keep to the definitions, others can be added."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.columns import CLOSE, labels_of_every_kind

from relact.errors import InputError
from relact.kernels import STATISTICS, Statistic, lape, rank_statistics, statistic

DEFINED = {name: known for name, known in STATISTICS.items() if isinstance(known, Statistic)}


@pytest.mark.parametrize("name", sorted(DEFINED))
def test_kernels_keep_to_the_definitions_of_the_registry(name: str) -> None:
    random = np.random.default_rng(7)
    values = random.normal(size=(61, 21)).round(1).astype(np.float32)
    for kind in range(4):
        labels = labels_of_every_kind(random, 61, kind)
        roles, result = labels.roles[labels.classes], rank_statistics([values], labels, [name])[name]
        for r, n in np.ndindex(result.shape):
            on, off = np.sort(values[roles[:, r] == 1, n]), np.sort(values[roles[:, r] == 0, n])
            expected = DEFINED[name].definition(on.astype(np.float64), off.astype(np.float64))
            np.testing.assert_allclose(result[r, n], expected, rtol=CLOSE, atol=CLOSE)


def test_a_registered_statistic_is_scored_and_built_in_names_are_kept() -> None:
    @statistic("gap", "difference of the medians")
    def gap(positives: np.ndarray, negatives: np.ndarray) -> float:
        return float(np.median(positives) - np.median(negatives))

    try:
        random = np.random.default_rng(5)
        values, labels = random.normal(size=(50, 70)).astype(np.float16), labels_of_every_kind(random, 50, 0)
        result = rank_statistics([values], labels, ["gap", "on_p50", "off_p50"])
        np.testing.assert_allclose(result["gap"], result["on_p50"] - result["off_p50"], atol=CLOSE)
        with pytest.raises(InputError, match="on_p50 is built in"):
            statistic("on_p50", "mine")(gap)
    finally:
        del STATISTICS["gap"]
    with pytest.raises(InputError, match="no statistic 'gap'"):
        rank_statistics([values], labels, ["gap"])


def test_lape_is_low_where_one_relation_activates() -> None:
    found = lape(np.array([[0.5, 0.9, 0.0], [0.5, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [np.log(2), 0.0, np.nan])

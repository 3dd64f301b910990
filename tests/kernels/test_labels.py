"""Which prompts are positive and negative for a relation."""

from __future__ import annotations

import numpy as np
import pytest

from relact.errors import InputError
from relact.kernels import Labels


def test_labels_cannot_change_after_something_was_worked_out_from_them() -> None:
    classes, roles = np.array([0, 1], np.uint16), np.eye(2, dtype=np.int8)
    labels = Labels(("a", "b"), classes, roles)
    classes[:] = 1
    assert labels.classes.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        labels.roles[0, 0] = -1


def test_labels_refuse_what_has_no_score() -> None:
    with pytest.raises(InputError, match=r"relation c: no prompt is positive"):
        Labels.one_vs_rest(["a", "b"], ["a", "c"])
    with pytest.raises(InputError, match="one of 1, 0, -1"):
        Labels.from_matrix(np.array([[2], [1]]), ["a"])
    with pytest.raises(InputError, match="for 2 relations"):
        Labels.from_matrix(np.array([[1], [1]]), ["a", "b"])
    with pytest.raises(InputError, match="named twice"):
        Labels.from_matrix(np.array([[1, 1]]), ["a", "a"])


def test_sampled_negatives_are_seeded_and_as_many_as_asked() -> None:
    names = ["a"] * 5 + ["b"] * 30 + ["c"] * 20
    first, again, other = (Labels.one_vs_rest(names).sampled(4, seed) for seed in (0, 0, 1))
    assert first.count(0).tolist() == [20, 25, 35] and first.count(1).tolist() == [5, 30, 20]
    np.testing.assert_array_equal(first.roles[first.classes], again.roles[again.classes])
    assert (first.roles[first.classes] != other.roles[other.classes]).any()

"""Batches: a partition of the rows, within the budget, and never dependent on anything but the tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relact.models.batches import SAVED_FLOOR, by_length, common_prefix, prefix_groups, same_length

tokens = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=30)


@given(tokens)
def test_prefix_groups_partition_the_rows_and_share_their_prefix(rows):
    groups = prefix_groups(rows, floor=2)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(rows)))
    for group in groups:
        for row in group.rows:
            assert tuple(rows[row][: len(group.prefix)]) == group.prefix
            assert len(rows[row]) > len(group.prefix)


def test_few_shot_prompts_form_one_group_per_relation_and_the_rest_goes_together():
    first, second = [1] * 40, [2] * 50
    rows = [[*first, 7, n] for n in range(6)] + [[*second, 8, n] for n in range(5)] + [[3, 4], [3, 5, 6]]
    shared = {(len(group.prefix), len(group.rows)) for group in prefix_groups(rows)}
    assert shared == {(41, 6), (51, 5), (0, 2)}


def test_a_prefix_that_saves_too_little_is_not_worth_a_pass():
    length = SAVED_FLOOR // 2
    rows = [[1] * length + [n] for n in range(2)]
    assert [group.prefix for group in prefix_groups(rows)] == [()]
    assert [len(group.prefix) for group in prefix_groups([*rows, [1] * length + [9]])] == [length]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=50), st.integers(1, 100))
def test_batches_by_length_stay_within_the_budget(lengths, budget):
    batches = by_length(range(len(lengths)), lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= budget


@given(st.lists(st.integers(1, 5), min_size=1, max_size=50), st.integers(1, 7))
def test_same_length_batches_need_no_padding(lengths, most):
    batches = same_length(range(len(lengths)), lengths, most)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len({lengths[row] for row in batch}) == 1 and len(batch) <= most for batch in batches)


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0

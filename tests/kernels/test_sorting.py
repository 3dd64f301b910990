"""The sort that ranks columns: by value, then by class."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from relact.kernels.columns import FORMATS, keys_to_floats
from relact.kernels.sorting import runs_of, scratch, sort_two


@numba.njit
def sort(bits, infinity, runs, keys):
    space, found = scratch(keys[:2]), False
    for n in range(0, bits.shape[0], 2):
        found |= sort_two(bits[n], bits[n + 1], infinity, runs, space, keys[n : n + 2])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_keys_are_sorted_by_value_then_class(dtype: type) -> None:
    """Both zeros are one value, infinities are ends, and equal values are in order of class."""
    random = np.random.default_rng(6)
    values = np.concatenate(
        [random.normal(size=(500, 8)), np.zeros((9, 8)), -np.zeros((9, 8)), np.full((2, 8), -np.inf)]
    )
    values = random.permuted(values.astype(dtype), axis=0)
    classes = random.integers(0, 40, len(values))
    classes[100:300].sort()  # runs of many and of one
    runs = runs_of(classes)
    bits = np.ascontiguousarray(values.T).view(FORMATS[values.dtype].bits)
    keys = np.empty(bits.shape, FORMATS[values.dtype].key)
    assert not sort(bits, FORMATS[values.dtype].infinity, runs, keys)
    order = np.stack([np.lexsort((classes, column + 0.0)) for column in values.T])
    np.testing.assert_array_equal(keys & 0xFFFF, classes[order])
    expected = np.take_along_axis(values.T.astype(np.float64), order, axis=1)
    np.testing.assert_array_equal(keys_to_floats(keys >> 16, values.dtype), expected)
    bits[3, 5] = FORMATS[values.dtype].infinity + 1
    assert sort(bits, FORMATS[values.dtype].infinity, runs, keys)
